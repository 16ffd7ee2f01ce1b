//! What the stream stands on: a connection that somebody else opens.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use http::HeaderMap;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream in both directions.
pub trait Io: AsyncRead + AsyncWrite + Unpin {}

impl<T: AsyncRead + AsyncWrite + Unpin> Io for T {}

/// A connection that is ready for HTTP/2: TCP or a Unix socket, through TLS where the service wants it.
pub struct Connection {
    /// The bytes.
    pub io: Box<dyn Io>,
    /// `:authority` when the service does not set one: the cluster's name, or the target.
    pub authority: String,
    /// `:scheme` is https.
    pub secure: bool,
    /// Metadata that belongs to this connection: fresh credentials (`authorization`).
    pub metadata: HeaderMap,
    /// PINGs that whoever opened it wants (interval, how long an answer may take), if the service says nothing of them.
    pub keepalive: Option<(Duration, Duration)>,
}

/// Why there is no connection.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct ConnectError(pub String);

/// A connection on its way.
pub type Connecting = Pin<Box<dyn Future<Output = Result<Connection, ConnectError>>>>;

/// Opens connections to control planes: through a cluster of ours, or to a target. Lives on the control thread.
pub trait Connector {
    /// A connection to the service at this place in [`crate::StreamConfig::services`]. The caller limits the time and
    /// drops the future when it is up.
    fn connect(&self, service: usize) -> Connecting;
}
