//! What an upstream saw.

use std::sync::{Arc, Mutex};

use crate::lock;

/// How a request came to its end, seen from the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Still arriving.
    Open,
    /// The whole message arrived.
    Complete,
    /// The peer reset the stream or the connection, or closed it in the middle.
    Cut,
}

/// What the TLS handshake told the upstream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TlsSeen {
    /// The server name that the peer asked for.
    pub sni: Option<String>,
    /// The protocol agreed on.
    pub alpn: Option<String>,
    /// TLS version, as rustls names it.
    pub version: String,
    /// Subject alternative names of the peer's certificate, `URI:..`, `DNS:..`; empty without one.
    pub peer: Vec<String>,
}

/// A request, or for a TCP upstream a connection, as an upstream saw it.
#[derive(Clone, Debug)]
pub struct Seen {
    /// The name of the upstream.
    pub upstream: String,
    /// `HTTP/1.1`, `HTTP/1.0`, `HTTP/2` or `TCP`.
    pub protocol: String,
    /// Request method; empty for TCP.
    pub method: String,
    /// The request target as it stood on the wire.
    pub path: String,
    /// Header names (case as on the wire) and values in the order in which they came; h2's pseudo-headers first.
    pub headers: Vec<(String, String)>,
    /// The body, without its transfer coding; for TCP all bytes received.
    pub body: Vec<u8>,
    /// How the body was framed: `none`, `length`, `chunked`, `h2`.
    pub framing: &'static str,
    /// Trailers.
    pub trailers: Vec<(String, String)>,
    /// How it ended.
    pub ending: Ending,
    /// The ordinal of the connection among the upstream's, from 0.
    pub connection: usize,
    /// The handshake's facts, on TLS.
    pub tls: Option<TlsSeen>,
}

impl Seen {
    /// The first value of a header, whatever the case of its name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }
}

/// The shared diary of one or several upstreams.
#[derive(Clone, Debug, Default)]
pub struct Diary {
    entries: Arc<Mutex<Vec<Seen>>>,
    closed: bool,
}

impl Diary {
    /// A diary in which nothing is written: for upstreams that serve many thousands of requests.
    #[must_use]
    pub fn closed() -> Self {
        Self { closed: true, ..Self::default() }
    }

    /// Writes an entry, and tells its index for [`Diary::edit`].
    pub fn open(&self, seen: Seen) -> usize {
        if self.closed {
            return usize::MAX;
        }
        let mut all = lock(&self.entries);
        all.push(seen);
        all.len() - 1
    }

    /// Changes an entry: a body that grows, an ending.
    pub fn edit(&self, index: usize, change: impl FnOnce(&mut Seen)) {
        if let Some(seen) = lock(&self.entries).get_mut(index) {
            change(seen);
        }
    }

    /// How many entries there are: pass it to [`Diary::since`] later.
    #[must_use]
    pub fn len(&self) -> usize {
        lock(&self.entries).len()
    }

    /// Whether nothing was seen yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All entries from the given one on.
    #[must_use]
    pub fn since(&self, mark: usize) -> Vec<Seen> {
        lock(&self.entries).iter().skip(mark).cloned().collect()
    }
}
