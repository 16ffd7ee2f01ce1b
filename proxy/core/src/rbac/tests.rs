//! What policies say, and that and, or and not mean what they say.

use std::rc::Rc;
use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::*;
use crate::cel::{Extras, Options, Place};
use crate::matcher::{HeadView, HeaderCheck, HeaderMatcher, HeaderRef, StringMatch, StringMatcher};
use crate::stream::{Address, CertInfo, ConnInfo, Origin, StreamInfo, TlsInfo};

/// A connection from 127.0.0.1 to 10.1.2.3:8080.
fn connection(tls: Option<TlsInfo>) -> Rc<ConnInfo> {
    let ip = |text: &str| Address::Ip(text.parse().unwrap());
    Rc::new(ConnInfo {
        id: 1,
        remote: ip("127.0.0.1:1"),
        direct_remote: ip("127.0.0.2:1"),
        local: ip("10.1.2.3:8080"),
        direct_local: ip("10.1.2.3:8080"),
        local_restored: false,
        source: None,
        sni: None,
        tls: tls.map(Rc::new),
        filter_chain: "".into(),
        origin: Arc::new(Origin::default()),
        handshake: None,
        accepted: Instant::now(),
        termination_details: Default::default(),
        reset: Default::default(),
        transport_failure: Default::default(),
    })
}

fn holds(condition: &Condition, path: &str, headers: &HeaderMap, tls: Option<TlsInfo>) -> bool {
    let stream = StreamInfo::new(connection(tls), None);
    let head = HeadView { path, ..HeadView::of(headers) };
    condition.matches(&Facts { conn: &stream.conn, stream: &stream, head, route: None })
}

fn header(name: &'static str) -> Condition {
    Condition::Header(Box::new(HeaderMatcher {
        name: HeaderRef::Name(HeaderName::from_static(name)),
        check: HeaderCheck::Present(true),
        invert: false,
        treat_missing_as_empty: false,
    }))
}

#[test]
fn a_condition_must_be_true_and_an_error_is_not() {
    let regex = |pattern: &str| regex::Regex::new(pattern).map_err(|error| error.to_string());
    let options = Options { place: Place::Policy, extras: Extras::default(), regex: &regex };
    let says = |text: &str, action: Action| {
        let condition = Some(Program::parse(text, &options).unwrap());
        let policy =
            Policy { name: "p".into(), permission: Condition::Any, principal: Condition::Any, condition };
        let rules = Rules::new(action, vec![policy]);
        let stream = StreamInfo::new(connection(None), None);
        let map = headers(1);
        let facts = Facts { conn: &stream.conn, stream: &stream, head: HeadView::of(&map), route: None };
        let lacks = rules.nearest(&facts).map(|nearest| nearest.failed);
        (rules.decide(&facts).allowed, lacks)
    };
    assert!(says("request.headers['a'] == '1'", Action::Allow).0);
    assert!(!says("request.headers['a'] == '1'", Action::Deny).0);
    let error = "request.headers['b'] == '1'";
    assert!(says(error, Action::Deny).0, "what is an error denies nothing, as in Envoy");
    let (allowed, lacks) = says(error, Action::Allow);
    assert!(!allowed);
    assert_eq!(lacks.as_deref(), Some("condition: request.headers[\"b\"] == \"1\""));
}

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A condition on four headers, and what it says of them, worked out by itself.
fn tree() -> impl Strategy<Value = Tree> {
    let leaf = prop_oneof![Just(Tree::Any), (0..NAMES.len()).prop_map(Tree::Has)];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Tree::All),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Tree::OneOf),
            inner.prop_map(|tree| Tree::Not(Box::new(tree))),
        ]
    })
}

#[derive(Debug, Clone)]
enum Tree {
    Any,
    Has(usize),
    All(Vec<Tree>),
    OneOf(Vec<Tree>),
    Not(Box<Tree>),
}

impl Tree {
    fn condition(&self) -> Condition {
        let list = |list: &[Self]| list.iter().map(Self::condition).collect::<Vec<_>>();
        match self {
            Self::Any => Condition::Any,
            Self::Has(i) => header(NAMES[*i]),
            Self::All(all) => Condition::all(list(all)),
            Self::OneOf(any) => Condition::one_of(list(any)),
            Self::Not(one) => Condition::Not(Box::new(one.condition())),
        }
    }

    fn says(&self, bits: u8) -> bool {
        match self {
            Self::Any => true,
            Self::Has(i) => bits & (1 << i) != 0,
            Self::All(all) => !all.iter().any(|one| !one.says(bits)),
            Self::OneOf(any) => any.iter().map(|one| one.says(bits)).fold(false, |a, b| a | b),
            Self::Not(one) => !one.says(bits),
        }
    }
}

fn headers(bits: u8) -> HeaderMap {
    let set = (0..NAMES.len()).filter(|i| bits & (1 << i) != 0);
    set.map(|i| (HeaderName::from_static(NAMES[i]), HeaderValue::from_static("1"))).collect()
}

