//! Secrets and ConfigMaps with certificates in them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::backends::Refusal;
use super::grants::{self, End};
use super::refs::GATEWAY_GROUP;
use crate::model::Kind;
use crate::world::{Named, World, pem};

/// The key of authorities in ConfigMaps and Secrets.
const CA_KEY: &str = "ca.crt";

/// Who refers to certificates.
#[derive(Clone, Copy, Debug)]
pub(super) struct Referring<'w> {
    pub(super) world: &'w World,
    pub(super) kind: Kind,
    pub(super) namespace: &'w str,
}

impl Referring<'_> {
    fn may(
        &self,
        group: &str,
        kind: &str,
        (namespace, name): (&str, &str),
        field: &str,
    ) -> Result<(), Refusal> {
        let from = End { group: GATEWAY_GROUP, kind: self.kind.name(), namespace: self.namespace };
        if grants::permitted(self.world, from, End { group, kind, namespace }, name) {
            return Ok(());
        }
        Err(Refusal::new(
            "RefNotPermitted",
            format!(
                "{field}: no ReferenceGrant in namespace {namespace} lets {} of namespace {} refer to {kind} {name}",
                self.kind, self.namespace
            ),
        ))
    }
}

/// The Secret behind a reference, when it has a certificate and the key to it.
pub(super) fn key_pair(
    from: Referring<'_>,
    (group, kind): (&str, &str),
    (namespace, name): (&str, &str),
    field: &str,
) -> Result<Named, Refusal> {
    let refuse = |why: String| Refusal::new("InvalidCertificateRef", format!("{field}: {why}"));
    if (group, kind) != ("", "Secret") {
        return Err(refuse(format!("{kind:?} of group {group:?} has no certificates; use a Secret")));
    }
    from.may(group, kind, (namespace, name), field)?;
    let Some(secret) = from.world.get::<Secret>(namespace, name) else {
        return Err(refuse(format!("Secret {namespace}/{name} does not exist")));
    };
    check_key_pair(secret.body()).map_err(|why| refuse(format!("Secret {namespace}/{name} {why}")))?;
    Ok((namespace.into(), name.into()))
}

/// Whether a Secret is one for TLS: its type, and that the key fits the certificate.
fn check_key_pair(secret: &Secret) -> Result<(), String> {
    let kind = secret.type_.as_deref().unwrap_or("Opaque");
    if kind != "kubernetes.io/tls" {
        return Err(format!("has type {kind:?}; use kubernetes.io/tls"));
    }
    let part = |key: &str| pem::entry(secret, key).ok_or_else(|| format!("has no {key}"));
    pem::key_pair(part("tls.crt")?, part("tls.key")?)
}

/// How references to authorities are refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct CaReasons {
    /// For a kind that has none.
    pub(super) kind: &'static str,
    /// For all else.
    pub(super) reference: &'static str,
}

/// The authorities behind a reference, in PEM.
pub(super) fn authorities(
    from: Referring<'_>,
    (group, kind): (&str, &str),
    (namespace, name): (&str, &str),
    field: &str,
    reasons: CaReasons,
) -> Result<Arc<str>, Refusal> {
    if !matches!((group, kind), ("", "ConfigMap" | "Secret")) {
        return Err(Refusal::new(
            reasons.kind,
            format!("{field}: {kind:?} of group {group:?} has no authorities; use a ConfigMap or a Secret"),
        ));
    }
    from.may(group, kind, (namespace, name), field)?;
    let refuse =
        |why: &str| Refusal::new(reasons.reference, format!("{field}: {kind} {namespace}/{name} {why}"));
    let text = if kind == "ConfigMap" {
        let map = from.world.get::<ConfigMap>(namespace, name).ok_or_else(|| refuse("does not exist"))?;
        map.data.as_ref().and_then(|data| data.get(CA_KEY)).cloned().or_else(|| {
            let bytes = map.binary_data.as_ref()?.get(CA_KEY)?.0.clone();
            String::from_utf8(bytes).ok()
        })
    } else {
        let secret = from.world.get::<Secret>(namespace, name).ok_or_else(|| refuse("does not exist"))?;
        pem::entry(secret.body(), CA_KEY).and_then(|bytes| String::from_utf8(bytes.to_vec()).ok())
    };
    let text = text.ok_or_else(|| refuse("has no key ca.crt"))?;
    pem::certificates(text.as_bytes()).map_err(|why| refuse(&format!("has a {CA_KEY} {why}")))?;
    Ok(text.trim().into())
}
