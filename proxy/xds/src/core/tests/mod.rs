//! One rule of the protocol each, by hand.

use outrider_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource as Wrapper,
};
use outrider_proto::pb::google::protobuf::{Any, Duration as PbDuration};
use prost::Message;

use super::*;
use crate::Update;

mod adopt;
mod delta;
mod sotw;
mod time;

/// A resource of any kind: all begin with their name.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Body {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "900")]
    pub(super) text: String,
}

pub(super) fn any(kind: Kind, name: &str, text: &str) -> Any {
    let body = Body { name: name.into(), text: text.into() };
    Any { type_url: kind.type_url().into(), value: body.encode_to_vec() }
}

pub(super) fn wrapper(kind: Kind, name: &str, version: &str) -> Wrapper {
    Wrapper {
        name: name.into(),
        version: version.into(),
        resource: Some(any(kind, name, version)),
        ..Wrapper::default()
    }
}

/// A core on a stream, and a clock.
struct Bench {
    core: Core,
    now: Now,
}

impl Bench {
    fn new(delta: bool) -> Self {
        let node = Node { id: "n".into(), ..Node::default() };
        let core = Core::new(Options { delta, node, node_once: true });
        Self { core, now: Now::read() }
    }

    fn connected(delta: bool) -> Self {
        let mut bench = Self::new(delta);
        bench.core.connected(true);
        bench
    }

    fn pass(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
        self.core.tick(self.now);
    }

    fn subscribe(&mut self, kind: Kind, names: &[&str]) {
        for name in names {
            match *name {
                "*" => self.core.subscribe_all(self.now, kind, Duration::ZERO),
                name => self.core.subscribe(self.now, kind, name, Duration::ZERO),
            }
        }
    }

    fn sotw(&mut self) -> DiscoveryRequest {
        match self.core.next_request() {
            Some(Request::Sotw(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    fn delta(&mut self) -> DeltaDiscoveryRequest {
        match self.core.next_request() {
            Some(Request::Delta(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    fn quiet(&mut self) {
        assert_eq!(self.core.next_request(), None);
    }

    fn respond(&mut self, kind: Kind, version: &str, resources: Vec<Any>) {
        let response = DiscoveryResponse {
            version_info: version.into(),
            nonce: format!("n{version}"),
            type_url: kind.type_url().into(),
            resources,
            ..DiscoveryResponse::default()
        };
        self.core.receive(self.now, Response::Sotw(response)).unwrap();
    }

    fn respond_delta(&mut self, kind: Kind, nonce: &str, resources: Vec<Wrapper>, removed: &[&str]) {
        let response = DeltaDiscoveryResponse {
            system_version_info: format!("s{nonce}"),
            nonce: nonce.into(),
            type_url: kind.type_url().into(),
            resources,
            removed_resources: removed.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryResponse::default()
        };
        self.core.receive(self.now, Response::Delta(response)).unwrap();
    }

    fn update(&mut self) -> Update {
        match self.core.next_event() {
            Some(Event::Update(update)) => update,
            other => panic!("{other:?}"),
        }
    }

    /// Takes the next update and accepts all of it but `bad`.
    fn decide(&mut self, bad: &[&str]) -> Update {
        let update = self.update();
        let refusals = bad.iter().map(|name| Refusal::new(*name, "field", "no")).collect();
        self.core.verdict(self.now, update.token, refusals);
        update
    }

    fn accepted(&self, kind: Kind, name: &str) -> Option<String> {
        Some(self.core.kinds.get(&kind)?.entry(name)?.version.as_ref()?.to_string())
    }
}

fn names(update: &Update) -> Vec<&str> {
    update.resources.iter().map(|resource| &*resource.name).collect()
}

fn removed(update: &Update) -> Vec<&str> {
    update.removed.iter().map(|name| &**name).collect()
}
