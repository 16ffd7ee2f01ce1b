//! The server's side.

use std::sync::Arc;

use outrider_config::model;
use outrider_core::stats::Scope;
use outrider_core::stream::TlsInfo;

use super::TlsError;
use crate::io::IoStream;

/// A downstream TLS context, ready for handshakes.
#[derive(Debug)]
pub struct ServerTls {}

impl ServerTls {
    /// Builds the context; reads its files. Counts under `scope` (`listener.<address>.`) + `ssl.`.
    ///
    /// # Errors
    /// Unreadable or malformed certificates, keys, roots or lists; each error names the field and the file.
    pub fn build(tls: &model::DownstreamTls, scope: &Scope) -> Result<Arc<Self>, TlsError> {
        let _ = (tls, scope);
        Ok(Arc::new(Self {}))
    }

    /// Does the handshake as the server.
    ///
    /// # Errors
    /// The handshake failed: [`TlsError::Handshake`] or [`TlsError::Closed`].
    pub async fn accept(&self, stream: IoStream) -> Result<(IoStream, TlsInfo), TlsError> {
        drop(stream);
        Err(TlsError::Handshake("TLS_error:not there yet".into()))
    }
}
