//! The kinds of resources that a control plane serves.

use std::fmt;

/// What a subscription is about. The order of the variants is the order of the first requests on a new aggregated
/// stream: what others refer to comes first (make before break).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// RTDS: `envoy.service.runtime.v3.Runtime`.
    Runtime,
    /// CDS: `envoy.config.cluster.v3.Cluster`.
    Cluster,
    /// EDS: `envoy.config.endpoint.v3.ClusterLoadAssignment`.
    Endpoint,
    /// SDS: `envoy.extensions.transport_sockets.tls.v3.Secret`.
    Secret,
    /// LDS: `envoy.config.listener.v3.Listener`.
    Listener,
    /// SRDS: `envoy.config.route.v3.ScopedRouteConfiguration`.
    ScopedRoute,
    /// RDS: `envoy.config.route.v3.RouteConfiguration`.
    Route,
    /// VHDS: `envoy.config.route.v3.VirtualHost`. The protocol knows it in delta form only.
    VirtualHost,
    /// ECDS: `envoy.config.core.v3.TypedExtensionConfig`.
    Extension,
}

impl Kind {
    /// All kinds, in the order of first requests.
    pub const ALL: [Self; 9] = [
        Self::Runtime,
        Self::Cluster,
        Self::Endpoint,
        Self::Secret,
        Self::Listener,
        Self::ScopedRoute,
        Self::Route,
        Self::VirtualHost,
        Self::Extension,
    ];

    /// The type URL that requests and responses carry.
    pub fn type_url(self) -> &'static str {
        match self {
            Self::Runtime => "type.googleapis.com/envoy.service.runtime.v3.Runtime",
            Self::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Self::Endpoint => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Secret => "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
            Self::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Self::ScopedRoute => "type.googleapis.com/envoy.config.route.v3.ScopedRouteConfiguration",
            Self::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
            Self::VirtualHost => "type.googleapis.com/envoy.config.route.v3.VirtualHost",
            Self::Extension => "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig",
        }
    }

    /// The kind of a type URL; only what follows the last slash counts.
    pub fn from_type_url(url: &str) -> Option<Self> {
        let name = |url: &'static str| url.rsplit('/').next().unwrap_or_default();
        let wanted = url.rsplit('/').next().unwrap_or_default();
        Self::ALL.into_iter().find(|kind| name(kind.type_url()) == wanted)
    }

    /// The resource in words, as NACKs name it ("Error adding/updating cluster(s) ...").
    pub fn noun(self) -> &'static str {
        match self {
            Self::Runtime => "runtime layer",
            Self::Cluster => "cluster",
            Self::Endpoint => "endpoint",
            Self::Secret => "secret",
            Self::Listener => "listener",
            Self::ScopedRoute => "scoped route",
            Self::Route => "route configuration",
            Self::VirtualHost => "virtual host",
            Self::Extension => "extension config",
        }
    }

    /// Whether a state-of-the-world response lists all there is, so that what it leaves out is gone. The protocol
    /// says so of listeners and clusters; Envoy reads scoped routes in the same way.
    pub fn whole_in_sotw(self) -> bool {
        matches!(self, Self::Cluster | Self::Listener | Self::ScopedRoute)
    }

    /// The gRPC method of a stream that carries this kind alone; `None` when the protocol has none.
    pub fn method(self, delta: bool) -> Option<&'static str> {
        Some(match (self, delta) {
            (Self::Runtime, false) => "/envoy.service.runtime.v3.RuntimeDiscoveryService/StreamRuntime",
            (Self::Runtime, true) => "/envoy.service.runtime.v3.RuntimeDiscoveryService/DeltaRuntime",
            (Self::Cluster, false) => "/envoy.service.cluster.v3.ClusterDiscoveryService/StreamClusters",
            (Self::Cluster, true) => "/envoy.service.cluster.v3.ClusterDiscoveryService/DeltaClusters",
            (Self::Endpoint, false) => "/envoy.service.endpoint.v3.EndpointDiscoveryService/StreamEndpoints",
            (Self::Endpoint, true) => "/envoy.service.endpoint.v3.EndpointDiscoveryService/DeltaEndpoints",
            (Self::Secret, false) => "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets",
            (Self::Secret, true) => "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets",
            (Self::Listener, false) => "/envoy.service.listener.v3.ListenerDiscoveryService/StreamListeners",
            (Self::Listener, true) => "/envoy.service.listener.v3.ListenerDiscoveryService/DeltaListeners",
            (Self::ScopedRoute, false) => {
                "/envoy.service.route.v3.ScopedRoutesDiscoveryService/StreamScopedRoutes"
            }
            (Self::ScopedRoute, true) => {
                "/envoy.service.route.v3.ScopedRoutesDiscoveryService/DeltaScopedRoutes"
            }
            (Self::Route, false) => "/envoy.service.route.v3.RouteDiscoveryService/StreamRoutes",
            (Self::Route, true) => "/envoy.service.route.v3.RouteDiscoveryService/DeltaRoutes",
            (Self::VirtualHost, false) => return None,
            (Self::VirtualHost, true) => {
                "/envoy.service.route.v3.VirtualHostDiscoveryService/DeltaVirtualHosts"
            }
            (Self::Extension, false) => {
                "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/StreamExtensionConfigs"
            }
            (Self::Extension, true) => {
                "/envoy.service.extension.v3.ExtensionConfigDiscoveryService/DeltaExtensionConfigs"
            }
        })
    }

    /// What the resource `name` belongs to: a virtual host to the route configuration whose name stands before the last
    /// slash (Envoy: namespace matching).
    pub fn namespace(self, name: &str) -> Option<&str> {
        match self {
            Self::VirtualHost => name.rsplit_once('/').map(|(namespace, _)| namespace),
            _ => None,
        }
    }

    /// Kinds whose requests wait while an update of this kind is being decided, so that what the update brings into
    /// being is asked for in one request (Envoy pauses EDS and SDS during CDS, and RDS during LDS and SRDS).
    pub(crate) fn holds_back(self) -> &'static [Self] {
        match self {
            Self::Cluster => &[Self::Endpoint, Self::Secret],
            Self::Listener => &[Self::Route, Self::ScopedRoute],
            Self::ScopedRoute => &[Self::Route],
            _ => &[],
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.noun())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_type_url_names_its_kind_whatever_stands_before_the_slash() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_type_url(kind.type_url()), Some(kind));
        }
        assert_eq!(Kind::from_type_url("example.com/x/envoy.config.cluster.v3.Cluster"), Some(Kind::Cluster));
        assert_eq!(Kind::from_type_url("type.googleapis.com/envoy.api.v2.Cluster"), None);
        assert_eq!(Kind::from_type_url(""), None);
    }

    #[test]
    fn virtual_hosts_have_no_state_of_the_world_stream() {
        let without: Vec<_> = Kind::ALL.into_iter().filter(|kind| kind.method(false).is_none()).collect();
        assert_eq!(without, [Kind::VirtualHost]);
        assert!(Kind::ALL.into_iter().all(|kind| kind.method(true).is_some()));
    }
}
