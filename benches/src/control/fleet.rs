//! Proxies, simulated: each is one delta stream that asks as Envoy does, acknowledges, and remembers versions over a
//! reconnection.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use outrider_proto::pb::envoy::config::cluster::v3::{Cluster, cluster};
use outrider_proto::pb::envoy::config::core::v3::Node;
use outrider_proto::pb::envoy::config::listener::v3::{Listener, filter};
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use outrider_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrider_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use outrider_proto::prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use super::world::{World, address};

/// The types, in the order in which they are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Type {
    Cluster,
    Endpoints,
    Listener,
    Route,
}

impl Type {
    fn url(self) -> &'static str {
        match self {
            Type::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Type::Endpoints => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Type::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
            Type::Route => "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
        }
    }

    fn of(url: &str) -> Option<Self> {
        [Type::Cluster, Type::Endpoints, Type::Listener, Type::Route].into_iter().find(|it| it.url() == url)
    }
}

/// What proxies tell.
#[derive(Debug)]
pub(super) enum Event {
    /// A proxy has all that it asked for, for the first time.
    Synced,
    /// A proxy that was synced got a response.
    Push(Push),
    /// Something that must not be.
    Wrong(String),
}

/// A response to a proxy that has everything.
#[derive(Debug)]
pub(super) struct Push {
    pub(super) at: Instant,
    pub(super) kind: Type,
    /// Names of the first resources.
    pub(super) names: Vec<Arc<str>>,
    pub(super) resources: usize,
    pub(super) bytes: usize,
}

/// A version of a resource. Shared by all proxies that have it.
#[derive(Debug)]
struct Known {
    name: Arc<str>,
    version: Arc<str>,
    /// What it refers to.
    wants: Vec<(Type, Arc<str>)>,
}

type Cache = Mutex<HashMap<(Type, String, String), Arc<Known>>>;

