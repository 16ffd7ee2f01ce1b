//! The store against an API server in this process, whose faults come when they are wanted.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::sync::watch;

use super::Kubernetes;
use super::fake::{Fake, What, route};
use super::status::{CONTROLLER, Statuses};
use crate::model::{Key, Kind};
use crate::store::{Change, Expect, Store as _, StoreError, Write};

/// How long anything may take; the machine may be busy.
const LONG: Duration = Duration::from_secs(30);
const ROUTES: &str = "GET /apis/gateway.networking.k8s.io/v1/httproutes";

fn key(name: &str) -> Key {
    Key::new(Kind::HttpRoute, "default", name)
}

fn names(store: &Kubernetes) -> Vec<String> {
    store.shared.mirror.listing().records.iter().map(|it| it.key.name.to_string()).collect()
}

/// Waits until the store has exactly these objects.
async fn has(store: &Kubernetes, want: &[&str]) {
    let mut news = store.shared.mirror.news();
    let until = async {
        while names(store) != want {
            news.changed().await.unwrap();
        }
    };
    tokio::time::timeout(LONG, until).await.unwrap_or_else(|_| panic!("{:?}, not {want:?}", names(store)));
}

async fn next(
    stream: &mut (impl futures_util::Stream<Item = Result<Change, StoreError>> + Unpin),
) -> (String, bool) {
    let change = tokio::time::timeout(LONG, stream.next()).await.expect("a change").unwrap().unwrap();
    (change.key.name.to_string(), change.json.is_some())
}

