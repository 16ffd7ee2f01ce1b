//! What can go wrong between the choice of a cluster and the end of a response.

use std::sync::Arc;

use outrider_core::ResponseFlags;

use crate::body::Outbound;
use crate::host::Host;

/// A cluster that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Its TLS context.
    #[error("cluster {cluster}: {error}")]
    Tls {
        /// The cluster's name.
        cluster: Arc<str>,
        /// What is wrong, with the field and the file.
        error: Box<dyn std::error::Error + Send + Sync>,
    },
    /// An endpoint that needs DNS in a cluster that has none.
    #[error("cluster {cluster}: endpoint {address} is a name; use STRICT_DNS or LOGICAL_DNS")]
    NameInStatic {
        /// The cluster's name.
        cluster: Arc<str>,
        /// The endpoint's address.
        address: String,
    },
    /// A cluster of this name exists and may not be replaced.
    #[error("cluster {0} is defined twice")]
    Duplicate(Arc<str>),
}

/// Why no host could be picked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// There is none that may be used: `UH`, `no_healthy_upstream`.
    #[error("no healthy upstream")]
    NoHealthyHost,
    /// An ORIGINAL_DST cluster, and no original destination.
    #[error("no original destination")]
    NoOriginalDst,
}

/// Why a pool gave no connection. The request was not sent.
#[derive(Debug, Clone)]
pub struct PoolError {
    /// Of what kind.
    pub kind: PoolErrorKind,
    /// Envoy's transport failure reason; empty when there is none.
    pub details: Arc<str>,
    /// The host that was tried.
    pub host: Arc<Host>,
}

/// Kinds of [`PoolError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolErrorKind {
    /// A circuit breaker is open (`UO`, reset reason `overflow`).
    Overflow,
    /// The same, of the requests that wait for a connection: no host was in play yet.
    PendingOverflow,
    /// Connect and handshake took longer than `connect_timeout` (`UF`).
    ConnectTimeout,
    /// The host refused, was unreachable, or closed while connecting (`UF`).
    ConnectFailed,
    /// Our side could not connect: binding failed, no socket (`UF`).
    LocalConnectFailed,
    /// The TLS handshake failed or the certificate was not accepted (`UF`).
    TlsFailed,
}

impl PoolError {
    /// The response flag.
    pub const fn flags(&self) -> ResponseFlags {
        match self.kind {
            PoolErrorKind::Overflow | PoolErrorKind::PendingOverflow => ResponseFlags::UPSTREAM_OVERFLOW,
            _ => ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
        }
    }

    /// Envoy's reset reason as it appears in bodies and `%RESPONSE_CODE_DETAILS%`.
    pub const fn reset_reason(&self) -> &'static str {
        match self.kind {
            PoolErrorKind::Overflow | PoolErrorKind::PendingOverflow => "overflow",
            PoolErrorKind::ConnectTimeout => "connection timeout",
            PoolErrorKind::LocalConnectFailed => "local connection failure",
            PoolErrorKind::ConnectFailed | PoolErrorKind::TlsFailed => "remote connection failure",
        }
    }
}

impl std::fmt::Display for PoolError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.host.address, self.reset_reason())?;
        if !self.details.is_empty() {
            write!(f, ": {}", self.details)?;
        }
        Ok(())
    }
}

impl std::error::Error for PoolError {}

/// Why a request on a connection got no response, or a response's body no end.
#[derive(Debug)]
pub struct SendError {
    /// Of what kind: decides about flags and retries.
    pub kind: SendErrorKind,
    /// The request, when none of it was sent.
    pub request: Option<Box<Outbound>>,
    /// What the codec said.
    pub cause: Option<Cause>,
    /// Why there was no other connection, when the first one closed before the request was sent.
    pub pool: Option<Box<PoolError>>,
}

/// What a codec or a transport said.
pub type Cause = Box<dyn std::error::Error + Send + Sync>;

