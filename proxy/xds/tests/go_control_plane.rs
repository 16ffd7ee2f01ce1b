//! The stream against a control plane that this project did not write: go-control-plane.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a test that cannot be set up has failed"
)]

mod support {
    #![expect(unreachable_pub, reason = "shared by test binaries")]
    mod common;
    pub mod go;
    pub use common::*;
}

use std::time::Duration;

use outrider_proto::pb::envoy::config::core::v3::address::Address;
use outrider_proto::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use outrider_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrider_proto::pb::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use outrider_xds::{Event, Kind, Refusal, Service, Status, StreamConfig, Update};
use prost::Message;
use support::go::{GoPlane, cluster, endpoint, secret};
use support::{Client, config, names, run};

/// The port of the endpoint that an update brings for `cluster`.
fn port(update: &Update, cluster: &str) -> Option<u32> {
    let mut resources = update.resources.iter().filter(|_| update.kind == Kind::Endpoint);
    let resource = resources.find(|resource| &*resource.name == cluster)?;
    let message = ClusterLoadAssignment::decode(resource.body.clone()).unwrap();
    let host = message.endpoints[0].lb_endpoints[0].host_identifier.clone()?;
    let HostIdentifier::Endpoint(endpoint) = host else { return None };
    let Address::SocketAddress(address) = endpoint.address?.address? else { return None };
    match address.port_specifier? {
        PortSpecifier::PortValue(port) => Some(port),
        PortSpecifier::NamedPort(_) => None,
    }
}

/// Takes updates until `done`. All is good but the cluster c of version 3.
async fn converge(client: &mut Client, mut done: impl FnMut(&Update) -> bool) {
    loop {
        let update = client.update().await;
        let bad =
            update.kind == Kind::Cluster && &*update.version == "3" && names(&update).contains(&"c".into());
        let refusals = if bad { vec![Refusal::new("c", "field", "not good")] } else { Vec::new() };
        client.handle.verdict(update.token, refusals);
        if done(&update) {
            return;
        }
    }
}

/// Clusters come, endpoints are asked for and come, change, are refused, and survive a restart of the control plane.
async fn story(delta: bool) {
    let Some(mut plane) = GoPlane::start().await else { return };
    plane
        .serve("1", vec![cluster("a", "1s"), cluster("b", "1s"), endpoint("a", 1001), endpoint("b", 1002)])
        .await;
    let mut client = Client::start(config(delta, 1), &[plane.address]);
    client.handle.subscribe_all(Kind::Cluster, Duration::from_secs(15));
    let update = client.update().await;
    assert_eq!(names(&update), ["a", "b"]);
    assert_eq!(update.whole, !delta);
    // Asked for while clusters are decided: one request for both.
    client.handle.subscribe(Kind::Endpoint, "a", Duration::from_secs(15));
    client.handle.subscribe(Kind::Endpoint, "b", Duration::from_secs(15));
    client.handle.verdict(update.token, vec![]);
    let ask = plane.request("ClusterLoadAssignment").await;
    let list = if delta { &ask["subscribe"] } else { &ask["names"] };
    assert_eq!(*list, serde_json::json!(["a", "b"]));
    let mut ports = (None, None);
    converge(&mut client, |update| {
        ports = (port(update, "a").or(ports.0), port(update, "b").or(ports.1));
        ports == (Some(1001), Some(1002))
    })
    .await;
    let ack = plane.answer("ClusterLoadAssignment").await;
    assert_eq!(ack["error"], "");

    // An endpoint changes.
    plane
        .serve("2", vec![cluster("a", "1s"), cluster("b", "1s"), endpoint("a", 2001), endpoint("b", 1002)])
        .await;
    converge(&mut client, |update| port(update, "a") == Some(2001)).await;

    // A cluster is refused, another is new, one is gone.
    plane.serve("3", vec![cluster("a", "3s"), cluster("c", "1s"), endpoint("a", 2001)]).await;
    let mut gone = Vec::new();
    converge(&mut client, |update| {
        if update.kind == Kind::Cluster {
            gone.extend(update.removed.iter().map(|name| name.to_string()));
        }
        update.kind == Kind::Cluster && names(update).contains(&"c".to_owned()) && !gone.is_empty()
    })
    .await;
    assert_eq!(gone, ["b"]);
    let nack = plane.line("the NACK", |line| line["event"] == "request" && line["error"] != "").await;
    assert_eq!(nack["type"], "Cluster");
    assert_eq!(nack["error"], "Error adding/updating cluster(s) c: field: not good");
    if !delta {
        assert_ne!(nack["version"], "3", "the version before is in force");
    }
    // (It may have been sent once more meanwhile.)
    let view = client.handle.view(Kind::Cluster).unwrap();
    let state: Vec<_> =
        view.resources.iter().map(|r| (&*r.name, r.version.is_some(), r.error.is_some())).collect();
    assert_eq!(state, [("a", true, false), ("c", false, true)]);

    // It goes away, changes its mind and comes back.
    client.handle.unsubscribe(Kind::Endpoint, "b");
    plane.stop().await;
    loop {
        match client.event().await {
            Event::Disconnected { .. } => break,
            Event::Update(update) => {
                client.handle.verdict(update.token, vec![Refusal::new("c", "field", "not good")])
            }
            _ => {}
        }
    }
    plane.serve("4", vec![cluster("a", "3s"), cluster("c", "2s"), endpoint("a", 4001)]).await;
    plane.resume().await;
    let first = plane.request("Cluster").await;
    if delta {
        let initial = first["initial"].as_object().unwrap();
        assert_eq!(initial.keys().collect::<Vec<_>>(), ["a"], "what was accepted, and is");
    } else {
        assert_eq!((&first["version"], &first["nonce"]), (&nack["version"], &"".into()));
    }
    let mut seen = (false, false);
    converge(&mut client, |update| {
        seen.0 |= update.kind == Kind::Cluster && names(update).contains(&"c".to_owned());
        seen.1 |= port(update, "a") == Some(4001);
        seen == (true, true)
    })
    .await;
    assert_eq!(client.handle.status(Kind::Cluster, "c"), Some(Status::Acked));
    let answer = plane.answer("Cluster").await;
    assert_eq!(answer["error"], "");
    assert_eq!(client.stat("connected_state"), Some(1));
}

#[test]
fn state_of_the_world_over_one_stream() {
    run(story(false));
}

#[test]
fn delta_over_one_stream() {
    run(story(true));
}

#[test]
fn one_stream_for_each_kind() {
    run(async {
        let Some(mut plane) = GoPlane::start().await else { return };
        plane
            .serve("1", vec![cluster("a", "1s"), endpoint("a", 1001), secret("s", "x"), secret("t", "y")])
            .await;
        for delta in [false, true] {
            let wanted = [(Kind::Cluster, "*", "Cluster"), (Kind::Secret, "s", "Secret")];
            for (kind, name, short) in wanted {
                let settings = StreamConfig::single(delta, kind, vec![Service::new("plane")]);
                let mut client = Client::start(settings, &[plane.address]);
                match name {
                    "*" => client.handle.subscribe_all(kind, Duration::ZERO),
                    name => client.handle.subscribe(kind, name, Duration::ZERO),
                }
                let expected = if name == "*" { "a" } else { name };
                assert_eq!(names(&client.decide(&[]).await), [expected]);
                assert_eq!(plane.answer(short).await["error"], "");
                client.handle.close();
                plane.line("the end of the stream", |line| line["event"] == "closed").await;
            }
        }
    });
}
