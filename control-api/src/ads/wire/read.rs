//! Messages out of a request's body.

use std::marker::PhantomData;
use std::pin::Pin;

use bytes::{Buf as _, BytesMut};
use http_body_util::BodyExt as _;
use outrider_proto::prost::Message;
use tonic::Status;

use super::HEADER;

/// How many bytes one message may have.
const LARGEST: usize = 4 << 20;
/// Memory of this size is kept for the next message; larger is given back.
const KEPT: usize = 8 << 10;

/// The messages of one stream.
#[derive(Debug)]
pub(in super::super) struct Incoming<M> {
    body: tonic::body::Body,
    pub(super) buffer: BytesMut,
    message: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Incoming<M> {
    pub(in super::super) fn new(body: tonic::body::Body) -> Self {
        Self { body, buffer: BytesMut::new(), message: PhantomData }
    }

    /// The next message; `None` when the client has ended the stream. May be given up and asked again: nothing is lost.
    ///
    /// # Errors
    /// When what comes is no message, or too large, or the stream was reset.
    pub(in super::super) async fn message(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = self.buffered()? {
                return Ok(Some(message));
            }
            let frame = match Pin::new(&mut self.body).frame().await {
                Some(Ok(frame)) => frame,
                Some(Err(status)) if status.code() == tonic::Code::Cancelled => return Ok(None),
                Some(Err(status)) => return Err(status),
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Status::internal("the stream ends within a message")),
            };
            if let Ok(data) = frame.into_data() {
                self.buffer.extend_from_slice(&data);
            }
        }
    }

    /// A message that is here whole.
    fn buffered(&mut self) -> Result<Option<M>, Status> {
        let Some((head, rest)) = self.buffer.split_first_chunk::<HEADER>() else { return Ok(None) };
        let [compressed, length @ ..] = *head;
        if compressed != 0 {
            return Err(Status::unimplemented("a message is compressed, which is not spoken here"));
        }
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        if length > LARGEST {
            return Err(Status::out_of_range(format!(
                "a message has {length} bytes, {LARGEST} at most are taken"
            )));
        }
        let Some(content) = rest.get(..length) else {
            let missing = length - rest.len();
            self.buffer.reserve(missing);
            return Ok(None);
        };
        let message = M::decode(content)
            .map_err(|error| Status::internal(format!("a message cannot be read: {error}")))?;
        self.buffer.advance(HEADER + length);
        if HEADER + length > KEPT {
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        Ok(Some(message))
    }
}
