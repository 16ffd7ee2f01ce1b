//! The HTTP/1 upstream.

use std::fmt::Write as _;

use anyhow::Result;
use bytes::Bytes;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::Place;
use crate::{
    h1::{Framing, Head, Reader},
    io::Io,
    record::{Ending, Seen},
    reply::{Finish, Reply},
};

pub(super) async fn serve(io: Io, place: Place) {
    let mut reader = Reader::new(io);
    // A connection that breaks shows in the diary as a cut request.
    while let Ok(Some(head)) = reader.head().await {
        let framing = head.framing().unwrap_or(Framing::None);
        let entry = place.diary.open(seen(&head, framing, &place));
        let reply = place.script.next(&place.name);
        match exchange(&mut reader, &place, entry, framing, &head, reply).await {
            Ok(true) => {}
            Ok(false) => break,
            Err(_) => {
                place.diary.edit(entry, |seen| seen.ending = Ending::Cut);
                break;
            }
        }
    }
}

fn seen(head: &Head, framing: Framing, place: &Place) -> Seen {
    let mut words = head.start.split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    Seen {
        upstream: place.name.clone(),
        method: word(),
        path: word(),
        protocol: word(),
        headers: head.headers.clone(),
        body: Vec::new(),
        framing: framing.name(),
        trailers: Vec::new(),
        ending: Ending::Open,
        connection: place.connection,
        tls: place.tls.clone(),
    }
}

/// One request and its answer; says whether the connection goes on.
async fn exchange(
    reader: &mut Reader<Io>,
    place: &Place,
    entry: usize,
    framing: Framing,
    head: &Head,
    reply: Reply,
) -> Result<bool> {
    if reply.early {
        tokio::time::sleep(reply.delay).await;
        let goes_on = answer(reader, place, entry, head, &reply, Bytes::new()).await?;
        read_body(reader, place, entry, framing).await?;
        return Ok(goes_on);
    }
    if head.has_token("expect", "100-continue") {
        reader.io.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await?;
    }
    tokio::time::sleep(reply.reads_after).await;
    let body = read_body(reader, place, entry, framing).await?;
    tokio::time::sleep(reply.delay).await;
    answer(reader, place, entry, head, &reply, body).await
}

async fn read_body(reader: &mut Reader<Io>, place: &Place, entry: usize, framing: Framing) -> Result<Bytes> {
    let mut body = Vec::new();
    let end = reader.body(framing, &mut body).await;
    let cut = end.is_err();
    let body = Bytes::from(body);
    place.diary.edit(entry, |seen| {
        seen.body = body.to_vec();
        seen.ending = if cut { Ending::Cut } else { Ending::Complete };
    });
    let trailers = end?;
    place.diary.edit(entry, |seen| seen.trailers = trailers);
    Ok(body)
}

async fn answer(
    reader: &mut Reader<Io>,
    place: &Place,
    entry: usize,
    head: &Head,
    reply: &Reply,
    request_body: Bytes,
) -> Result<bool> {
    match reply.finish {
        Finish::CloseFirst => return Ok(false),
        Finish::ResetFirst => {
            reader.io.reset_on_drop();
            return Ok(false);
        }
        Finish::Silence => {
            wait_for_end(reader).await;
            place.diary.edit(entry, |seen| seen.ending = Ending::Cut);
            return Ok(false);
        }
        Finish::Proper | Finish::Close(_) | Finish::Reset(_) | Finish::Stall(_) => {}
    }
    if let Some(raw) = &reply.raw {
        reader.io.write_all(raw).await?;
        return Ok(matches!(reply.finish, Finish::Proper));
    }
    let (bytes, end) = compose(head, reply, &request_body);
    reader.io.write_all(&bytes).await?;
    match reply.finish {
        Finish::Proper if reply.tunnel => {
            tunnel(reader, place, entry).await?;
            Ok(false)
        }
        Finish::Proper => Ok(!end),
        Finish::Reset(_) => {
            // The bytes must reach the proxy before the RST overtakes them.
            reader.io.flush().await?;
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            reader.io.reset_on_drop();
            Ok(false)
        }
        Finish::Stall(_) => {
            wait_for_end(reader).await;
            place.diary.edit(entry, |seen| seen.ending = Ending::Cut);
            Ok(false)
        }
        _ => Ok(false),
    }
}

/// The bytes of an answer, and whether it must end the connection.
fn compose(head: &Head, reply: &Reply, request_body: &Bytes) -> (Vec<u8>, bool) {
    let mut text = String::new();
    for status in &reply.informational {
        let _ = write!(text, "HTTP/1.1 {status} Interim\r\nx-interim: {status}\r\n\r\n");
    }
    let _ = write!(text, "HTTP/1.1 {} {}\r\n", reply.status, reason(reply.status));
    for (name, value) in &reply.headers {
        let _ = write!(text, "{name}: {value}\r\n");
    }
    let pieces: Vec<Bytes> = if reply.echo { vec![request_body.clone()] } else { reply.body.clone() };
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let has = |name: &str| reply.headers.iter().any(|(n, _)| n.eq_ignore_ascii_case(name));
    let chunked = reply.chunked || !reply.trailers.is_empty();
    let bodiless = head.start.starts_with("HEAD ") || matches!(reply.status, 101 | 204 | 304);
    if chunked {
        text.push_str("transfer-encoding: chunked\r\n");
    } else if !has("content-length") && !matches!(reply.status, 101 | 204 | 304) {
        let _ = write!(text, "content-length: {length}\r\n");
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    let limit = match reply.finish {
        Finish::Close(n) | Finish::Reset(n) | Finish::Stall(n) => n,
        _ => usize::MAX,
    };
    let mut left = limit;
    for piece in pieces.iter().filter(|_| !bodiless) {
        let piece = &piece[..piece.len().min(left)];
        left -= piece.len();
        if chunked && !piece.is_empty() {
            bytes.extend_from_slice(format!("{:x}\r\n", piece.len()).as_bytes());
        }
        bytes.extend_from_slice(piece);
        if chunked && !piece.is_empty() {
            bytes.extend_from_slice(b"\r\n");
        }
    }
    if chunked && !bodiless && limit == usize::MAX {
        bytes.extend_from_slice(b"0\r\n");
        for (name, value) in &reply.trailers {
            bytes.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
        }
        bytes.extend_from_slice(b"\r\n");
    }
    let says_close = reply
        .headers
        .iter()
        .any(|(n, v)| n.eq_ignore_ascii_case("connection") && v.eq_ignore_ascii_case("close"));
    (bytes, says_close || head.has_token("connection", "close"))
}

async fn wait_for_end(reader: &mut Reader<Io>) {
    while matches!(reader.fill().await, Ok(true)) {}
}

/// Echoes until the peer ends, then says `bye`.
async fn tunnel(reader: &mut Reader<Io>, place: &Place, entry: usize) -> Result<()> {
    let mut bytes = reader.take_buffer();
    loop {
        place.diary.edit(entry, |seen| seen.body.extend_from_slice(&bytes));
        reader.io.write_all(&bytes).await?;
        bytes.resize(4096, 0);
        let n = reader.io.read(&mut bytes).await?;
        if n == 0 {
            break;
        }
        bytes.truncate(n);
    }
    reader.io.write_all(b"bye").await?;
    reader.io.shutdown().await?;
    Ok(())
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|s| s.canonical_reason()).unwrap_or("Scripted")
}
