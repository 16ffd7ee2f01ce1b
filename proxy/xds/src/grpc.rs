//! One gRPC stream over one HTTP/2 connection: frames in both directions, and the status at its end.
//!
//! Framed here and not by a gRPC library, because such keep the buffer of the largest message for the life of the
//! stream, which for us is the life of the process.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, BufMut, Bytes, BytesMut};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioIo, TokioTimer};
use prost::Message;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::config::{Http2Options, Service};
use crate::transport::{ConnectError, Connection, Connector};

/// Length of what goes before each message: a flag for compression and the message's length.
const PREFIX: usize = 5;

/// A receive buffer larger than this is given back when it is empty.
const KEEP_BUFFER: usize = 64 * 1024;

/// Why a stream ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StreamError {
    /// The HTTP/2 stream or its connection broke.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// The server is no gRPC server.
    #[error("answered with HTTP {0} instead of gRPC")]
    NotGrpc(StatusCode),
    /// The server ended the stream, with this gRPC status.
    #[error("status {code}: {message}")]
    Status {
        /// The code's name.
        code: &'static str,
        /// `grpc-message`.
        message: String,
    },
    /// The server ended the stream without a status.
    #[error("closed by the control plane without a status")]
    Closed,
    /// A message is larger than we take.
    #[error("message of {0} bytes is larger than the limit of {1}")]
    TooLarge(usize, usize),
    /// A compressed message, although we announced no compression.
    #[error("message is compressed, which was not asked for")]
    Compressed,
    /// We left it.
    #[error("left by us")]
    Left,
    /// The bytes are no message.
    #[error("message cannot be decoded: {0}")]
    Decode(#[from] prost::DecodeError),
}

/// Runs hyper's tasks on this thread, and ends them when dropped.
#[derive(Clone, Default)]
struct Tasks(Rc<RefCell<JoinSet<()>>>);

impl<F: Future + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.borrow_mut().spawn_local(async move {
            task.await;
        });
    }
}

/// An HTTP/2 connection to a control plane. Its tasks end with it.
pub(crate) struct Link {
    sender: SendRequest<Requests>,
    tasks: Tasks,
    authority: String,
    secure: bool,
    metadata: HeaderMap,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.tasks.0.borrow_mut().abort_all();
    }
}

impl Link {
    /// Connects to `service`, the `index`th, within its time.
    pub(crate) async fn open(
        connector: &dyn Connector,
        service: &Service,
        index: usize,
    ) -> Result<Self, ConnectError> {
        let within = service.connect_timeout;
        let connecting = async {
            let connection = connector.connect(index).await?;
            Self::handshake(connection, &service.http2).await
        };
        match tokio::time::timeout(within, connecting).await {
            Ok(link) => link,
            Err(_) => Err(ConnectError(format!("no connection within {within:?}"))),
        }
    }

    async fn handshake(connection: Connection, options: &Http2Options) -> Result<Self, ConnectError> {
        let Connection { io, authority, secure, metadata, keepalive } = connection;
        let tasks = Tasks::default();
        let mut builder = http2::Builder::new(tasks.clone());
        builder
            .timer(TokioTimer::new())
            .initial_stream_window_size(options.stream_window)
            .initial_connection_window_size(options.connection_window);
        let own = options.keepalive_interval.map(|interval| (interval, options.keepalive_timeout));
        if let Some((interval, timeout)) = own.or(keepalive) {
            builder.keep_alive_interval(interval).keep_alive_timeout(timeout).keep_alive_while_idle(true);
        }
        let (sender, connection) = builder
            .handshake(TokioIo::new(io))
            .await
            .map_err(|error| ConnectError(format!("HTTP/2: {}", chain(&error))))?;
        tasks.0.borrow_mut().spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection to the control plane ended");
            }
        });
        Ok(Self { sender, tasks, authority, secure, metadata })
    }

    /// Opens a stream of `method`. The requests go to the returned sender; the response may begin as late as with the
    /// first message, so its future is to be driven beside the sending.
    pub(crate) fn stream(
        &mut self,
        service: &Service,
        method: &'static str,
        max_message: usize,
    ) -> (mpsc::Sender<Bytes>, impl Future<Output = Result<Responses, StreamError>> + use<>) {
        let (sender, receiver) = mpsc::channel(1);
        let request = self.request(service, method, Requests(receiver));
        let response = request.map(|request| self.sender.send_request(request));
        let responses = async move {
            let refused = |error: http::Error| StreamError::Status {
                code: "INVALID_ARGUMENT",
                message: format!("request cannot be made: {error}"),
            };
            Responses::new(response.map_err(refused)?.await?, max_message)
        };
        (sender, responses)
    }

    fn request(
        &self,
        service: &Service,
        method: &'static str,
        body: Requests,
    ) -> Result<Request<Requests>, http::Error> {
        let authority = service.authority.as_deref().unwrap_or(&self.authority);
        let uri = http::Uri::builder()
            .scheme(if self.secure { "https" } else { "http" })
            .authority(authority)
            .path_and_query(method)
            .build()?;
        let mut request = Request::post(uri).version(http::Version::HTTP_2).body(body)?;
        let headers = request.headers_mut();
        for (name, value) in service.metadata.iter().chain(self.metadata.iter()) {
            headers.append(name, value.clone());
        }
        headers.insert(header::TE, http::HeaderValue::from_static("trailers"));
        headers.insert(header::CONTENT_TYPE, http::HeaderValue::from_static("application/grpc"));
        headers.insert(
            header::USER_AGENT,
            http::HeaderValue::from_static(concat!("outrider/", env!("CARGO_PKG_VERSION"))),
        );
        Ok(request)
    }
}

