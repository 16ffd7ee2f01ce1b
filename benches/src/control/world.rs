//! The world that the control plane is given: namespaces, services, and their endpoints.

use serde_json::{Value, json};

/// How many services one namespace has.
pub(super) const PER_NAMESPACE: usize = 100;

/// How much there is, and who sees what.
#[derive(Debug, Clone, Copy)]
pub(super) struct World {
    pub(super) services: usize,
    pub(super) endpoints: usize,
    /// Proxies declare that they depend on their own namespace alone.
    pub(super) scoped: bool,
}

impl World {
    pub(super) fn namespaces(self) -> usize {
        self.services.div_ceil(PER_NAMESPACE)
    }

    /// The namespace of a service, or of the proxy of that number: each proxy is the first endpoint of a service.
    pub(super) fn namespace(self, number: usize) -> usize {
        number % self.services / PER_NAMESPACE
    }

    /// Everything, those first that others refer to.
    pub(super) fn objects(self) -> Vec<Value> {
        let namespaces = (0..self.namespaces()).map(|number| {
            let annotations = if self.scoped { json!({"outrider.dev/depends-on": "./*"}) } else { json!({}) };
            json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": format!("ns{number}"), "annotations": annotations}})
        });
        let services = (0..self.services).map(|number| self.service(number));
        let slices = (0..self.services).map(|number| self.slice(number, 0));
        namespaces.chain(services).chain(slices).collect()
    }

    fn service(self, number: usize) -> Value {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": format!("svc{number}"), "namespace": format!("ns{}", self.namespace(number))},
            "spec": {"clusterIP": format!("10.96.{}.{}", number / 250, number % 250 + 1),
                "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP", "appProtocol": "http"}]}})
    }

    /// The endpoints of a service; the last one has another address in each generation.
    pub(super) fn slice(self, number: usize, generation: usize) -> Value {
        let endpoints = (0..self.endpoints).map(|index| {
            let moved = index + 1 == self.endpoints && generation > 0;
            let address = if moved {
                format!("11.{}.{}.{}", generation / 250 % 250, generation % 250, number % 250 + 1)
            } else {
                address(number, index)
            };
            json!({"addresses": [address], "conditions": {"ready": true}})
        });
        let namespace = format!("ns{}", self.namespace(number));
        json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {"name": format!("svc{number}-1"), "namespace": namespace,
                "labels": {"kubernetes.io/service-name": format!("svc{number}")}},
            "addressType": "IPv4", "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
            "endpoints": endpoints.collect::<Vec<_>>()})
    }

    /// The endpoint resource of a service.
    pub(super) fn cluster(self, number: usize) -> String {
        format!("outbound|80||svc{number}.ns{}.svc.cluster.local", self.namespace(number))
    }

    /// How many of so many proxies see a service.
    pub(super) fn concerned(self, service: usize, proxies: usize) -> usize {
        if !self.scoped {
            return proxies;
        }
        (0..proxies).filter(|proxy| self.namespace(*proxy) == self.namespace(service)).count()
    }
}

/// The address of an endpoint.
pub(super) fn address(service: usize, index: usize) -> String {
    format!("10.{}.{}.{}", 1 + service / 250, service % 250, index + 1)
}
