//! Single rules of the protocol.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::super::service::small_enough;
use super::super::{Ads, Connected, Limits, Session, Wish};
use super::{Client, Model, TABLES, resource};
use crate::engine::{Since, View};
use crate::translate::{Resources, Type};
use crate::world::Proxy;

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
        assert!(size <= 64 << 10, "a piece of {size} bytes");
        pieces += 1;
        client.take(due);
        let (kind, nonce, _) = client.unanswered.remove(0);
        client.ask(&mut session, kind, &nonce, None, Default::default());
    }
    assert_eq!((pieces, client.has[&Type::Cluster].len()), (5, 300));
}

/// A cluster changes, goes, and comes back as it was, before the client has heard of any of it: it went out with what was said meanwhile, as it
/// was when it went.
#[test]
fn a_cluster_that_is_held_is_known_as_it_was_sent() {
    let now = Instant::now();
    let (mut session, mut client) = (Session::new(false), Client::default());
    client.start(&mut session);
    let other = Model { clusters: BTreeMap::from([("b".to_owned(), 0)]), ..one_cluster(0) };
    session.update(one_cluster(0).view(), 1, &Since::Anything, now);
    client.take(session.due(now).unwrap());
    session.update(one_cluster(1).view(), 2, &Since::Anything, now);
    client.answer(&mut session, 0, false);
    session.update(other.view(), 3, &Since::Anything, now);
    let both = session.due(now).unwrap();
    assert_eq!(both.resources.len(), 2, "the one that is gone stays until the tables are replaced");
    client.take(both);
    session.update(one_cluster(0).view(), 4, &Since::Anything, now);
    for _ in 0..20 {
        while let Some(due) = session.due(now) {
            client.take(due);
        }
        if client.unanswered.is_empty() {
            break;
        }
        client.answer(&mut session, 0, false);
    }
    let has = &client.has[&Type::Cluster];
    assert_eq!(has.keys().map(|it| &**it).collect::<Vec<_>>(), ["a"]);
    assert_eq!(Some(&has["a"]), one_cluster(0).view().get(Type::Cluster, "a"));
}

fn delta(subscribe: &[&str], unsubscribe: &[&str]) -> Wish {
    let texts = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    Wish::Change { subscribe: texts(subscribe), unsubscribe: texts(unsubscribe), known: HashMap::new() }
}

fn names(names: &[&str]) -> Wish {
    Wish::Whole { names: names.iter().map(ToString::to_string).collect() }
}

#[test]
fn what_was_refused_stays_so_until_something_newer_of_it_is_taken() {
    let now = Instant::now();
    let mut session = Session::new(true);
    session.request(Type::Route, "", None, delta(&["80", "8080"], &[]), now).unwrap();
    let table = |name: &str, to: &str| {
        let tables =
            TABLES.map(|it| (it.to_owned(), BTreeSet::from([if it == name { to } else { "a" }.to_owned()])));
        Model { tables: BTreeMap::from(tables), ..Model::default() }.view()
    };
    session.update(table("", ""), 1, &Since::Anything, now);
    let due = session.due(now).unwrap();
    session.request(Type::Route, &due.nonce, None, delta(&[], &[]), now).unwrap();
    assert_eq!(session.generations(), (0, 1), "known when it is asked what is due");
    assert!(session.due(now).is_none());
    assert_eq!(session.generations(), (1, 1));

    session.update(table("80", "b"), 2, &Since::Anything, now);
    let due = session.due(now).unwrap();
    session.request(Type::Route, &due.nonce, Some("no cluster b"), delta(&[], &[]), now).unwrap();
    // Another table, which is taken: that says nothing about the first.
    session.update(table("8080", "c"), 3, &Since::Anything, now);
    let due = session.due(now).unwrap();
    let both: Vec<_> = due.resources.iter().map(|it| it.name.to_string()).collect();
    assert_eq!(both, ["80", "8080"], "80 is as it was at first, which the client has but was not told");
    session.request(Type::Route, &due.nonce, None, delta(&[], &[]), now).unwrap();
    assert!(session.report(Type::Route).refused.is_none());
    assert!(session.due(now).is_none());

    let mut world = Model { tables: BTreeMap::new(), ..Model::default() };
    world.tables.insert("80".to_owned(), BTreeSet::from(["d".to_owned()]));
    world.tables.insert("8080".to_owned(), BTreeSet::from(["c".to_owned()]));
    session.update(world.view(), 4, &Since::Anything, now);
    let due = session.due(now).unwrap();
    session.request(Type::Route, &due.nonce, Some("no cluster d"), delta(&[], &[]), now).unwrap();
    world.tables.insert("8080".to_owned(), BTreeSet::from(["e".to_owned()]));
    session.update(world.view(), 5, &Since::Anything, now);
    let due = session.due(now).unwrap();
    assert_eq!(due.resources.len(), 1);
    session.request(Type::Route, &due.nonce, None, delta(&[], &[]), now).unwrap();
    assert_eq!(session.report(Type::Route).refused.as_deref(), Some("no cluster d"));
    assert!(session.due(now).is_none());
    assert_eq!(session.generations(), (3, 5), "not whole as long as something is refused");
    let acked: Vec<_> = session.sent(Type::Route).into_iter().map(|it| (it.0.to_string(), it.2)).collect();
    assert_eq!(acked, [("80".to_owned(), false), ("8080".to_owned(), true)]);
    // It is not wanted any more.
    session.request(Type::Route, "", None, delta(&[], &["80"]), now).unwrap();
    assert!(session.report(Type::Route).refused.is_none());
}

