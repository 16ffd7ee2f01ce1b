//! The streams that are open, for those who ask what a proxy has.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrider_proto::pb::envoy::config::core::v3::Node;
use outrider_proto::prost::Message as _;
use outrider_proto::{Descriptors, prost_reflect, redact, to_json};
use tokio::time::Instant;

use super::report::TypeReport;
use super::session::Session;
use crate::pb;
use crate::translate::names::endpoints_of;
use crate::translate::{Resources, Type};
use crate::world::{Proxy, Role};

/// What bounds the streams.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Open streams.
    pub streams: usize,
    /// Of these, those of one workload's identity: all replicas of a workload share it.
    pub of_one: usize,
}

impl Limits {
    /// So many streams, of which one identity may have half.
    pub fn of(streams: usize) -> Self {
        Self { streams, of_one: streams.div_ceil(2) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::of(20_000)
    }
}

/// All open streams.
#[derive(Debug, Default)]
pub struct Connected {
    streams: Mutex<BTreeMap<u64, Arc<Stream>>>,
    next: AtomicU64,
}

/// One open stream.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) proxy: Proxy,
    pub(super) node: Node,
    pub(super) peer: Option<SocketAddr>,
    /// Whoever the credential says that it is.
    pub(super) who: Arc<str>,
    pub(super) since: Instant,
    pub(super) session: Mutex<Session>,
}

impl Stream {
    pub(super) fn session(&self) -> MutexGuard<'_, Session> {
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A proxy whose stream is open.
#[derive(Clone, Debug)]
pub struct Listing {
    /// Who it is, as its node says.
    pub proxy: Proxy,
    /// Who it is, as its credential says: the SPIFFE identity of a certificate, or the name of a token.
    pub identity: Arc<str>,
    /// How far it is.
    pub summary: pb::ProxySummary,
}

/// Takes its stream out of the list when it ends.
#[derive(Debug)]
pub(super) struct Listed {
    connected: Arc<Connected>,
    id: u64,
    pub(super) stream: Arc<Stream>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        self.connected.lock().remove(&self.id);
    }
}

