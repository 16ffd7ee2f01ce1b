//! The core against a model of a control plane: whatever the order of changes, pushes, answers and broken streams, the
//! client ends in the server's state, and never acknowledges what was refused.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use outrider_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, DiscoveryResponse, Resource as Wrapper,
};
use outrider_proto::pb::google::protobuf::Any;
use proptest::prelude::*;
use prost::Message;

use super::tests::Body;
use super::*;
use crate::Update;

mod server;

use server::Server;

/// One kind that is subscribed to as a whole (and by name), one by name alone.
const KINDS: [Kind; 2] = [Kind::Cluster, Kind::Endpoint];
const NAMES: [&str; 4] = ["a", "b", "c", "hidden"];

/// Not among "all": only for those who ask for it.
fn hidden(name: &str) -> bool {
    name == "hidden"
}

#[derive(Debug, Clone, Copy)]
enum Step {
    /// The server's resource changes; `true`: to something that the client will refuse.
    Set(Kind, usize, bool),
    Remove(Kind, usize),
    Subscribe(Kind, usize),
    Unsubscribe(Kind, usize),
    SubscribeAll,
    UnsubscribeAll,
    /// One request gets to the server.
    Speak,
    /// One response of the server gets to the client.
    Hear,
    /// The consumer decides its oldest update.
    Decide,
    Break,
    Connect,
    Pause(Kind),
    Resume(Kind),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let kind = || prop::sample::select(KINDS.to_vec());
    let step = prop_oneof![
        3 => (kind(), 0..NAMES.len(), prop::bool::weighted(0.3)).prop_map(|(k, n, bad)| Step::Set(k, n, bad)),
        2 => (kind(), 0..NAMES.len()).prop_map(|(k, n)| Step::Remove(k, n)),
        3 => (kind(), 0..NAMES.len()).prop_map(|(k, n)| Step::Subscribe(k, n)),
        2 => (kind(), 0..NAMES.len()).prop_map(|(k, n)| Step::Unsubscribe(k, n)),
        1 => Just(Step::SubscribeAll),
        1 => Just(Step::UnsubscribeAll),
        6 => Just(Step::Speak),
        6 => Just(Step::Hear),
        5 => Just(Step::Decide),
        1 => Just(Step::Break),
        2 => Just(Step::Connect),
        1 => kind().prop_map(Step::Pause),
        1 => kind().prop_map(Step::Resume),
    ];
    prop::collection::vec(step, 1..120)
}

/// The core, its consumer and the server, with the wire between them.
struct World {
    delta: bool,
    core: Core,
    server: Server,
    connected: bool,
    /// On the way to the server.
    up: VecDeque<Request>,
    /// On the way to the client.
    down: VecDeque<Response>,
    undecided: VecDeque<Update>,
    /// By nonce, on this stream: what of the response was refused, once that is decided.
    refused: HashMap<String, BTreeSet<String>>,
    nonces: HashMap<Token, String>,
    /// NACKs that went out.
    told: BTreeSet<String>,
    /// What the consumer has in force.
    applied: BTreeMap<(Kind, String), String>,
    all: bool,
    gave_up_all: bool,
    given_up: BTreeSet<(Kind, usize)>,
    names: BTreeMap<Kind, BTreeSet<String>>,
    paused: BTreeMap<Kind, u32>,
}

impl World {
    fn new(delta: bool) -> Self {
        let core = Core::new(Options { delta, node: Node::default(), node_once: true });
        Self {
            delta,
            core,
            server: Server::default(),
            connected: false,
            up: VecDeque::new(),
            down: VecDeque::new(),
            undecided: VecDeque::new(),
            refused: HashMap::new(),
            nonces: HashMap::new(),
            told: BTreeSet::new(),
            applied: BTreeMap::new(),
            all: false,
            gave_up_all: false,
            given_up: BTreeSet::new(),
            names: BTreeMap::new(),
            paused: BTreeMap::new(),
        }
    }