#[test]
fn what_was_refused_together_is_tried_together() {
    let now = Instant::now();
    let mut session = Session::new(true);
    session.request(Type::Route, "", None, delta(&["80", "8080"], &[]), now).unwrap();
    let mut world = one_cluster(0);
    world.tables.insert("8080".to_owned(), BTreeSet::new());
    session.update(world.view(), 1, &Since::Anything, now);
    let due = session.due(now).unwrap();
    assert_eq!(due.resources.len(), 2);
    session.request(Type::Route, &due.nonce, Some("8080 is wrong"), delta(&[], &[]), now).unwrap();
    world.tables.insert("8080".to_owned(), BTreeSet::from(["a".to_owned()]));
    session.update(world.view(), 2, &Since::Anything, now);
    let due = session.due(now).unwrap();
    assert_eq!(due.resources.len(), 2, "whether 80 was good is seen only when it comes again");
    session.request(Type::Route, &due.nonce, None, delta(&[], &[]), now).unwrap();
    assert!(session.report(Type::Route).refused.is_none());
}

#[test]
fn names_that_are_left_take_no_memory() {
    let now = Instant::now();
    let mut session = Session::new(true);
    session.request(Type::Cluster, "", None, delta(&["*"], &[]), now).unwrap();
    session.update(one_cluster(0).view(), 1, &Since::Anything, now);
    for round in 0..20 {
        let due = session.due(now);
        let nonce = due.map(|it| it.nonce).unwrap_or_default();
        let texts: Vec<_> = (0..50).map(|index| format!("none-{round}-{index}")).collect();
        let texts: Vec<_> = texts.iter().map(String::as_str).collect();
        session.request(Type::Cluster, &nonce, None, delta(&texts, &[]), now).unwrap();
        // Half of them are told first that there is nothing.
        let nonce = if round % 2 == 0 { session.due(now).unwrap().nonce } else { String::new() };
        session.request(Type::Cluster, &nonce, None, delta(&[], &texts), now).unwrap();
        assert_eq!(session.at(Type::Cluster).kept(), (0, 1, 0), "names, sent, looked at");
    }
}

#[test]
fn names_have_a_limit() {
    let now = Instant::now();
    let mut session = Session::new(true);
    let long = "x".repeat(1025);
    let error = session.request(Type::Cluster, "", None, delta(&[&long], &[]), now).unwrap_err();
    assert!(error.contains("1025 bytes"), "{error}");
    let texts: Vec<_> = (0..9000).map(|index| format!("{index:01000}")).collect();
    let texts: Vec<_> = texts.iter().map(String::as_str).collect();
    let error = session.request(Type::Cluster, "", None, delta(&texts, &[]), now).unwrap_err();
    assert!(error.contains("bytes of names"), "{error}");
    // What a client says it has, and does not ask for, is not kept.
    let mut session = Session::new(true);
    let known = (0..100).map(|index| (format!("c{index}"), "1".to_owned())).collect();
    let wish = Wish::Change { subscribe: vec!["c1".to_owned()], unsubscribe: Vec::new(), known };
    session.request(Type::Cluster, "", None, wish, now).unwrap();
    assert_eq!(session.at(Type::Cluster).kept(), (1, 1, 1));
}