impl Connected {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Arc<Stream>>> {
        self.streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a stream.
    pub(super) fn list(self: &Arc<Self>, stream: Stream) -> Listed {
        let (id, stream) = (self.next.fetch_add(1, Ordering::Relaxed), Arc::new(stream));
        self.lock().insert(id, Arc::clone(&stream));
        Listed { connected: Arc::clone(self), id, stream }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn all(&self) -> Vec<Arc<Stream>> {
        self.lock().values().cloned().collect()
    }

    /// The newest stream of a proxy: by the node's id, or the `pod.namespace` in it.
    fn find(&self, id: &str) -> Option<Arc<Stream>> {
        let named = |stream: &Stream| {
            let proxy = &stream.proxy;
            *proxy.id == *id
                || id.strip_suffix(&*proxy.namespace).and_then(|it| it.strip_suffix('.')) == Some(&proxy.pod)
        };
        self.all().into_iter().rev().find(|stream| named(stream))
    }

    /// All connected proxies, by id.
    pub fn summaries(&self) -> Vec<pb::ProxySummary> {
        let mut out: Vec<_> = self.all().iter().map(|stream| summary(stream)).collect();
        out.sort_by(|a, b| a.id.cmp(&b.id));
        out
    }

    /// Those `most` proxies that are connected for the longest.
    pub fn listed(&self, most: usize) -> Vec<Listing> {
        let first: Vec<_> = self.lock().values().take(most).cloned().collect();
        let listing = |stream: &Arc<Stream>| Listing {
            proxy: stream.proxy.clone(),
            identity: Arc::clone(&stream.who),
            summary: summary(stream),
        };
        first.iter().map(listing).collect()
    }

    /// One of them, with each resource it was sent; with their content if wanted (private keys taken out).
    pub fn describe(&self, id: &str, with_bodies: bool) -> Option<pb::DescribeProxyResponse> {
        let stream = self.find(id)?;
        let descriptors = Descriptors::load();
        let json = |message: &str, bytes: &[u8]| -> Option<String> {
            let descriptor = descriptors.message(message)?;
            let mut message = prost_reflect::DynamicMessage::decode(descriptor, bytes).ok()?;
            redact(&descriptors, &mut message);
            Some(to_json(&descriptors, &message).to_string())
        };
        // Written out when the stream has its session back: that takes its time.
        let (view, sent) = {
            let session = stream.session();
            (session.view().clone(), Type::ALL.map(|kind| (kind, session.sent(kind))))
        };
        let mut resources = Vec::new();
        for (kind, sent) in sent {
            for (name, version, acked) in sent {
                let found = view.get(kind, &name).filter(|it| with_bodies && it.version == version);
                resources.push(pb::ProxyResource {
                    type_url: kind.url(),
                    name: name.to_string(),
                    version: format!("{version:016x}"),
                    acked,
                    json: found.and_then(|it| json(kind.message(), &it.body)).unwrap_or_default(),
                });
            }
        }
        let node = json("envoy.config.core.v3.Node", &stream.node.encode_to_vec()).unwrap_or_default();
        Some(pb::DescribeProxyResponse { summary: Some(summary(&stream)), node_json: node, resources })
    }

    /// A proxy, all that it should have now, and in words what of it it does not have: what it refused, and what is on its way.
    pub fn resources(&self, id: &str) -> Option<(Proxy, Resources, Vec<String>)> {
        let stream = self.find(id)?;
        let (view, behind) = {
            let session = stream.session();
            let behind = Type::ALL.into_iter().filter_map(|kind| behind(kind, &session.report(kind)));
            (session.view().clone(), behind.collect())
        };
        let mut out = (*view.shared).clone();
        out.merge(&view.own);
        let clusters = out.of(Type::Cluster).iter().chain(out.on_demand.iter());
        let names: Vec<_> = clusters.map(|it| endpoints_of(&it.name)).collect();
        for name in names {
            if let Some(found) = view.endpoints.get(&name) {
                out.add(Type::Endpoints, Arc::clone(found));
            }
        }
        Some((stream.proxy.clone(), out, behind))
    }
}

/// Why a client does not have all of a type; `None`: it does.
fn behind(kind: Type, report: &TypeReport) -> Option<String> {
    let what = kind.message().rsplit('.').next().unwrap_or_default();
    match report {
        TypeReport { asked: false, .. } => None,
        TypeReport { refused: Some(words), .. } => Some(format!("it refused some {what}s ({words})")),
        TypeReport { outstanding: true, .. } => Some(format!("it has not answered to the last {what}s yet")),
        TypeReport { pending: true, .. } => Some(format!("newer {what}s wait for their turn")),
        _ => None,
    }
}

fn summary(stream: &Stream) -> pb::ProxySummary {
    let (session, proxy) = (stream.session(), &stream.proxy);
    let role = match (proxy.role, proxy.grpc) {
        (_, true) => "grpc",
        (Role::Sidecar, _) => "sidecar",
        (Role::Router, _) => "router",
    };
    pb::ProxySummary {
        id: proxy.id.to_string(),
        namespace: proxy.namespace.to_string(),
        role: role.to_owned(),
        client: proxy.client.to_string(),
        peer: stream.peer.map(|peer| peer.to_string()).unwrap_or_default(),
        connected_for: stream.since.elapsed().as_secs_f64(),
        delta: session.is_delta(),
        generation_acked: session.generations().0,
        types: Type::ALL.into_iter().map(|kind| status(kind, session.report(kind))).collect(),
    }
}

fn status(kind: Type, report: TypeReport) -> pb::TypeStatus {
    use pb::type_status::State;
    let ago = |at: Option<Instant>| at.map_or(-1.0, |at| at.elapsed().max(Duration::ZERO).as_secs_f64());
    let state = match &report {
        TypeReport { asked: false, .. } => State::NotSubscribed,
        TypeReport { outstanding: true, .. } => State::Sent,
        TypeReport { pending: true, .. } => State::Pending,
        TypeReport { refused: Some(_), .. } => State::Refused,
        _ => State::Synced,
    };
    pb::TypeStatus {
        type_url: kind.url(),
        state: state.into(),
        resources: u32::try_from(report.resources).unwrap_or(u32::MAX),
        version_sent: report.version_sent,
        version_acked: report.version_acked,
        refused: report.refused.unwrap_or_default(),
        sent_ago: ago(report.sent_at),
        acked_ago: ago(report.acked_at),
    }
}
