//! The state machine, driven by a client that is a model of the protocol.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

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
    /// Responses that it has not answered.
    unanswered: Vec<(Type, String)>,
    endpoint_names: BTreeSet<String>,
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
            self.unanswered.iter().all(|(kind, _)| *kind != due.kind),
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
        has.extend(due.resources.into_iter().map(|it| (Arc::clone(&it.name), it)));
        self.unanswered.push((due.kind, due.nonce));
    }

    /// Every table that it has names clusters that it has: no request of its clients fails for a cluster that is missing.
    fn assert_whole(&self) {
        let empty = BTreeMap::new();
        let clusters = self.has.get(&Type::Cluster).unwrap_or(&empty);
        for table in self.has.get(&Type::Route).unwrap_or(&empty).values() {
            let text = <Cluster as outrider_proto::prost::Message>::decode(table.body.clone()).unwrap().name;
            for cluster in text.split(',').filter(|it| !it.is_empty()) {
                assert!(
                    clusters.contains_key(cluster),
                    "table {} names {cluster}, which is not here",
                    table.name
                );
            }
        }
    }

    /// Answers one response; asks for the endpoints of clusters that came.
    fn answer(&mut self, session: &mut Session, at: usize, refuse: bool) {
        let (kind, nonce) = self.unanswered.remove(at % self.unanswered.len());
        self.ask(session, kind, &nonce, refuse.then_some("no"), Default::default());
        if kind == Type::Cluster {
            let wanted: BTreeSet<String> = self.has[&kind].keys().map(ToString::to_string).collect();
            let more = wanted.difference(&self.endpoint_names).cloned().collect();
            let less = self.endpoint_names.difference(&wanted).cloned().collect();
            self.endpoint_names = wanted;
            let nonce = self.unanswered.iter().find(|(kind, _)| *kind == Type::Endpoints);
            let nonce = nonce.map(|(_, nonce)| nonce.clone()).unwrap_or_default();
            // The nonce of a response that is not answered yet must not be used: the request says names alone.
            let nonce = if self.delta || !nonce.is_empty() { String::new() } else { nonce };
            self.ask(session, Type::Endpoints, &nonce, None, (more, less));
        }
    }
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
fn run(delta: bool, events: Vec<Event>, check_order: bool) {
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
                client.answer(&mut session, at, refuse)
            }
            Event::Answer(..) => {}
        }
        if check_order {
            client.assert_whole();
        }
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
    assert_eq!(
        session.generations(),
        (generation, generation),
        "the client has it whole, and the session knows"
    );
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn a_client_ends_with_what_the_world_says_and_never_lacks_a_cluster(
        delta in any::<bool>(),
        events in proptest::collection::vec(event(false), 0..60),
    ) {
        run(delta, events, true);
    }

    #[test]
    fn refusals_hold_nothing_up(delta in any::<bool>(), events in proptest::collection::vec(event(true), 0..60)) {
        run(delta, events, false);
    }
}

fn one_cluster(version: u8) -> Model {
    Model {
        clusters: BTreeMap::from([("a".to_owned(), version)]),
        tables: BTreeMap::from([("80".to_owned(), BTreeSet::from(["a".to_owned()]))]),
        endpoints: 0,
    }
}

#[test]
fn an_endpoint_change_is_one_resource() {
    let now = Instant::now();
    let (mut session, mut client) = (Session::new(true), Client { delta: true, ..Client::default() });
    client.start(&mut session);
    session.update(one_cluster(0).view(), 1, &Since::Anything, now);
    for _ in 0..20 {
        while let Some(due) = session.due(now) {
            client.take(due);
        }
        if !client.unanswered.is_empty() {
            client.answer(&mut session, 0, false);
        }
    }
    let changed = Model { endpoints: 1, ..one_cluster(0) };
    let since = Since::Endpoints { names: BTreeSet::from(["a".into()]), addresses: BTreeSet::new() };
    session.update(changed.view(), 2, &since, now);
    let due = session.due(now).expect("endpoints are due");
    assert_eq!((due.kind, due.resources.len()), (Type::Endpoints, 1));
    client.take(due);
    client.answer(&mut session, 0, false);
    assert!(session.due(now).is_none(), "and nothing else");
}

