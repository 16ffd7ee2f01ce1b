//! All that is known at one moment: the objects of all sources, with the indexes that translation needs.

mod exported;
pub mod pem;
pub mod port;
mod proxy;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::ops::Deref;
use std::sync::Arc;

pub use exported::{EXPORT_TO, exported};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
pub use proxy::{Explicit, NodeError, Proxy, Role};

use crate::ca::identity::TrustDomain;
use crate::model::own::{MESH_NAMESPACE, Revocation};
use crate::model::{Key, Kind, Object, Typed};

/// Namespace and name.
pub type Named = (Arc<str>, Arc<str>);

/// The label by which a slice names its service.
const SERVICE_OF_SLICE: &str = "kubernetes.io/service-name";

/// All objects of one moment. Cheap to clone only in comparison to a translation: a change clones it when somebody reads it.
#[derive(Clone, Debug, Default)]
pub struct World {
    objects: BTreeMap<Key, Arc<Object>>,
    /// The slices of each service.
    slices: HashMap<Named, BTreeSet<Arc<str>>>,
    /// The services that an address is an endpoint of, and in which slices it stands.
    addresses: HashMap<IpAddr, BTreeSet<Key>>,
    /// Counts changes.
    pub generation: u64,
    trust_domain: TrustDomain,
}

/// An object of a known type: its content by dereference, the rest by [`Of::object`].
#[derive(Debug)]
pub struct Of<'w, T> {
    /// The object.
    pub object: &'w Arc<Object>,
    body: &'w T,
}

impl<T> Clone for Of<'_, T> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<T> Copy for Of<'_, T> {}

impl<T> Deref for Of<'_, T> {
    type Target = T;
    fn deref(&self) -> &T {
        self.body
    }
}

impl<'w, T: Typed> Of<'w, T> {
    /// The object as one of this type; `None` when it is of another.
    pub fn new(object: &'w Arc<Object>) -> Option<Self> {
        Some(Self { object, body: T::of(&object.body)? })
    }

    /// The content, for as long as the world lives.
    pub fn body(self) -> &'w T {
        self.body
    }

    /// Its namespace.
    pub fn namespace(self) -> &'w Arc<str> {
        &self.object.key.namespace
    }

    /// Its name.
    pub fn name(self) -> &'w Arc<str> {
        &self.object.key.name
    }
}

/// What a change concerned.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Touched {
    /// Services whose endpoints changed, and nothing else of them.
    pub endpoints: BTreeSet<Named>,
    /// Addresses that became an endpoint of something, or ceased to be one.
    pub addresses: BTreeSet<IpAddr>,
    /// Something else changed: routes, policies, services.
    pub rest: bool,
}

impl Touched {
    /// Whether nothing changed that a proxy could notice.
    pub fn is_empty(&self) -> bool {
        !self.rest && self.endpoints.is_empty() && self.addresses.is_empty()
    }

    /// Both changes.
    pub fn merge(&mut self, other: Self) {
        self.endpoints.extend(other.endpoints);
        self.addresses.extend(other.addresses);
        self.rest |= other.rest;
    }
}

impl World {
    /// A world of these objects.
    pub fn of(objects: impl IntoIterator<Item = Object>) -> Self {
        let mut world = Self::default();
        for object in objects {
            world.put(Arc::new(object));
        }
        world
    }

    /// The same, whose workloads are of this trust domain.
    #[must_use]
    pub fn of_domain(mut self, domain: TrustDomain) -> Self {
        self.trust_domain = domain;
        self
    }

    /// The trust domain of workloads; `cluster.local` unless somebody said otherwise.
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// Adds or replaces an object.
    pub fn put(&mut self, object: Arc<Object>) -> Touched {
        let old = self.objects.insert(object.key.clone(), Arc::clone(&object));
        self.generation += 1;
        if let Some(old) = &old {
            if same_content(old, &object) {
                return Touched::default();
            }
            self.unindex(old);
        }
        self.index(&object);
        self.touched(old.as_ref(), Some(&object))
    }