/// Kinds of [`SendError`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendErrorKind {
    /// Nothing was sent: safe to send again anywhere.
    NotSent,
    /// The peer says that it did nothing with the stream (h2 REFUSED_STREAM, or above a GOAWAY's last
    /// stream): safe to send again.
    RefusedStream,
    /// The peer reset the stream with this h2 error code (`UR`). Maybe sent.
    RemoteReset(u32),
    /// The connection ended before the response did (`UC`). Maybe sent.
    ConnectionTermination,
    /// What the peer sent is not HTTP (`UPE`). Sent.
    ProtocolError,
    /// Our side of the request failed: the body from downstream broke off.
    LocalReset,
}

impl SendErrorKind {
    /// The response flag.
    pub const fn flags(self) -> ResponseFlags {
        match self {
            Self::NotSent | Self::ConnectionTermination => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
            Self::RefusedStream | Self::RemoteReset(_) => ResponseFlags::UPSTREAM_REMOTE_RESET,
            Self::ProtocolError => ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
            Self::LocalReset => ResponseFlags::LOCAL_RESET,
        }
    }

    /// Envoy's reset reason.
    pub const fn reset_reason(self) -> &'static str {
        match self {
            Self::NotSent | Self::ConnectionTermination => "connection termination",
            Self::RefusedStream => "remote refused stream reset",
            Self::RemoteReset(_) => "remote reset",
            Self::ProtocolError => "protocol error",
            Self::LocalReset => "local reset",
        }
    }

    /// Whether the peer cannot have acted on the request.
    pub const fn never_processed(self) -> bool {
        matches!(self, Self::NotSent | Self::RefusedStream)
    }

    /// What an error of hyper's means: of a response that did not come, or of a body that broke off.
    pub fn of(error: &hyper::Error) -> Self {
        if let Some(kind) = h2_kind(error) {
            return kind;
        }
        if error.is_parse() {
            Self::ProtocolError
        } else if error.is_user() && !error_is_gone(error) {
            Self::LocalReset
        } else {
            Self::ConnectionTermination
        }
    }
}

impl SendError {
    /// The error of a request whose response broke off.
    pub fn sent(cause: crate::incoming::IncomingError) -> Self {
        let (kind, cause) = cause.into_parts();
        Self { kind, request: None, cause, pool: None }
    }
}

impl std::fmt::Display for SendError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.kind.reset_reason())?;
        self.cause.as_ref().map_or(Ok(()), |cause| write!(f, ": {cause}"))
    }
}

impl std::error::Error for SendError {}

/// The dispatch task was dropped (we closed the connection): a user error to hyper, a closed connection to us.
fn error_is_gone(error: &hyper::Error) -> bool {
    std::error::Error::source(error).is_some_and(|cause| cause.to_string().contains("dispatch task"))
}

fn h2_kind(error: &hyper::Error) -> Option<SendErrorKind> {
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        if let Some(h2) = inner.downcast_ref::<h2::Error>() {
            return Some(of_h2(h2));
        }
        cause = inner.source();
    }
    None
}

pub(crate) fn of_h2(error: &h2::Error) -> SendErrorKind {
    if error.reason() == Some(h2::Reason::REFUSED_STREAM) && error.is_remote() {
        return SendErrorKind::RefusedStream;
    }
    if error.is_io() {
        return SendErrorKind::ConnectionTermination;
    }
    if error.is_go_away() {
        // The streams that a graceful GOAWAY of the peer ends are those that it never looked at.
        return match (error.is_remote(), error.reason()) {
            (true, Some(h2::Reason::NO_ERROR)) => SendErrorKind::RefusedStream,
            (true, _) => SendErrorKind::ConnectionTermination,
            (false, _) => SendErrorKind::ProtocolError,
        };
    }
    match error.reason() {
        Some(reason) if error.is_remote() => SendErrorKind::RemoteReset(reason.into()),
        Some(_) if error.is_library() => SendErrorKind::ProtocolError,
        _ => SendErrorKind::ConnectionTermination,
    }
}