proptest! {
    #[test]
    fn and_or_and_not_mean_what_they_say(tree in tree(), bits in 0_u8..16) {
        prop_assert_eq!(holds(&tree.condition(), "/", &headers(bits), None), tree.says(bits));
    }

    #[test]
    fn of_many_policies_the_first_by_name_decides(
        trees in prop::collection::vec((tree(), tree()), 0..12), bits in 0_u8..16, action in 0..3
    ) {
        let action = [Action::Allow, Action::Deny, Action::Log][action as usize];
        let policies = trees.iter().enumerate().rev().map(|(i, (permission, principal))| Policy {
            name: format!("p{i:02}").into(),
            permission: permission.condition(),
            principal: principal.condition(),
            condition: None,
        });
        let rules = Rules::new(action, policies.collect());
        let found = trees.iter().position(|(one, other)| one.says(bits) && other.says(bits));
        let stream = StreamInfo::new(connection(None), None);
        let headers = headers(bits);
        let facts = Facts { conn: &stream.conn, stream: &stream, head: HeadView::of(&headers), route: None };
        let decision = rules.decide(&facts);
        let name = found.map(|i| format!("p{i:02}"));
        prop_assert_eq!(decision.policy.map(|name| name.to_string()), name);
        let allowed = match action {
            Action::Allow => found.is_some(),
            Action::Deny => found.is_none(),
            Action::Log => true,
        };
        prop_assert_eq!(decision.allowed, allowed);
        prop_assert_eq!(decision.log, (action == Action::Log).then_some(found.is_some()));
    }
}

#[test]
fn a_path_is_matched_without_its_query() {
    let path = |matcher| Condition::Path(StringMatcher { matcher, ignore_case: false });
    let none = HeaderMap::new();
    assert!(holds(&path(StringMatch::Exact("/a".into())), "/a?b#c", &none, None));
    assert!(holds(&path(StringMatch::Exact("/a".into())), "/a#c?d", &none, None));
    assert!(!holds(&path(StringMatch::Suffix("b".into())), "/a?b", &none, None));
    // A request without a path, as CONNECT is one, matches nothing.
    assert!(!holds(&path(StringMatch::Prefix("".into())), "", &none, None));
}

#[test]
fn addresses_are_those_that_their_names_say() {
    let none = HeaderMap::new();
    let net = |text: &str| text.parse().unwrap();
    for (condition, want) in [
        (Condition::SourceIp(net("127.0.0.1/32")), true),
        (Condition::RemoteIp(net("127.0.0.1/32")), true),
        (Condition::DirectRemoteIp(net("127.0.0.1/32")), false),
        (Condition::DirectRemoteIp(net("127.0.0.2/31")), true),
        (Condition::DestinationIp(net("10.0.0.0/8")), true),
        (Condition::DestinationIp(net("::/0")), false),
        (Condition::DestinationPort { start: 8080, end: 8081 }, true),
        (Condition::DestinationPort { start: 8000, end: 8080 }, false),
        (Condition::ServerName(StringMatcher::exact("")), true),
        (Condition::Absent, false),
    ] {
        assert_eq!(holds(&condition, "/", &none, None), want, "{condition:?}");
    }
}

#[test]
fn a_client_is_known_by_its_names_then_its_subject() {
    let peer = CertInfo {
        subject: "CN=client".into(),
        uri_sans: vec!["spiffe://a/b".into()],
        dns_sans: vec!["client.test".into()],
        ..CertInfo::default()
    };
    let tls = |peer| Some(TlsInfo { peer, peer_verified: true, ..TlsInfo::default() });
    let named = |name: &str| Condition::Authenticated(Some(StringMatcher::exact(name)));
    let none = HeaderMap::new();
    for name in ["spiffe://a/b", "client.test", "CN=client"] {
        assert!(holds(&named(name), "/", &none, tls(Some(Arc::new(peer.clone())))), "{name}");
        assert!(!holds(&named(name), "/", &none, tls(None)), "{name}");
        assert!(!holds(&named(name), "/", &none, None), "{name}");
    }
    assert!(holds(&Condition::Authenticated(None), "/", &none, tls(None)));
    assert!(!holds(&Condition::Authenticated(None), "/", &none, None));
    assert!(holds(&Condition::Mtls(None), "/", &none, tls(Some(Arc::new(peer.clone())))));
    assert!(!holds(&Condition::Mtls(None), "/", &none, tls(None)));
    let unverified = TlsInfo { peer: Some(Arc::new(peer)), ..TlsInfo::default() };
    assert!(!holds(&Condition::Mtls(None), "/", &none, Some(unverified)));
}

/// Texts that share beginnings, so that policies filed under them do.
fn text() -> impl Strategy<Value = String> {
    "[ab/]{0,5}".prop_map(|text| format!("/{text}"))
}

