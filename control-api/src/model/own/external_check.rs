//! What is wrong with an `ExternalService`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::check::{Check, host};
use super::external_service::{
    CredentialType, ExternalProtocol, ExternalService, ExternalServiceSpec, ExternalTls, Resolution,
};
use super::settings_check as check_of;

/// Headers that are the proxy's own affair.
const NOT_FOR_CREDENTIALS: [&str; 9] = [
    "host",
    "connection",
    "content-length",
    "transfer-encoding",
    "te",
    "trailer",
    "upgrade",
    "keep-alive",
    "proxy-connection",
];

/// What is wrong with an ExternalService by itself.
pub(super) fn check(service: &ExternalService) -> Vec<(String, String)> {
    let mut out = Vec::new();
    let (spec, mut at) = (&service.spec, Check::spec(&mut out));
    hosts(&mut at, spec);
    ports(&mut at, spec);
    if let Some(it) = &spec.tls {
        tls(at.at("tls"), it, spec);
    }
    credentials(&mut at, spec);
    if let Some(it) = &spec.retries {
        check_of::retries(at.at("retries"), it, spec.circuit_breakers.as_ref());
    }
    if let Some(it) = &spec.timeouts {
        check_of::timeouts(at.at("timeouts"), it);
    }
    if let Some(it) = &spec.outlier_detection {
        check_of::outlier_detection(at.at("outlierDetection"), it);
    }
    if let Some(it) = &spec.connection_pool {
        check_of::connection_pool(at.at("connectionPool"), it);
        if it.http2.is_some() && !spec.ports.iter().any(|port| port.protocol.is_http2()) {
            at.at("connectionPool").field("http2", "no port has the protocol HTTP2 or GRPC");
        }
    }
    out
}

fn hosts(at: &mut Check<'_>, spec: &ExternalServiceSpec) {
    if spec.hosts.is_empty() || spec.hosts.len() > 32 {
        at.field("hosts", "name 1 to 32 hosts");
    }
    at.unique("hosts", "", spec.hosts.iter());
    for (index, name) in spec.hosts.iter().enumerate() {
        if let Err(reason) = host(name, true) {
            at.field(&format!("hosts[{index}]"), reason);
        }
        if name.starts_with("*.") && spec.addresses.is_empty() {
            at.field(
                &format!("hosts[{index}]"),
                format!("{name:?} cannot be resolved; say in addresses where it leads"),
            );
        }
    }
    at.unique("addresses", "", spec.addresses.iter());
    for (index, address) in spec.addresses.iter().enumerate() {
        let ip = address.parse::<IpAddr>().is_ok();
        match spec.resolution {
            Resolution::Static if !ip => at.field(
                &format!("addresses[{index}]"),
                format!("{address:?} is no IP address; names need resolution DNS or LogicalDNS"),
            ),
            Resolution::DNS | Resolution::LogicalDNS if ip => at.field(
                &format!("addresses[{index}]"),
                format!("{address:?} is an IP address; those need resolution Static"),
            ),
            Resolution::DNS | Resolution::LogicalDNS => {
                if let Err(reason) = host(address, false) {
                    at.field(&format!("addresses[{index}]"), reason);
                }
            }
            Resolution::Static => {}
        }
    }
    let names = if spec.addresses.is_empty() { spec.hosts.len() } else { spec.addresses.len() };
    match spec.resolution {
        Resolution::Static if spec.addresses.is_empty() => at.field("addresses", "resolution Static needs them"),
        Resolution::LogicalDNS if names > 1 => at.field(
            if spec.addresses.is_empty() { "hosts" } else { "addresses" },
            "LogicalDNS resolves one name; name one in addresses, or use DNS",
        ),
        // Each would get requests that are for the others.
        Resolution::DNS if spec.addresses.is_empty() && names > 1 => at.field(
            "hosts",
            "several hosts are names of one service: say in addresses which name is resolved, or write an ExternalService for each host",
        ),
        _ => {}
    }
}

