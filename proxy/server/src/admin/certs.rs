//! `/certs`: the certificates in use and how long they are good for.

use std::collections::{BTreeMap, BTreeSet};

use outrider_config::model::{
    CertificateValidation, CommonTls, DataSource, DataSourceKind, DynamicSecret, SecretKind, SecretRef,
    ValidationRef,
};
use outrider_net::tls::CertInUse;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use serde_json::{Value, json};
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use crate::control::Control;
use crate::expiry;

use super::config_dump::timestamp;
use super::query::Query;
use super::reply::Reply;

pub(super) fn certs(control: &Control, _: &Query) -> Reply {
    let mut contexts: Vec<Value> = Vec::new();
    for active in control.listeners.active() {
        let chains = active.listener.chains.iter().filter_map(|chain| chain.config.tls.as_ref());
        contexts.extend(chains.map(|tls| context(control, &tls.common)));
    }
    for cluster in control.clusters.clusters() {
        let matches = cluster.config.tls_matches.iter().filter_map(|one| one.tls.as_ref());
        contexts.extend(cluster.config.tls.iter().chain(matches).map(|tls| context(control, &tls.common)));
    }
    let mut page = json!({ "certificates": contexts });
    let in_use = in_use(control);
    if !in_use.is_empty() {
        page["in_use"] = in_use.into();
    }
    Reply::json(&page)
}

/// A certificate as it is described, and its users.
type Used = (Value, BTreeSet<String>);

/// Beside Envoy's list, what one needs to act: each certificate that contexts in force were built with, the first to end
/// first, with where it came from and who uses it.
fn in_use(control: &Control) -> Vec<Value> {
    let now = expiry::now();
    let mut all: BTreeMap<(i64, Box<[u8]>), Used> = BTreeMap::new();
    expiry::each_in_use(control, |user, one| {
        let entry = all.entry((one.not_after, one.der.into()));
        let (_, users) = entry.or_insert_with(|| (described(one, now), BTreeSet::new()));
        users.insert(user());
    });
    let with_users = |(mut value, users): Used| {
        value["used_by"] = json!(users);
        value
    };
    all.into_values().map(with_users).collect()
}

fn described(one: CertInUse<'_>, now: i64) -> Value {
    let info = one.info().unwrap_or_default();
    let end = std::time::Duration::from_secs(one.not_after.try_into().unwrap_or(0));
    json!({
        "kind": if one.authority { "root" } else { "leaf" },
        "source": one.source,
        "subject": info.subject,
        "issuer": info.issuer,
        "uris": info.uri_sans,
        "serial_number": info.serial,
        "percent_of_life_left": one.percent_left(now).max(0),
        "days_until_expiration": expiry::days_left(one.not_after, now).to_string(),
        "expiration_time": timestamp(std::time::UNIX_EPOCH + end),
    })
}

/// The CA bundle and the chains of one TLS context; of secrets that come from elsewhere those that came last.
fn context(control: &Control, tls: &CommonTls) -> Value {
    let came = |secret: &DynamicSecret| control.secrets.find(secret);
    let here = tls.validation.configured().flat_map(roots);
    let mut ca: Vec<Value> = here.flat_map(certificates).collect();
    if let ValidationRef::Dynamic { secret, .. } = &tls.validation
        && let Some(secret) = came(secret)
        && let SecretKind::Validation(validation) = &secret.kind
    {
        ca.extend(roots(validation).flat_map(certificates));
    }
    let mut chains = Vec::new();
    for certificate in &tls.certificates {
        match certificate {
            SecretRef::Static(certificate) => chains.extend(certificates(&certificate.chain)),
            SecretRef::Dynamic(secret) => {
                if let Some(secret) = came(secret)
                    && let SecretKind::Certificate(certificate) = &secret.kind
                {
                    chains.extend(certificates(&certificate.chain));
                }
            }
        }
    }
    json!({ "ca_cert": ca, "cert_chain": chains })
}

/// Where the authorities of a validation context are.
fn roots(validation: &CertificateValidation) -> impl Iterator<Item = &DataSource> {
    let spiffe = validation.spiffe.iter().flat_map(|spiffe| spiffe.sources());
    validation.trusted_ca.iter().chain(spiffe)
}

fn certificates(source: &DataSource) -> Vec<Value> {
    let (path, pem) = match &source.kind {
        DataSourceKind::File(path) => (path.to_string(), std::fs::read(&**path).unwrap_or_default()),
        DataSourceKind::Inline(bytes) => ("<inline>".to_owned(), bytes.to_vec()),
        DataSourceKind::Environment(name) => {
            (format!("${name}"), std::env::var(&**name).unwrap_or_default().into_bytes())
        }
    };
    CertificateDer::pem_slice_iter(&pem).filter_map(|der| certificate(&path, &der.ok()?)).collect()
}

/// `envoy.admin.v3.CertificateDetails`
fn certificate(path: &str, der: &CertificateDer<'_>) -> Option<Value> {
    let (_, certificate) = X509Certificate::from_der(der).ok()?;
    let validity = certificate.validity();
    let at = |seconds: i64| {
        timestamp(std::time::UNIX_EPOCH + std::time::Duration::from_secs(seconds.try_into().unwrap_or(0)))
    };
    let now =
        std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |d| d.as_secs() as i64);
    let names = certificate.subject_alternative_name().ok().flatten();
    let names = names.iter().flat_map(|names| &names.value.general_names).filter_map(|name| match name {
        GeneralName::DNSName(name) => Some(json!({ "dns": name })),
        GeneralName::URI(uri) => Some(json!({ "uri": uri })),
        GeneralName::IPAddress(bytes) => {
            let ip = <[u8; 4]>::try_from(*bytes).map(std::net::IpAddr::from);
            let ip = ip.or_else(|_| <[u8; 16]>::try_from(*bytes).map(std::net::IpAddr::from)).ok()?;
            Some(json!({ "ip_address": ip.to_string() }))
        }
        _ => None,
    });
    Some(json!({
        "path": path,
        "serial_number": certificate.raw_serial().iter().map(|byte| format!("{byte:02x}")).collect::<String>(),
        "subject_alt_names": names.collect::<Vec<_>>(),
        "days_until_expiration": ((validity.not_after.timestamp() - now).max(0) / 86_400).to_string(),
        "valid_from": at(validity.not_before.timestamp()),
        "expiration_time": at(validity.not_after.timestamp()),
    }))
}