#[tokio::test]
async fn addresses_that_are_not_found_for_a_moment_take_nothing_away() {
    let fake = Fake::new(&[Kind::HttpRoute, Kind::Namespace]);
    fake.put(route("a", "a"));
    let store = fake.store();
    let mut changes = store.watch(store.list().await.unwrap().revision).await.unwrap();
    // First the routes alone, as while a CRD is changed; then everything, as behind a load balancer without a server.
    for (on, times) in [(ROUTES, 3), ("", 12)] {
        let (before, host) = (fake.count(ROUTES), format!("{times}.example"));
        fake.fault(on, times, What::Code(404));
        fake.cut(Kind::HttpRoute);
        let asked = async {
            while fake.count(ROUTES) < before + 4 {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(LONG, asked).await.unwrap();
        fake.put(route("a", &host));
        assert_eq!(next(&mut changes).await, ("a".into(), true), "{on:?}: it never went");
    }
}

#[tokio::test]
async fn a_kind_that_is_no_longer_served_is_gone_and_comes_back() {
    let fake = Fake::new(&[Kind::HttpRoute, Kind::Namespace]);
    fake.put(route("a", "a"));
    let store = fake.store();
    has(&store, &["a"]).await;
    fake.serve(Kind::HttpRoute, false);
    has(&store, &[]).await;
    assert_eq!(store.kinds(), [Kind::Namespace]);
    fake.serve(Kind::HttpRoute, true);
    fake.put(route("b", "b"));
    has(&store, &["b"]).await;
}

#[tokio::test]
async fn a_server_that_forgets_at_once_is_not_asked_without_a_pause() {
    let fake = Fake::new(&[Kind::HttpRoute]);
    fake.put(route("a", "a"));
    let watches = "GET /apis/gateway.networking.k8s.io/v1/httproutes?&watch=true";
    fake.fault(watches, usize::MAX, What::Code(410));
    let store = fake.store();
    has(&store, &["a"]).await;
    let began = Instant::now();
    let asked = async {
        while fake.count(watches) < 4 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, asked).await.unwrap();
    assert!(began.elapsed() >= Duration::from_millis(500), "the third and the fourth came after pauses");
}

#[tokio::test]
async fn a_connection_that_leads_nowhere_is_left() {
    let fake = Fake::new(&[Kind::HttpRoute]);
    fake.put(route("a", "a"));
    // The first list, and then the first watch.
    fake.fault(ROUTES, 1, What::Silence);
    fake.fault("GET /apis/gateway.networking.k8s.io/v1/httproutes?&watch=true", 1, What::Silence);
    let store = fake.store();
    has(&store, &["a"]).await;
    fake.put(route("b", "b"));
    has(&store, &["a", "b"]).await;
}

#[tokio::test]
async fn a_fault_of_ours_does_not_end_a_watch_nor_the_search_for_kinds() {
    let fake = Fake::new(&[Kind::HttpRoute]);
    fake.put(route("a", "a"));
    fake.fault(ROUTES, 1, What::Panic);
    fake.fault("GET /apis", 1, What::Panic);
    let store = fake.store();
    has(&store, &["a"]).await;
    fake.put(route("b", "b"));
    has(&store, &["a", "b"]).await;
}

fn put(name: &str, host: &str) -> Write {
    Write { key: key(name), expect: Expect::Any, json: Some(route(name, host).to_string().into()) }
}

#[tokio::test]
async fn each_object_of_a_commit_has_its_own_version() {
    let fake = Fake::new(&[Kind::HttpRoute]);
    let store = fake.store();
    store.list().await.unwrap();
    let committed = store.commit_each(vec![put("a", "a"), put("b", "b"), put("c", "c")]).await.unwrap();
    for name in ["a", "b", "c"] {
        let kept = &committed.records[&key(name)];
        assert_eq!(Some(kept), store.get(&key(name)).await.unwrap().as_ref(), "{name}");
        let json: Value = serde_json::from_slice(&kept.json).unwrap();
        assert_eq!(json["metadata"]["uid"], fake.get(&key(name)).unwrap()["metadata"]["uid"]);
    }
    assert_eq!(committed.revision, store.list().await.unwrap().revision);
}

fn said(of: &[&str]) -> Statuses {
    let entry = json!({"controllerName": CONTROLLER, "parentRef": {"name": "edge"}, "conditions": [
        {"type": "Accepted", "status": "True"}]});
    Arc::new(of.iter().map(|name| (key(name), json!({"parents": [entry]}))).collect::<BTreeMap<_, _>>())
}

#[tokio::test]
async fn a_status_that_could_not_be_written_is_written_later_whatever_else_happens() {
    let fake = Fake::new(&[Kind::HttpRoute]);
    fake.put(route("a", "a"));
    fake.put(route("other", "0"));
    let store = fake.store();
    store.list().await.unwrap();
    fake.fault("PUT /apis", 1, What::Code(500));
    let (_said, told) = watch::channel(said(&["a"]));
    let writer = tokio::spawn(store.status_writer().run(told));
    let written = async {
        for number in 0.. {
            if fake.get(&key("a")).unwrap()["status"]["parents"][0]["controllerName"] == CONTROLLER {
                break;
            }
            // Something else happens, again and again until after the time at which it was to be tried again.
            if number < 100 {
                fake.put(route("other", &number.to_string()));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(LONG, written).await.expect("it is written");
    writer.abort();
}

#[tokio::test]
async fn what_is_to_be_said_of_a_new_object_is_said() {
    let fake = Fake::new(&[Kind::HttpRoute]);
    fake.put(route("a", "a"));
    let store = fake.store();
    store.list().await.unwrap();
    let (say, told) = watch::channel(said(&["a"]));
    let writer = tokio::spawn(store.status_writer().run(told));
    let is_said = async |name: &str| {
        while fake.get(&key(name)).unwrap()["status"]["parents"][0]["controllerName"] != CONTROLLER {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(LONG, is_said("a")).await.expect("it is said");
    // Until there is nothing new: the writer has looked at its own write.
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The object comes, and while the writer gathers what else is new, what is to be said of it.
    fake.put(route("b", "b"));
    has(&store, &["a", "b"]).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    say.send_replace(said(&["a", "b"]));
    tokio::time::timeout(LONG, is_said("b")).await.expect("it is said");
    writer.abort();
}

#[tokio::test]
async fn of_objects_that_are_gone_the_writer_remembers_nothing() {
    let fake = Fake::new(&[Kind::HttpRoute]);
    ["a", "b"].iter().for_each(|name| fake.put(route(name, name)));
    let store = fake.store();
    store.list().await.unwrap();
    let mut writer = store.status_writer();
    assert_eq!(writer.round(&said(&["a", "b"]), true).await, None);
    assert_eq!(writer.remembered(), [key("a"), key("b")]);
    fake.delete(&key("a"));
    has(&store, &["b"]).await;
    writer.round(&said(&["b"]), true).await;
    assert_eq!(writer.remembered(), [key("b")]);
}
