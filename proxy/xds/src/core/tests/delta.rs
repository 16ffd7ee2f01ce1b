//! Delta.

use super::*;

#[test]
fn delta_says_what_changed_and_at_first_everything() {
    let mut bench = Bench::new(true);
    bench.subscribe(Kind::Cluster, &["*"]);
    bench.subscribe(Kind::Endpoint, &["a", "b"]);
    bench.core.connected(true);
    let clusters = bench.delta();
    assert!(clusters.resource_names_subscribe.is_empty(), "the legacy form of all");
    assert_eq!(bench.delta().resource_names_subscribe, ["a", "b"]);
    bench.subscribe(Kind::Endpoint, &["c"]);
    bench.core.unsubscribe(Kind::Endpoint, "a");
    let change = bench.delta();
    assert_eq!(change.resource_names_subscribe, ["c"]);
    assert_eq!(change.resource_names_unsubscribe, ["a"]);
    assert!(change.response_nonce.is_empty());
    // Removed and added again: the control plane is to send it again.
    bench.core.unsubscribe(Kind::Endpoint, "b");
    bench.subscribe(Kind::Endpoint, &["b"]);
    let change = bench.delta();
    assert_eq!(change.resource_names_subscribe, ["b"]);
    assert!(change.resource_names_unsubscribe.is_empty());
    // A change goes with an answer.
    bench.respond_delta(Kind::Endpoint, "1", vec![wrapper(Kind::Endpoint, "b", "v1")], &[]);
    bench.decide(&[]);
    bench.subscribe(Kind::Endpoint, &["d"]);
    let ack = bench.delta();
    assert_eq!((ack.response_nonce.as_str(), ack.resource_names_subscribe), ("1", vec!["d".into()]));
    bench.quiet();
    // All, and one more: the explicit form, and the explicit way back.
    bench.subscribe(Kind::Cluster, &["x"]);
    assert_eq!(bench.delta().resource_names_subscribe, ["x"]);
    bench.core.unsubscribe_all(Kind::Cluster);
    assert_eq!(bench.delta().resource_names_unsubscribe, ["*"]);
}

#[test]
fn a_new_delta_stream_names_the_versions_that_were_accepted() {
    let mut bench = Bench::connected(true);
    bench.subscribe(Kind::Cluster, &["*", "x"]);
    assert_eq!(bench.delta().resource_names_subscribe, ["*", "x"]);
    let resources = ["a", "b", "x"].map(|name| wrapper(Kind::Cluster, name, "v1")).to_vec();
    bench.respond_delta(Kind::Cluster, "1", resources, &[]);
    bench.decide(&["b"]);
    let nack = bench.delta();
    assert!(nack.error_detail.unwrap().message.contains("b: field: no"));
    bench.respond_delta(Kind::Cluster, "2", vec![wrapper(Kind::Cluster, "a", "v2")], &["x"]);
    assert_eq!(removed(&bench.decide(&["a"])), ["x"]);
    assert_eq!(bench.core.status(Kind::Cluster, "x"), Some(Status::Absent));
    bench.core.disconnected();
    bench.core.connected(true);
    let first = bench.delta();
    assert_eq!(first.resource_names_subscribe, ["*", "x"]);
    let versions: Vec<_> = first.initial_resource_versions.into_iter().collect();
    assert_eq!(versions, [("a".to_owned(), "v1".to_owned())]);
    bench.core.disconnected();
    bench.core.connected(false);
    assert!(bench.delta().initial_resource_versions.is_empty(), "another control plane");
}

#[test]
fn a_name_given_up_that_all_may_cover_stays_until_the_control_plane_says_otherwise() {
    let mut bench = Bench::connected(true);
    bench.subscribe(Kind::Cluster, &["*", "x"]);
    bench.delta();
    bench.respond_delta(Kind::Cluster, "1", vec![wrapper(Kind::Cluster, "x", "v1")], &[]);
    bench.decide(&[]);
    bench.core.unsubscribe(Kind::Cluster, "x");
    bench.delta();
    assert_eq!(bench.accepted(Kind::Cluster, "x").unwrap(), "v1");
    bench.respond_delta(Kind::Cluster, "2", vec![], &["x"]);
    assert_eq!(removed(&bench.decide(&[])), ["x"]);
    assert_eq!(bench.core.status(Kind::Cluster, "x"), None);
}

#[test]
fn what_nobody_asked_for_is_left_out_and_acknowledged() {
    for delta in [false, true] {
        let mut bench = Bench::connected(delta);
        bench.subscribe(Kind::Secret, &["mine"]);
        bench.core.next_request();
        if delta {
            let both = ["mine", "other"].map(|name| wrapper(Kind::Secret, name, "1")).to_vec();
            bench.respond_delta(Kind::Secret, "1", both, &["third"]);
        } else {
            let both = ["mine", "other"].map(|name| any(Kind::Secret, name, "")).to_vec();
            bench.respond(Kind::Secret, "1", both);
        }
        let update = bench.decide(&[]);
        assert_eq!((names(&update), removed(&update)), (vec!["mine"], vec![]));
        bench.core.next_request().unwrap();
        // Nothing in it for us: answered without asking the consumer.
        if delta {
            bench.respond_delta(Kind::Secret, "2", vec![wrapper(Kind::Secret, "other", "2")], &[]);
            assert_eq!(bench.delta().response_nonce, "2");
        } else {
            bench.respond(Kind::Secret, "2", vec![any(Kind::Secret, "other", "")]);
            assert_eq!(bench.sotw().version_info, "2");
        }
        assert!(!bench.core.has_event());
    }
}

#[test]
fn a_virtual_host_answers_to_its_alias_and_an_alias_may_lead_nowhere() {
    let mut bench = Bench::connected(true);
    bench.subscribe(Kind::VirtualHost, &["rc/a.example", "rc/none.example"]);
    bench.delta();
    let found = Wrapper {
        aliases: vec!["rc/a.example".into(), "rc/b.example".into()],
        ..wrapper(Kind::VirtualHost, "rc/vhost", "1")
    };
    let nowhere = Wrapper {
        resource: None,
        aliases: vec!["rc/none.example".into()],
        ..wrapper(Kind::VirtualHost, "rc/none.example", "")
    };
    bench.respond_delta(Kind::VirtualHost, "1", vec![found, nowhere], &[]);
    let update = bench.decide(&[]);
    assert_eq!(names(&update), ["rc/vhost"]);
    assert_eq!(update.unresolved.iter().map(|name| &**name).collect::<Vec<_>>(), ["rc/none.example"]);
    assert_eq!(bench.core.status(Kind::VirtualHost, "rc/a.example"), Some(Status::Acked));
    // From now on it comes and goes under its own name.
    bench.respond_delta(Kind::VirtualHost, "2", vec![wrapper(Kind::VirtualHost, "rc/vhost", "2")], &[]);
    assert_eq!(names(&bench.decide(&[])), ["rc/vhost"]);
    bench.respond_delta(Kind::VirtualHost, "3", vec![], &["rc/vhost"]);
    assert_eq!(removed(&bench.decide(&[])), ["rc/vhost"]);
}
