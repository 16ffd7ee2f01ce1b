//! The streams to control planes: one for each source, whoever uses it.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use http::HeaderMap;
use outrider_config::model::{ApiConfigSource, ConfigSourceKind, GrpcService, GrpcTarget};
use outrider_core::stats::Registry;
use outrider_proto::pb::envoy::config::core::v3::Node;
use outrider_upstream::WorkerClusters;
use outrider_xds::config::{Backoff, Http2Options, MAX_MESSAGE_BYTES, RateLimit};
use outrider_xds::{Event, FileConfig, Handle, Kind, Service, StreamConfig};
use tokio::sync::mpsc::{Receiver, Sender};

use super::connector::Dialer;

/// How many events wait for the controller, over all streams.
pub(super) const QUEUE: usize = 8;

/// A stream's number.
pub(super) type StreamId = usize;

#[derive(Debug, PartialEq, Eq)]
enum Key {
    Ads,
    Own(Arc<ApiConfigSource>, Option<Kind>),
    /// A file, the directory to watch in the place of its own, and what it holds.
    File(Arc<str>, Option<Arc<str>>, Kind),
}

/// The streams that are open.
pub(super) struct Streams {
    ads: Option<Arc<ApiConfigSource>>,
    node: Node,
    clusters: Rc<WorkerClusters>,
    registry: Registry,
    reject_unknown_fields: bool,
    events: Sender<(StreamId, Event)>,
    open: Vec<Open>,
}

struct Open {
    key: Key,
    handle: Handle,
    // What its services are called, and at which of them it is.
    labels: Vec<String>,
    service: usize,
    origin: Option<Arc<str>>,
}

impl Streams {
    pub(super) fn new(
        ads: Option<Arc<ApiConfigSource>>,
        node: Node,
        clusters: Rc<WorkerClusters>,
        registry: Registry,
        reject_unknown_fields: bool,
        events: Sender<(StreamId, Event)>,
    ) -> Self {
        Self { ads, node, clusters, registry, reject_unknown_fields, events, open: Vec::new() }
    }

    /// The stream that brings resources of `kind` from `source`, opened if it is not open yet. `None` for a source
    /// that is no stream.
    pub(super) fn of(&mut self, source: &ConfigSourceKind, kind: Kind) -> Option<StreamId> {
        let (key, api) = match source {
            ConfigSourceKind::Ads => (Key::Ads, Some(self.ads.clone()?)),
            ConfigSourceKind::Api(api) => {
                (Key::Own(api.clone(), (!api.aggregated).then_some(kind)), Some(api.clone()))
            }
            // Virtual hosts are asked for by name as they are needed: there is no state of their world.
            ConfigSourceKind::Path { .. } if kind == Kind::VirtualHost => return None,
            ConfigSourceKind::Path { path, watched_directory } => {
                (Key::File(path.clone(), watched_directory.clone(), kind), None)
            }
        };
        if let Some(known) = self.open.iter().position(|open| open.key == key) {
            return Some(known);
        }
        let id = self.open.len();
        let (handle, mut events, labels) = match api {
            Some(api) => self.follow(&key, &api),
            None => self.read(&key)?,
        };
        let queue = self.events.clone();
        tokio::task::spawn_local(async move {
            while let Some(event) = events.recv().await {
                if queue.send((id, event)).await.is_err() {
                    return;
                }
            }
        });
        let origin = origin(&key, &labels);
        self.open.push(Open { key, handle, labels, service: 0, origin });
        Some(id)
    }

    /// Opens a stream to control planes.
    fn follow(&self, key: &Key, api: &ApiConfigSource) -> (Handle, Receiver<Event>, Vec<String>) {
        let only = match key {
            Key::Own(_, only) => *only,
            Key::Ads | Key::File(..) => None,
        };
        let dialer = Dialer::new(api.services.clone(), self.clusters.clone(), self.registry.clone());
        let scope = self.registry.scope("control_plane.");
        let config = stream_config(api, only);
        let labels = config.services.iter().map(|service| service.label.clone()).collect();
        let (handle, events) = outrider_xds::spawn(config, self.node.clone(), Rc::new(dialer), scope);
        (handle, events, labels)
    }

    /// Follows a file.
    fn read(&self, key: &Key) -> Option<(Handle, Receiver<Event>, Vec<String>)> {
        let Key::File(path, watched, kind) = key else { return None };
        let (handle, events) = outrider_xds::spawn_file(FileConfig {
            path: PathBuf::from(&**path),
            watched_directory: watched.as_deref().map(PathBuf::from),
            kind: *kind,
            reject_unknown_fields: self.reject_unknown_fields,
        });
        Some((handle, events, vec![path.to_string()]))
    }

