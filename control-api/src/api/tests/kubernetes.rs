//! The API on Kubernetes, where each object has versions of its own and kinds are told of one by one.

use std::sync::Arc;

use serde_json::Value;
use tonic::Streaming;

use super::harness::{Client, DEADLINE, Harness, apply};
use crate::model::{Key, Kind};
use crate::pb::{self, watch_response::Type};
use crate::store::kubernetes::fake::{Fake, What, route};

/// Waits until the list has as many routes; gives its version.
async fn listed(client: &mut Client, count: usize) -> String {
    let poll = async {
        loop {
            let request = pb::ListRequest { kind: "HTTPRoute".into(), ..Default::default() };
            let list = client.list(request).await.unwrap().into_inner();
            if list.json.len() == count {
                return list.resource_version;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, poll).await.expect("a list that has something")
}

async fn next(events: &mut Streaming<pb::WatchResponse>) -> (Type, String) {
    let event = tokio::time::timeout(DEADLINE, events.message()).await.expect("an event").unwrap().unwrap();
    let object: Value = serde_json::from_str(&event.json).unwrap_or_default();
    (event.r#type(), object["metadata"]["name"].as_str().unwrap_or_default().to_owned())
}

async fn watch(client: &mut Client, version: &str) -> Streaming<pb::WatchResponse> {
    let request =
        pb::WatchRequest { kind: "HTTPRoute".into(), resource_version: version.into(), ..Default::default() };
    client.watch(request).await.unwrap().into_inner()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_watch_tells_all_that_a_new_list_took_away() {
    let fake = Fake::new(&[Kind::HttpRoute]);
    let names = ["a", "b", "c"];
    names.iter().for_each(|name| fake.put(route(name, name)));
    let harness = Harness::over(Arc::new(fake.store())).await;
    let mut client = harness.client().await;
    let before = listed(&mut client, 3).await;
    // The server forgets what came since, and lists without all three.
    fake.fault("GET /apis/gateway.networking.k8s.io/v1/httproutes?&watch=true", 1, What::Code(410));
    fake.hush(Kind::HttpRoute);
    names.iter().for_each(|name| fake.delete(&Key::new(Kind::HttpRoute, "default", name)));
    fake.cut(Kind::HttpRoute);
    listed(&mut client, 0).await;
    let mut events = watch(&mut client, &before).await;
    for name in names {
        assert_eq!(next(&mut events).await, (Type::Deleted, name.into()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_object_that_is_applied_is_answered_as_it_is_kept() {
    let fake = Fake::new(&[Kind::HttpRoute]);
    let harness = Harness::over(Arc::new(fake.store())).await;
    let mut client = harness.client().await;
    let routes = ["a", "b", "c"].map(|name| route(name, name));
    let answer = client.apply(apply(&routes)).await.unwrap().into_inner();
    let mut versions = Vec::new();
    for (applied, wanted) in answer.applied.iter().zip(&routes) {
        let told: Value = serde_json::from_str(&applied.json).unwrap();
        let name = wanted["metadata"]["name"].as_str().unwrap();
        let kept = fake.get(&Key::new(Kind::HttpRoute, "default", name)).unwrap();
        for field in ["resourceVersion", "uid"] {
            assert_eq!(told["metadata"][field], kept["metadata"][field], "{name}");
        }
        versions.push(told["metadata"]["resourceVersion"].clone());
    }
    // By these versions each can be changed.
    let mut changed = routes.clone();
    for (route, version) in changed.iter_mut().zip(versions) {
        route["spec"]["hostnames"] = serde_json::json!(["changed.example"]);
        route["metadata"]["resourceVersion"] = version;
    }
    client.apply(apply(&changed)).await.unwrap();
    // And by the answer's own, what comes after all of them can be watched.
    let answer = client.apply(apply(&routes)).await.unwrap().into_inner();
    let mut events = watch(&mut client, &answer.resource_version).await;
    fake.put(route("d", "d"));
    // Statuses of the others may be told again.
    let added = loop {
        let event = next(&mut events).await;
        if event.0 != Type::Modified {
            break event;
        }
    };
    assert_eq!(added, (Type::Added, "d".into()));
}
