//! TLS contexts.

use std::sync::Arc;

use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as pb;

use super::cx::{Cx, UNSUPPORTED, inert, refuse};
use super::scalar::{bool_of, duration, enumeration, u32_of};
use super::tls_params::{Params, Side, params};
use super::{secret, validation};
use crate::model::{
    CommonTls, DataSource, DownstreamTls, SecretRef, TlsCertificate, UpstreamTls, ValidationRef,
};

/// The server's side; `None`, and an error, when it has no certificate.
pub(crate) fn downstream(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::DownstreamTlsContext,
) -> Option<DownstreamTls> {
    use pb::downstream_tls_context::OcspStaplePolicy;
    let pb::DownstreamTlsContext {
        common_tls_context,
        require_client_certificate,
        require_sni,
        disable_stateful_session_resumption,
        session_timeout,
        ocsp_staple_policy,
        full_scan_certs_on_sni_mismatch,
        prefer_client_ciphers,
        session_ticket_keys_type,
    } = message;
    refuse!(cx, path, "the server's order of ciphers counts; remove it"; prefer_client_ciphers);
    if enumeration::<OcspStaplePolicy>(cx, path, "ocsp_staple_policy", *ocsp_staple_policy)
        != OcspStaplePolicy::LenientStapling
    {
        cx.refuse(
            &path.field("ocsp_staple_policy"),
            "responses are stapled as they are, not checked; use LENIENT_STAPLING",
        );
    }
    let common = common(cx, &path.field("common_tls_context"), common_tls_context.as_ref(), Side::Server)?;
    // Without a validation context any certificate will do, as in Envoy: the peer has one, that is all.
    let require_client_certificate = bool_of(require_client_certificate).unwrap_or(false);
    let (disable_stateless_resumption, session_ticket_keys) =
        tickets(cx, path, session_ticket_keys_type.as_ref());
    if common.certificates.is_empty() {
        return None;
    }
    Some(DownstreamTls {
        common,
        require_client_certificate,
        require_sni: bool_of(require_sni).unwrap_or(false),
        full_scan_certs: bool_of(full_scan_certs_on_sni_mismatch).unwrap_or(false),
        disable_stateless_resumption,
        disable_stateful_resumption: *disable_stateful_session_resumption,
        session_timeout: duration(cx, path, "session_timeout", session_timeout),
        session_ticket_keys,
    })
}

fn tickets(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::downstream_tls_context::SessionTicketKeysType>,
) -> (bool, Option<SecretRef<Vec<DataSource>>>) {
    use pb::downstream_tls_context::SessionTicketKeysType as Kind;
    match message {
        Some(Kind::SessionTicketKeys(message)) => {
            (false, Some(secret::ticket_keys(cx, &path.field("session_ticket_keys"), message).into()))
        }
        Some(Kind::SessionTicketKeysSdsSecretConfig(message)) => {
            let path = path.field("session_ticket_keys_sds_secret_config");
            (false, secret::named_ticket_keys(cx, &path, message))
        }
        Some(Kind::DisableStatelessSessionResumption(disable)) => (*disable, None),
        None => (false, None),
    }
}

/// The client's side.
pub(crate) fn upstream(cx: &Cx, path: &Path<'_>, message: &pb::UpstreamTlsContext) -> Option<UpstreamTls> {
    let pb::UpstreamTlsContext {
        common_tls_context,
        sni,
        auto_host_sni,
        auto_sni_san_validation,
        allow_renegotiation,
        max_session_keys,
        enforce_rsa_key_usage,
    } = message;
    refuse!(cx, path, "rustls does not renegotiate; remove it"; allow_renegotiation);
    inert!(cx, path, "it guards RSA key exchange, which rustls does not have"; enforce_rsa_key_usage);
    let common = common(cx, &path.field("common_tls_context"), common_tls_context.as_ref(), Side::Client)?;
    if sni.len() > 255 {
        cx.error(&path.field("sni"), "a server name has 255 bytes at most");
    }
    // A secret that is to verify brings roots or hashes, or is not taken.
    let verifies = match &common.validation {
        ValidationRef::None => false,
        ValidationRef::Static(validation) => validation.trusted_ca.is_some() || validation.spiffe.is_some(),
        ValidationRef::Dynamic { .. } => true,
    };
    if *auto_sni_san_validation && !verifies {
        cx.error(
            &path.field("auto_sni_san_validation"),
            "it needs a validation_context with trusted_ca: without roots anyone can make such a certificate",
        );
    }
    Some(UpstreamTls {
        common,
        sni: sni.clone(),
        auto_host_sni: *auto_host_sni,
        auto_sni_san_validation: *auto_sni_san_validation,
        max_session_keys: u32_of(max_session_keys).unwrap_or(1),
    })
}

