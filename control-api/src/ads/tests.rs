//! The state machine, driven by a client that is a model of the protocol.

mod rules;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use outrider_proto::pb::envoy::config::cluster::v3::Cluster;
use proptest::prelude::*;
use tokio::time::Instant;

use super::{Due, Session, Wish};
use crate::engine::{Since, View};
use crate::translate::{Resource, Resources, Type};

/// The tables of the model; each names clusters, as its content.
const TABLES: [&str; 2] = ["80", "8080"];

/// A resource whose content is a text.
fn resource(name: &str, content: &str) -> Arc<Resource> {
    Resource::new(name, &Cluster { name: content.to_owned(), ..Default::default() })
}

/// What a world has: clusters with a version, the clusters that each table names, and the endpoints' version.
#[derive(Clone, Debug, Default, PartialEq)]
struct Model {
    clusters: BTreeMap<String, u8>,
    tables: BTreeMap<String, BTreeSet<String>>,
    endpoints: u8,
}

impl Model {
    fn view(&self) -> View {
        let mut shared = Resources::default();
        let mut endpoints = Resources::default();
        for (name, version) in &self.clusters {
            shared.add(Type::Cluster, resource(name, &format!("{name}{version}")));
            endpoints.add(Type::Endpoints, resource(name, &format!("{name}{}", self.endpoints)));
        }
        for (table, clusters) in &self.tables {
            let text = clusters.iter().cloned().collect::<Vec<_>>().join(",");
            shared.add(Type::Route, resource(table, &text));
        }
        shared.add(Type::Listener, resource("listener", &self.tables.len().to_string()));
        let endpoints = endpoints.of(Type::Endpoints).clone();
        View { shared: Arc::new(shared), own: Arc::default(), endpoints: Arc::new(endpoints) }
    }
}

/// A client that does what Envoy does: all clusters and listeners, endpoints of each cluster, the tables by name.
#[derive(Debug, Default)]
struct Client {
    delta: bool,
    has: HashMap<Type, BTreeMap<Arc<str>, Arc<Resource>>>,
    /// Responses that it has not answered: type, nonce, names.
    unanswered: Vec<(Type, String, Vec<Arc<str>>)>,
    endpoint_names: BTreeSet<String>,
    /// What it refused and has not accepted since.
    refused: HashMap<Type, BTreeSet<Arc<str>>>,
    /// The tables that it works by: those that it accepted last.
    in_force: BTreeMap<Arc<str>, Arc<Resource>>,
}

impl Client {
    fn names(&self, kind: Type) -> Vec<String> {
        match kind {
            Type::Endpoints => self.endpoint_names.iter().cloned().collect(),
            Type::Route => TABLES.iter().map(ToString::to_string).collect(),
            _ => Vec::new(),
        }
    }

    fn ask(
        &self,
        session: &mut Session,
        kind: Type,
        nonce: &str,
        refused: Option<&str>,
        more: (Vec<String>, Vec<String>),
    ) {
        let wish = if self.delta {
            Wish::Change { subscribe: more.0, unsubscribe: more.1, known: HashMap::new() }
        } else {
            Wish::Whole { names: self.names(kind) }
        };
        session.request(kind, nonce, refused, wish, Instant::now()).unwrap();
    }

    fn start(&mut self, session: &mut Session) {
        for kind in [Type::Cluster, Type::Listener, Type::Route] {
            self.ask(session, kind, "", None, (self.names(kind), Vec::new()));
        }
    }

    fn take(&mut self, due: Due) {
        assert!(
            self.unanswered.iter().all(|(kind, ..)| *kind != due.kind),
            "a second {:?} before the first was answered",
            due.kind
        );
        let has = self.has.entry(due.kind).or_default();
        if !self.delta && matches!(due.kind, Type::Cluster | Type::Listener) {
            has.clear();
        }
        for name in due.removed {
            has.remove(&name);
        }
        let names = due.resources.iter().map(|it| Arc::clone(&it.name)).collect();
        has.extend(due.resources.into_iter().map(|it| (Arc::clone(&it.name), it)));
        self.refused.entry(due.kind).or_default().retain(|name| has.contains_key(name) || name.is_empty());
        self.unanswered.push((due.kind, due.nonce, names));
    }

    /// The session knows exactly what this client refused.
    fn assert_refused(&self, session: &Session) {
        for kind in [Type::Cluster, Type::Listener, Type::Route] {
            let refused = self.refused.get(&kind).is_some_and(|names| !names.is_empty());
            assert_eq!(session.report(kind).refused.is_some(), refused, "{kind:?} {:?}", self.refused);
        }
    }

