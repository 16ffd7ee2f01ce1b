//! The SPIFFE certificate validator.

use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;
use pb::spiffe_cert_validator_config::TrustDomain;

use super::cx::{Cx, refuse};
use super::scalar::{data_source, type_of, unpack};
use crate::model::{DataSource, DataSourceKind, SpiffeTrust};

/// The validator that `message` names, which is SPIFFE's or none that we have; `None`, and an error, when it is not usable.
pub(super) fn validator(
    cx: &Cx,
    path: &Path<'_>,
    message: &core_pb::TypedExtensionConfig,
) -> Option<Arc<SpiffeTrust>> {
    let core_pb::TypedExtensionConfig { name, typed_config } = message;
    let Some(any) = typed_config else {
        cx.error(path, format!("the validator {name:?} needs a typed_config with its @type"));
        return None;
    };
    let path = path.field("typed_config");
    if !outrider_proto::any::is::<pb::SpiffeCertValidatorConfig>(any) {
        let why = format!(
            "the validator {} is not supported; use SPIFFECertValidatorConfig, or trusted_ca and match_typed_subject_alt_names",
            type_of(any)
        );
        cx.refuse(&path, why);
        return None;
    }
    let pb::SpiffeCertValidatorConfig { trust_domains, trust_bundles } = unpack(cx, &path, any)?;
    let at = path.field("trust_domains");
    if let Some(message) = &trust_bundles {
        if !trust_domains.is_empty() {
            cx.inert(&at, "trust_bundles comes before it, in Envoy too");
        }
        let bundles = bundles(cx, &path.field("trust_bundles"), message)?;
        return Some(Arc::new(SpiffeTrust { domains: Vec::new(), bundles: Some(bundles) }));
    }
    if trust_domains.is_empty() {
        cx.error(&at, "a trust domain is needed");
        return None;
    }
    let mut domains: Vec<(Box<str>, DataSource)> = Vec::with_capacity(trust_domains.len());
    for (i, message) in trust_domains.iter().enumerate() {
        let at = at.index(i);
        let (name, bundle) = domain(cx, &at, message)?;
        if domains.iter().any(|(known, _)| *known == name) {
            cx.error(
                &at.field("name"),
                format!("the trust domain {name:?} has a bundle already; join the two"),
            );
            return None;
        }
        domains.push((name, bundle));
    }
    Some(Arc::new(SpiffeTrust { domains, bundles: None }))
}

fn domain(cx: &Cx, path: &Path<'_>, message: &TrustDomain) -> Option<(Box<str>, DataSource)> {
    let TrustDomain { name, trust_bundle, workload_trust_domain } = message;
    refuse!(cx, path, "trust domains are not chosen by the workload's; give each workload a context of its own";
        workload_trust_domain);
    let at = path.field("name");
    if name.is_empty() {
        cx.error(&at, "the name of a trust domain is needed");
        return None;
    }
    if name.contains('/') {
        cx.error(&at, format!("{name:?}: a trust domain is named without spiffe:// and without a path"));
        return None;
    }
    let at = path.field("trust_bundle");
    let Some(message) = trust_bundle else {
        cx.error(&at, "the roots of the trust domain are needed, as PEM");
        return None;
    };
    Some((name.as_str().into(), data_source(cx, &at, message)?))
}

/// A bundle map. Envoy watches the file that it is in; one that is not watched would keep roots that are gone.
fn bundles(cx: &Cx, path: &Path<'_>, message: &core_pb::DataSource) -> Option<DataSource> {
    let source = data_source(cx, path, message)?;
    if matches!(source.kind, DataSourceKind::File(_)) {
        cx.refuse(
            &path.field("filename"),
            "a file of bundles would have to be watched, which is not supported; write it inline, or send it by SDS",
        );
        return None;
    }
    Some(source)
}