    fn step(&mut self, step: Step) {
        let now = Now::read();
        match step {
            Step::Set(kind, name, bad) => self.server.change(kind, NAMES[name], Some(bad)),
            Step::Remove(kind, name) => self.server.change(kind, NAMES[name], None),
            // State of the world: a request that crosses a response is not heard (its nonce is stale), so a name that
            // comes back at that moment may not be seen to have gone. Envoy has that too; the next push mends it.
            Step::Subscribe(kind, name) if !self.delta && self.given_up.contains(&(kind, name)) => {}
            Step::Subscribe(kind, name) => {
                self.core.subscribe(now, kind, NAMES[name], Duration::ZERO);
                self.names.entry(kind).or_default().insert(NAMES[name].into());
            }
            Step::Unsubscribe(kind, name) => {
                self.core.unsubscribe(kind, NAMES[name]);
                self.given_up.insert((kind, name));
                let had = self.names.entry(kind).or_default().remove(NAMES[name]);
                if had && !(self.all && kind == Kind::Cluster) {
                    self.applied.remove(&(kind, NAMES[name].into()));
                }
            }
            // What is on the way while all is given up and asked for again cannot be told from what comes after.
            Step::SubscribeAll if self.gave_up_all => {}
            Step::SubscribeAll => {
                self.core.subscribe_all(now, Kind::Cluster, Duration::ZERO);
                self.all = true;
            }
            // State of the world cannot say so once the list was empty.
            Step::UnsubscribeAll if !self.delta => {}
            Step::UnsubscribeAll => {
                self.core.unsubscribe_all(Kind::Cluster);
                self.gave_up_all |= self.all;
                if std::mem::take(&mut self.all) {
                    let names = self.names.entry(Kind::Cluster).or_default();
                    self.applied.retain(|(kind, name), _| *kind != Kind::Cluster || names.contains(name));
                }
            }
            Step::Speak => {
                if let Some(request) = self.core.next_request() {
                    self.check_answer(&request);
                    self.up.push_back(request);
                }
                if let Some(request) = self.up.pop_front() {
                    self.server.take(request);
                }
            }
            Step::Hear => {
                for kind in KINDS {
                    let response = self.server.response(kind, self.delta);
                    self.down.extend(response);
                }
                self.hear();
            }
            Step::Decide => self.decide(),
            Step::Break => self.disconnect(),
            Step::Connect if !self.connected => {
                self.connected = true;
                self.core.connected(true);
            }
            Step::Connect => {}
            Step::Pause(kind) => {
                self.core.pause(kind);
                *self.paused.entry(kind).or_default() += 1;
            }
            Step::Resume(kind) => {
                self.core.resume(kind);
                let paused = self.paused.entry(kind).or_default();
                *paused = paused.saturating_sub(1);
            }
        }
    }

    fn disconnect(&mut self) {
        self.core.disconnected();
        self.connected = false;
        self.server.watches.clear();
        self.up.clear();
        self.down.clear();
        self.gave_up_all = false;
        self.given_up.clear();
        self.refused.clear();
        self.nonces.clear();
    }

    /// An ACK only when nothing was refused, a NACK that names what was, and neither before the verdict.
    fn check_answer(&mut self, request: &Request) {
        let (nonce, error) = match request {
            Request::Sotw(request) => (&request.response_nonce, &request.error_detail),
            Request::Delta(request) => (&request.response_nonce, &request.error_detail),
        };
        if nonce.is_empty() {
            assert_eq!(*error, None);
            return;
        }
        let refused = self.refused.get(nonce).expect("answered before the verdict");
        let Some(error) = error else {
            // A later request of the same nonce does not say it twice.
            assert!(
                refused.is_empty() || self.told.contains(nonce),
                "acknowledged although {refused:?} were refused"
            );
            return;
        };
        self.told.insert(nonce.clone());
        for name in NAMES {
            let named = error.message.contains(&format!(" {name}: "));
            assert_eq!(named, refused.contains(name), "{name} in {}", error.message);
        }
    }

    fn hear(&mut self) {
        let mut nonce = String::new();
        if let Some(response) = self.down.pop_front() {
            nonce = match &response {
                Response::Sotw(response) => response.nonce.clone(),
                Response::Delta(response) => response.nonce.clone(),
            };
            // What was given up entirely is not listened to.
            let _ = self.core.receive(Now::read(), response);
            if !self.core.has_event() {
                self.refused.insert(nonce.clone(), BTreeSet::new());
            }
        }
        while let Some(event) = self.core.next_event() {
            if let Event::Update(update) = event {
                self.nonces.insert(update.token, nonce.clone());
                self.undecided.push_back(update);
            }
        }
    }

    fn wants(&self, kind: Kind, name: &str) -> bool {
        (self.all && kind == Kind::Cluster) || self.names.get(&kind).is_some_and(|names| names.contains(name))
    }

    fn decide(&mut self) {
        let Some(update) = self.undecided.pop_front() else { return };
        let mut refusals = Vec::new();
        for name in &update.removed {
            self.applied.remove(&(update.kind, name.to_string()));
        }
        for resource in update.resources {
            let body = Body::decode(resource.body).unwrap();
            assert_eq!(body.name, *resource.name);
            if body.text.starts_with("bad") {
                refusals.push(Refusal::new(&*resource.name, "field", "no"));
            } else if self.wants(update.kind, &body.name) {
                self.applied.insert((update.kind, body.name), body.text);
            }
        }
        if let Some(nonce) = self.nonces.remove(&update.token) {
            self.refused.insert(nonce, refusals.iter().map(|refusal| refusal.name.clone()).collect());
        }
        self.core.verdict(Now::read(), update.token, refusals);
    }

