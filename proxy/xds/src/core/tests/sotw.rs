//! State of the world, and what both protocols share.

use super::*;

#[test]
fn the_first_requests_of_a_stream_go_by_kind_and_the_node_goes_with_the_first() {
    let mut bench = Bench::new(false);
    bench.subscribe(Kind::Route, &["r"]);
    bench.subscribe(Kind::Listener, &["*"]);
    bench.subscribe(Kind::Endpoint, &["e"]);
    bench.subscribe(Kind::Cluster, &["*"]);
    bench.quiet();
    bench.core.connected(true);
    let requests: Vec<_> = std::iter::from_fn(|| bench.core.next_request()).collect();
    let seen: Vec<_> = requests
        .iter()
        .map(|request| match request {
            Request::Sotw(request) => (
                Kind::from_type_url(&request.type_url).unwrap(),
                request.resource_names.clone(),
                request.node.is_some(),
            ),
            Request::Delta(_) => panic!("delta"),
        })
        .collect();
    let expected = [
        (Kind::Cluster, vec![], true),
        (Kind::Endpoint, vec!["e".to_owned()], false),
        (Kind::Listener, vec![], false),
        (Kind::Route, vec!["r".to_owned()], false),
    ];
    assert_eq!(seen, expected);

    bench.core.options.node_once = false;
    bench.core.disconnected();
    bench.core.connected(true);
    assert!((0..4).all(|_| bench.sotw().node.is_some()));
}

#[test]
fn an_empty_list_means_all_until_a_name_was_sent() {
    let mut bench = Bench::connected(false);
    bench.subscribe(Kind::Cluster, &["*"]);
    assert!(bench.sotw().resource_names.is_empty());
    bench.subscribe(Kind::Cluster, &["a"]);
    assert_eq!(bench.sotw().resource_names, ["*", "a"]);
    bench.core.unsubscribe(Kind::Cluster, "a");
    assert_eq!(bench.sotw().resource_names, ["*"]);
    bench.core.unsubscribe_all(Kind::Cluster);
    assert!(bench.sotw().resource_names.is_empty());

    // Nothing is wanted: on a new stream an empty list would ask for everything.
    bench.core.disconnected();
    bench.core.connected(true);
    bench.quiet();
    bench.subscribe(Kind::Endpoint, &["e"]);
    assert_eq!(bench.sotw().resource_names, ["e"]);
    bench.core.unsubscribe(Kind::Endpoint, "e");
    assert!(bench.sotw().resource_names.is_empty());
}

#[test]
fn an_ack_carries_version_and_nonce_and_a_new_stream_the_version_alone() {
    let mut bench = Bench::connected(false);
    bench.subscribe(Kind::Cluster, &["*"]);
    let first = bench.sotw();
    assert_eq!((first.version_info.as_str(), first.response_nonce.as_str()), ("", ""));
    bench.respond(Kind::Cluster, "1", vec![any(Kind::Cluster, "a", "")]);
    bench.quiet();
    assert_eq!(names(&bench.decide(&[])), ["a"]);
    let ack = bench.sotw();
    assert_eq!((ack.version_info.as_str(), ack.response_nonce.as_str()), ("1", "n1"));
    assert!(ack.error_detail.is_none());
    bench.quiet();

    bench.core.disconnected();
    bench.core.connected(true);
    let again = bench.sotw();
    assert_eq!((again.version_info.as_str(), again.response_nonce.as_str()), ("1", ""));

    bench.core.disconnected();
    bench.core.connected(false);
    assert_eq!(bench.sotw().version_info, "", "another control plane knows nothing of our version");
}

