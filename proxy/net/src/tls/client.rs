//! The client's side.

use std::sync::Arc;

use outrider_config::model;
use outrider_core::stats::Scope;
use outrider_core::stream::TlsInfo;

use super::TlsError;
use crate::io::IoStream;

/// What ALPN is offered when the context lists none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AlpnDefault {
    /// No ALPN at all.
    #[default]
    None,
    /// `http/1.1`
    Http1,
    /// `h2`
    Http2,
    /// `h2`, then `http/1.1`.
    Auto,
}

/// What one connection asks for.
#[derive(Debug, Clone, Copy, Default)]
pub struct TlsTarget<'a> {
    /// The server name to send in place of the context's `sni` (the host's name, or the request's authority);
    /// `None` for the context's.
    pub sni: Option<&'a str>,
    /// A name (DNS or IP) that the certificate's SANs must match as well (`auto_san_validation`).
    pub verify_name: Option<&'a str>,
    /// In place of the default given to [`ClientTls::build`]; the context's own list goes before either.
    pub alpn: Option<AlpnDefault>,
}

/// An upstream TLS context, ready for handshakes.
#[derive(Debug)]
pub struct ClientTls {}

impl ClientTls {
    /// Builds the context; reads its files. Counts under `scope` (`cluster.<name>.`) + `ssl.`.
    ///
    /// # Errors
    /// Unreadable or malformed certificates, keys, roots or lists; each error names the field and the file.
    pub fn build(tls: &model::UpstreamTls, alpn: AlpnDefault, scope: &Scope) -> Result<Arc<Self>, TlsError> {
        let _ = (tls, alpn, scope);
        Ok(Arc::new(Self {}))
    }

    /// Does the handshake as the client.
    ///
    /// # Errors
    /// The handshake failed: [`TlsError::Handshake`] or [`TlsError::Closed`].
    pub async fn connect(
        &self,
        stream: IoStream,
        target: &TlsTarget<'_>,
    ) -> Result<(IoStream, TlsInfo), TlsError> {
        let _ = (stream, target);
        Err(TlsError::Handshake("TLS_error:not there yet".into()))
    }
}
