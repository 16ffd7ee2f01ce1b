//! What a service's port speaks, and where it leads.

use std::sync::Arc;

use k8s_openapi::api::core::v1::{Service, ServicePort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// What is spoken at a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.1 (and h2 where the client brings it).
    Http,
    /// HTTP/2 without TLS.
    Http2,
    /// HTTP/2 with gRPC in it.
    Grpc,
    /// TLS that the application ends.
    Tls,
    /// Anything.
    Tcp,
    /// Nobody said: it is found out at each connection.
    Unknown,
}

impl Spoken {
    /// Whether it is HTTP for certain.
    pub const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }

    /// Whether upstreams are spoken to in HTTP/2.
    pub const fn is_http2(self) -> bool {
        matches!(self, Self::Http2 | Self::Grpc)
    }
}

/// One TCP port of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its number.
    pub number: u16,
    /// Its name; empty where there is one port only.
    pub name: Arc<str>,
    /// What is spoken.
    pub spoken: Spoken,
    /// `targetPort` when it is a number; a name is looked up in slices.
    pub target: Option<u16>,
}

/// The TCP ports of a service.
pub fn ports(service: &Service) -> Vec<Port> {
    let listed = service.spec.as_ref().and_then(|spec| spec.ports.as_deref()).unwrap_or_default();
    listed.iter().filter_map(port).collect()
}

fn port(port: &ServicePort) -> Option<Port> {
    if port.protocol.as_deref().is_some_and(|protocol| protocol != "TCP") {
        return None;
    }
    let number = u16::try_from(port.port).ok().filter(|number| *number > 0)?;
    let name = port.name.as_deref().unwrap_or_default();
    let target = match &port.target_port {
        None => Some(number),
        Some(IntOrString::Int(target)) => u16::try_from(*target).ok(),
        Some(IntOrString::String(text)) => text.parse().ok(),
    };
    Some(Port { number, name: name.into(), spoken: spoken(port.app_protocol.as_deref(), name), target })
}

/// `appProtocol` first, as Kubernetes and Istio name protocols, then the port's name up to the first dash.
fn spoken(app_protocol: Option<&str>, name: &str) -> Spoken {
    let word =
        app_protocol.map_or_else(|| name.split('-').next().unwrap_or_default().to_owned(), str::to_lowercase);
    match word.as_str() {
        "http" | "http1" | "kubernetes.io/ws" => Spoken::Http,
        "http2" | "h2c" | "kubernetes.io/h2c" => Spoken::Http2,
        "grpc" | "grpc-web" => Spoken::Grpc,
        "https" | "tls" | "kubernetes.io/wss" => Spoken::Tls,
        "tcp" | "mysql" | "mongo" | "redis" | "postgresql" | "postgres" | "smtp" => Spoken::Tcp,
        _ => Spoken::Unknown,
    }
}