#[test]
fn a_nack_names_the_bad_keeps_the_version_and_the_good_is_in_force() {
    let mut bench = Bench::connected(false);
    bench.subscribe(Kind::Cluster, &["*"]);
    bench.sotw();
    let both = || vec![any(Kind::Cluster, "good", ""), any(Kind::Cluster, "bad", "")];
    bench.respond(Kind::Cluster, "1", both());
    bench.decide(&[]);
    bench.sotw();
    bench.respond(Kind::Cluster, "2", both());
    bench.decide(&["bad"]);
    let nack = bench.sotw();
    assert_eq!((nack.version_info.as_str(), nack.response_nonce.as_str()), ("1", "n2"));
    assert_eq!(nack.error_detail.unwrap().message, "Error adding/updating cluster(s) bad: field: no");
    assert_eq!(bench.accepted(Kind::Cluster, "good").unwrap(), "2");
    assert_eq!(bench.accepted(Kind::Cluster, "bad").unwrap(), "1");
    let view = bench.core.view(Kind::Cluster).unwrap();
    assert_eq!(&*view.version, "1");
    let bad = &view.resources[0];
    assert_eq!((&*bad.name, bad.status, bad.version.as_deref()), ("bad", Status::Nacked, Some("1")));
    let error = bad.error.as_ref().unwrap();
    assert_eq!((&*error.version, error.details.as_str()), ("2", "field: no"));

    // Refused at the very first: there is no version to fall back on.
    bench.subscribe(Kind::Secret, &["s"]);
    bench.sotw();
    bench.respond(Kind::Secret, "7", vec![any(Kind::Secret, "s", "")]);
    bench.decide(&["s"]);
    let nack = bench.sotw();
    assert_eq!((nack.version_info.as_str(), nack.response_nonce.as_str()), ("", "n7"));
    // A changed subscription says the same.
    bench.subscribe(Kind::Secret, &["t"]);
    let next = bench.sotw();
    assert_eq!((next.version_info.as_str(), next.response_nonce.as_str()), ("", "n7"));
    assert!(next.error_detail.is_none());
}

#[test]
fn a_whole_response_removes_what_it_leaves_out_and_an_endpoint_response_does_not() {
    let mut bench = Bench::connected(false);
    bench.subscribe(Kind::Cluster, &["*"]);
    bench.subscribe(Kind::Endpoint, &["a", "b"]);
    bench.sotw();
    bench.sotw();
    let of = |kind, names: &[&str]| names.iter().map(|name| any(kind, name, "")).collect::<Vec<_>>();
    for kind in [Kind::Cluster, Kind::Endpoint] {
        bench.respond(kind, "1", of(kind, &["a", "b"]));
        bench.decide(&[]);
        bench.respond(kind, "2", of(kind, &["b"]));
        let update = bench.decide(&[]);
        let gone = if kind == Kind::Cluster { vec!["a"] } else { vec![] };
        assert_eq!((removed(&update), update.whole), (gone, kind == Kind::Cluster));
    }
    // One that cannot be read may be any of those that are here.
    let broken = Any { type_url: Kind::Cluster.type_url().into(), value: vec![0xff] };
    bench.respond(Kind::Cluster, "3", vec![broken]);
    let update = bench.decide(&[]);
    assert!(removed(&update).is_empty() && !update.whole);
    assert_eq!(update.refused[0].name, "#0");
    while let Some(Request::Sotw(request)) = bench.core.next_request() {
        if request.response_nonce == "n3" {
            assert!(request.error_detail.unwrap().message.contains("#0: cannot be decoded"));
        }
    }
    // An empty response is an answer too.
    bench.respond(Kind::Cluster, "4", vec![]);
    assert_eq!(removed(&bench.decide(&[])), ["b"]);
}

#[test]
fn a_changed_subscription_waits_for_the_answer_and_goes_with_it() {
    let mut bench = Bench::connected(false);
    bench.subscribe(Kind::Route, &["a"]);
    bench.sotw();
    bench.respond(Kind::Route, "1", vec![any(Kind::Route, "a", "")]);
    bench.subscribe(Kind::Route, &["b"]);
    bench.quiet();
    bench.decide(&[]);
    let ack = bench.sotw();
    assert_eq!((ack.response_nonce.as_str(), ack.resource_names), ("n1", vec!["a".into(), "b".into()]));
    bench.quiet();
}