/// The body of the call: messages as they are sent, already framed.
pub(crate) struct Requests(mpsc::Receiver<Bytes>);

impl Body for Requests {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(ready!(self.0.poll_recv(cx)).map(|bytes| Ok(Frame::data(bytes))))
    }
}

/// A message with what goes before it. `None` when it is too long to be framed.
pub(crate) fn frame(message: &impl Message) -> Option<Bytes> {
    let length = message.encoded_len();
    let mut buffer = BytesMut::with_capacity(PREFIX + length);
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(length).ok()?);
    message.encode(&mut buffer).ok()?;
    Some(buffer.freeze())
}

/// The messages of the server.
pub(crate) struct Responses {
    body: Incoming,
    frames: Frames,
}

impl Responses {
    fn new(response: Response<Incoming>, max_message: usize) -> Result<Self, StreamError> {
        let (head, body) = response.into_parts();
        if head.status != StatusCode::OK {
            return Err(StreamError::NotGrpc(head.status));
        }
        match status(&head.headers) {
            Some(ended) => Err(ended),
            None => Ok(Self { body, frames: Frames::new(max_message) }),
        }
    }

    /// The next message. May be dropped while it waits, without loss.
    pub(crate) async fn next<M: Message + Default>(&mut self) -> Result<M, StreamError> {
        loop {
            if let Some(message) = self.frames.next()? {
                return Ok(message);
            }
            match self.body.frame().await {
                None => return Err(StreamError::Closed),
                Some(frame) => match frame?.into_data() {
                    Ok(data) => self.frames.push(data),
                    Err(frame) => {
                        let trailers = frame.into_trailers().unwrap_or_default();
                        return Err(status(&trailers).unwrap_or(StreamError::Closed));
                    }
                },
            }
        }
    }
}

/// Messages out of bytes, as they come.
pub(crate) struct Frames {
    buffer: BytesMut,
    max_message: usize,
}

impl Frames {
    /// None came yet; a message has at most `max_message` bytes.
    pub(crate) fn new(max_message: usize) -> Self {
        Self { buffer: BytesMut::new(), max_message }
    }

    /// More came.
    pub(crate) fn push(&mut self, data: Bytes) {
        self.buffer.put(data);
    }

    /// The next message, if it is whole.
    pub(crate) fn next<M: Message + Default>(&mut self) -> Result<Option<M>, StreamError> {
        match self.length()? {
            Some(length) => self.take(length),
            None => Ok(None),
        }
    }

    /// The length of the message at the front, once its prefix is there. Checked before anything is kept of it.
    fn length(&self) -> Result<Option<usize>, StreamError> {
        let Some([flag, a, b, c, d]) = self.buffer.first_chunk::<PREFIX>() else { return Ok(None) };
        if *flag != 0 {
            return Err(StreamError::Compressed);
        }
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        if length > self.max_message {
            return Err(StreamError::TooLarge(length, self.max_message));
        }
        Ok(Some(length))
    }

    fn take<M: Message + Default>(&mut self, length: usize) -> Result<Option<M>, StreamError> {
        if self.buffer.len() < PREFIX + length {
            return Ok(None);
        }
        self.buffer.advance(PREFIX);
        let message = M::decode(self.buffer.split_to(length))?;
        if self.buffer.is_empty() && length > KEEP_BUFFER {
            self.buffer = BytesMut::new();
        }
        Ok(Some(message))
    }
}

/// The status that headers or trailers end the stream with.
fn status(headers: &HeaderMap) -> Option<StreamError> {
    let code = match headers.get("grpc-status")?.to_str().ok().and_then(|code| code.parse().ok()) {
        Some(code) => code_name(code),
        None => "UNKNOWN",
    };
    let message = headers.get("grpc-message").map(|value| percent_decode(value.as_bytes()));
    Some(StreamError::Status { code, message: message.unwrap_or_default() })
}

fn code_name(code: u32) -> &'static str {
    match code {
        0 => "OK",
        1 => "CANCELLED",
        3 => "INVALID_ARGUMENT",
        4 => "DEADLINE_EXCEEDED",
        5 => "NOT_FOUND",
        6 => "ALREADY_EXISTS",
        7 => "PERMISSION_DENIED",
        8 => "RESOURCE_EXHAUSTED",
        9 => "FAILED_PRECONDITION",
        10 => "ABORTED",
        11 => "OUT_OF_RANGE",
        12 => "UNIMPLEMENTED",
        13 => "INTERNAL",
        14 => "UNAVAILABLE",
        15 => "DATA_LOSS",
        16 => "UNAUTHENTICATED",
        _ => "UNKNOWN",
    }
}

/// `grpc-message` as text; what is not well encoded stays as it is. Control characters do not get into our log.
fn percent_decode(value: &[u8]) -> String {
    let mut bytes = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((first, after)) = rest.split_first() {
        rest = after;
        if *first == b'%'
            && let Some((pair, after)) = after.split_first_chunk::<2>()
            && let Some(byte) =
                std::str::from_utf8(pair).ok().and_then(|hex| u8::from_str_radix(hex, 16).ok())
        {
            bytes.push(byte);
            rest = after;
        } else {
            bytes.push(*first);
        }
    }
    String::from_utf8_lossy(&bytes).replace(char::is_control, " ")
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_read_with_its_message_decoded() {
        let mut headers = HeaderMap::new();
        assert!(status(&headers).is_none());
        headers.insert("grpc-status", "14".parse().unwrap());
        headers.insert("grpc-message", "100%25 gone%0A%zz%C3%A9%".parse().unwrap());
        let text = status(&headers).unwrap().to_string();
        assert_eq!(text, "status UNAVAILABLE: 100% gone %zz\u{e9}%");
    }
}
