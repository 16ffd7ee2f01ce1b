//! What depends on the clock.

use super::*;

#[test]
fn a_version_that_is_sent_again_after_its_refusal_is_refused_more_and_more_slowly() {
    let mut bench = Bench::connected(false);
    bench.subscribe(Kind::Cluster, &["*"]);
    bench.sotw();
    let mut waits = Vec::new();
    for _ in 0..8 {
        bench.respond(Kind::Cluster, "1", vec![any(Kind::Cluster, "bad", "")]);
        bench.decide(&["bad"]);
        let start = bench.now.instant;
        while !bench.core.has_request() {
            bench.now.instant = bench.core.next_deadline().unwrap();
            bench.core.tick(bench.now);
        }
        assert!(bench.sotw().error_detail.is_some());
        waits.push((bench.now.instant - start).as_millis());
    }
    assert_eq!(waits, [0, 50, 100, 200, 400, 800, 1000, 1000]);
    // Another version is answered at once.
    bench.respond(Kind::Cluster, "2", vec![any(Kind::Cluster, "bad", "")]);
    bench.decide(&["bad"]);
    bench.sotw();
}

#[test]
fn the_initial_fetch_is_timed_once_and_what_comes_later_is_taken() {
    let mut bench = Bench::connected(false);
    let limit = Duration::from_secs(15);
    bench.core.subscribe(bench.now, Kind::Endpoint, "a", limit);
    bench.core.subscribe(bench.now, Kind::Endpoint, "b", limit);
    bench.core.subscribe(bench.now, Kind::Endpoint, "for-ever", Duration::ZERO);
    bench.core.subscribe_all(bench.now, Kind::Cluster, limit);
    while bench.core.next_request().is_some() {}
    bench.respond(Kind::Endpoint, "1", vec![any(Kind::Endpoint, "a", "")]);
    bench.decide(&[]);
    bench.pass(14);
    assert!(!bench.core.has_event());
    bench.pass(1);
    let late: Vec<_> = std::iter::from_fn(|| bench.core.next_event())
        .map(|event| match event {
            Event::FetchTimedOut { kind, name } => (kind, name.map(|name| name.to_string())),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(late, [(Kind::Cluster, None), (Kind::Endpoint, Some("b".to_owned()))]);
    assert_eq!(bench.core.status(Kind::Endpoint, "b"), Some(Status::TimedOut));
    bench.pass(1_000_000);
    assert!(!bench.core.has_event() && bench.core.next_deadline().is_none());
    bench.respond(Kind::Endpoint, "2", vec![any(Kind::Endpoint, "b", "")]);
    assert_eq!(names(&bench.decide(&[])), ["b"]);
    assert_eq!(bench.core.status(Kind::Endpoint, "b"), Some(Status::Acked));
}

#[test]
fn a_ttl_ends_a_resource_unless_heartbeats_come() {
    let ttl = |seconds| Some(PbDuration { seconds, nanos: 0 });
    for delta in [false, true] {
        let mut bench = Bench::connected(delta);
        bench.subscribe(Kind::Endpoint, &["a"]);
        bench.core.next_request();
        let send = |bench: &mut Bench, resource: Wrapper| {
            if delta {
                bench.respond_delta(Kind::Endpoint, "n", vec![resource], &[]);
            } else {
                let url = "type.googleapis.com/envoy.service.discovery.v3.Resource";
                let any = Any { type_url: url.into(), value: resource.encode_to_vec() };
                bench.respond(Kind::Endpoint, "1", vec![any]);
            }
        };
        send(&mut bench, Wrapper { ttl: ttl(10), ..wrapper(Kind::Endpoint, "a", "1") });
        let update = bench.decide(&[]);
        assert_eq!(update.resources[0].ttl, Some(Duration::from_secs(10)));
        bench.core.next_request();
        let heartbeat = Wrapper { resource: None, ttl: ttl(10), ..wrapper(Kind::Endpoint, "a", "1") };
        for _ in 0..3 {
            bench.pass(9);
            send(&mut bench, heartbeat.clone());
            assert!(!bench.core.has_event(), "a heartbeat is no update");
            assert!(bench.core.next_request().is_some(), "and is acknowledged");
        }
        bench.pass(10);
        let event = bench.core.next_event();
        assert!(matches!(&event, Some(Event::Expired { name, .. }) if &**name == "a"), "{event:?}");
        assert_eq!(bench.accepted(Kind::Endpoint, "a"), None);
        // Without a TTL it lives on.
        send(&mut bench, wrapper(Kind::Endpoint, "a", "1"));
        bench.decide(&[]);
        bench.pass(1_000_000);
        assert!(!bench.core.has_event());
    }
}

#[test]
fn what_the_control_plane_does_not_have_yet_is_late_when_no_answer_would_be() {
    for kind in [Kind::Route, Kind::Extension] {
        let mut bench = Bench::connected(true);
        bench.core.subscribe(bench.now, kind, "absent", Duration::from_secs(15));
        bench.core.subscribe(bench.now, kind, "gone", Duration::from_secs(15));
        while bench.core.next_request().is_some() {}
        bench.respond_delta(kind, "1", vec![wrapper(kind, "gone", "v1")], &["absent"]);
        assert_eq!(removed(&bench.decide(&[])), ["absent"]);
        bench.respond_delta(kind, "2", vec![], &["gone"]);
        bench.decide(&[]);
        bench.pass(14);
        assert!(!bench.core.has_event());
        bench.pass(1);
        match bench.core.next_event() {
            Some(Event::FetchTimedOut { name: Some(name), .. }) => assert_eq!(&*name, "absent"),
            other => panic!("{other:?}"),
        }
        // What came and went was never late.
        assert!(!bench.core.has_event());
    }
}