    /// Removes an object.
    pub fn remove(&mut self, key: &Key) -> Touched {
        let Some(old) = self.objects.remove(key) else { return Touched::default() };
        self.generation += 1;
        self.unindex(&old);
        self.touched(Some(&old), None)
    }

    /// One object by key.
    pub fn object(&self, key: &Key) -> Option<&Arc<Object>> {
        self.objects.get(key)
    }

    /// All objects, sorted by key.
    pub fn objects(&self) -> impl Iterator<Item = &Arc<Object>> {
        self.objects.values()
    }

    /// One object of a type.
    pub fn get<T: Typed>(&self, namespace: &str, name: &str) -> Option<Of<'_, T>> {
        Of::new(self.objects.get(&Key::new(T::KIND, namespace, name))?)
    }

    /// All objects of a type, by namespace and name.
    pub fn all<T: Typed>(&self) -> impl Iterator<Item = Of<'_, T>> {
        let from = Key::new(T::KIND, "", "");
        self.objects
            .range(from..)
            .take_while(|(key, _)| key.kind == T::KIND)
            .filter_map(|(_, it)| Of::new(it))
    }

    /// All objects of a kind, by namespace and name.
    pub fn objects_of(&self, kind: Kind) -> impl Iterator<Item = &Arc<Object>> {
        let from = Key::new(kind, "", "");
        self.objects.range(from..).take_while(move |(key, _)| key.kind == kind).map(|(_, it)| it)
    }

    /// All objects of a type in one namespace, by name.
    pub fn all_in<'w, T: Typed>(&'w self, namespace: &'w str) -> impl Iterator<Item = Of<'w, T>> {
        let from = Key::new(T::KIND, namespace, "");
        self.objects
            .range(from..)
            .take_while(move |(key, _)| key.kind == T::KIND && &*key.namespace == namespace)
            .filter_map(|(_, it)| Of::new(it))
    }

    /// The slices of a service.
    pub fn slices<'w>(
        &'w self,
        namespace: &'w str,
        service: &str,
    ) -> impl Iterator<Item = Of<'w, EndpointSlice>> {
        self.slices
            .get(&(namespace.into(), service.into()))
            .into_iter()
            .flatten()
            .filter_map(move |name| self.get::<EndpointSlice>(namespace, name))
    }

    /// The services that this address is an endpoint of.
    pub fn services_of(&self, address: IpAddr) -> Vec<Of<'_, Service>> {
        let names: BTreeSet<_> = self
            .addresses
            .get(&address)
            .into_iter()
            .flatten()
            .filter_map(|slice| service_of(self.objects.get(slice)?))
            .collect();
        names.iter().filter_map(|(namespace, name)| self.get::<Service>(namespace, name)).collect()
    }

    /// The identities that are revoked.
    pub fn revoked(&self) -> BTreeSet<&str> {
        let all = self.all_in::<Revocation>(MESH_NAMESPACE);
        all.flat_map(|it| it.body().spec.identities.iter().map(String::as_str)).collect()
    }

    /// Whether this identity is revoked.
    pub fn is_revoked(&self, identity: &str) -> bool {
        let mut all = self.all_in::<Revocation>(MESH_NAMESPACE);
        all.any(|it| it.spec.identities.iter().any(|known| known == identity))
    }

    fn index(&mut self, object: &Arc<Object>) {
        let Some(slice) = Of::<EndpointSlice>::new(object) else { return };
        let listed = || slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses);
        if let Some(address) = listed().find(|it| it.parse::<IpAddr>().is_err()) {
            let key = &object.key;
            tracing::warn!(
                %key,
                kind = slice.address_type,
                %address,
                "endpoints that are no IP address are left out; use an ExternalService for a host"
            );
        }
        if let Some(service) = service_of(object) {
            self.slices.entry(service).or_default().insert(Arc::clone(&object.key.name));
        }
        for address in addresses(&slice) {
            self.addresses.entry(address).or_default().insert(object.key.clone());
        }
    }

    fn unindex(&mut self, object: &Arc<Object>) {
        let Some(slice) = Of::<EndpointSlice>::new(object) else { return };
        if let Some(service) = service_of(object)
            && let Some(names) = self.slices.get_mut(&service)
        {
            names.remove(&object.key.name);
            if names.is_empty() {
                self.slices.remove(&service);
            }
        }
        for address in addresses(&slice) {
            if let Some(keys) = self.addresses.get_mut(&address) {
                keys.remove(&object.key);
                if keys.is_empty() {
                    self.addresses.remove(&address);
                }
            }
        }
    }

    fn touched(&self, old: Option<&Arc<Object>>, new: Option<&Arc<Object>>) -> Touched {
        let mut touched = Touched::default();
        let both = || old.into_iter().chain(new);
        for object in both() {
            match object.key.kind {
                Kind::EndpointSlice => {
                    touched.endpoints.extend(service_of(object));
                    if let Some(slice) = Of::<EndpointSlice>::new(object) {
                        touched.addresses.extend(addresses(&slice));
                    }
                }
                // No proxy sees them.
                Kind::JoinToken => {}
                _ => touched.rest = true,
            }
        }
        // An address that is in both did not move, unless its slice went to another service or other ports.
        if let (Some(old), Some(new)) = (old, new)
            && service_of(old) == service_of(new)
            && let (Some(old), Some(new)) = (Of::<EndpointSlice>::new(old), Of::<EndpointSlice>::new(new))
            && old.ports == new.ports
        {
            let (old, new): (BTreeSet<_>, BTreeSet<_>) =
                (addresses(&old).collect(), addresses(&new).collect());
            touched.addresses = old.symmetric_difference(&new).copied().collect();
        }
        touched
    }
}

