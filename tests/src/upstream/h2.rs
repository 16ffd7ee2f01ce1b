//! The HTTP/2 upstream.

use std::time::Duration;

use anyhow::Result;
use bytes::Bytes;
use h2::{
    Reason, RecvStream, SendStream,
    server::{self, SendResponse},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::sync::watch;

use super::Place;
use crate::{
    io::Io,
    record::{Ending, Seen},
    reply::{Finish, Reply},
};

pub(super) async fn serve(io: Io, place: Place) {
    let mut builder = server::Builder::new();
    builder.enable_connect_protocol();
    let Ok(mut connection) = builder.handshake(io).await else { return };
    let (close, mut closed) = watch::channel(false);
    loop {
        tokio::select! {
            next = connection.accept() => {
                let Some(Ok((request, respond))) = next else { return };
                let (place, close) = (place.clone(), close.clone());
                tokio::spawn(async move {
                    // A stream that breaks shows in the diary.
                    let _ = exchange(request, respond, place, close).await;
                });
            }
            _ = closed.changed() => return,
        }
    }
}

fn seen(request: &Request<RecvStream>, place: &Place) -> Seen {
    let uri = request.uri();
    let mut headers = vec![(":method".to_owned(), request.method().to_string())];
    let mut pseudo = |name: &str, value: Option<String>| {
        headers.extend(value.map(|v| (name.to_owned(), v)));
    };
    pseudo(":scheme", uri.scheme_str().map(str::to_owned));
    pseudo(":authority", uri.authority().map(|a| a.as_str().to_owned()));
    pseudo(":path", uri.path_and_query().map(|p| p.as_str().to_owned()));
    let protocol = request.extensions().get::<h2::ext::Protocol>();
    pseudo(":protocol", protocol.map(|p| p.as_str().to_owned()));
    headers.extend(fields(request.headers()));
    Seen {
        upstream: place.name.clone(),
        protocol: "HTTP/2".to_owned(),
        method: request.method().to_string(),
        path: uri.path_and_query().map_or_else(String::new, |p| p.as_str().to_owned()),
        headers,
        body: Vec::new(),
        framing: "h2",
        trailers: Vec::new(),
        ending: Ending::Open,
        connection: place.connection,
        tls: place.tls.clone(),
    }
}

async fn exchange(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    place: Place,
    close: watch::Sender<bool>,
) -> Result<()> {
    let entry = place.diary.open(seen(&request, &place));
    let reply = place.script.next(&place.name);
    let mut body = request.into_body();
    let streams = (reply.echo || reply.tunnel) && reply.finish == Finish::Proper;
    let mut whole = Bytes::new();
    if !reply.early && !streams {
        whole = read_body(&mut body, &place, entry, None).await?;
    }
    tokio::time::sleep(reply.delay).await;
    match reply.finish {
        Finish::CloseFirst => {
            close.send_replace(true);
            // Dropping the stream before the connection would reset it.
            wait_for_reset(|cx| respond.poll_reset(cx), &place, entry).await;
            return Ok(());
        }
        Finish::ResetFirst => {
            respond.send_reset(Reason::REFUSED_STREAM);
            return Ok(());
        }
        Finish::Silence => {
            wait_for_reset(|cx| respond.poll_reset(cx), &place, entry).await;
            return Ok(());
        }
        _ => {}
    }
    for status in &reply.informational {
        let interim = Response::builder().status(*status).header("x-interim", status.to_string()).body(())?;
        respond.send_informational(interim)?;
    }
    let mut head = Response::builder().status(reply.status);
    for (name, value) in &reply.headers {
        head = head.header(name, value);
    }
    let mut send = respond.send_response(head.body(())?, reply.head_only)?;
    if reply.head_only {
        return Ok(());
    }
    if streams {
        read_body(&mut body, &place, entry, Some(&mut send)).await?;
    }
    finish(&mut send, &reply, whole, &place, entry, &close).await?;
    if reply.early {
        read_body(&mut body, &place, entry, None).await?;
    }
    Ok(())
}

/// Writes the answer's body and ends it as scripted.
async fn finish(
    send: &mut SendStream<Bytes>,
    reply: &Reply,
    whole: Bytes,
    place: &Place,
    entry: usize,
    close: &watch::Sender<bool>,
) -> Result<()> {
    let mut left = match reply.finish {
        Finish::Close(n) | Finish::Reset(n) | Finish::Stall(n) => n,
        _ => usize::MAX,
    };
    let pieces = if reply.echo { vec![whole] } else { reply.body.clone() };
    for piece in pieces {
        let piece = piece.slice(..piece.len().min(left));
        left -= piece.len();
        // An empty frame in the middle is legal, and taken for an attack by some.
        if !piece.is_empty() {
            send.send_data(piece, false)?;
        }
    }
    // What is queued must leave before the cut that follows it.
    let leave = Duration::from_millis(20);
    match reply.finish {
        Finish::Reset(_) => {
            tokio::time::sleep(leave).await;
            send.send_reset(Reason::INTERNAL_ERROR);
        }
        Finish::Close(_) => {
            tokio::time::sleep(leave).await;
            close.send_replace(true);
            wait_for_reset(|cx| send.poll_reset(cx), place, entry).await;
        }
        Finish::Stall(_) => wait_for_reset(|cx| send.poll_reset(cx), place, entry).await,
        _ if reply.trailers.is_empty() => send.send_data(Bytes::new(), true)?,
        _ => {
            let mut trailers = HeaderMap::new();
            for (name, value) in &reply.trailers {
                trailers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
            }
            send.send_trailers(trailers)?;
        }
    }
    Ok(())
}

async fn wait_for_reset(
    mut poll: impl FnMut(&mut std::task::Context<'_>) -> std::task::Poll<Result<Reason, h2::Error>>,
    place: &Place,
    entry: usize,
) {
    // Which code the proxy chose, or that the connection went: both are a cut.
    let _ = std::future::poll_fn(&mut poll).await;
    place.diary.edit(entry, |seen| seen.ending = Ending::Cut);
}

async fn read_body(
    body: &mut RecvStream,
    place: &Place,
    entry: usize,
    mut echo: Option<&mut SendStream<Bytes>>,
) -> Result<Bytes> {
    let mut whole = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = match piece {
            Ok(piece) => piece,
            Err(error) => {
                place.diary.edit(entry, |seen| seen.ending = Ending::Cut);
                return Err(error.into());
            }
        };
        body.flow_control().release_capacity(piece.len())?;
        whole.extend_from_slice(&piece);
        place.diary.edit(entry, |seen| seen.body.extend_from_slice(&piece));
        if let Some(send) = echo.as_mut()
            && !piece.is_empty()
        {
            send.send_data(piece, false)?;
        }
    }
    let trailers = body.trailers().await?;
    place.diary.edit(entry, |seen| {
        seen.trailers = trailers.iter().flat_map(fields).collect();
        seen.ending = Ending::Complete;
    });
    Ok(whole.into())
}

pub(crate) fn fields(map: &HeaderMap) -> Vec<(String, String)> {
    map.iter()
        .map(|(name, value)| (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned()))
        .collect()
}
