//! Why a listener cannot be.

use std::io;
use std::sync::Arc;

use outrider_telemetry::access_log::LogFileError;

use crate::tls::TlsError;

/// A listener whose configuration cannot be put to work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenerError {
    /// A filter chain's TLS context cannot be built.
    #[error("listener {listener:?}, filter chain {chain:?}: {source}")]
    Tls {
        /// The listener's name.
        listener: Arc<str>,
        /// The filter chain's name.
        chain: Arc<str>,
        /// Why.
        source: TlsError,
    },
    /// An access log's file cannot be opened.
    #[error("listener {listener:?}: {source}")]
    Log {
        /// The listener's name.
        listener: Arc<str>,
        /// Why.
        source: LogFileError,
    },
    /// Two filter chains match the same connections, as Envoy refuses too.
    #[error("listener {listener:?}: filter chains {first:?} and {second:?} have the same match")]
    DuplicateMatch {
        /// The listener's name.
        listener: Arc<str>,
        /// One chain.
        first: Arc<str>,
        /// The other.
        second: Arc<str>,
    },
}

/// A listener's address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("listener {listener:?}: cannot listen on {address}: {source}{hint}")]
pub struct BindError {
    /// The listener's name.
    pub listener: Arc<str>,
    /// The address.
    pub address: String,
    /// Why.
    pub source: io::Error,
    /// How to mend it; empty when we do not know.
    pub hint: &'static str,
}
