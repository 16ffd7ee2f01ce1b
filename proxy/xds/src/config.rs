//! How a stream is to be opened and kept.

use std::time::Duration;

use http::HeaderMap;

use crate::Kind;

/// The largest message that is taken from a control plane when the configuration says nothing: 64 MiB, some 60,000
/// clusters in one response. A larger one ends the stream, which is opened again after the back-off.
pub const MAX_MESSAGE_BYTES: usize = 64 * 1024 * 1024;

/// One stream: its protocol, where to and how patiently.
#[derive(Debug, Clone)]
pub struct StreamConfig {
    /// Incremental (`DELTA_GRPC`) or state of the world (`GRPC`).
    pub delta: bool,
    /// `None`: the aggregated service, for all kinds. Otherwise the service of that kind alone.
    pub only: Option<Kind>,
    /// Control planes, in order of preference; at least one.
    pub services: Vec<Service>,
    /// Send the node in the first request of a stream only.
    pub set_node_on_first_message_only: bool,
    /// Between attempts.
    pub backoff: Backoff,
    /// Limits requests; `None`: they are not limited.
    pub rate_limit: Option<RateLimit>,
    /// While the stream is at another than the first service: how often to try whether the first can be reached, to go
    /// back to it. `None`: only when the stream ends.
    pub return_interval: Option<Duration>,
    /// See [`MAX_MESSAGE_BYTES`].
    pub max_message_bytes: usize,
}

impl StreamConfig {
    /// An aggregated stream to `services` with Envoy's defaults.
    pub fn aggregated(delta: bool, services: Vec<Service>) -> Self {
        Self {
            delta,
            only: None,
            services,
            set_node_on_first_message_only: false,
            backoff: Backoff::default(),
            rate_limit: None,
            return_interval: Some(Duration::from_secs(60)),
            max_message_bytes: MAX_MESSAGE_BYTES,
        }
    }

    /// A stream of `kind` alone to `services` with Envoy's defaults.
    pub fn single(delta: bool, kind: Kind, services: Vec<Service>) -> Self {
        Self { only: Some(kind), ..Self::aggregated(delta, services) }
    }
}

/// One control plane. The connector opens the connection to it, by its place in [`StreamConfig::services`].
#[derive(Debug, Clone)]
pub struct Service {
    /// What logs call it: the cluster's name or the target.
    pub label: String,
    /// `initial_metadata`, sent with each new stream.
    pub metadata: HeaderMap,
    /// `:authority`; the connection's own when not set.
    pub authority: Option<String>,
    /// How long a connection may take to be there, TLS and HTTP/2 preface included.
    pub connect_timeout: Duration,
    /// Settings of the HTTP/2 connection.
    pub http2: Http2Options,
}

impl Service {
    /// A service with defaults: five seconds to connect (a cluster's default), no metadata.
    pub fn new(label: impl Into<String>) -> Self {
        Self {
            label: label.into(),
            metadata: HeaderMap::new(),
            authority: None,
            connect_timeout: Duration::from_secs(5),
            http2: Http2Options::default(),
        }
    }
}

/// Settings of the HTTP/2 connection under a stream.
#[derive(Debug, Clone)]
pub struct Http2Options {
    /// Time between PINGs; `None`: none are sent.
    pub keepalive_interval: Option<Duration>,
    /// How long the answer to a PING may take.
    pub keepalive_timeout: Duration,
    /// The stream's receive window in bytes.
    pub stream_window: u32,
    /// The connection's receive window in bytes.
    pub connection_window: u32,
}

impl Default for Http2Options {
    fn default() -> Self {
        // What a control plane can have on the way before it is read.
        let window = 1024 * 1024;
        Self {
            keepalive_interval: None,
            keepalive_timeout: Duration::from_secs(20),
            stream_window: window,
            connection_window: window,
        }
    }
}

/// Exponential back-off, jittered over its whole width: the n-th wait is a random time below `base` x 2^n, at most
/// `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The first bound.
    pub base: Duration,
    /// The last bound.
    pub max: Duration,
}

impl Default for Backoff {
    /// Envoy's: 500 ms and 30 s.
    fn default() -> Self {
        Self { base: Duration::from_millis(500), max: Duration::from_secs(30) }
    }
}

/// `rate_limit_settings`: a bucket of tokens, one for each request.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RateLimit {
    /// The bucket's size.
    pub max_tokens: u32,
    /// Tokens a second that flow in.
    pub fill_rate: f64,
}

impl Default for RateLimit {
    /// Envoy's: 100 tokens, 10 a second.
    fn default() -> Self {
        Self { max_tokens: 100, fill_rate: 10.0 }
    }
}
