//! What a try can end in, and the answers that follow from it.

use std::borrow::Cow;

use http::StatusCode;
use outrider_core::reply::details;
use outrider_core::{LocalReply, ResponseFlags};
use outrider_upstream::{PoolError, PoolErrorKind, SendErrorKind};

/// Why a try brought no response, in Envoy's terms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reset {
    /// A circuit breaker is open.
    Overflow,
    /// Connecting took too long.
    ConnectTimeout,
    /// The host could not be reached.
    RemoteConnectFailure,
    /// Our side could not connect.
    LocalConnectFailure,
    /// The connection ended.
    ConnectionTermination,
    /// The upstream reset the stream.
    Remote,
    /// The upstream did not take the stream.
    RefusedStream,
    /// What the upstream sent is not HTTP.
    ProtocolError,
    /// We reset the stream.
    Local,
}

impl Reset {
    /// The reset that a pool's refusal stands for.
    pub(crate) const fn of_pool(kind: PoolErrorKind) -> Self {
        match kind {
            PoolErrorKind::Overflow | PoolErrorKind::PendingOverflow => Self::Overflow,
            PoolErrorKind::ConnectTimeout => Self::ConnectTimeout,
            PoolErrorKind::ConnectFailed | PoolErrorKind::TlsFailed => Self::RemoteConnectFailure,
            PoolErrorKind::LocalConnectFailed => Self::LocalConnectFailure,
        }
    }

    /// The reset that a failed exchange stands for.
    pub(crate) const fn of_send(kind: SendErrorKind) -> Self {
        match kind {
            SendErrorKind::NotSent | SendErrorKind::ConnectionTermination => Self::ConnectionTermination,
            SendErrorKind::RefusedStream => Self::RefusedStream,
            SendErrorKind::RemoteReset(_) => Self::Remote,
            SendErrorKind::ProtocolError => Self::ProtocolError,
            SendErrorKind::LocalReset => Self::Local,
        }
    }

    /// Whether no connection was made (`connect-failure`).
    pub(crate) const fn is_connect_failure(self) -> bool {
        matches!(self, Self::ConnectTimeout | Self::RemoteConnectFailure | Self::LocalConnectFailure)
    }

    /// Its name in bodies and details.
    pub(crate) const fn reason(self) -> &'static str {
        match self {
            Self::Overflow => "overflow",
            Self::ConnectTimeout => "connection timeout",
            Self::RemoteConnectFailure => "remote connection failure",
            Self::LocalConnectFailure => "local connection failure",
            Self::ConnectionTermination => "connection termination",
            Self::Remote => "remote reset",
            Self::RefusedStream => "remote refused stream reset",
            Self::ProtocolError => "protocol error",
            Self::Local => "local reset",
        }
    }

    /// Its response flag.
    pub(crate) const fn flags(self) -> ResponseFlags {
        match self {
            Self::Overflow => ResponseFlags::UPSTREAM_OVERFLOW,
            Self::ConnectTimeout | Self::RemoteConnectFailure | Self::LocalConnectFailure => {
                ResponseFlags::UPSTREAM_CONNECTION_FAILURE
            }
            Self::ConnectionTermination => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
            Self::Remote | Self::RefusedStream => ResponseFlags::UPSTREAM_REMOTE_RESET,
            Self::ProtocolError => ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
            Self::Local => ResponseFlags::LOCAL_RESET,
        }
    }

    /// The status of the answer.
    pub(crate) const fn status(self) -> StatusCode {
        match self {
            Self::ProtocolError => StatusCode::BAD_GATEWAY,
            _ => StatusCode::SERVICE_UNAVAILABLE,
        }
    }

    /// The answer to the client. `transport`: why connecting failed, empty when it did not. It is in the details
    /// for the log, and not in the body (measured on Envoy 1.40).
    pub(crate) fn reply(self, retried: bool, transport: &str) -> LocalReply {
        let body = [
            "upstream connect error or disconnect/reset before headers. ",
            if retried { "retried and the latest " } else { "" },
            "reset reason: ",
            self.reason(),
        ];
        LocalReply::new(self.status(), self.details("upstream_reset_before_response_started", transport))
            .flags(self.flags())
            .body(body.concat())
    }

    /// `%RESPONSE_CODE_DETAILS%`: `stage{reason|transport failure}`, white space as underscores.
    pub(crate) fn details(self, stage: &str, transport: &str) -> Cow<'static, str> {
        let (bar, transport) = if transport.is_empty() { ("", "") } else { ("|", transport) };
        let text = [stage, "{", self.reason(), bar, transport, "}"].concat();
        Cow::Owned(text.replace(|character: char| character.is_ascii_whitespace(), "_"))
    }
}

/// Why a try ended without a response head.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The stream was reset, or never came to be.
    Reset {
        /// How.
        reset: Reset,
        /// Envoy's transport failure reason; empty for none.
        transport: std::sync::Arc<str>,
        /// Bytes of the request may have gone upstream.
        started: bool,
    },
    /// The time of the try is over.
    PerTryTimeout,
    /// The try showed no sign of life for too long.
    PerTryIdle,
    /// The time of the whole request is over.
    GlobalTimeout,
    /// The stream's longest life is over (`max_stream_duration` of the cluster).
    MaxDuration,
}

impl Failure {
    /// A failure to get a connection.
    pub(crate) fn pool(error: &PoolError) -> Self {
        Self::Reset { reset: Reset::of_pool(error.kind), transport: error.details.clone(), started: false }
    }

    /// The reset that retry conditions see.
    pub(crate) const fn reset(&self) -> Reset {
        match self {
            Self::Reset { reset, .. } => *reset,
            _ => Reset::Local,
        }
    }

    /// Whether bytes of the request may have gone upstream.
    pub(crate) const fn started(&self) -> bool {
        match self {
            Self::Reset { started, .. } => *started,
            _ => true,
        }
    }
}

/// The answer when time is over; `alt`: the client asked for 204 in place of 504.
pub(crate) fn timeout_reply(details: &'static str, alt: bool) -> LocalReply {
    let flags = ResponseFlags::UPSTREAM_REQUEST_TIMEOUT;
    if alt {
        return LocalReply::new(StatusCode::NO_CONTENT, details).flags(flags);
    }
    LocalReply::new(StatusCode::GATEWAY_TIMEOUT, details).flags(flags).body("upstream request timeout")
}

/// The answer when no host can be used.
pub(crate) fn no_healthy_upstream() -> LocalReply {
    LocalReply::new(StatusCode::SERVICE_UNAVAILABLE, details::NO_HEALTHY_UPSTREAM)
        .flags(ResponseFlags::NO_HEALTHY_UPSTREAM)
        .body("no healthy upstream")
}

/// The answer when the cluster does not exist.
pub(crate) fn no_cluster(status: StatusCode) -> LocalReply {
    LocalReply::new(status, details::CLUSTER_NOT_FOUND).flags(ResponseFlags::NO_CLUSTER_FOUND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_connect_reads_as_envoys() {
        let reply = Reset::RemoteConnectFailure.reply(true, "delayed connect error: Connection refused");
        assert_eq!(
            reply.body,
            "upstream connect error or disconnect/reset before headers. retried and the latest \
             reset reason: remote connection failure"
        );
        assert_eq!(
            reply.details,
            "upstream_reset_before_response_started\
             {remote_connection_failure|delayed_connect_error:_Connection_refused}"
        );
        assert_eq!(reply.flags, ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
        assert_eq!(Reset::ProtocolError.reply(false, "").status, 502);
    }
}