/// All proxies.
#[derive(Debug)]
pub(super) struct Fleet {
    pub(super) events: mpsc::UnboundedReceiver<Event>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Drop for Fleet {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

impl Fleet {
    /// Starts so many proxies over so many connections.
    pub(super) fn start(world: World, proxies: usize, connections: usize, port: u16) -> Result<Self> {
        let (tell, events) = mpsc::unbounded_channel();
        let cache = Arc::new(Cache::default());
        let address = format!("http://127.0.0.1:{port}");
        let mut channels = Vec::new();
        for _ in 0..connections {
            let endpoint = Endpoint::from_shared(address.clone())?
                .initial_stream_window_size(1 << 20)
                .initial_connection_window_size(8 << 20)
                .tcp_nodelay(true);
            channels.push(endpoint.connect_lazy());
        }
        let tasks = (0..proxies).filter_map(|number| {
            let channel = channels.get(number % channels.len())?.clone();
            let proxy = Proxy {
                node: node(world, number),
                cache: Arc::clone(&cache),
                tell: tell.clone(),
                known: HashMap::new(),
                wanted: HashSet::new(),
                missing: HashSet::new(),
                heard: HashSet::new(),
                synced: false,
            };
            Some(tokio::spawn(proxy.run(channel, number)))
        });
        Ok(Self { events, tasks: tasks.collect() })
    }

    /// The next event, or an error when there is none in time.
    pub(super) async fn next(&mut self, what: &str, until: Instant) -> Result<Event> {
        match tokio::time::timeout_at(until.into(), self.events.recv()).await {
            Ok(Some(Event::Wrong(reason))) => bail!("{what}: {reason}"),
            Ok(Some(event)) => Ok(event),
            Ok(None) => bail!("{what}: all proxies are gone"),
            Err(_) => bail!("{what}: not in time"),
        }
    }

    /// Waits until nothing comes for a while; gives how many responses came before.
    pub(super) async fn quiet(&mut self, pause: Duration) -> Result<usize> {
        let mut count = 0;
        while let Ok(Some(event)) = tokio::time::timeout(pause, self.events.recv()).await {
            match event {
                Event::Wrong(reason) => bail!("{reason}"),
                _ => count += 1,
            }
        }
        Ok(count)
    }
}

fn node(world: World, number: usize) -> Node {
    let namespace = format!("ns{}", world.namespace(number));
    let own = address(number % world.services, 0);
    Node {
        id: format!("sidecar~{own}~p{number}.{namespace}~{namespace}.svc.cluster.local"),
        cluster: format!("svc{number}.{namespace}"),
        user_agent_name: "envoy".into(),
        ..Node::default()
    }
}

struct Proxy {
    node: Node,
    cache: Arc<Cache>,
    tell: mpsc::UnboundedSender<Event>,
    known: HashMap<(Type, Arc<str>), Arc<Known>>,
    /// Names that were asked for.
    wanted: HashSet<(Type, Arc<str>)>,
    /// Those of them that did not come yet.
    missing: HashSet<(Type, Arc<str>)>,
    /// Types of which a response came.
    heard: HashSet<Type>,
    synced: bool,
}

impl Proxy {
    async fn run(mut self, channel: Channel, number: usize) {
        let mut client = AggregatedDiscoveryServiceClient::new(channel).max_decoding_message_size(64 << 20);
        loop {
            let (requests, outgoing) = mpsc::channel(64);
            for request in self.first() {
                let _ = requests.send(request).await;
            }
            if let Ok(stream) = client.delta_aggregated_resources(ReceiverStream::new(outgoing)).await {
                let mut stream = stream.into_inner();
                while let Ok(Some(response)) = stream.message().await {
                    for request in self.take(response) {
                        let _ = requests.send(request).await;
                    }
                }
            }
            // Spread, as the pauses of real proxies are, whose first one is half a second at most.
            tokio::time::sleep(Duration::from_millis(50 + (number as u64 * 7919) % 450)).await;
        }
    }

    /// What a stream begins with: everything that is wanted, with the versions that are there.
    fn first(&self) -> Vec<DeltaDiscoveryRequest> {
        let one = |kind: Type| {
            let names = self.wanted.iter().filter(|(of, _)| *of == kind).map(|(_, name)| name.to_string());
            let known = self.known.iter().filter(|((of, _), _)| *of == kind);
            DeltaDiscoveryRequest {
                type_url: kind.url().into(),
                resource_names_subscribe: names.collect(),
                initial_resource_versions: known
                    .map(|(_, it)| (it.name.to_string(), it.version.to_string()))
                    .collect(),
                ..DeltaDiscoveryRequest::default()
            }
        };
        let kinds = [Type::Cluster, Type::Endpoints, Type::Listener, Type::Route];
        let asked = |kind: &Type| {
            matches!(kind, Type::Cluster | Type::Listener) || self.wanted.iter().any(|(of, _)| of == kind)
        };
        let mut requests: Vec<_> = kinds.into_iter().filter(asked).map(one).collect();
        if let Some(request) = requests.first_mut() {
            request.node = Some(self.node.clone());
        }
        requests
    }

    /// Takes a response; gives the acknowledgement and what follows from it.
    fn take(&mut self, response: DeltaDiscoveryResponse) -> Vec<DeltaDiscoveryRequest> {
        let at = Instant::now();
        let Some(kind) = Type::of(&response.type_url) else { return Vec::new() };
        let bytes = if self.synced { response.encoded_len() } else { 0 };
        let count = response.resources.len();
        let mut more: BTreeMap<Type, Vec<String>> = BTreeMap::new();
        let mut names = Vec::new();
        for resource in response.resources {
            let known =
                self.intern(kind, resource.name, resource.version, resource.resource.map(|it| it.value));
            for want in &known.wants {
                if self.wanted.insert(want.clone()) {
                    self.missing.insert(want.clone());
                    more.entry(want.0).or_default().push(want.1.to_string());
                }
            }
            if self.synced && names.len() < 4 {
                names.push(Arc::clone(&known.name));
            }
            let at = (kind, Arc::clone(&known.name));
            self.missing.remove(&at);
            self.known.insert(at, known);
        }
        for name in response.removed_resources {
            self.known.remove(&(kind, name.into()));
        }
        self.heard.insert(kind);
        if self.synced {
            let _ = self.tell.send(Event::Push(Push { at, kind, names, resources: count, bytes }));
        } else if self.missing.is_empty() && self.heard.len() >= 3 && self.heard.contains(&Type::Listener) {
            self.synced = true;
            let _ = self.tell.send(Event::Synced);
        }
        let mut requests = vec![DeltaDiscoveryRequest {
            type_url: kind.url().into(),
            response_nonce: response.nonce,
            ..DeltaDiscoveryRequest::default()
        }];
        requests.extend(more.into_iter().map(|(kind, names)| DeltaDiscoveryRequest {
            type_url: kind.url().into(),
            resource_names_subscribe: names,
            ..DeltaDiscoveryRequest::default()
        }));
        requests
    }

    fn intern(&self, kind: Type, name: String, version: String, body: Option<Vec<u8>>) -> Arc<Known> {
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kind, name, version);
        if let Some(known) = cache.get(&key) {
            return Arc::clone(known);
        }
        let wants = match references(kind, &key.1, &body.unwrap_or_default()) {
            Ok(wants) => wants,
            Err(error) => {
                let _ = self.tell.send(Event::Wrong(format!("{kind:?} {}: {error:#}", key.1)));
                Vec::new()
            }
        };
        let known = Known { name: key.1.as_str().into(), version: key.2.as_str().into(), wants };
        Arc::clone(cache.entry(key).or_insert(Arc::new(known)))
    }
}

/// What a resource makes a proxy ask for.
fn references(kind: Type, name: &str, body: &[u8]) -> Result<Vec<(Type, Arc<str>)>> {
    match kind {
        Type::Endpoints | Type::Route => Ok(Vec::new()),
        Type::Cluster => {
            let cluster = Cluster::decode(body)?;
            let eds = Some(cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::Eds as i32));
            if cluster.cluster_discovery_type != eds {
                return Ok(Vec::new());
            }
            let service = cluster.eds_cluster_config.map(|it| it.service_name).unwrap_or_default();
            Ok(vec![(Type::Endpoints, if service.is_empty() { name.into() } else { service.into() })])
        }
        Type::Listener => {
            let listener = Listener::decode(body)?;
            let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
            let mut names = Vec::new();
            for filter in chains.flat_map(|chain| &chain.filters) {
                let Some(filter::ConfigType::TypedConfig(any)) = &filter.config_type else { continue };
                if !any.type_url.ends_with(".HttpConnectionManager") {
                    continue;
                }
                let manager = hcm::HttpConnectionManager::decode(any.value.as_slice())?;
                if let Some(hcm::http_connection_manager::RouteSpecifier::Rds(rds)) = manager.route_specifier
                {
                    names.push((Type::Route, rds.route_config_name.into()));
                }
            }
            Ok(names)
        }
    }
}
