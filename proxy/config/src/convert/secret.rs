//! Secrets, and certificates.

use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::pb::envoy::config::core::v3::{DataSource as DataSourceMessage, WatchedDirectory};
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::scalar::data_source;
use super::validation;
use super::xds::{self, config_source};
use crate::model::{
    CertificateValidation, DataSource, DynamicSecret, Secret, SecretKind, SecretRef, TlsCertificate,
};

/// A secret; `None`, and an error, when it is not usable.
pub(crate) fn secret(cx: &Cx, path: &Path<'_>, message: &pb::Secret) -> Option<Secret> {
    use pb::secret::Type;
    let pb::Secret { name, r#type } = message;
    let kind = match r#type {
        Some(Type::TlsCertificate(message)) => {
            SecretKind::Certificate(certificate(cx, &path.field("tls_certificate"), message)?)
        }
        Some(Type::ValidationContext(message)) => {
            SecretKind::Validation(validation::context(cx, &path.field("validation_context"), message))
        }
        Some(Type::SessionTicketKeys(message)) => {
            SecretKind::TicketKeys(ticket_keys(cx, &path.field("session_ticket_keys"), message))
        }
        Some(Type::GenericSecret(message)) => {
            SecretKind::Generic(generic(cx, &path.field("generic_secret"), message)?)
        }
        None => {
            cx.error(
                path,
                "give one of tls_certificate, validation_context, session_ticket_keys and generic_secret",
            );
            return None;
        }
    };
    let directory = match r#type {
        Some(Type::TlsCertificate(message)) => Some(("tls_certificate", &message.watched_directory)),
        Some(Type::ValidationContext(message)) => Some(("validation_context", &message.watched_directory)),
        _ => None,
    };
    let watched = directory.filter(|_| cx.is_sds).and_then(|(field, message)| {
        let path = path.field(field);
        message.as_ref().map(|message| xds::directory(cx, &path, message))
    });
    Some(Secret { name: Arc::from(name.as_str()), kind, watched })
}

/// A secret of no kind in particular; `None`, and an error, when it is not usable.
fn generic(cx: &Cx, path: &Path<'_>, message: &pb::GenericSecret) -> Option<DataSource> {
    let pb::GenericSecret { secret, secrets } = message;
    refuse!(cx, path, "filters take a single secret; write it as secret"; secrets);
    let at = path.field("secret");
    let Some(message) = secret else {
        if secrets.is_empty() {
            cx.error(&at, "a secret is needed");
        }
        return None;
    };
    if message.watched_directory.is_some() {
        cx.refuse(
            &at.field("watched_directory"),
            "files of secrets are read when the secret comes, not watched; remove it and send the secret anew",
        );
        return None;
    }
    data_source(cx, &at, message)
}

/// Notes that a directory is named whose files are not watched.
pub(crate) fn not_watched(cx: &Cx, path: &Path<'_>, watched_directory: &Option<WatchedDirectory>) {
    if !cx.is_sds {
        inert!(cx, path, "Envoy watches files of xDS secrets alone, not of other resources"; watched_directory);
    }
}

/// A certificate with its key; `None`, and an error, when one of them is missing.
pub(crate) fn certificate(cx: &Cx, path: &Path<'_>, message: &pb::TlsCertificate) -> Option<TlsCertificate> {
    let pb::TlsCertificate {
        certificate_chain,
        private_key,
        pkcs12,
        watched_directory,
        private_key_provider,
        password,
        ocsp_staple,
        signed_certificate_timestamp,
        tls_params,
    } = message;
    refuse!(cx, path, "PKCS #12 is not supported; write certificate_chain and private_key as PEM"; pkcs12);
    refuse!(cx, path, "key providers are not supported; write private_key"; private_key_provider);
    refuse!(cx, path, "encrypted keys are not supported; decrypt the key"; password);
    refuse!(cx, path, UNSUPPORTED; signed_certificate_timestamp, tls_params);
    not_watched(cx, path, watched_directory);
    if pkcs12.is_some() || private_key_provider.is_some() {
        return None;
    }
    let chain = needed(cx, &path.field("certificate_chain"), certificate_chain.as_ref());
    let key = needed(cx, &path.field("private_key"), private_key.as_ref());
    let ocsp_staple =
        ocsp_staple.as_ref().and_then(|message| data_source(cx, &path.field("ocsp_staple"), message));
    Some(TlsCertificate { chain: chain?, key: key?, ocsp_staple })
}

fn needed(cx: &Cx, path: &Path<'_>, message: Option<&DataSourceMessage>) -> Option<DataSource> {
    match message {
        Some(message) => data_source(cx, path, message),
        None => {
            cx.error(path, "a certificate needs its chain and its private key");
            None
        }
    }
}

/// Ticket keys.
pub(crate) fn ticket_keys(cx: &Cx, path: &Path<'_>, message: &pb::TlsSessionTicketKeys) -> Vec<DataSource> {
    let pb::TlsSessionTicketKeys { keys } = message;
    let path = path.field("keys");
    if keys.is_empty() {
        cx.error(&path, "a key is needed");
    }
    keys.iter().enumerate().filter_map(|(i, message)| data_source(cx, &path.index(i), message)).collect()
}

/// The certificate that `message` names.
pub(crate) fn named_certificate(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::SdsSecretConfig,
) -> Option<SecretRef<TlsCertificate>> {
    named(cx, path, message, "certificate", |secret| match &secret.kind {
        SecretKind::Certificate(certificate) => Some(certificate.clone()),
        _ => None,
    })
}

/// The validation context that `message` names.
pub(crate) fn named_validation(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::SdsSecretConfig,
) -> Option<SecretRef<CertificateValidation>> {
    named(cx, path, message, "validation context", |secret| match &secret.kind {
        SecretKind::Validation(validation) => Some(validation.clone()),
        _ => None,
    })
}

/// The ticket keys that `message` names.
pub(crate) fn named_ticket_keys(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::SdsSecretConfig,
) -> Option<SecretRef<Vec<DataSource>>> {
    named(cx, path, message, "ticket keys", |secret| match &secret.kind {
        SecretKind::TicketKeys(keys) => Some(keys.clone()),
        _ => None,
    })
}

/// The generic secret that `message` names.
pub(crate) fn named_generic(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::SdsSecretConfig,
) -> Option<SecretRef<DataSource>> {
    named(cx, path, message, "generic secret", |secret| match &secret.kind {
        SecretKind::Generic(source) => Some(source.clone()),
        _ => None,
    })
}

/// A secret of the bootstrap, or, where a source is given, one that comes from there.
fn named<T>(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::SdsSecretConfig,
    what: &str,
    pick: impl Fn(&Secret) -> Option<T>,
) -> Option<SecretRef<T>> {
    let pb::SdsSecretConfig { name, sds_config } = message;
    if name.is_empty() {
        cx.error(&path.field("name"), "the name of a secret is needed");
    }
    if name.starts_with("xdstp:") {
        cx.refuse(
            &path.field("name"),
            "xdstp:// resource names are not supported; name the resource plainly",
        );
    }
    if let Some(source) = sds_config {
        let source = config_source(cx, &path.field("sds_config"), source)?;
        return Some(SecretRef::Dynamic(Arc::new(DynamicSecret { name: Arc::from(name.as_str()), source })));
    }
    let found = cx.secret(name, pick);
    if found.is_none() {
        cx.error(
            &path.field("name"),
            format!("there is no {what} named {name:?} in static_resources.secrets"),
        );
    }
    found.map(SecretRef::Static)
}