#[test]
fn routes_wait_for_clusters_but_not_for_ever() {
    let now = Instant::now();
    let (mut session, client) = (Session::new(true), Client { delta: true, ..Client::default() });
    client.ask(&mut session, Type::Cluster, "", None, Default::default());
    client.ask(&mut session, Type::Route, "", None, (vec!["80".to_owned()], Vec::new()));
    session.update(one_cluster(0).view(), 1, &Since::Anything, now);
    assert_eq!(session.due(now).map(|due| due.kind), Some(Type::Cluster));
    assert!(session.due(now).is_none(), "the table waits until the cluster is taken");
    let wake = session.wake(now).expect("it says when to look again");
    assert!(wake > now && wake <= now + Duration::from_secs(5));
    assert_eq!(session.due(wake).map(|due| due.kind), Some(Type::Route));
}

#[test]
fn a_client_that_comes_back_is_sent_what_differs() {
    let now = Instant::now();
    let mut session = Session::new(true);
    let mut world = one_cluster(0);
    world.clusters.insert("b".to_owned(), 0);
    let view = world.view();
    let known = view.all(Type::Cluster).map(|it| {
        let version =
            if &*it.name == "a" { it.version_text() } else { "of another control plane".to_owned() };
        (it.name.to_string(), version)
    });
    let mut known: HashMap<_, _> = known.collect();
    known.insert("gone".to_owned(), "0000000000000001".to_owned());
    let wish = Wish::Change { subscribe: Vec::new(), unsubscribe: Vec::new(), known };
    session.request(Type::Cluster, "", None, wish, now).unwrap();
    session.update(view, 1, &Since::Anything, now);
    let due = session.due(now).expect("there is a difference");
    let names: Vec<_> = due.resources.iter().map(|it| it.name.to_string()).collect();
    assert_eq!((names, due.removed), (vec!["b".to_owned()], vec!["gone".into()]));
}

#[test]
fn a_name_that_is_not_there_is_answered_in_delta() {
    let now = Instant::now();
    let mut session = Session::new(true);
    let wish = Wish::Change {
        subscribe: vec!["nothing".to_owned()],
        unsubscribe: Vec::new(),
        known: HashMap::new(),
    };
    session.request(Type::Route, "", None, wish, now).unwrap();
    session.update(one_cluster(0).view(), 1, &Since::Anything, now);
    let due = session.due(now).expect("an answer");
    assert_eq!(due.removed, vec!["nothing".into()]);
    assert!(session.due(now).is_none(), "once");
}

#[test]
fn a_large_answer_comes_in_pieces_and_whole() {
    let now = Instant::now();
    let (mut session, mut client) = (Session::new(true), Client { delta: true, ..Client::default() });
    let mut shared = Resources::default();
    for index in 0..300 {
        shared.add(Type::Cluster, resource(&format!("c{index}"), &"x".repeat(1000)));
    }
    let view = View { shared: Arc::new(shared), ..View::default() };
    session.update(view.clone(), 1, &Since::Anything, now);
    client.ask(&mut session, Type::Cluster, "", None, Default::default());
    let mut pieces = 0;
    while let Some(due) = session.due(now) {
        let size: usize = due.resources.iter().map(|it| it.body.len()).sum();
        assert!(size <= 128 << 10, "a piece of {size} bytes");
        pieces += 1;
        client.take(due);
        let (kind, nonce) = client.unanswered.remove(0);
        client.ask(&mut session, kind, &nonce, None, Default::default());
    }
    assert_eq!((pieces, client.has[&Type::Cluster].len()), (3, 300));
}
