//! Transport sockets, both sides.

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as pb;
use outrider_proto::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use outrider_proto::prost::{Message, Name};

use super::cx::Cx;
use super::scalar::{type_of, unpack};

/// A transport socket that could not be converted; why is noted. It is a type of its own so that it never reads
/// as 'plain'.
#[derive(Debug)]
pub(crate) struct Unusable;

/// The TLS settings of a transport socket; `Ok(None)` for plain. `convert` turns the TLS context `M` of this side.
pub(crate) fn socket<M: Message + Name + Default, T>(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::TransportSocket>,
    convert: impl FnOnce(&Cx, &Path<'_>, &M) -> Option<T>,
) -> Result<Option<T>, Unusable> {
    use pb::transport_socket::ConfigType;
    let Some(pb::TransportSocket { name, config_type }) = message else { return Ok(None) };
    let Some(ConfigType::TypedConfig(any)) = config_type else {
        cx.error(path, format!("the transport socket {name:?} needs a typed_config with its @type"));
        return Err(Unusable);
    };
    let path = path.field("typed_config");
    if outrider_proto::any::is::<RawBuffer>(any) {
        let RawBuffer {} = unpack(cx, &path, any).ok_or(Unusable)?;
        return Ok(None);
    }
    if outrider_proto::any::is::<M>(any) {
        let message = unpack::<M>(cx, &path, any).ok_or(Unusable)?;
        return convert(cx, &path, &message).map(Some).ok_or(Unusable);
    }
    let why = format!("the transport socket {} is not supported; use TLS or raw_buffer", type_of(any));
    cx.refuse(&path, why);
    Err(Unusable)
}
