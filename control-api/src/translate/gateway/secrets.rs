//! The certificates of a gateway.

use k8s_openapi::api::core::v1::Secret;
use outrider_proto::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;

use crate::world::{Named, World};

/// The name of a Secret in SDS.
pub(super) fn name(secret: &Named) -> String {
    format!("kubernetes://{}/{}", secret.0, secret.1)
}

/// A certificate and its key. `None` when the Secret is not there or lacks one of them: who needs it waits, and no
/// connection comes about.
pub(super) fn certificate(world: &World, secret: &Named) -> Option<pb::Secret> {
    let object = world.get::<Secret>(&secret.0, &secret.1)?;
    Some(pb::Secret {
        name: name(secret),
        r#type: Some(pb::secret::Type::TlsCertificate(pb::TlsCertificate {
            certificate_chain: Some(text(&object, "tls.crt")?),
            private_key: Some(text(&object, "tls.key")?),
            ..Default::default()
        })),
    })
}

/// An entry of a Secret; `stringData` goes before `data`, as in Kubernetes.
fn text(secret: &Secret, entry: &str) -> Option<DataSource> {
    let plain = secret.string_data.as_ref().and_then(|data| data.get(entry)).cloned();
    let encoded = || String::from_utf8(secret.data.as_ref()?.get(entry)?.0.clone()).ok();
    let text = plain.or_else(encoded).filter(|text| !text.is_empty())?;
    Some(DataSource { specifier: Some(Specifier::InlineString(text)), ..Default::default() })
}