fn ports(at: &mut Check<'_>, spec: &ExternalServiceSpec) {
    if spec.ports.is_empty() || spec.ports.len() > 32 {
        at.field("ports", "name 1 to 32 ports");
    }
    at.unique("ports", "number", spec.ports.iter().map(|port| port.number));
    at.unique("ports", "name", spec.ports.iter().filter_map(|port| port.name.as_deref()));
    let many = spec.ports.len() > 1;
    for (index, port) in spec.ports.iter().enumerate() {
        let mut at = at.item("ports", index);
        at.range("number", Some(port.number), 1, u16::MAX);
        at.range("targetPort", port.target_port, 1, u16::MAX);
        match &port.name {
            Some(name) => at.name("name", name),
            None if many => at.field("name", "missing; where there are several ports, each has a name"),
            None => {}
        }
    }
}

fn tls(mut at: Check<'_>, it: &ExternalTls, spec: &ExternalServiceSpec) {
    if let Some(sni) = &it.sni
        && let Err(reason) = host(sni, false)
    {
        at.field("sni", reason);
    }
    let tcp = spec.ports.iter().any(|port| port.protocol == ExternalProtocol::TCP);
    let one = matches!(spec.hosts.as_slice(), [only] if !only.starts_with("*."));
    if it.sni.is_none() && tcp && !one {
        at.field("sni", "missing; a TCP connection does not say which of the hosts it is for");
    }
    if spec.ports.iter().all(|port| port.protocol == ExternalProtocol::TLS) {
        at.wrong("all ports have the protocol TLS: the applications speak it themselves; remove tls, or use HTTP, HTTPS or TCP");
    }
    at.unique("subjectAltNames", "", it.subject_alt_names.iter());
    for (index, name) in it.subject_alt_names.iter().enumerate() {
        let uri = name.split_once("://").is_some_and(|(scheme, rest)| !scheme.is_empty() && !rest.is_empty());
        if let (false, Err(reason)) = (uri, host(name, false)) {
            at.field(&format!("subjectAltNames[{index}]"), reason);
        }
    }
    for (index, reference) in it.ca_certificate_refs.iter().enumerate() {
        let mut at = at.item("caCertificateRefs", index);
        at.name("name", &reference.name);
        if reference.key.as_ref().is_some_and(String::is_empty) {
            at.field("key", "it is empty; remove it");
        }
    }
    if let Some(reference) = &it.client_certificate_ref {
        at.at("clientCertificateRef").name("name", &reference.name);
    }
}

fn credentials(at: &mut Check<'_>, spec: &ExternalServiceSpec) {
    let mut headers = BTreeSet::new();
    for (index, credential) in spec.credentials.iter().enumerate() {
        let mut at = at.item("credentials", index);
        at.at("secretRef").name("name", &credential.secret_ref.name);
        let name = credential.header.as_deref().unwrap_or("Authorization");
        if credential.r#type == CredentialType::Header && credential.header.is_none() {
            at.field("header", "missing; the type Header needs the name of one");
        }
        at.header_name("header", name);
        if NOT_FOR_CREDENTIALS.contains(&name.to_lowercase().as_str()) {
            at.field("header", format!("{name} is the proxy's own affair; use another one"));
        }
        if !headers.insert(name.to_lowercase()) {
            at.field("header", format!("{name} is set twice; keep one"));
        }
    }
    if spec.credentials.is_empty() {
        return;
    }
    for (index, port) in spec.ports.iter().enumerate() {
        let clear = spec.tls.is_none() && port.protocol != ExternalProtocol::HTTPS;
        if port.protocol.is_http() && clear {
            at.item("ports", index)
                .field("protocol", "credentials are never sent in clear: use HTTPS, or give spec.tls");
        }
    }
    if !spec.ports.iter().any(|port| port.protocol.is_http()) {
        at.field("credentials", "no port speaks HTTP, so there is no request that they could be added to");
    }
}