    /// The handle of a stream.
    pub(super) fn get(&self, id: StreamId) -> Option<&Handle> {
        self.open.get(id).map(|open| &open.handle)
    }

    /// The stream `id` is at this one of its services.
    pub(super) fn connected(&mut self, id: StreamId, service: usize) {
        if let Some(open) = self.open.get_mut(id) {
            open.service = service;
        }
    }

    /// Whether each service of the stream `id` was tried, after so many attempts without an answer. Each has two.
    pub(super) fn tried_all(&self, id: StreamId, attempts: u32) -> bool {
        self.open.get(id).is_some_and(|open| (attempts as usize).div_ceil(2) >= open.labels.len())
    }

    /// What the stream `id` is called on disk: the same after a restart with the same source. `None` for a file, which is
    /// there anyway.
    pub(super) fn origin(&self, id: StreamId) -> Option<Arc<str>> {
        self.open.get(id).and_then(|open| open.origin.clone())
    }

    /// Where what comes by the stream `id` is from, in words; `control_plane` is what that calls itself.
    pub(super) fn source(&self, id: StreamId, control_plane: &str) -> Arc<str> {
        let label = self.open.get(id).and_then(|open| open.labels.get(open.service));
        let label = label.map_or("", String::as_str);
        if control_plane.is_empty() { label.into() } else { format!("{label} ({control_plane})").into() }
    }
}

fn origin(key: &Key, labels: &[String]) -> Option<Arc<str>> {
    let origin = match key {
        // There is one, whatever control plane it leads to.
        Key::Ads => "ads".into(),
        Key::Own(source, kind) => {
            let mut hasher = DefaultHasher::new();
            source.hash(&mut hasher);
            let kind = kind.map_or("all", Kind::noun);
            format!("{kind} of {} {:016x}", labels.join(", "), hasher.finish()).into()
        }
        Key::File(..) => return None,
    };
    Some(origin)
}

fn stream_config(source: &ApiConfigSource, only: Option<Kind>) -> StreamConfig {
    let services: Vec<_> = source.services.iter().map(service).collect();
    let mut config = match only {
        None => StreamConfig::aggregated(source.delta, services),
        Some(kind) => StreamConfig::single(source.delta, kind, services),
    };
    config.set_node_on_first_message_only = source.set_node_on_first_message_only;
    config.backoff = backoff(source);
    if let Some(first) = source.services.first() {
        config.max_message_bytes = match &first.target {
            GrpcTarget::Cluster { max_receive_message_length, .. } => *max_receive_message_length,
            GrpcTarget::Channel(channel) => channel.max_receive_message_length,
        }
        .map_or(MAX_MESSAGE_BYTES, |most| most as usize);
    }
    config.rate_limit = source.rate_limit.map(|limit| RateLimit {
        max_tokens: limit.max_tokens,
        fill_rate: 1.0 / limit.refill.as_secs_f64().max(f64::MIN_POSITIVE),
    });
    config
}

/// Between attempts to reach `source`.
pub(super) fn backoff(source: &ApiConfigSource) -> Backoff {
    let first = source.services.first().map(|service| service.back_off);
    first.map_or_else(Backoff::default, |first| Backoff { base: first.base, max: first.max })
}

/// A service as the client knows it.
pub(super) fn service(service: &GrpcService) -> Service {
    let (label, authority) = match &service.target {
        GrpcTarget::Cluster { cluster, authority, .. } => (cluster.to_string(), authority),
        GrpcTarget::Channel(channel) => (format!("{:?}", channel.target), &channel.authority),
    };
    let mut made = Service::new(label);
    made.authority = authority.as_ref().map(ToString::to_string);
    let mut metadata = HeaderMap::new();
    for (name, value) in &service.initial_metadata {
        metadata.append(name.clone(), value.clone());
    }
    if let GrpcTarget::Channel(channel) = &service.target {
        if let Some(authorization) = &channel.authorization {
            metadata.append(http::header::AUTHORIZATION, authorization.clone());
        }
        made.http2 = Http2Options {
            keepalive_interval: channel.keepalive_time,
            keepalive_timeout: channel.keepalive_timeout,
            ..Http2Options::default()
        };
    }
    made.metadata = metadata;
    made
}