/// The service of a slice.
fn service_of(slice: &Arc<Object>) -> Option<Named> {
    let name = slice.label(SERVICE_OF_SLICE)?;
    Some((Arc::clone(&slice.key.namespace), name.into()))
}

/// The addresses in a slice.
fn addresses<'s>(slice: &'s Of<'s, EndpointSlice>) -> impl Iterator<Item = IpAddr> + 's {
    slice.endpoints.iter().flat_map(|endpoint| &endpoint.addresses).filter_map(|address| address.parse().ok())
}

/// Whether nothing changed that translation reads: status, resource version and managed fields do not count. Of statuses two are
/// read: a Pod's, and the addresses of a Service of type LoadBalancer, which come later than the Service.
fn same_content(old: &Object, new: &Object) -> bool {
    let bare = |object: &Object| {
        let mut value = object.to_json();
        if let Some(map) = value.as_object_mut() {
            match object.key.kind {
                Kind::Pod => {}
                Kind::Service => {
                    let balancer =
                        map.remove("status").and_then(|mut it| Some(it.get_mut("loadBalancer")?.take()));
                    map.insert("status".to_owned(), balancer.unwrap_or_default());
                }
                _ => {
                    map.remove("status");
                }
            }
        }
        if let Some(meta) = value.get_mut("metadata").and_then(serde_json::Value::as_object_mut) {
            meta.remove("resourceVersion");
            meta.remove("managedFields");
            meta.remove("generation");
        }
        value
    };
    old.key == new.key && bare(old) == bare(new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attach::tests::world;

    #[test]
    fn an_address_that_a_load_balancer_gives_later_is_a_change() {
        let service = |status: &str| {
            let yaml = format!(
                "{{apiVersion: v1, kind: Service, metadata: {{name: edge, namespace: shop}}, spec: {{ports: [{{port: 80}}]}}, status: {{{status}}}}}"
            );
            Arc::clone(world(&yaml).objects().next().unwrap())
        };
        let mut world = World::default();
        world.put(service(""));
        assert!(world.put(service("conditions: []")).is_empty());
        assert!(world.put(service("loadBalancer: {ingress: [{ip: 192.0.2.1}]}")).rest);
        assert!(world.put(service("conditions: [], loadBalancer: {ingress: [{ip: 192.0.2.1}]}")).is_empty());
        assert!(world.put(service("")).rest);
    }
}
