//! Scripts: what an upstream answers.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;

use crate::lock;

/// The way in which an answer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// As the protocol wants it.
    Proper,
    /// The connection is closed (FIN) after so many body bytes, whatever was promised.
    Close(usize),
    /// The connection (h1) or stream (h2) is reset after so many body bytes.
    Reset(usize),
    /// The connection is closed before any answer.
    CloseFirst,
    /// The connection (h1) or stream (h2) is reset before any answer.
    ResetFirst,
    /// No answer at all, until the peer gives up.
    Silence,
    /// Headers, and so many body bytes, then nothing more until the peer gives up.
    Stall(usize),
}

/// One scripted answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Status code. 101 (h1) and 200 to CONNECT (h2) turn the stream into an echo when `tunnel` is set.
    pub status: u16,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// The body in the pieces in which it is written.
    pub body: Vec<Bytes>,
    /// h1: use chunked coding even though the length is known.
    pub chunked: bool,
    /// Trailers (h1: they force chunked coding).
    pub trailers: Vec<(String, String)>,
    /// Informational responses sent ahead.
    pub informational: Vec<u16>,
    /// h1: looks at the request's body only after so long.
    pub reads_after: Duration,
    /// Waits so long before the first byte.
    pub delay: Duration,
    /// How it ends.
    pub finish: Finish,
    /// Answer from the request's head alone, before its body has come.
    pub early: bool,
    /// Send the request's body back as the body, piece by piece as it comes (h2) or whole (h1).
    pub echo: bool,
    /// After the head, echo bytes both ways until the peer ends.
    pub tunnel: bool,
    /// h1: these bytes are the whole answer.
    pub raw: Option<Bytes>,
    /// h2: end with trailers-only, that is, END_STREAM on the head.
    pub head_only: bool,
}

impl Default for Reply {
    fn default() -> Self {
        Self::status(200)
    }
}

impl Reply {
    /// An answer with a status, no body.
    #[must_use]
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            chunked: false,
            trailers: Vec::new(),
            informational: Vec::new(),
            reads_after: Duration::ZERO,
            delay: Duration::ZERO,
            finish: Finish::Proper,
            early: false,
            echo: false,
            tunnel: false,
            raw: None,
            head_only: false,
        }
    }

    /// A 200 with a body.
    #[must_use]
    pub fn text(body: &str) -> Self {
        Self::status(200).body(body)
    }

    /// h1: exactly these bytes.
    #[must_use]
    pub fn raw(bytes: &str) -> Self {
        Self { raw: Some(Bytes::copy_from_slice(bytes.as_bytes())), ..Self::status(0) }
    }

    /// Sends the request's body back.
    #[must_use]
    pub fn echo() -> Self {
        Self { echo: true, ..Self::status(200) }
    }

    /// Accepts an upgrade of h1 and echoes.
    #[must_use]
    pub fn switch(protocol: &str) -> Self {
        let reply = Self { tunnel: true, ..Self::status(101) };
        reply.header("upgrade", protocol).header("connection", "Upgrade")
    }

    /// A gRPC answer: messages, then the status in trailers.
    #[must_use]
    pub fn grpc(messages: &[&str], status: &str) -> Self {
        let mut reply = Self::status(200).header("content-type", "application/grpc");
        reply.body = messages.iter().map(|m| grpc_frame(m)).collect();
        reply.trailer("grpc-status", status)
    }

    /// Adds a header field.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a trailer field.
    #[must_use]
    pub fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Adds a piece of body.
    #[must_use]
    pub fn body(mut self, piece: &str) -> Self {
        self.body.push(Bytes::copy_from_slice(piece.as_bytes()));
        self
    }

    /// Uses chunked coding (h1).
    #[must_use]
    pub const fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// Sends a 1xx first.
    #[must_use]
    pub fn informational(mut self, status: u16) -> Self {
        self.informational.push(status);
        self
    }

    /// Waits before answering.
    #[must_use]
    pub const fn after(mut self, millis: u64) -> Self {
        self.delay = Duration::from_millis(millis);
        self
    }

    /// h1: lets the request's body wait.
    #[must_use]
    pub const fn reads_after(mut self, millis: u64) -> Self {
        self.reads_after = Duration::from_millis(millis);
        self
    }

    /// Sets the ending.
    #[must_use]
    pub const fn finish(mut self, finish: Finish) -> Self {
        self.finish = finish;
        self
    }

    /// Answers before the request's body has come.
    #[must_use]
    pub const fn early(mut self) -> Self {
        self.early = true;
        self
    }

    /// h2: echoes after the head (extended CONNECT).
    #[must_use]
    pub const fn tunnel(mut self) -> Self {
        self.tunnel = true;
        self
    }

    /// h2: ends the stream with the head.
    #[must_use]
    pub const fn head_only(mut self) -> Self {
        self.head_only = true;
        self
    }
}

/// The script that a set of upstreams shares.
///
/// Replies are handed out in order, over all upstreams, the last one for ever; an upstream with a reply of its own
/// uses that. Without any, an upstream says 200 with its name as the body.
#[derive(Clone, Debug, Default)]
pub struct Script(Arc<Mutex<Scripted>>);

#[derive(Debug, Default)]
struct Scripted {
    queue: VecDeque<Reply>,
    own: HashMap<String, Reply>,
}

impl Script {
    /// Replaces the whole script.
    pub fn set(&self, queue: &[Reply], own: &[(String, Reply)]) {
        let mut scripted = lock(&self.0);
        scripted.queue = queue.iter().cloned().collect();
        scripted.own = own.iter().cloned().collect();
    }

    /// The next answer of an upstream.
    #[must_use]
    pub fn next(&self, upstream: &str) -> Reply {
        let mut scripted = lock(&self.0);
        if let Some(reply) = scripted.own.get(upstream) {
            return reply.clone();
        }
        if scripted.queue.len() > 1
            && let Some(reply) = scripted.queue.pop_front()
        {
            return reply;
        }
        scripted.queue.front().cloned().unwrap_or_else(|| Reply::text(upstream))
    }
}

/// A gRPC message with its five-byte prefix.
#[must_use]
pub fn grpc_frame(message: &str) -> Bytes {
    let mut frame = vec![0];
    frame.extend_from_slice(&u32::try_from(message.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(message.as_bytes());
    frame.into()
}