    /// Every table that it works by names clusters that it has, whatever it refused.
    fn assert_works(&self) {
        let empty = BTreeMap::new();
        let clusters = self.has.get(&Type::Cluster).unwrap_or(&empty);
        for table in self.in_force.values() {
            assert_names(table, clusters);
        }
    }

    /// Every table that it has names clusters that it has: no request of its clients fails for a cluster that is missing.
    fn assert_whole(&self) {
        let empty = BTreeMap::new();
        let clusters = self.has.get(&Type::Cluster).unwrap_or(&empty);
        for table in self.has.get(&Type::Route).unwrap_or(&empty).values() {
            assert_names(table, clusters);
        }
    }

    /// Answers one response; asks for the endpoints of clusters that came.
    fn answer(&mut self, session: &mut Session, at: usize, refuse: bool) {
        let (kind, nonce, names) = self.unanswered.remove(at % self.unanswered.len());
        // That endpoints are gone is nothing to refuse.
        let refuse = refuse && !(kind == Type::Endpoints && names.is_empty());
        let refused = self.refused.entry(kind).or_default();
        if refuse {
            // What it left meanwhile it does not refuse.
            let left = |name: &Arc<str>| kind == Type::Endpoints && !self.endpoint_names.contains(&**name);
            refused.extend(
                if names.is_empty() { vec!["".into()] } else { names }.into_iter().filter(|it| !left(it)),
            );
        } else {
            refused.retain(|name| !names.contains(name) && !name.is_empty());
            if kind == Type::Route {
                let tables = self.has.get(&kind).cloned().unwrap_or_default();
                self.in_force.extend(tables.into_iter().filter(|(name, _)| names.contains(name)));
            }
        }
        self.ask(session, kind, &nonce, refuse.then_some("no"), Default::default());
        if kind == Type::Cluster {
            let wanted: BTreeSet<String> = self.has[&kind].keys().map(ToString::to_string).collect();
            let more = wanted.difference(&self.endpoint_names).cloned().collect();
            let less = self.endpoint_names.difference(&wanted).cloned().collect();
            self.refused
                .entry(Type::Endpoints)
                .or_default()
                .retain(|name| wanted.contains(&**name) || name.is_empty());
            self.endpoint_names = wanted;
            let nonce = self.unanswered.iter().find(|(kind, ..)| *kind == Type::Endpoints);
            let nonce = nonce.map(|(_, nonce, _)| nonce.clone()).unwrap_or_default();
            // The nonce of a response that is not answered yet must not be used: the request says names alone.
            let nonce = if self.delta || !nonce.is_empty() { String::new() } else { nonce };
            self.ask(session, Type::Endpoints, &nonce, None, (more, less));
        }
    }
}

fn assert_names(table: &Resource, clusters: &BTreeMap<Arc<str>, Arc<Resource>>) {
    let text = <Cluster as outrider_proto::prost::Message>::decode(table.body.clone()).unwrap().name;
    for cluster in text.split(',').filter(|it| !it.is_empty()) {
        assert!(clusters.contains_key(cluster), "table {} names {cluster}, which is not here", table.name);
    }
}

/// What a client does when it is asked to refuse something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refuses {
    Nothing,
    Tables,
    Anything,
}

#[derive(Clone, Debug)]
enum Event {
    World(Model),
    Endpoints(u8),
    Send,
    Answer(usize, bool),
}

fn model() -> impl Strategy<Value = Model> {
    let clusters =
        proptest::collection::btree_map(proptest::sample::select(&["a", "b", "c", "d"][..]), 0u8..3, 0..4);
    (clusters, any::<[u8; 2]>(), 0u8..4).prop_map(|(clusters, picks, endpoints)| {
        let clusters: BTreeMap<String, u8> =
            clusters.into_iter().map(|(name, it)| (name.to_owned(), it)).collect();
        let pick = |bits: u8| {
            let chosen = clusters.keys().enumerate().filter(|(index, _)| bits & (1 << index) != 0);
            chosen.map(|(_, name)| name.clone()).collect::<BTreeSet<_>>()
        };
        let tables =
            TABLES.iter().zip(picks).map(|(table, bits)| ((*table).to_owned(), pick(bits))).collect();
        Model { clusters, tables, endpoints }
    })
}

