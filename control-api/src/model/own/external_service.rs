//! `ExternalService`.

use kube::CustomResource;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::common::{ConditionsStatus, SecretKeyRef};
use super::settings::{CircuitBreakers, ConnectionPool, OutlierDetection, Retries, Timeouts};

/// A service outside, and how the proxies of its clients call it: they resolve its names, speak TLS to it, and add the credentials
/// that applications then need not have. An application calls it in clear: by its host at the sidecar's explicit HTTP listener, or
/// simply at its port where connections are captured.
///
/// It is visible in its own namespace alone, unless the annotation `outrider.dev/export-to` says otherwise (namespaces, separated by commas;
/// `.` is its own, `*` all): whoever sees it has its hosts and ports taken over by it, and calls it with its credentials. A route of
/// another namespace may lead to it where it is exported to that namespace, or where a ReferenceGrant permits it.
#[derive(CustomResource, Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[kube(
    group = "outrider.dev",
    version = "v1",
    kind = "ExternalService",
    plural = "externalservices",
    shortname = "es",
    category = "outrider",
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
    /// are answered with status 503 and never sent without it. Requests that get credentials cannot be mirrored (503), and mirrors
    /// of other requests are not sent to a service that needs them.
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
