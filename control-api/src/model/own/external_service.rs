//! `ExternalService`.

use std::collections::BTreeSet;
use std::net::IpAddr;

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::check::{Check, host};
use super::common::{ConditionsStatus, SecretKeyRef};
use super::settings::{CircuitBreakers, ConnectionPool, OutlierDetection, Retries, Timeouts};
use super::settings_check as check_of;

/// A service outside, and how the proxies of its clients call it: they resolve its names, speak TLS to it, and add the credentials
/// that applications then need not have. An application calls it in clear: by its host at the sidecar's explicit HTTP listener, or
/// simply at its port where connections are captured.
///
/// It is visible in all namespaces, or where the annotation `outrider.dev/export-to` says; one that has credentials or a client
/// certificate is visible in its own namespace alone, unless the annotation says otherwise.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "outrider.dev",
    version = "v1",
    kind = "ExternalService",
    plural = "externalservices",
    shortname = "es",
    namespaced,
    status = "ConditionsStatus",
    doc = "A service outside, and how the proxies of its clients call it: names, TLS, credentials, retries, timeouts, breakers."
)]
#[serde(rename_all = "camelCase")]
pub struct ExternalServiceSpec {
    /// The hosts by which applications call it, 1 to 32. A wildcard (`*.example.com`) is possible where `addresses` say what it leads to.
    #[schemars(length(min = 1, max = 32))]
    pub hosts: Vec<String>,
    /// Its ports, 1 to 32.
    #[schemars(length(min = 1, max = 32))]
    pub ports: Vec<ExternalPort>,
    /// How its endpoints are found. Default: `DNS`.
    #[serde(default)]
    pub resolution: Resolution,
    /// Its endpoints: IP addresses for `Static`; for `DNS` and `LogicalDNS` the names that are resolved in place of the hosts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 100))]
    pub addresses: Vec<String>,
    /// TLS towards it, at all ports but those whose protocol is `TLS`. Ports of protocol `HTTPS` have it anyway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<ExternalTls>,
    /// Credentials that the proxy adds to each request, at ports that speak HTTP. They need TLS. When one cannot be had, requests
    /// are answered with status 503 and never sent without it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub credentials: Vec<Credential>,
    /// When a request is sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<Retries>,
    /// How long things may take.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeouts: Option<Timeouts>,
    /// How much there may be at a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub circuit_breakers: Option<CircuitBreakers>,
    /// When an endpoint that fails requests is left out for a while.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outlier_detection: Option<OutlierDetection>,
    /// Connections to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connection_pool: Option<ConnectionPool>,
}

impl ExternalServiceSpec {
    /// Whether whoever calls it through a proxy calls with secrets of its owner.
    pub fn has_secrets(&self) -> bool {
        !self.credentials.is_empty()
            || self.tls.as_ref().is_some_and(|tls| tls.client_certificate_ref.is_some())
    }
}

/// A port of an ExternalService.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalPort {
    /// The number by which applications call it, 1 to 65535. For `HTTPS` it is that of the service outside; applications call it by
    /// the host alone, captured ones at port 80.
    #[schemars(range(min = 1, max = 65535))]
    pub number: u16,
    /// Its name. Policies name ports by it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// What is spoken.
    pub protocol: ExternalProtocol,
    /// The port of the service outside. Default: `number`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub target_port: Option<u16>,
}

/// What an application speaks at a port of an ExternalService.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ExternalProtocol {
    /// HTTP in clear; TLS from the proxy on when the service has `tls`.
    #[default]
    HTTP,
    /// As `HTTP`, with HTTP/2 towards the service.
    HTTP2,
    /// As `HTTP2`, for gRPC.
    GRPC,
    /// HTTP in clear, TLS from the proxy on, verified with the system's roots where `tls` says nothing else.
    HTTPS,
    /// TLS of the application's own, passed on by its server name.
    TLS,
    /// Bytes; in TLS from the proxy on when the service has `tls`.
    TCP,
}

impl ExternalProtocol {
    /// Whether the application speaks HTTP in clear.
    pub const fn is_http(self) -> bool {
        matches!(self, Self::HTTP | Self::HTTP2 | Self::GRPC | Self::HTTPS)
    }

    /// Whether the service is spoken to in HTTP/2.
    pub const fn is_http2(self) -> bool {
        matches!(self, Self::HTTP2 | Self::GRPC)
    }
}

/// How endpoints are found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum Resolution {
    /// By DNS: all addresses of an answer are endpoints.
    #[default]
    DNS,
    /// By DNS: each new connection goes to the first address of the last answer. For services behind very many addresses.
    LogicalDNS,
    /// The addresses that are given.
    Static,
}

/// TLS towards an ExternalService. The server's certificate is always verified.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExternalTls {
    /// The server name that is sent. Default: the host that was called.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<String>,
    /// Names one of which the certificate must have: DNS names, or URIs. Default: the server name that is sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 32))]
    pub subject_alt_names: Vec<String>,
    /// Authorities that are trusted, in PEM. Default: those that the proxy's system trusts.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 8))]
    pub ca_certificate_refs: Vec<CaCertificateRef>,
    /// The Secret (type `kubernetes.io/tls`) with the client's certificate and key. Default: none is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client_certificate_ref: Option<SecretRef>,
    /// The oldest version that is spoken. Default: `TLSv1_2`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min_version: Option<TlsVersion>,
}

/// Where authorities stand.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CaCertificateRef {
    /// `ConfigMap` or `Secret`.
    pub kind: CaKind,
    /// Its name.
    pub name: String,
    /// Which entry. Default: `ca.crt`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

/// What authorities can stand in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CaKind {
    /// A ConfigMap.
    #[default]
    ConfigMap,
    /// A Secret.
    Secret,
}

/// A Secret in the same namespace.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecretRef {
    /// Its name.
    pub name: String,
}

/// Versions of TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum TlsVersion {
    /// 1.2
    #[serde(rename = "TLSv1_2")]
    V12,
    /// 1.3
    #[serde(rename = "TLSv1_3")]
    V13,
}

/// A credential that the proxy adds as a request header, in place of what the application sent under that name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Credential {
    /// What is made of the Secret.
    pub r#type: CredentialType,
    /// The header. Default: `Authorization`; `Header` needs it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub header: Option<String>,
    /// The Secret. Default of its key: `token` for `Bearer`, `value` for `Header`; `Basic` takes `username` and `password`.
    pub secret_ref: SecretKeyRef,
}

/// What a header is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum CredentialType {
    /// `Bearer` and the entry.
    #[default]
    Bearer,
    /// `Basic` and the entries `username` and `password`, or the entry that `key` names, which has both with a colon between.
    Basic,
    /// The entry as it is.
    Header,
}

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
