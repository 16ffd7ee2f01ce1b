//! One rule of the protocol each, by hand.

use outrider_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource as Wrapper,
};
use outrider_proto::pb::google::protobuf::{Any, Duration as PbDuration};
use prost::Message;

use super::*;
use crate::Update;

/// A resource of any kind: all begin with their name.
#[derive(Clone, PartialEq, Message)]
pub(super) struct Body {
    #[prost(string, tag = "1")]
    pub(super) name: String,
    #[prost(string, tag = "900")]
    pub(super) text: String,
}

pub(super) fn any(kind: Kind, name: &str, text: &str) -> Any {
    let body = Body { name: name.into(), text: text.into() };
    Any { type_url: kind.type_url().into(), value: body.encode_to_vec() }
}

pub(super) fn wrapper(kind: Kind, name: &str, version: &str) -> Wrapper {
    Wrapper {
        name: name.into(),
        version: version.into(),
        resource: Some(any(kind, name, version)),
        ..Wrapper::default()
    }
}

/// A core on a stream, and a clock.
struct Bench {
    core: Core,
    now: Now,
}

impl Bench {
    fn new(delta: bool) -> Self {
        let node = Node { id: "n".into(), ..Node::default() };
        let core = Core::new(Options { delta, node, node_once: true });
        Self { core, now: Now::read() }
    }

    fn connected(delta: bool) -> Self {
        let mut bench = Self::new(delta);
        bench.core.connected(true);
        bench
    }

    fn pass(&mut self, seconds: u64) {
        self.now.instant += Duration::from_secs(seconds);
        self.core.tick(self.now);
    }

    fn subscribe(&mut self, kind: Kind, names: &[&str]) {
        for name in names {
            match *name {
                "*" => self.core.subscribe_all(self.now, kind, Duration::ZERO),
                name => self.core.subscribe(self.now, kind, name, Duration::ZERO),
            }
        }
    }

    fn sotw(&mut self) -> DiscoveryRequest {
        match self.core.next_request() {
            Some(Request::Sotw(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    fn delta(&mut self) -> DeltaDiscoveryRequest {
        match self.core.next_request() {
            Some(Request::Delta(request)) => request,
            other => panic!("{other:?}"),
        }
    }

    fn quiet(&mut self) {
        assert_eq!(self.core.next_request(), None);
    }

    fn respond(&mut self, kind: Kind, version: &str, resources: Vec<Any>) {
        let response = DiscoveryResponse {
            version_info: version.into(),
            nonce: format!("n{version}"),
            type_url: kind.type_url().into(),
            resources,
            ..DiscoveryResponse::default()
        };
        self.core.receive(self.now, Response::Sotw(response)).unwrap();
    }

    fn respond_delta(&mut self, kind: Kind, nonce: &str, resources: Vec<Wrapper>, removed: &[&str]) {
        let response = DeltaDiscoveryResponse {
            system_version_info: format!("s{nonce}"),
            nonce: nonce.into(),
            type_url: kind.type_url().into(),
            resources,
            removed_resources: removed.iter().map(ToString::to_string).collect(),
            ..DeltaDiscoveryResponse::default()
        };
        self.core.receive(self.now, Response::Delta(response)).unwrap();
    }

    fn update(&mut self) -> Update {
        match self.core.next_event() {
            Some(Event::Update(update)) => update,
            other => panic!("{other:?}"),
        }
    }

    /// Takes the next update and accepts all of it but `bad`.
    fn decide(&mut self, bad: &[&str]) -> Update {
        let update = self.update();
        let refusals = bad.iter().map(|name| Refusal::new(*name, "field", "no")).collect();
        self.core.verdict(self.now, update.token, refusals);
        update
    }

    fn accepted(&self, kind: Kind, name: &str) -> Option<String> {
        Some(self.core.kinds.get(&kind)?.entry(name)?.version.as_ref()?.to_string())
    }
}

fn names(update: &Update) -> Vec<&str> {
    update.resources.iter().map(|resource| &*resource.name).collect()
}

fn removed(update: &Update) -> Vec<&str> {
    update.removed.iter().map(|name| &**name).collect()
}

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
