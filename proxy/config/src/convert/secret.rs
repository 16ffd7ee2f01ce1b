//! Static secrets.

use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;

use super::cx::{Cx, UNSUPPORTED};
use crate::model::Secret;

/// A secret; `None`, and an error, when it is not usable.
pub(crate) fn secret(cx: &Cx, path: &Path<'_>, _message: &pb::Secret) -> Option<Secret> {
    cx.refuse(path, UNSUPPORTED);
    None
}