#[test]
fn endpoints_wait_while_clusters_are_decided_and_paused_kinds_until_they_are_resumed() {
    let mut bench = Bench::connected(false);
    bench.subscribe(Kind::Cluster, &["*"]);
    bench.sotw();
    bench.respond(Kind::Cluster, "1", vec![any(Kind::Cluster, "a", "")]);
    bench.subscribe(Kind::Endpoint, &["a", "b"]);
    bench.quiet();
    bench.decide(&[]);
    assert_eq!(bench.sotw().type_url, Kind::Cluster.type_url());
    assert_eq!(bench.sotw().resource_names, ["a", "b"]);

    bench.core.pause(Kind::Route);
    bench.core.pause(Kind::Route);
    bench.subscribe(Kind::Route, &["r"]);
    bench.core.resume(Kind::Route);
    bench.quiet();
    bench.core.resume(Kind::Route);
    assert_eq!(bench.sotw().resource_names, ["r"]);
}

#[test]
fn what_is_given_up_and_asked_for_again_is_seen_to_change() {
    let mut bench = Bench::connected(false);
    bench.subscribe(Kind::Endpoint, &["a", "b"]);
    bench.sotw();
    bench.respond(Kind::Endpoint, "1", vec![any(Kind::Endpoint, "a", ""), any(Kind::Endpoint, "b", "")]);
    bench.decide(&[]);
    bench.sotw();
    bench.core.unsubscribe(Kind::Endpoint, "a");
    bench.subscribe(Kind::Endpoint, &["a"]);
    assert_eq!(bench.sotw().resource_names, ["b"]);
    assert_eq!(bench.sotw().resource_names, ["a", "b"]);
    bench.quiet();
}

#[test]
fn responses_of_a_type_that_was_not_asked_for_are_not_answered() {
    let mut bench = Bench::connected(false);
    bench.subscribe(Kind::Cluster, &["*"]);
    bench.sotw();
    let mut response = DiscoveryResponse { type_url: Kind::Route.type_url().into(), ..Default::default() };
    let received = bench.core.receive(bench.now, Response::Sotw(response.clone()));
    assert_eq!(received, Err(Ignored::NotSubscribed(Kind::Route)));
    response.type_url = "type.googleapis.com/a.B".into();
    let received = bench.core.receive(bench.now, Response::Sotw(response));
    assert_eq!(received, Err(Ignored::UnknownType("type.googleapis.com/a.B".into())));
    let received = bench.core.receive(
        bench.now,
        Response::Delta(DeltaDiscoveryResponse {
            type_url: Kind::Cluster.type_url().into(),
            ..Default::default()
        }),
    );
    assert_eq!(received, Err(Ignored::NoStream));
    bench.quiet();
    assert!(!bench.core.has_event());
}

#[test]
fn a_verdict_that_comes_after_the_stream_counts_and_is_not_sent() {
    let mut bench = Bench::connected(false);
    bench.subscribe(Kind::Cluster, &["*"]);
    bench.sotw();
    bench.respond(Kind::Cluster, "1", vec![any(Kind::Cluster, "a", "")]);
    let update = bench.update();
    bench.core.disconnected();
    bench.core.connected(true);
    bench.quiet();
    bench.core.verdict(bench.now, update.token, vec![]);
    let first = bench.sotw();
    assert_eq!((first.version_info.as_str(), first.response_nonce.as_str()), ("1", ""));
    bench.quiet();
    assert_eq!(bench.accepted(Kind::Cluster, "a").unwrap(), "1");
    // A verdict twice, or on nothing, changes nothing.
    bench.core.verdict(bench.now, update.token, vec![Refusal::new("a", "", "no")]);
    assert_eq!(bench.core.status(Kind::Cluster, "a"), Some(Status::Acked));
}

#[test]
fn one_of_two_resources_with_one_name_is_taken_and_one_of_another_type_refused() {
    let mut bench = Bench::connected(false);
    bench.subscribe(Kind::Cluster, &["*"]);
    bench.sotw();
    let of = |name| any(Kind::Cluster, name, "");
    bench.respond(Kind::Cluster, "1", vec![of("a"), of("a"), any(Kind::Route, "r", ""), of("b")]);
    assert_eq!(names(&bench.decide(&[])), ["a", "b"]);
    let nack = bench.sotw();
    assert_eq!(nack.version_info, "");
    let message = nack.error_detail.unwrap().message;
    assert!(message.contains("a: duplicate cluster a found"), "{message}");
    assert!(message.contains("#2: type URL"), "{message}");
    assert_eq!(bench.accepted(Kind::Cluster, "a").unwrap(), "1");
}
