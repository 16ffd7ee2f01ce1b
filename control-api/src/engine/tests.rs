//! What is published when.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::*;
use crate::model::{Key, Object, read_json};

fn object(value: &Value, revision: u64) -> Object {
    Object { revision, ..read_json("", value.to_string().as_bytes(), "shop").unwrap().unwrap() }
}

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop" },
        "spec": { "ports": [{ "name": "http", "port": 80 }], "selector": { "app": name } },
    })
}

fn slice(address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": { "name": "web-1", "namespace": "shop", "labels": { "kubernetes.io/service-name": "web" } },
        "endpoints": [{ "addresses": [address] }], "ports": [{ "name": "http", "port": 8080 }],
    })
}

fn route(name: &str) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": { "name": name, "namespace": "shop" },
        "spec": {
            "parentRefs": [{ "group": "", "kind": "Service", "name": "web" }],
            "rules": [{ "backendRefs": [{ "name": "web", "port": 80 }] }],
        },
    })
}

fn changes(revision: u64, values: &[Value]) -> Input {
    let changes = values.iter().map(|it| {
        let object = object(it, revision);
        (object.key.clone(), Some(object))
    });
    Input::Changes { origin: Origin::Store, revision, changes: changes.collect() }
}

async fn started() -> (Arc<Engine>, Inputs) {
    let (engine, inputs) = Engine::start(BTreeSet::from([Origin::Store]));
    let objects = vec![object(&service("web"), 1), object(&slice("10.0.0.1"), 1)];
    inputs.send(Input::Reset { origin: Origin::Store, revision: 1, objects }).await.unwrap();
    engine.until_ready().await;
    (engine, inputs)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_applied_when_all_of_it_is_served() {
    let (engine, inputs) = started().await;
    // Endpoints and a route in one commit: endpoints go out at once, and the commit is not applied with them alone.
    inputs.send(changes(2, &[slice("10.0.0.2"), route("web")])).await.unwrap();
    engine.applied(2).await;
    let snapshot = engine.snapshot();
    let key = Key::new(crate::model::Kind::HttpRoute, "shop", "web");
    assert!(snapshot.context.attachments.statuses.contains_key(&key), "the route was judged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scopes_have_a_limit_and_are_free_again() {
    let (engine, _inputs) = Engine::bounded(BTreeSet::new(), 2, crate::ca::identity::TrustDomain::default());
    let scope = |namespace: &str| Scope {
        role: crate::world::Role::Sidecar,
        namespace: namespace.into(),
        gateway: None,
        grpc: false,
        dependencies: None,
        observed: false,
        labels: Default::default(),
        mtls: false,
        ipv6: false,
    };
    let first = engine.enter(&scope("a")).unwrap();
    let _second = engine.enter(&scope("b")).unwrap();
    let error = engine.enter(&scope("c")).unwrap_err();
    assert!(error.to_string().contains("--max-scopes"), "{error}");
    assert!(engine.enter(&scope("a")).is_ok(), "one that is there is no further one");
    drop(first);
    assert!(engine.enter(&scope("c")).is_ok());
}
