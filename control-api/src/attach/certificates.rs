//! Secrets and ConfigMaps with certificates in them.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::backends::Refusal;
use super::grants::{self, End};
use super::refs::GATEWAY_GROUP;
use crate::model::Kind;
use crate::world::{Named, World};

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
///
/// # Errors
/// What is wrong with it, to be read after its name.
pub(crate) fn check_key_pair(secret: &Secret) -> Result<(), String> {
    let kind = secret.type_.as_deref().unwrap_or("Opaque");
    if kind != "kubernetes.io/tls" {
        return Err(format!("has type {kind:?}; use kubernetes.io/tls"));
    }
    let part = |key: &str| secret_value(secret, key).ok_or_else(|| format!("has no {key}"));
    let (chain, key) = (part("tls.crt")?, part("tls.key")?);
    let chain: Vec<_> = CertificateDer::pem_slice_iter(&chain)
        .collect::<Result<_, _>>()
        .map_err(|error| format!("has a tls.crt that is no PEM: {error}"))?;
    if chain.is_empty() {
        return Err("has a tls.crt without a certificate in PEM".to_owned());
    }
    let key = PrivateKeyDer::from_pem_slice(&key)
        .map_err(|error| format!("has a tls.key that is no key in PEM: {error}"))?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    match rustls::sign::CertifiedKey::from_der(chain, key, &provider) {
        Ok(_) => Ok(()),
        Err(rustls::Error::InconsistentKeys(_)) => {
            Err("has a tls.key that does not belong to its tls.crt".to_owned())
        }
        Err(error) => Err(format!("cannot be used: {error}")),
    }
}

fn secret_value(secret: &Secret, key: &str) -> Option<Vec<u8>> {
    let data = secret.data.as_ref().and_then(|data| data.get(key)).map(|bytes| bytes.0.clone());
    // What was written as text goes before, as at the API server.
    let text =
        secret.string_data.as_ref().and_then(|data| data.get(key)).map(|text| text.clone().into_bytes());
    text.or(data)
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
        secret_value(secret.body(), CA_KEY).and_then(|bytes| String::from_utf8(bytes).ok())
    };
    let text = text.ok_or_else(|| refuse("has no key ca.crt"))?;
    check_authorities(&text).map_err(|why| refuse(&why))?;
    Ok(text.trim().into())
}

/// Whether a text has certificates in PEM, all of which can be read.
fn check_authorities(text: &str) -> Result<(), String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(text.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("has a ca.crt that is no PEM: {error}"))?;
    if certificates.is_empty() {
        return Err("has a ca.crt without a certificate in PEM".to_owned());
    }
    for certificate in &certificates {
        x509_parser::parse_x509_certificate(certificate)
            .map_err(|error| format!("has a ca.crt with something that is no certificate: {error}"))?;
    }
    Ok(())
}
