//! xDS resources as they are served: name, content hash, bytes.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use outrider_proto::prost::Message;
use outrider_proto::{Descriptors, encode};
use xxhash_rust::xxh64::xxh64;

/// The types of resources that are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Type {
    /// CDS.
    Cluster,
    /// EDS.
    Endpoints,
    /// LDS.
    Listener,
    /// RDS.
    Route,
    /// SDS.
    Secret,
}

impl Type {
    /// All of them, in the order in which they are sent: what is used before what uses it.
    pub const ALL: [Self; 5] = [Self::Secret, Self::Cluster, Self::Endpoints, Self::Listener, Self::Route];

    /// The full name of the message.
    pub const fn message(self) -> &'static str {
        match self {
            Self::Cluster => "envoy.config.cluster.v3.Cluster",
            Self::Endpoints => "envoy.config.endpoint.v3.ClusterLoadAssignment",
            Self::Listener => "envoy.config.listener.v3.Listener",
            Self::Route => "envoy.config.route.v3.RouteConfiguration",
            Self::Secret => "envoy.extensions.transport_sockets.tls.v3.Secret",
        }
    }

    /// The type URL.
    pub fn url(self) -> String {
        format!("type.googleapis.com/{}", self.message())
    }

    /// The type of a URL; `None` when it is not served.
    pub fn of_url(url: &str) -> Option<Self> {
        let name = url.rsplit('/').next()?;
        Self::ALL.into_iter().find(|kind| kind.message() == name)
    }

    /// An index below `Type::ALL.len()`.
    pub const fn index(self) -> usize {
        match self {
            Self::Secret => 0,
            Self::Cluster => 1,
            Self::Endpoints => 2,
            Self::Listener => 3,
            Self::Route => 4,
        }
    }
}

/// One resource. Equal versions are equal content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// The name that it is asked for by.
    pub name: Arc<str>,
    /// The hash of its content.
    pub version: u64,
    /// The encoded message.
    pub body: Bytes,
}

impl Resource {
    /// Encodes a message. Its maps must have one entry at most each: a `HashMap` has another order each time, and so would
    /// the version. Where a map has more, see [`Resource::canonical`].
    pub fn new(name: &str, message: &impl Message) -> Arc<Self> {
        Self::of_bytes(name, message.encode_to_vec())
    }

    /// As [`Resource::new`], with the entries of maps sorted, which costs a walk by reflection.
    pub fn canonical(kind: Type, name: &str, message: &impl Message) -> Arc<Self> {
        Self::of_bytes(name, sorted(kind.message(), message.encode_to_vec()))
    }

    fn of_bytes(name: &str, body: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { name: name.into(), version: xxh64(&body, 0), body: body.into() })
    }

    /// The version as it is sent.
    pub fn version_text(&self) -> String {
        format!("{:016x}", self.version)
    }
}

/// An encoded message with the entries of its maps sorted. What stands in an `Any` in it stays as it is.
pub(super) fn sorted(name: &str, bytes: Vec<u8>) -> Vec<u8> {
    thread_local! { static DESCRIPTORS: Descriptors = Descriptors::load(); }
    let sorted = DESCRIPTORS.with(|descriptors| {
        let descriptor = descriptors.message(name)?;
        let message =
            outrider_proto::prost_reflect::DynamicMessage::decode(descriptor, bytes.as_slice()).ok()?;
        Some(encode::canonical(&message))
    });
    sorted.unwrap_or(bytes)
}

/// Resources of one type, by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TypeSet {
    resources: BTreeMap<Arc<str>, Arc<Resource>>,
    /// The sum of a hash of each name and version: equal sets have equal digests, whatever the order of changes.
    digest: u64,
}

impl TypeSet {
    /// Adds or replaces one.
    pub fn insert(&mut self, resource: Arc<Resource>) {
        self.digest = self.digest.wrapping_add(mark(&resource));
        if let Some(old) = self.resources.insert(Arc::clone(&resource.name), resource) {
            self.digest = self.digest.wrapping_sub(mark(&old));
        }
    }

    /// Takes one out.
    pub fn remove(&mut self, name: &str) {
        if let Some(old) = self.resources.remove(name) {
            self.digest = self.digest.wrapping_sub(mark(&old));
        }
    }

    /// One of them.
    pub fn get(&self, name: &str) -> Option<&Arc<Resource>> {
        self.resources.get(name)
    }

    /// All of them, by name.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.resources.values()
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.resources.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.resources.is_empty()
    }

    /// A number that differs where the sets differ.
    pub fn digest(&self) -> u64 {
        self.digest
    }

    /// Takes over the resource objects of `old` where they say the same, so that equal ones are one in memory.
    pub fn share_with(&mut self, old: &Self) {
        for (name, resource) in &mut self.resources {
            if let Some(old) = old.resources.get(name)
                && old.version == resource.version
            {
                *resource = Arc::clone(old);
            }
        }
    }
}

impl FromIterator<Arc<Resource>> for TypeSet {
    fn from_iter<I: IntoIterator<Item = Arc<Resource>>>(resources: I) -> Self {
        let mut set = Self::default();
        resources.into_iter().for_each(|resource| set.insert(resource));
        set
    }
}

/// What one resource adds to the digest of its set.
fn mark(resource: &Resource) -> u64 {
    xxh64(resource.name.as_bytes(), resource.version) | 1
}

/// All that a proxy gets, or a part of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resources {
    sets: [TypeSet; Type::ALL.len()],
    /// Clusters that are given by name, and not to those who want all.
    pub on_demand: TypeSet,
}

impl Resources {
    /// The resources of one type.
    pub fn of(&self, kind: Type) -> &TypeSet {
        match self.sets.get(kind.index()) {
            Some(set) => set,
            None => unreachable!("an index is below the number of types"),
        }
    }

    /// The resources of one type, to change them.
    pub fn of_mut(&mut self, kind: Type) -> &mut TypeSet {
        match self.sets.get_mut(kind.index()) {
            Some(set) => set,
            None => unreachable!("an index is below the number of types"),
        }
    }

    /// Adds one.
    pub fn add(&mut self, kind: Type, resource: Arc<Resource>) {
        self.of_mut(kind).insert(resource);
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        for kind in Type::ALL {
            other.of(kind).iter().for_each(|resource| self.add(kind, Arc::clone(resource)));
        }
        other.on_demand.iter().for_each(|resource| self.on_demand.insert(Arc::clone(resource)));
    }

    /// See [`TypeSet::share_with`].
    pub fn share_with(&mut self, old: &Self) {
        for kind in Type::ALL {
            self.of_mut(kind).share_with(old.of(kind));
        }
        self.on_demand.share_with(&old.on_demand);
    }
}
