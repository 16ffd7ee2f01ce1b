//! HTTP/2 requests.

use std::time::Duration;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest, ext::Protocol};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use tokio::task::JoinHandle;

use super::{Conn, LIMIT, Response};
use crate::{upstream::h2::fields, wait};

/// A request for HTTP/2.
#[derive(Clone, Debug, Default)]
pub struct H2Request {
    /// Method.
    pub method: String,
    /// `:scheme`, normally `http`.
    pub scheme: String,
    /// `:authority`.
    pub authority: String,
    /// `:path`.
    pub path: String,
    /// `:protocol`, for extended CONNECT.
    pub protocol: Option<String>,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// Body pieces; `None` ends the stream with the head.
    pub body: Option<Vec<Bytes>>,
    /// Trailers.
    pub trailers: Vec<(String, String)>,
}

/// An HTTP/2 client connection.
#[derive(Debug)]
pub struct H2 {
    send: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl H2 {
    /// Speaks HTTP/2 on a connection from here on.
    ///
    /// # Errors
    /// When the peer does not.
    pub async fn start(conn: Conn) -> Result<Self> {
        let handshake = async { Ok(h2::client::handshake(conn.reader.io).await?) };
        let (send, connection) = wait::within("an HTTP/2 handshake", LIMIT, handshake).await?;
        // The connection's error is told to each stream.
        let driver = tokio::spawn(async move { _ = connection.await });
        Ok(Self { send, driver })
    }

    /// Sends a request and awaits its response to the end.
    ///
    /// # Errors
    /// When no response comes in time. A reset stream is no error but told by [`Response::end`].
    pub async fn request(&mut self, request: &H2Request) -> Result<Response> {
        wait::within("an HTTP/2 response", LIMIT, self.exchange(request)).await
    }

    async fn exchange(&mut self, request: &H2Request) -> Result<Response> {
        let mut send = self.send.clone().ready().await?;
        let end = request.body.is_none() && request.trailers.is_empty();
        let (response, mut stream) = send.send_request(compose(request)?, end)?;
        let tunnel = request.protocol.is_some();
        if !end && !tunnel {
            // A server that answered already takes no body; its answer is what counts.
            let _ = send_body(&mut stream, request);
        }
        let mut told = Response { start: "HTTP/2".into(), framing: "h2", ..Response::default() };
        let response = match response.await {
            Ok(response) => response,
            Err(error) => {
                told.end = broken(&error);
                return Ok(told);
            }
        };
        told.status = response.status().as_u16();
        told.headers = fields(response.headers());
        let mut body = response.into_body();
        if tunnel && told.status == 200 {
            return Self::tunnel(told, &mut stream, &mut body, request).await;
        }
        "complete".clone_into(&mut told.end);
        while let Some(piece) = body.data().await {
            match piece {
                Ok(piece) => {
                    body.flow_control().release_capacity(piece.len())?;
                    told.body.extend_from_slice(&piece);
                }
                Err(error) => {
                    told.end = broken(&error);
                    return Ok(told);
                }
            }
        }
        match body.trailers().await {
            Ok(trailers) => told.trailers = trailers.iter().flat_map(fields).collect(),
            Err(error) => told.end = broken(&error),
        }
        Ok(told)
    }
}

impl H2 {
    /// Ends the connection in good order: what is queued, such as a reset, leaves first.
    pub async fn close(self) {
        let Self { send, driver } = self;
        drop(send);
        // A peer that keeps a stream open keeps the connection: that is its right.
        let _ = tokio::time::timeout(Duration::from_secs(1), driver).await;
    }

    /// Sends the body through a tunnel and reads as much back; then lets the stream go, which resets it: an end of
    /// one direction is not something that every upgraded protocol can carry.
    async fn tunnel(
        mut told: Response,
        stream: &mut SendStream<Bytes>,
        body: &mut RecvStream,
        request: &H2Request,
    ) -> Result<Response> {
        let pieces = request.body.as_deref().unwrap_or_default();
        let length: usize = pieces.iter().map(Bytes::len).sum();
        for piece in pieces {
            stream.send_data(piece.clone(), false)?;
        }
        let mut echoed = Vec::new();
        while echoed.len() < length {
            let Some(piece) = body.data().await else { break };
            echoed.extend_from_slice(&piece?);
        }
        told.tunnel = Some(echoed);
        Ok(told)
    }
}

fn compose(request: &H2Request) -> Result<Request<()>> {
    let uri = if request.method == "CONNECT" && request.protocol.is_none() {
        request.authority.clone()
    } else {
        format!("{}://{}{}", request.scheme, request.authority, request.path)
    };
    let uri: http::Uri = uri.parse().with_context(|| format!("URI {uri:?}"))?;
    let mut head = Request::builder()
        .method(Method::from_bytes(request.method.as_bytes())?)
        .version(http::Version::HTTP_2)
        .uri(uri);
    for (name, value) in &request.headers {
        head = head.header(name, value);
    }
    if let Some(protocol) = &request.protocol {
        head = head.extension(Protocol::from(protocol.as_str()));
    }
    Ok(head.body(())?)
}

fn send_body(stream: &mut SendStream<Bytes>, request: &H2Request) -> Result<()> {
    let pieces = request.body.as_deref().unwrap_or_default();
    for (i, piece) in pieces.iter().enumerate() {
        let last = i + 1 == pieces.len() && request.trailers.is_empty();
        stream.send_data(piece.clone(), last)?;
    }
    if !request.trailers.is_empty() {
        let mut trailers = HeaderMap::new();
        for (name, value) in &request.trailers {
            trailers.append(HeaderName::try_from(name)?, HeaderValue::try_from(value)?);
        }
        stream.send_trailers(trailers)?;
    } else if pieces.is_empty() {
        stream.send_data(Bytes::new(), true)?;
    }
    Ok(())
}

/// A broken stream in words: the code of a reset, or that the connection went.
fn broken(error: &h2::Error) -> String {
    match error.reason() {
        Some(reason) if error.is_reset() => format!("reset {reason:?}"),
        Some(reason) if error.is_go_away() => format!("goaway {reason:?}"),
        _ => "connection lost".into(),
    }
}