    /// Nothing changes any more: everything on its way arrives.
    fn settle(&mut self) {
        for (kind, paused) in std::mem::take(&mut self.paused) {
            (0..paused).for_each(|_| self.core.resume(kind));
        }
        self.step(Step::Connect);
        let mut rounds = 0;
        let mut quiet = 0;
        while quiet < 3 {
            rounds += 1;
            assert!(rounds < 500, "never comes to rest");
            if let Some(at) = self.core.next_deadline() {
                // A NACK that waits.
                self.core.tick(Now { instant: at, ..Now::read() });
            }
            let busy = self.core.has_request() || !self.up.is_empty() || !self.undecided.is_empty();
            self.step(Step::Speak);
            self.step(Step::Hear);
            let busy = busy || !self.down.is_empty() || !self.undecided.is_empty();
            self.step(Step::Decide);
            quiet = if busy { 0 } else { quiet + 1 };
        }
        assert!(!self.core.has_request(), "something is held back for ever");
    }

    fn check(&self) {
        for kind in KINDS {
            for name in NAMES {
                let key = (kind, name.to_owned());
                let applied = self.applied.get(&key);
                let by_name = self.names.get(&kind).is_some_and(|names| names.contains(name));
                let wanted = by_name || (self.all && kind == Kind::Cluster && !hidden(name));
                let there = self.server.state.get(&kind).and_then(|state| state.get(name));
                match there.filter(|_| wanted) {
                    Some(content) if !content.bad => {
                        assert_eq!(applied, Some(&content.text), "{kind} {name}");
                        assert_eq!(self.core.status(kind, name), Some(Status::Acked), "{kind} {name}");
                    }
                    Some(_) => {
                        assert_eq!(self.core.status(kind, name), Some(Status::Nacked), "{kind} {name}")
                    }
                    // State of the world cannot tell that endpoints are gone.
                    None if wanted && !self.delta && kind == Kind::Endpoint => {}
                    None => assert_eq!(applied, None, "{kind} {name} is gone, or not wanted"),
                }
            }
        }
    }
}

fn run(delta: bool, steps: &[Step]) {
    let mut world = World::new(delta);
    for step in steps {
        world.step(*step);
    }
    world.settle();
    world.check();
    // And once more over a new stream, which changes nothing that is accepted.
    let before = world.applied.clone();
    world.disconnect();
    world.settle();
    world.check();
    assert_eq!(world.applied, before);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(400) })]

    #[test]
    fn state_of_the_world_ends_in_the_servers_state(steps in steps()) {
        run(false, &steps);
    }

    #[test]
    fn delta_ends_in_the_servers_state(steps in steps()) {
        run(true, &steps);
    }

    /// Whatever stands in a response, it is answered once, and what cannot be read is refused.
    #[test]
    fn any_bytes_get_one_answer(
        delta in any::<bool>(),
        resources in prop::collection::vec(
            (prop::sample::select(URLS.to_vec()), prop::collection::vec(any::<u8>(), 0..24), ".{0,3}"),
            0..6,
        ),
    ) {
        let mut core = Core::new(Options { delta, node: Node::default(), node_once: true });
        core.subscribe_all(Now::read(), Kind::Cluster, Duration::ZERO);
        core.connected(true);
        core.next_request().unwrap();
        let response = nonsense(delta, resources);
        core.receive(Now::read(), response).unwrap();
        if let Some(Event::Update(update)) = core.next_event() {
            core.verdict(Now::read(), update.token, Vec::new());
            let answer = core.next_request().unwrap();
            let error = match answer {
                Request::Sotw(request) => request.error_detail,
                Request::Delta(request) => request.error_detail,
            };
            prop_assert_eq!(error.is_some(), !update.refused.is_empty());
        } else {
            core.next_request().unwrap();
        }
        prop_assert!(!core.has_request() && !core.has_event());
    }
}

const URLS: [&str; 4] = [
    "type.googleapis.com/envoy.config.cluster.v3.Cluster",
    "type.googleapis.com/envoy.service.discovery.v3.Resource",
    "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
    "",
];

/// A response for clusters that holds these type URLs, bytes and names.
fn nonsense(delta: bool, resources: Vec<(&'static str, Vec<u8>, String)>) -> Response {
    let type_url = Kind::Cluster.type_url().to_owned();
    let any =
        |(url, value, _): &(&str, Vec<u8>, String)| Any { type_url: (*url).into(), value: value.clone() };
    if delta {
        let removed_resources = resources.iter().take(1).map(|(_, _, name)| name.clone()).collect();
        let resource = |parts: &(&str, Vec<u8>, String)| Wrapper {
            name: parts.2.clone(),
            resource: (!parts.0.is_empty()).then(|| any(parts)),
            aliases: parts.1.iter().take(2).map(ToString::to_string).collect(),
            ..Wrapper::default()
        };
        let resources = resources.iter().map(resource).collect();
        Response::Delta(DeltaDiscoveryResponse {
            type_url,
            resources,
            removed_resources,
            ..Default::default()
        })
    } else {
        let resources = resources.iter().map(any).collect();
        Response::Sotw(DiscoveryResponse { type_url, resources, ..Default::default() })
    }
}
