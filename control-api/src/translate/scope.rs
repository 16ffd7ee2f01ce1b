//! What a proxy can see: all that is exported to its namespace, narrowed by the dependencies that it declared.
//!
//! - Annotation `outrider.dev/export-to` of a Service or ExternalService: the namespaces that see it, separated by commas; `.` is its
//!   own, `*` all. The default is all for a Service, its own for an ExternalService.
//! - Annotation `outrider.dev/depends-on` of a Namespace, or of a Pod, which goes before: what is asked for, as `namespace/name`,
//!   `namespace/*`, `./name`, separated by commas. Without one, all that is visible. The word `observed`: HTTP services are sent
//!   when a request first needs them (on-demand CDS, delta streams), so that a proxy has what its application really calls.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1 as core;

use super::mtls;
use super::policy::authorization::labels;
use crate::model::Object;
use crate::model::own::{AuthorizationPolicy, PeerPolicy, Telemetry};
use crate::world::{Named, Proxy, Role, World, exported};

const DEPENDS_ON: &str = "outrider.dev/depends-on";

/// What several proxies have in common. Proxies of equal scopes get equal shared resources.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Scope {
    /// Sidecar or router.
    pub role: Role,
    /// The namespace.
    pub namespace: Arc<str>,
    /// The Gateway of a router.
    pub gateway: Option<Named>,
    /// A gRPC client.
    pub grpc: bool,
    /// What it declared to depend on: namespace and name, `*` for all. `None`: everything.
    pub dependencies: Option<BTreeSet<Named>>,
    /// The clusters of HTTP services come on demand.
    pub observed: bool,
    /// Those of a router's labels that policies select by; `None` where nobody says its labels. `None` for others, too: what depends on
    /// their labels is in their own resources.
    pub labels: Option<BTreeMap<String, String>>,
    /// They have an identity, and speak mutual TLS with whoever has one, too.
    pub mtls: bool,
    /// Sidecars of pods that have IPv6, alone or beside IPv4.
    pub ipv6: bool,
}

impl Scope {
    /// The scope of a proxy.
    pub fn of(world: &World, proxy: &Proxy) -> Self {
        let pod = world.get::<core::Pod>(&proxy.namespace, &proxy.pod);
        let namespace = world.get::<core::Namespace>("", &proxy.namespace);
        let declared = pod
            .and_then(|pod| pod.object.annotation(DEPENDS_ON))
            .or_else(|| namespace.and_then(|it| it.object.annotation(DEPENDS_ON)));
        Self {
            role: proxy.role,
            namespace: Arc::clone(&proxy.namespace),
            gateway: proxy.gateway.clone(),
            grpc: proxy.grpc,
            dependencies: declared
                .filter(|it| !observed(it))
                .map(|text| dependencies(text, &proxy.namespace)),
            // gRPC clients ask for all they want by name anyway.
            observed: declared.is_some_and(observed) && proxy.role == Role::Sidecar && !proxy.grpc,
            labels: if proxy.role == Role::Router { selected_by(world, proxy) } else { None },
            mtls: !proxy.grpc && mtls::is_on(world, proxy),
            ipv6: proxy.role == Role::Sidecar && has_ipv6(world, proxy),
        }
    }

    /// Whether proxies of this scope see a Service or ExternalService.
    pub fn sees_object(&self, object: &Object) -> bool {
        let (namespace, name) = (&object.key.namespace, &object.key.name);
        let wanted = self.dependencies.as_ref().is_none_or(|wanted| {
            wanted.iter().any(|(ns, wanted)| ns == namespace && (&**wanted == "*" || wanted == name))
        });
        wanted && exported(object, &self.namespace)
    }

    /// As [`Scope::sees_object`], for a Service by name.
    pub fn sees(&self, world: &World, service: &Named) -> bool {
        world.get::<core::Service>(&service.0, &service.1).is_some_and(|it| self.sees_object(it.object))
    }
}

/// Whether the pod has an IPv6 address, as the proxy or the pod's status says.
pub fn has_ipv6(world: &World, proxy: &Proxy) -> bool {
    let pod = world.get::<core::Pod>(&proxy.namespace, &proxy.pod);
    let listed = pod.as_ref().and_then(|pod| pod.status.as_ref()?.pod_ips.as_ref());
    let is_ipv6 = |address: &str| address.parse::<IpAddr>().is_ok_and(|it| it.is_ipv6());
    proxy.address.is_ipv6() || listed.is_some_and(|all| all.iter().any(|it| is_ipv6(&it.ip)))
}

/// The labels of a proxy that any policy's selector looks at: others make no difference, and no further scope.
fn selected_by(world: &World, proxy: &Proxy) -> Option<BTreeMap<String, String>> {
    let mut labels = labels(world, proxy)?;
    let rbac = world.all::<AuthorizationPolicy>().map(|it| it.body().spec.selector.as_ref());
    let peer = world.all::<PeerPolicy>().map(|it| it.body().spec.selector.as_ref());
    let logs = world.all::<Telemetry>().map(|it| it.body().spec.selector.as_ref());
    let selectors = rbac.chain(peer).chain(logs).flatten();
    let names: BTreeSet<&str> = selectors.flat_map(|it| it.match_labels.keys().map(String::as_str)).collect();
    labels.retain(|name, _| names.contains(name.as_str()));
    Some(labels)
}

fn observed(text: &str) -> bool {
    text.trim() == "observed"
}

fn dependencies(text: &str, own: &Arc<str>) -> BTreeSet<Named> {
    text.split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
        .map(|word| match word.split_once('/') {
            Some((".", name)) => (Arc::clone(own), name.into()),
            Some((namespace, name)) => (namespace.into(), name.into()),
            None => (Arc::clone(own), word.into()),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::translate::testing::{context, sidecar};

    #[test]
    fn labels_that_no_policy_looks_at_make_no_further_scope() {
        let context = context(
            "apiVersion: outrider.dev/v1\nkind: AuthorizationPolicy\nmetadata: {name: edge, namespace: shop}\n\
             spec: {selector: {matchLabels: {tier: edge}}, rules: [{}]}\n",
        );
        let router = |labels: &[(&str, &str)]| {
            let labels =
                labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
            let gateway = Some(("shop".into(), "edge".into()));
            Scope::of(&context.world, &Proxy { role: Role::Router, gateway, labels, ..sidecar() })
        };
        assert_eq!(router(&[("pod-template-hash", "a")]), router(&[("pod-template-hash", "b")]));
        assert_ne!(router(&[("tier", "edge")]), router(&[("tier", "inner")]));
    }
}