#[test]
fn no_names_are_none_once_one_was_given() {
    let now = Instant::now();
    for first in [&["*"][..], &["a"]] {
        let mut session = Session::new(false);
        session.request(Type::Cluster, "", None, names(first), now).unwrap();
        session.update(one_cluster(0).view(), 1, &Since::Anything, now);
        let due = session.due(now).unwrap();
        assert_eq!(due.resources.len(), 1);
        session.request(Type::Cluster, &due.nonce, None, names(&[]), now).unwrap();
        assert_eq!(session.due(now).unwrap().resources.len(), 0, "{first:?}, then nothing");
    }
    let mut session = Session::new(false);
    session.request(Type::Cluster, "", None, names(&[]), now).unwrap();
    session.update(one_cluster(0).view(), 1, &Since::Anything, now);
    let due = session.due(now).unwrap();
    session.request(Type::Cluster, &due.nonce, None, names(&[]), now).unwrap();
    session.update(one_cluster(1).view(), 2, &Since::Anything, now);
    assert_eq!(session.due(now).unwrap().resources.len(), 1, "who never gave one wants all");
}

#[test]
fn names_beside_the_wildcard_are_given_too() {
    let now = Instant::now();
    let mut shared = Resources::default();
    shared.add(Type::Cluster, resource("a", "a"));
    shared.on_demand.insert(resource("rare", "rare"));
    let mut session = Session::new(false);
    session.request(Type::Cluster, "", None, names(&["*", "rare"]), now).unwrap();
    session.update(View { shared: Arc::new(shared), ..View::default() }, 1, &Since::Anything, now);
    let due = session.due(now).unwrap();
    let got: Vec<_> = due.resources.iter().map(|it| it.name.to_string()).collect();
    assert_eq!(got, ["a", "rare"]);
}

#[test]
fn a_node_has_a_limit() {
    use outrider_proto::pb::envoy::config::core::v3::Node;
    let node = |id: usize| Node { id: "x".repeat(id), ..Default::default() };
    assert!(small_enough(&node(60 << 10)).is_ok());
    let status = small_enough(&node(70 << 10)).unwrap_err();
    assert!(status.message().contains("65536 at most") && status.message().len() < 500, "{status}");
}

#[test]
fn a_node_says_nothing_that_ends_a_line() {
    use outrider_proto::pb::envoy::config::core::v3::Node;
    let proxy = |id: &str| {
        Proxy::from_node(&Node { id: id.into(), user_agent_name: "en\nvoy".into(), ..Default::default() })
    };
    assert_eq!(&*proxy("sidecar~10.0.0.1~web.shop~x").unwrap().client, "envoy");
    let forged = proxy("sidecar~10.0.0.1~web.shop~x\n{\"verb\":\"apply\"}").unwrap_err().to_string();
    assert!(forged.contains("control characters") && !forged.contains('\n'), "{forged}");
    let long = proxy(&format!("sidecar~10.0.0.1~web.shop~{}", "x".repeat(2000))).unwrap_err();
    assert!(long.to_string().len() < 1200, "{long}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_count_before_they_say_who_they_are() {
    let (engine, _inputs) = crate::engine::Engine::start(BTreeSet::new());
    let (_leave, leaving) = tokio::sync::watch::channel(false);
    let ads = Ads::new(engine, Arc::new(Connected::default()), Limits { streams: 2, of_one: 2 }, leaving);
    let first = (ads.place().unwrap(), ads.place().unwrap());
    assert_eq!(ads.place().unwrap_err().code(), tonic::Code::ResourceExhausted);
    drop(first);
    assert!(ads.place().is_ok());
}