/// What both sides share; `None`, and an error, when it is not usable.
fn common(cx: &Cx, path: &Path<'_>, message: Option<&pb::CommonTlsContext>, side: Side) -> Option<CommonTls> {
    let default = pb::CommonTlsContext::default();
    let pb::CommonTlsContext {
        tls_params,
        tls_certificates,
        tls_certificate_sds_secret_configs,
        tls_certificate_provider_instance,
        custom_tls_certificate_selector,
        tls_certificate_certificate_provider,
        tls_certificate_certificate_provider_instance,
        alpn_protocols,
        custom_handshaker,
        key_log,
        validation_context_type,
    } = message.unwrap_or(&default);
    refuse!(cx, path, "certificate providers are not supported; write tls_certificates";
        tls_certificate_provider_instance, custom_tls_certificate_selector, tls_certificate_certificate_provider,
        tls_certificate_certificate_provider_instance);
    refuse!(cx, path, UNSUPPORTED; custom_handshaker);
    let certificates = certificates(cx, path, tls_certificates, tls_certificate_sds_secret_configs, side);
    let validation = verification(cx, path, validation_context_type.as_ref());
    let Params { min, max, suites, curves } =
        params(cx, &path.field("tls_params"), tls_params.as_ref(), side);
    let alpn_path = path.field("alpn_protocols");
    for (i, protocol) in alpn_protocols.iter().enumerate() {
        if protocol.is_empty() || protocol.len() > 255 {
            cx.error(&alpn_path.index(i), "a protocol's name has 1 to 255 bytes");
        }
    }
    Some(CommonTls {
        certificates,
        validation: validation?,
        alpn: alpn_protocols.clone(),
        min_version: min,
        max_version: max,
        cipher_suites: suites,
        curves,
        key_log: key_log.as_ref().map(|message| self::key_log(cx, &path.field("key_log"), message)),
    })
}

fn key_log(cx: &Cx, path: &Path<'_>, message: &pb::TlsKeyLog) -> Arc<str> {
    let pb::TlsKeyLog { path: file, local_address_range, remote_address_range } = message;
    refuse!(cx, path, "keys are logged for all peers or for none; remove it"; local_address_range, remote_address_range);
    Arc::from(file.as_str())
}

fn certificates(
    cx: &Cx,
    path: &Path<'_>,
    inline: &[pb::TlsCertificate],
    named: &[pb::SdsSecretConfig],
    side: Side,
) -> Vec<SecretRef<TlsCertificate>> {
    let (at, at_named) = (path.field("tls_certificates"), path.field("tls_certificate_sds_secret_configs"));
    match side {
        Side::Server if inline.is_empty() && named.is_empty() => {
            cx.error(&at, "a server needs a certificate");
        }
        Side::Server if !inline.is_empty() && !named.is_empty() => {
            cx.error(&at_named, "it excludes tls_certificates; write all certificates in one of them");
        }
        Side::Client if inline.len() + named.len() > 1 => {
            cx.error(if named.is_empty() { &at } else { &at_named }, "a client has one certificate at most");
        }
        _ => {}
    }
    let inline = inline
        .iter()
        .enumerate()
        .filter_map(|(i, message)| secret::certificate(cx, &at.index(i), message).map(SecretRef::Static));
    let named = named
        .iter()
        .enumerate()
        .filter_map(|(i, message)| secret::named_certificate(cx, &at_named.index(i), message));
    inline.chain(named).collect()
}

/// The validation context; `None`, and an error, when it is not usable, which must never read as 'no verification'.
fn verification(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::common_tls_context::ValidationContextType>,
) -> Option<ValidationRef> {
    use pb::common_tls_context::{CombinedCertificateValidationContext, ValidationContextType as Kind};
    const PROVIDER: &str = "certificate providers are not supported; write validation_context";
    let (at, context) = match message {
        None => return Some(ValidationRef::None),
        Some(Kind::ValidationContext(message)) => {
            let at = path.field("validation_context");
            let context = validation::context(cx, &at, message);
            (at, context)
        }
        Some(Kind::ValidationContextSdsSecretConfig(message)) => {
            let at = path.field("validation_context_sds_secret_config");
            match secret::named_validation(cx, &at, message)? {
                SecretRef::Static(context) => (at, context),
                SecretRef::Dynamic(secret) => {
                    return Some(ValidationRef::Dynamic { default: Arc::default(), secret });
                }
            }
        }
        Some(Kind::CombinedValidationContext(message)) => {
            let at = path.field("combined_validation_context");
            let CombinedCertificateValidationContext {
                default_validation_context,
                validation_context_sds_secret_config,
                validation_context_certificate_provider,
                validation_context_certificate_provider_instance,
            } = message;
            refuse!(cx, at, PROVIDER;
                validation_context_certificate_provider, validation_context_certificate_provider_instance);
            let default = default_validation_context
                .as_ref()
                .map(|message| validation::context(cx, &at.field("default_validation_context"), message))
                .unwrap_or_default();
            let named = at.field("validation_context_sds_secret_config");
            let Some(message) = validation_context_sds_secret_config else {
                cx.error(&named, "the name of a validation context is needed");
                return None;
            };
            let context = match secret::named_validation(cx, &named, message)? {
                SecretRef::Static(context) => default.merged(&context),
                SecretRef::Dynamic(secret) => {
                    return Some(ValidationRef::Dynamic { default: Arc::new(default), secret });
                }
            };
            validation::check(cx, &at.field("default_validation_context"), &context);
            return Some(context.into());
        }
        Some(Kind::ValidationContextCertificateProvider(_)) => {
            cx.refuse(&path.field("validation_context_certificate_provider"), PROVIDER);
            return None;
        }
        Some(Kind::ValidationContextCertificateProviderInstance(_)) => {
            cx.refuse(&path.field("validation_context_certificate_provider_instance"), PROVIDER);
            return None;
        }
    };
    validation::check(cx, &at, &context);
    Some(context.into())
}