fn event(refusals: bool) -> impl Strategy<Value = Event> {
    prop_oneof![
        2 => model().prop_map(Event::World),
        1 => (0u8..4).prop_map(Event::Endpoints),
        6 => Just(Event::Send),
        6 => (any::<usize>(), prop::bool::weighted(if refusals { 0.2 } else { 0.0 })).prop_map(|(at, refuse)| Event::Answer(at, refuse)),
    ]
}

/// Runs events; then answers everything, and the client must have what the last world says.
fn run(delta: bool, events: Vec<Event>, refuses: Refuses) {
    let check_order = refuses == Refuses::Nothing;
    let now = Instant::now();
    let (mut session, mut client) = (Session::new(delta), Client { delta, ..Client::default() });
    let (mut world, mut generation) = (Model::default(), 0);
    client.start(&mut session);
    let settle = [Event::World(world.clone())];
    for event in settle.into_iter().chain(events) {
        match event {
            Event::World(model) => {
                world = model;
                generation += 1;
                session.update(world.view(), generation, &Since::Anything, now);
            }
            Event::Endpoints(version) => {
                world.endpoints = version;
                generation += 1;
                let names = world.clusters.keys().map(|name| name.as_str().into()).collect();
                let since = Since::Endpoints { names, addresses: BTreeSet::new() };
                session.update(world.view(), generation, &since, now);
            }
            Event::Send => {
                if let Some(due) = session.due(now) {
                    client.take(due);
                }
            }
            Event::Answer(at, refuse) if !client.unanswered.is_empty() => {
                let at = at % client.unanswered.len();
                let refuse = match refuses {
                    Refuses::Nothing => false,
                    Refuses::Tables => refuse && client.unanswered[at].0 == Type::Route,
                    Refuses::Anything => refuse,
                };
                client.answer(&mut session, at, refuse);
            }
            Event::Answer(..) => {}
        }
        if check_order {
            client.assert_whole();
        }
        if refuses != Refuses::Anything {
            client.assert_works();
        }
        client.assert_refused(&session);
    }
    // A client that refused keeps what it was sent out of the model; what counts is the last, which it takes.
    generation += 1;
    session.update(world.view(), generation, &Since::Anything, now);
    for _ in 0..200 {
        while let Some(due) = session.due(now) {
            client.take(due);
            if check_order {
                client.assert_whole();
            }
        }
        if client.unanswered.is_empty() {
            break;
        }
        client.answer(&mut session, 0, false);
        client.assert_refused(&session);
    }
    assert!(client.unanswered.is_empty(), "it never comes to rest");
    let view = world.view();
    for kind in [Type::Cluster, Type::Listener, Type::Route] {
        let want: BTreeMap<_, _> = view.all(kind).map(|it| (Arc::clone(&it.name), Arc::clone(it))).collect();
        let mut has = client.has.get(&kind).cloned().unwrap_or_default();
        if kind == Type::Cluster && !check_order {
            // Clusters that a refused table may still name stay until it takes another one.
            has.retain(|name, _| want.contains_key(name));
        }
        if kind == Type::Route && !delta {
            // State of the world has no word for a table that is gone.
            has.retain(|name, _| want.contains_key(name));
        }
        assert_eq!(has, want, "{kind:?}");
    }
    let endpoints = client.has.get(&Type::Endpoints).cloned().unwrap_or_default();
    for name in world.clusters.keys() {
        let want = view.get(Type::Endpoints, name);
        assert_eq!(endpoints.get(name.as_str()), want, "endpoints of {name}");
    }
    let whole = client.refused.values().all(BTreeSet::is_empty);
    assert_eq!(session.generations().1, generation);
    assert_eq!(
        session.generations().0 == generation,
        whole,
        "the session knows whether the client has it whole"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_client_ends_with_what_the_world_says_and_never_lacks_a_cluster(
        delta in any::<bool>(),
        events in proptest::collection::vec(event(false), 0..60),
    ) {
        run(delta, events, Refuses::Nothing);
    }

    #[test]
    fn tables_that_stay_in_force_keep_their_clusters(
        delta in any::<bool>(),
        events in proptest::collection::vec(event(true), 0..60),
    ) {
        run(delta, events, Refuses::Tables);
    }

    #[test]
    fn refusals_hold_nothing_up(delta in any::<bool>(), events in proptest::collection::vec(event(true), 0..60)) {
        run(delta, events, Refuses::Anything);
    }
}
