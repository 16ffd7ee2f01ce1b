//! The certificates of a gateway.

use k8s_openapi::api::core::v1::Secret;
use outrider_proto::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;

use crate::translate::names;
use crate::world::{Named, World, pem};

/// A certificate and its key. `None` when the Secret is not there or lacks one of them: who needs it waits, and no
/// connection comes about.
pub(super) fn certificate(world: &World, secret: &Named) -> Option<pb::Secret> {
    let object = world.get::<Secret>(&secret.0, &secret.1)?;
    Some(pb::Secret {
        name: names::secret(secret),
        r#type: Some(pb::secret::Type::TlsCertificate(pb::TlsCertificate {
            certificate_chain: Some(text(&object, "tls.crt")?),
            private_key: Some(text(&object, "tls.key")?),
            ..Default::default()
        })),
    })
}

/// An entry of a Secret.
fn text(secret: &Secret, entry: &str) -> Option<DataSource> {
    let text = String::from_utf8(pem::entry(secret, entry)?.to_vec()).ok().filter(|text| !text.is_empty())?;
    Some(DataSource { specifier: Some(Specifier::InlineString(text)), ..Default::default() })
}
