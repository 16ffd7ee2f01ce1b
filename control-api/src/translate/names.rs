//! The names of what is served. They are Istio's, so that what people know of dashboards and dumps stays true.

use std::sync::Arc;

use crate::model::own::Credential;
use crate::world::Named;

/// The domain of the cluster.
pub const DOMAIN: &str = "cluster.local";

/// What stands in the names of clusters that are another way to the same endpoints.
const BESIDE: [&str; 2] = ["|passthrough|", "|tls|"];

/// Where connections go whose destination is not known: on to where they were going.
pub const PASSTHROUGH: &str = "PassthroughCluster";
/// Where connections go that must not go anywhere.
pub const BLACK_HOLE: &str = "BlackHoleCluster";
/// As [`PASSTHROUGH`], towards the application.
pub const INBOUND_PASSTHROUGH: &str = "InboundPassthroughCluster";

/// The host name of a service: `web.shop.svc.cluster.local`.
pub fn host(service: &Named) -> String {
    format!("{}.{}.svc.{DOMAIN}", service.1, service.0)
}

/// The cluster of a service's port: `outbound|80||web.shop.svc.cluster.local`.
pub fn outbound(service: &Named, port: u16) -> String {
    format!("outbound|{port}||{}", host(service))
}

/// The cluster of a service's port for TLS that a gateway passes on: `outbound|443|passthrough|web.shop.svc.cluster.local`.
pub fn passthrough(service: &Named, port: u16) -> String {
    format!("outbound|{port}|passthrough|{}", host(service))
}

/// The cluster of a service's port that speaks TLS, for requests that come in clear: `outbound|443|tls|web.shop.svc.cluster.local`.
pub fn originated(service: &Named, port: u16) -> String {
    format!("outbound|{port}|tls|{}", host(service))
}

/// Under which name a cluster asks for its endpoints.
pub fn endpoints_of(cluster: &Arc<str>) -> Arc<str> {
    let beside = BESIDE.iter().find_map(|subset| cluster.split_once(subset));
    match beside {
        Some((port, host)) => format!("{port}||{host}").into(),
        None => Arc::clone(cluster),
    }
}

/// The clusters beside one of [`outbound`] that have the same endpoints: of [`passthrough`] and [`originated`].
pub fn beside(outbound: &str) -> impl Iterator<Item = String> + use<'_> {
    BESIDE.iter().map(|subset| outbound.replacen("||", subset, 1))
}

/// The name of a Secret in SDS.
pub fn secret(secret: &Named) -> String {
    format!("kubernetes://{}/{}", secret.0, secret.1)
}

/// The service and port of a cluster that [`outbound`], [`passthrough`] or [`originated`] named.
pub fn parse_outbound(name: &str) -> Option<(Named, u16)> {
    let mut parts = name.strip_prefix("outbound|")?.split('|');
    let (port, _subset, host) = (parts.next()?, parts.next()?, parts.next()?);
    let (name, rest) = host.split_once('.')?;
    let (namespace, rest) = rest.split_once('.')?;
    (rest == "svc.cluster.local").then_some(())?;
    let named: (Arc<str>, Arc<str>) = (namespace.into(), name.into());
    Some((named, port.parse().ok()?))
}

/// The cluster towards the application at a port.
pub fn inbound(port: u16) -> String {
    format!("inbound|{port}||")
}

/// The cluster towards the application at a port, for HTTP/1.1 that came as HTTP/2 from another sidecar: `inbound|8080|http1|`.
pub fn inbound_http1(port: u16) -> String {
    format!("inbound|{port}|http1|")
}

/// The cluster of an ExternalService's port: `external|443||payments.shop`.
pub fn external(service: &Named, port: u16) -> String {
    format!("external|{port}||{}.{}", service.1, service.0)
}

/// A credential of an ExternalService (namespace and name), by what it is made of: `credential|authorization|Bearer:token/|pay.shop`. Another
/// secret or another header is another name, so that neither a secret nor a filter is ever taken for that of another credential.
pub fn credential(service: (&str, &str), header: &str, it: &Credential) -> String {
    let (secret, key) = (&it.secret_ref.name, it.secret_ref.key.as_deref().unwrap_or_default());
    format!("credential|{header}|{:?}:{secret}/{key}|{}.{}", it.r#type, service.1, service.0)
}

/// The service and port of a cluster that [`external`] named.
pub fn parse_external(name: &str) -> Option<(Named, u16)> {
    let (port, service) = name.strip_prefix("external|")?.split_once("||")?;
    // Names may have dots, namespaces cannot.
    let (name, namespace) = service.rsplit_once('.')?;
    Some(((namespace.into(), name.into()), port.parse().ok()?))
}

/// Host names under which clients of a namespace call a service, without ports.
pub fn domains(service: &Named, from: &str) -> Vec<String> {
    let (namespace, name) = service;
    let mut out = vec![host(service), format!("{name}.{namespace}.svc"), format!("{name}.{namespace}")];
    if **namespace == *from {
        out.push(name.to_string());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_passed_on_has_the_endpoints_of_its_port() {
        let service: Named = ("shop".into(), "web".into());
        let plain = outbound(&service, 443);
        let others = [passthrough(&service, 443), originated(&service, 443)];
        assert_eq!(beside(&plain).collect::<Vec<_>>(), others);
        for name in others.iter().chain([&plain]) {
            assert_eq!(*endpoints_of(&name.as_str().into()), *plain);
            assert_eq!(parse_outbound(name), Some((service.clone(), 443)));
        }
    }
}
