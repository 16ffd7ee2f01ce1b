//! TLS contexts.

use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;

use super::cx::{Cx, UNSUPPORTED};
use crate::model::{DownstreamTls, UpstreamTls};

/// The server's side.
pub(crate) fn downstream(
    cx: &Cx,
    path: &Path<'_>,
    _message: &pb::DownstreamTlsContext,
) -> Option<DownstreamTls> {
    cx.refuse(path, UNSUPPORTED);
    None
}

/// The client's side.
pub(crate) fn upstream(cx: &Cx, path: &Path<'_>, _message: &pb::UpstreamTlsContext) -> Option<UpstreamTls> {
    cx.refuse(path, UNSUPPORTED);
    None
}
