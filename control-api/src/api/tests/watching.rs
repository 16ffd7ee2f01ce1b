//! Watch.

use serde_json::Value;
use tonic::{Code, Streaming};

use super::harness::{Client, DEADLINE, Harness, apply, reference, service};
use crate::pb::{self, watch_response::Type};

async fn watch(client: &mut Client, version: &str) -> Streaming<pb::WatchResponse> {
    let request =
        pb::WatchRequest { kind: "Service".into(), resource_version: version.into(), ..Default::default() };
    client.watch(request).await.unwrap().into_inner()
}

/// The next event: what, whose, and where to resume.
async fn next(events: &mut Streaming<pb::WatchResponse>) -> (Type, String, String) {
    let event = tokio::time::timeout(DEADLINE, events.message()).await.expect("an event").unwrap().unwrap();
    let object: Value = serde_json::from_str(&event.json).unwrap_or_default();
    let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    (event.r#type(), name, event.resource_version)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn first_what_is_there_then_what_changes() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.apply(apply(&[service("a", 80), service("b", 80)])).await.unwrap();
    let mut events = watch(&mut client, "").await;
    assert_eq!(next(&mut events).await, (Type::Added, "a".into(), String::new()));
    assert_eq!(next(&mut events).await, (Type::Added, "b".into(), String::new()));
    assert_eq!(next(&mut events).await, (Type::Bookmark, String::new(), "1".into()));
    client.apply(apply(&[service("c", 80)])).await.unwrap();
    assert_eq!(next(&mut events).await, (Type::Added, "c".into(), "2".into()));
    client.apply(apply(&[service("a", 81)])).await.unwrap();
    assert_eq!(next(&mut events).await, (Type::Modified, "a".into(), "3".into()));
    client.delete(pb::DeleteRequest { r#ref: reference("svc", "b"), ..Default::default() }).await.unwrap();
    assert_eq!(next(&mut events).await, (Type::Deleted, "b".into(), "4".into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_resumes_where_it_was_and_misses_nothing() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.apply(apply(&[service("a", 80), service("b", 80)])).await.unwrap();
    // While nobody watches: one made, one changed, one deleted.
    client.apply(apply(&[service("c", 80)])).await.unwrap();
    client.apply(apply(&[service("a", 81)])).await.unwrap();
    client.delete(pb::DeleteRequest { r#ref: reference("svc", "b"), ..Default::default() }).await.unwrap();
    let mut events = watch(&mut client, "1").await;
    assert_eq!(next(&mut events).await, (Type::Modified, "c".into(), "2".into()));
    assert_eq!(next(&mut events).await, (Type::Modified, "a".into(), "3".into()));
    assert_eq!(next(&mut events).await, (Type::Deleted, "b".into(), "4".into()));
    client.apply(apply(&[service("d", 80)])).await.unwrap();
    assert_eq!(next(&mut events).await, (Type::Added, "d".into(), "5".into()));
    // At the newest version there is nothing to tell.
    let mut events = watch(&mut client, "5").await;
    client.apply(apply(&[service("d", 81)])).await.unwrap();
    assert_eq!(next(&mut events).await, (Type::Modified, "d".into(), "6".into()));
}

/// Waits until what is served has a version.
async fn catch_up(client: &mut Client, version: u64) {
    let poll = async {
        loop {
            let list = client.list(pb::ListRequest::default()).await.unwrap().into_inner();
            if version == 0 || list.resource_version == version.to_string() {
                return;
            }
        }
    };
    tokio::time::timeout(DEADLINE, poll).await.expect("a list that has something");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_forgotten_or_was_never_there_is_out_of_range() {
    use crate::model::{Key, Kind};
    use crate::store::{Expect, Write};
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let json: bytes::Bytes = service("a", 80).to_string().into();
    let mut last = 0;
    for number in 0..4100 {
        // The world follows the store, which remembers so many: it must not fall behind.
        if number % 1000 == 0 {
            catch_up(&mut client, last).await;
        }
        let key = Key::new(Kind::Service, "shop", "a");
        let write = Write { key, expect: Expect::Any, json: Some(json.clone()) };
        last = harness.store.commit(vec![write]).await.unwrap();
    }
    let request = pb::WatchRequest { resource_version: "1".into(), ..Default::default() };
    // Once the world has gone on: while it is itself at version 1, nothing is missing for a watcher that is there too.
    catch_up(&mut client, last).await;
    let status = client.watch(request).await.unwrap_err();
    assert_eq!(status.code(), Code::OutOfRange, "{status}");
    let request = pb::WatchRequest { resource_version: "yesterday".into(), ..Default::default() };
    assert_eq!(client.watch(request).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_of_the_manifests_folder_are_watched_too() {
    use crate::model::read_json;
    use crate::source::{Input, Origin};
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let mut events = watch(&mut client, "").await;
    assert_eq!(next(&mut events).await.0, Type::Bookmark);
    let object = read_json("web.yaml", service("web", 80).to_string().as_bytes(), "").unwrap().unwrap();
    let key = object.key.clone();
    let change = |object| Input::Changes {
        origin: Origin::Manifests,
        revision: 0,
        changes: vec![(key.clone(), object)],
    };
    harness.inputs.send(change(Some(object))).await.unwrap();
    assert_eq!(next(&mut events).await.0, Type::Added);
    harness.inputs.send(change(None)).await.unwrap();
    assert_eq!(next(&mut events).await.0, Type::Deleted);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_comes_back_hears_of_manifests_and_statuses_too() {
    use crate::model::read_json;
    use crate::source::{Input, Origin};
    use serde_json::json;
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let manifest = |name: &str, port| {
        let json = service(name, port).to_string();
        let object = read_json("web.yaml", json.as_bytes(), "").unwrap().unwrap();
        (object.key.clone(), Some(object))
    };
    let tell = |changes| Input::Changes { origin: Origin::Manifests, revision: 0, changes };
    harness.inputs.send(tell(vec![manifest("kept", 80), manifest("lost", 80)])).await.unwrap();
    client.apply(apply(&[service("a", 80)])).await.unwrap();
    client.apply(apply(&[service("b", 80)])).await.unwrap();
    // While nobody watches: one of the manifests changes, and one goes. The store's version stays what it is.
    let (lost, _) = manifest("lost", 80);
    harness.inputs.send(tell(vec![manifest("kept", 81), (lost, None)])).await.unwrap();
    client.apply(apply(&[service("c", 80)])).await.unwrap();
    let mut events = watch(&mut client, "2").await;
    assert_eq!(next(&mut events).await, (Type::Modified, "kept".into(), "2".into()));
    assert_eq!(next(&mut events).await, (Type::Deleted, "lost".into(), "2".into()));
    assert_eq!(next(&mut events).await, (Type::Modified, "c".into(), "3".into()));
    // What happened at the version at which manifests were first told, nobody knows for sure.
    let request =
        pb::WatchRequest { kind: "Service".into(), resource_version: "0".into(), ..Default::default() };
    assert_eq!(client.watch(request).await.unwrap_err().code(), Code::OutOfRange);

    // A route whose backend came: its status changed, it itself did not.
    let route = json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": "web", "namespace": "shop" },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": "a" }],
            "rules": [{ "backendRefs": [{ "name": "late", "port": 80 }] }],
        },
    });
    let version = client.apply(apply(&[route])).await.unwrap().into_inner().resource_version;
    client.apply(apply(&[service("late", 80)])).await.unwrap();
    let request =
        pb::WatchRequest { kind: "HTTPRoute".into(), resource_version: version, ..Default::default() };
    let mut events = client.watch(request).await.unwrap().into_inner();
    assert_eq!(next(&mut events).await.1, "web");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_control_plane_that_leaves_ends_its_watches() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let mut events = watch(&mut client, "").await;
    assert_eq!(next(&mut events).await.0, Type::Bookmark);
    harness.leave.send_replace(true);
    let status = tokio::time::timeout(DEADLINE, events.message()).await.expect("it ends").unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
}