fn matcher() -> impl Strategy<Value = StringMatcher> {
    let of = |matcher| StringMatcher { matcher, ignore_case: false };
    prop_oneof![
        text().prop_map(move |text| of(StringMatch::Exact(text.into()))),
        text().prop_map(move |text| of(StringMatch::Prefix(text.into()))),
        text().prop_map(move |text| of(StringMatch::Suffix(text.into()))),
        (text(), prop_oneof![Just(""), Just(".*"), Just("[ab]+"), Just("(a|b)"), Just(".?/a")]).prop_map(
            move |(text, rest)| {
                let regex = crate::matcher::full_regex(&format!("{text}{rest}")).unwrap();
                of(StringMatch::Regex(Box::new(regex)))
            }
        ),
        text()
            .prop_map(|text| StringMatcher { matcher: StringMatch::Prefix(text.into()), ignore_case: true }),
    ]
}

fn asking() -> impl Strategy<Value = Condition> {
    let leaf = prop_oneof![
        4 => matcher().prop_map(Condition::Path),
        4 => matcher().prop_map(|matcher| Condition::Authenticated(Some(matcher))),
        // More headers than policies are filed by.
        4 => (0..12, matcher(), 0..8).prop_map(|(name, matcher, how)| Condition::Header(Box::new(HeaderMatcher {
            name: HeaderRef::parse(&format!("x-{name}")).unwrap(),
            check: HeaderCheck::Value(matcher),
            invert: how == 0,
            treat_missing_as_empty: how == 1,
        }))),
        1 => Just(Condition::Any),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(Condition::all),
            prop::collection::vec(inner.clone(), 1..4).prop_map(Condition::one_of),
            inner.prop_map(|one| Condition::Not(Box::new(one))),
        ]
    })
}

proptest! {
    #[test]
    fn the_index_leaves_out_nothing_that_matches(
        policies in prop::collection::vec((asking(), asking()), 0..12),
        path in text(), uri in text(), dns in prop::option::of(text()), subject in text(), tls in 0..4,
        values in prop::collection::vec((0..12, text()), 0..8),
    ) {
        let policies = policies.into_iter().enumerate().map(|(i, (permission, principal))| {
            Policy { name: format!("{i:02}").into(), permission, principal, condition: None }
        });
        let rules = Rules::new(Action::Allow, policies.collect());
        let peer = CertInfo { subject, uri_sans: vec![uri], dns_sans: dns.into_iter().collect(), ..CertInfo::default() };
        let peer = (tls > 1).then(|| Arc::new(peer));
        let stream = StreamInfo::new(connection((tls > 0).then(|| TlsInfo { peer, ..TlsInfo::default() })), None);
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            let name = HeaderName::from_bytes(format!("x-{name}").as_bytes()).unwrap();
            headers.append(name, value.parse().unwrap());
        }
        let head = HeadView { path: &path, ..HeadView::of(&headers) };
        let facts = Facts { conn: &stream.conn, stream: &stream, head, route: None };
        let first = rules.policies().iter().find(|policy| policy.matches(&facts)).map(|policy| &policy.name);
        prop_assert_eq!(rules.decide(&facts).policy, first);
        prop_assert_eq!(rules.nearest(&facts).is_none(), first.is_some() || rules.policies().is_empty());
    }
}

#[test]
fn the_nearest_policy_is_that_of_which_most_holds() {
    let policy = |name: &str, permission, principal| Policy {
        name: name.into(),
        permission,
        principal,
        condition: None,
    };
    let rules = Rules::new(
        Action::Allow,
        vec![
            policy("far", header("a"), Condition::SourceIp("10.0.0.0/8".parse().unwrap())),
            policy(
                "near",
                Condition::all(vec![header("b"), Condition::Path(StringMatcher::exact("/x"))]),
                Condition::Any,
            ),
        ],
    );
    let stream = StreamInfo::new(connection(None), None);
    let headers = headers(0b10);
    let head = HeadView { path: "/y", ..HeadView::of(&headers) };
    let facts = Facts { conn: &stream.conn, stream: &stream, head, route: None };
    assert!(!rules.decide(&facts).allowed);
    let nearest = rules.nearest(&facts).unwrap();
    assert_eq!((&**nearest.policy, &*nearest.failed), ("near", "permission: url_path exact \"/x\""));
}

#[test]
fn what_asks_for_nothing_of_a_request_is_told_from_what_does() {
    let (head, conn) = (|| header("a"), || Condition::SourceIp("10.0.0.0/8".parse().unwrap()));
    let path = Condition::Path(StringMatcher::exact("/"));
    for (condition, reads) in [
        (Condition::Any, false),
        (conn(), false),
        (path.clone(), true),
        (head(), true),
        (Condition::Not(Box::new(head())), true),
        (Condition::Not(Box::new(conn())), false),
        (Condition::All([Condition::Any, conn()].into()), false),
        (Condition::OneOf([conn(), Condition::All([conn(), path].into())].into()), true),
    ] {
        let policy =
            |permission, principal| Policy { name: "p".into(), permission, principal, condition: None };
        for policy in [policy(condition.clone(), conn()), policy(conn(), condition.clone())] {
            let engine = Engine::Rules(Rules::new(Action::Deny, vec![policy]));
            assert_eq!(engine.reads_head(), reads, "{condition:?}");
        }
    }
}
