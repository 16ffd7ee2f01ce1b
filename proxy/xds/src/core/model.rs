//! The core against a model of a control plane: whatever the order of changes, pushes, answers and broken streams, the
//! client ends in the server's state, and never acknowledges what was refused.

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use outrider_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use proptest::prelude::*;
use prost::Message;

use super::tests::{Body, any, wrapper};
use super::*;
use crate::Update;

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

#[derive(Debug, Clone, PartialEq)]
struct Content {
    text: String,
    bad: bool,
}

/// What the server knows of one kind on one stream.
#[derive(Debug, Default)]
struct Watch {
    asked: bool,
    all: bool,
    named: bool,
    names: BTreeSet<String>,
    /// The newest nonce.
    nonce: String,
    /// State of the world: the version and the subscription that were answered last.
    answered: Option<(u64, bool, BTreeSet<String>)>,
    /// Delta: what the client has; `None`: it was told that there is none.
    has: BTreeMap<String, Option<String>>,
}

/// A control plane that answers as the protocol says and as go-control-plane does.
#[derive(Debug, Default)]
struct Server {
    state: BTreeMap<Kind, BTreeMap<String, Content>>,
    revision: BTreeMap<Kind, u64>,
    watches: BTreeMap<Kind, Watch>,
    nonces: u64,
}

impl Server {
    fn change(&mut self, kind: Kind, name: &str, content: Option<bool>) {
        let revision = self.revision.entry(kind).or_default();
        *revision += 1;
        let text = format!("r{revision}");
        let state = self.state.entry(kind).or_default();
        match content {
            Some(bad) => state.insert(name.into(), Content { text, bad }),
            None => state.remove(name),
        };
    }

    fn wanted(&self, kind: Kind) -> BTreeMap<String, Content> {
        let Some(watch) = self.watches.get(&kind) else { return BTreeMap::new() };
        let of = |name: &String| watch.names.contains(name) || watch.all && !hidden(name);
        let state = self.state.get(&kind).into_iter().flatten();
        state.filter(|(name, _)| of(name)).map(|(name, content)| (name.clone(), content.clone())).collect()
    }

    fn take_sotw(&mut self, request: DiscoveryRequest) {
        let kind = Kind::from_type_url(&request.type_url).unwrap();
        let watch = self.watches.entry(kind).or_default();
        if request.response_nonce != watch.nonce {
            // Stale.
            return;
        }
        let first = !watch.asked;
        watch.asked = true;
        let mut names: BTreeSet<String> = request.resource_names.into_iter().collect();
        watch.named |= !names.is_empty();
        let star = names.remove("*");
        let all = star || !watch.named;
        if all && !watch.all || !names.is_subset(&watch.names) {
            watch.answered = None;
        }
        watch.all = all;
        watch.names = names;
        let revision = self.revision.get(&kind).copied().unwrap_or_default();
        let current = format!("v{revision}");
        if first && watch.all && request.version_info == current {
            // The client has it all already.
            watch.answered = Some((revision, watch.all, watch.names.clone()));
        } else if request.version_info.is_empty() && request.error_detail.is_none() {
            // It says that it has nothing.
            watch.answered = None;
        }
    }

    fn take_delta(&mut self, request: DeltaDiscoveryRequest) {
        let kind = Kind::from_type_url(&request.type_url).unwrap();
        let watch = self.watches.entry(kind).or_default();
        if watch.asked {
            assert!(request.initial_resource_versions.is_empty());
        } else {
            watch.all = request.resource_names_subscribe.is_empty();
            let has = request.initial_resource_versions.into_iter();
            watch.has = has.map(|(name, version)| (name, Some(version))).collect();
        }
        let first = !watch.asked;
        watch.asked = true;
        for name in request.resource_names_subscribe {
            if name == "*" {
                watch.all = true;
                continue;
            }
            if !first {
                // It may have forgotten what it had.
                watch.has.remove(&name);
            }
            watch.names.insert(name);
        }
        for name in request.resource_names_unsubscribe {
            if name == "*" {
                watch.all = false;
                let names = &watch.names;
                watch.has.retain(|name, _| names.contains(name));
                continue;
            }
            watch.names.remove(&name);
            watch.has.remove(&name);
            if watch.all {
                // Whether it is one of all is to be said: by the resource, or by its removal.
                watch.has.insert(name, Some(String::new()));
            }
        }
    }

    fn take(&mut self, request: Request) {
        match request {
            Request::Sotw(request) => self.take_sotw(request),
            Request::Delta(request) => self.take_delta(request),
        }
    }

    fn next_nonce(&mut self) -> String {
        self.nonces += 1;
        format!("n{}", self.nonces)
    }

    /// What the server has to say about `kind` now.
    fn response(&mut self, kind: Kind, delta: bool) -> Option<Response> {
        let wanted = self.wanted(kind);
        let revision = self.revision.get(&kind).copied().unwrap_or_default();
        let nonce = self.next_nonce();
        let watch = self.watches.get_mut(&kind).filter(|watch| watch.asked)?;
        if !delta {
            let now = (revision, watch.all, watch.names.clone());
            if watch.answered.as_ref() == Some(&now) || (!watch.all && watch.names.is_empty()) {
                return None;
            }
            watch.answered = Some(now);
            watch.nonce.clone_from(&nonce);
            let resource = |(name, content): (&String, &Content)| any(kind, name, &text(content));
            return Some(Response::Sotw(DiscoveryResponse {
                version_info: format!("v{revision}"),
                nonce,
                type_url: kind.type_url().into(),
                resources: wanted.iter().map(resource).collect(),
                ..DiscoveryResponse::default()
            }));
        }
        let news: Vec<_> = wanted
            .iter()
            .filter(|(name, content)| watch.has.get(*name).and_then(Option::as_ref) != Some(&content.text))
            .collect();
        let absent = |name: &&String| !wanted.contains_key(*name);
        let mut gone: BTreeSet<String> = watch
            .has
            .iter()
            .filter(|(_, has)| has.is_some())
            .map(|(name, _)| name)
            .filter(absent)
            .cloned()
            .collect();
        gone.extend(watch.names.iter().filter(absent).filter(|n| !watch.has.contains_key(*n)).cloned());
        let first = watch.nonce.is_empty();
        if news.is_empty() && gone.is_empty() && !(first && watch.all) {
            return None;
        }
        watch.nonce.clone_from(&nonce);
        let resources = news
            .iter()
            .map(|(name, content)| {
                let mut resource = wrapper(kind, name, &content.text);
                resource.resource = Some(any(kind, name, &text(content)));
                resource
            })
            .collect();
        for (name, content) in news {
            watch.has.insert(name.clone(), Some(content.text.clone()));
        }
        for name in &gone {
            if watch.names.contains(name) {
                watch.has.insert(name.clone(), None);
            } else {
                watch.has.remove(name);
            }
        }
        Some(Response::Delta(DeltaDiscoveryResponse {
            system_version_info: format!("v{revision}"),
            nonce,
            type_url: kind.type_url().into(),
            resources,
            removed_resources: gone.into_iter().collect(),
            ..DeltaDiscoveryResponse::default()
        }))
    }
}

fn text(content: &Content) -> String {
    format!("{}{}", if content.bad { "bad " } else { "" }, content.text)
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
}
