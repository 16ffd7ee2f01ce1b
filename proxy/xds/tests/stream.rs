//! The stream against a control plane of tonic's.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test that cannot be set up has failed")]

mod support {
    #![expect(unreachable_pub, reason = "shared by test binaries")]
    mod common;
    pub mod plane;
    pub use common::*;
}

use std::time::Duration;

use outrider_proto::pb::envoy::config::core::v3::ControlPlane;
use outrider_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryResponse, DiscoveryResponse, Resource as Wrapper,
};
use outrider_xds::{Event, Kind, RateLimit, Status as ResourceStatus};
use support::plane::{Plane, any, disconnected, rude, silent, until};
use support::{Client, config, names, run, soon};
use tonic::Status;

fn response(kind: Kind, version: &str, resources: &[&str]) -> DiscoveryResponse {
    DiscoveryResponse {
        version_info: version.into(),
        nonce: format!("nonce-{version}"),
        type_url: kind.type_url().into(),
        resources: resources.iter().map(|name| any(kind, name, version)).collect(),
        control_plane: Some(ControlPlane { identifier: "plane".into() }),
        ..DiscoveryResponse::default()
    }
}

fn delta_response(kind: Kind, nonce: &str, resources: &[(&str, &str)]) -> DeltaDiscoveryResponse {
    let resource = |(name, version): &(&str, &str)| Wrapper {
        name: (*name).into(),
        version: (*version).into(),
        resource: Some(any(kind, name, version)),
        ..Wrapper::default()
    };
    DeltaDiscoveryResponse {
        nonce: nonce.into(),
        type_url: kind.type_url().into(),
        resources: resources.iter().map(resource).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

#[test]
fn resources_come_and_are_acknowledged_and_refused_by_name() {
    run(async {
        let mut plane = Plane::start().await;
        let mut settings = config(false, 1);
        settings.set_node_on_first_message_only = true;
        settings.services[0].metadata.insert("x-tenant", "blue".parse().unwrap());
        settings.services[0].authority = Some("xds.example".into());
        let mut client = Client::start(settings, &[plane.address]);
        client.handle.subscribe_all(Kind::Cluster, Duration::ZERO);
        let mut call = plane.sotw().await;
        assert_eq!(call.metadata.get("x-tenant").unwrap(), "blue");
        assert_eq!(call.metadata.get("authorization").unwrap(), "Bearer t");
        let first = call.request().await;
        assert_eq!(first.type_url, Kind::Cluster.type_url());
        assert_eq!(first.node.unwrap().id, "node-1");
        call.respond(response(Kind::Cluster, "1", &["a", "b"])).await;
        assert_eq!(names(&client.decide(&[]).await), ["a", "b"]);
        let ack = call.request().await;
        assert_eq!((ack.version_info.as_str(), ack.response_nonce.as_str()), ("1", "nonce-1"));
        assert!(ack.node.is_none() && ack.error_detail.is_none());
        assert_eq!(client.stat("connected_state"), Some(1));
        assert_eq!(&*client.handle.control_plane(), "plane");

        call.respond(response(Kind::Cluster, "2", &["b", "c"])).await;
        let update = client.decide(&["c"]).await;
        assert_eq!(update.removed.iter().map(|name| &**name).collect::<Vec<_>>(), ["a"]);
        let nack = call.request().await;
        assert_eq!((nack.version_info.as_str(), nack.response_nonce.as_str()), ("1", "nonce-2"));
        assert_eq!(nack.error_detail.unwrap().message, "Error adding/updating cluster(s) c: field: not good");
        assert_eq!(client.handle.status(Kind::Cluster, "b"), Some(ResourceStatus::Acked));
        assert_eq!(client.handle.status(Kind::Cluster, "c"), Some(ResourceStatus::Nacked));
    });
}

#[test]
fn a_stream_that_ends_is_opened_again_with_what_is_in_force() {
    run(async {
        let mut plane = Plane::start().await;
        let mut client = Client::start(config(true, 1), &[plane.address]);
        client.handle.subscribe(Kind::Endpoint, "a", Duration::ZERO);
        client.handle.subscribe(Kind::Endpoint, "b", Duration::ZERO);
        let mut call = plane.delta().await;
        assert_eq!(call.request().await.resource_names_subscribe, ["a", "b"]);
        call.respond(delta_response(Kind::Endpoint, "1", &[("a", "v1"), ("b", "v1")])).await;
        client.decide(&["b"]).await;
        assert!(call.request().await.error_detail.unwrap().message.contains(" b: field: not good"));
        call.end(Status::unavailable("going away")).await;
        let (_, why) = disconnected(&mut client).await;
        assert_eq!(why, "status UNAVAILABLE: going away");
        // Asked for while nobody listens.
        client.handle.subscribe(Kind::Endpoint, "c", Duration::ZERO);

        let mut call = plane.delta().await;
        let first = call.request().await;
        assert_eq!(first.resource_names_subscribe, ["a", "b", "c"]);
        let versions: Vec<_> = first.initial_resource_versions.into_iter().collect();
        assert_eq!(versions, [("a".to_owned(), "v1".to_owned())]);
        call.respond(delta_response(Kind::Endpoint, "2", &[("b", "v2"), ("c", "v1")])).await;
        assert_eq!(names(&client.decide(&[]).await), ["b", "c"]);
        assert_eq!(call.request().await.response_nonce, "2");
    });
}

#[test]
fn a_control_plane_that_talks_nonsense_is_left_and_tried_again() {
    run(async {
        let cases: [(u16, &'static [u8], &str); 6] = [
            (503, b"", "answered with HTTP 503"),
            (200, b"\0\0\0\0\x05\xff\xff\xff\xff\xff", "cannot be decoded"),
            (200, b"\0\xff\xff\xff\xffx", "larger than the limit of 67108864"),
            (200, b"\x01\0\0\0\0", "compressed"),
            (200, b"\0\0\0\0\x09half", "closed by the control plane"),
            (200, b"", "closed by the control plane"),
        ];
        for (status, body, expected) in cases {
            let address = rude(status, body).await;
            let mut client = Client::start(config(false, 1), &[address]);
            client.handle.subscribe_all(Kind::Cluster, Duration::ZERO);
            for _ in 0..3 {
                let (_, why) = disconnected(&mut client).await;
                assert!(why.contains(expected), "{expected}: {why}");
            }
            // The state is untouched, and the handle of use.
            assert_eq!(client.handle.view(Kind::Cluster).unwrap().resources, []);
        }
    });
}

#[test]
fn a_control_plane_that_falls_silent_is_noticed_by_pings() {
    run(async {
        let address = silent().await;
        let mut settings = config(false, 1);
        settings.services[0].http2.keepalive_interval = Some(Duration::from_millis(50));
        settings.services[0].http2.keepalive_timeout = Duration::from_millis(50);
        let mut client = Client::start(settings, &[address]);
        client.handle.subscribe_all(Kind::Cluster, Duration::ZERO);
        let (_, why) = disconnected(&mut client).await;
        assert!(why.contains("keep-alive timed out"), "{why}");
    });
}

#[test]
fn the_next_control_plane_takes_over_and_gives_back() {
    run(async {
        let mut second = Plane::start().await;
        let first = Plane::start().await.address;
        let mut settings = config(false, 2);
        settings.return_interval = Some(Duration::from_millis(30));
        let mut client = Client::start(settings, &[first, second.address]);
        client.handle.subscribe_all(Kind::Cluster, Duration::ZERO);
        let mut call = second.sotw().await;
        call.request().await;
        call.respond(response(Kind::Cluster, "of-second", &["a"])).await;
        client.decide(&[]).await;
        assert_eq!(call.request().await.version_info, "of-second");

        let mut first = Plane::at(first).await;
        let mut call = first.sotw().await;
        assert_eq!(call.request().await.version_info, "", "the second's version says nothing to the first");
        let (service, why) = disconnected(&mut client).await;
        assert_eq!((service, why.as_str()), (1, "a control plane of higher preference is back"));
        call.respond(response(Kind::Cluster, "of-first", &["a"])).await;
        client.decide(&[]).await;
        assert_eq!(call.request().await.version_info, "of-first");
    });
}

#[test]
fn a_consumer_that_does_not_read_stops_the_control_plane() {
    run(async {
        let mut plane = Plane::start().await;
        let mut client = Client::start(config(false, 1), &[plane.address]);
        client.handle.subscribe(Kind::Secret, "s", Duration::ZERO);
        let mut call = plane.sotw().await;
        call.request().await;
        let large = "x".repeat(512 * 1024);
        let push = |n: u32| {
            let mut response = response(Kind::Secret, &n.to_string(), &[]);
            response.resources = vec![any(Kind::Secret, "s", &large)];
            response
        };
        let mut sent = 0;
        let room = Duration::from_millis(300);
        while tokio::time::timeout(room, call.responses.send(Ok(push(sent)))).await.is_ok() {
            sent += 1;
            assert!(sent < 60, "30 MB were taken although nobody reads");
        }
        // And all of it arrives in order once somebody does.
        for n in 0..sent {
            assert_eq!(&*client.decide(&[]).await.version, n.to_string());
        }
    });
}

#[test]
fn requests_are_limited_in_rate_and_all_get_through() {
    run(async {
        let mut plane = Plane::start().await;
        let mut settings = config(true, 1);
        settings.rate_limit = Some(RateLimit { max_tokens: 1, fill_rate: 50.0 });
        let client = Client::start(settings, &[plane.address]);
        let kinds = [Kind::Cluster, Kind::Endpoint, Kind::Secret, Kind::Listener];
        for kind in kinds {
            client.handle.subscribe(kind, "x", Duration::ZERO);
        }
        let mut call = plane.delta().await;
        for kind in kinds {
            assert_eq!(call.request().await.type_url, kind.type_url());
        }
        assert!(client.stat("rate_limit_enforced").unwrap() >= 3);
        until("nothing is pending", || client.stat("pending_requests") == Some(0)).await;
    });
}

#[test]
fn what_does_not_come_in_time_is_told_also_without_a_control_plane() {
    run(async {
        let nobody = Plane::start().await.address;
        let mut client = Client::start(config(false, 1), &[nobody]);
        client.handle.subscribe(Kind::Route, "r", Duration::from_millis(50));
        soon("the timeout", async {
            loop {
                match client.events.recv().await.unwrap() {
                    Event::FetchTimedOut { kind: Kind::Route, name } => {
                        assert_eq!(name.as_deref(), Some("r"));
                        break;
                    }
                    Event::Disconnected { why, attempt, .. } => {
                        assert!(why.contains(&nobody.to_string()) && attempt > 0, "{why}");
                    }
                    other => panic!("{other:?}"),
                }
            }
        })
        .await;
        assert_eq!(client.stat("connected_state"), Some(0));
        assert_eq!(client.handle.status(Kind::Route, "r"), Some(ResourceStatus::TimedOut));
    });
}

#[test]
fn a_stream_that_is_closed_is_closed_at_the_control_plane_too() {
    run(async {
        let mut plane = Plane::start().await;
        let mut client = Client::start(config(false, 1), &[plane.address]);
        client.handle.subscribe_all(Kind::Cluster, Duration::ZERO);
        let mut call = plane.sotw().await;
        call.request().await;
        client.handle.close();
        let ended = soon("the end of the stream", call.requests.message()).await;
        assert!(!matches!(ended, Ok(Some(_))));
        soon("the end of events", async { while client.events.recv().await.is_some() {} }).await;
    });
}
