//! What expressions come to. The tables are what Envoy 1.40 answers, measured by access-log filters `E` and `!(E)`.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use http::{HeaderMap, HeaderName, HeaderValue};
use proptest::prelude::*;

use super::ast::Literal;
use super::*;
use crate::metadata::MetadataValue;
use crate::stream::{Address, ConnInfo, Origin, Protocol};

const ALL: Extras = Extras { conversion: true, concat: true, functions: true };

fn regex(pattern: &str) -> Result<Regex, String> {
    Regex::new(pattern).map_err(|error| error.to_string())
}

fn compile(text: &str, extras: Extras) -> Result<Program, CelError> {
    Program::parse(text, &Options { place: Place::Log, extras, regex: &regex })
}

fn stream() -> StreamInfo {
    let ip = |text: &str| Address::Ip(text.parse().unwrap());
    let conn = Rc::new(ConnInfo {
        id: 7,
        remote: ip("127.0.0.1:1234"),
        direct_remote: ip("127.0.0.1:1234"),
        local: ip("[::1]:8080"),
        direct_local: ip("[::1]:8080"),
        local_restored: false,
        source: None,
        sni: None,
        tls: None,
        filter_chain: "fc".into(),
        origin: Arc::new(Origin::default()),
        handshake: None,
        accepted: Instant::now(),
        termination_details: Default::default(),
        reset: Default::default(),
        transport_failure: Default::default(),
    });
    let mut stream = StreamInfo::new(conn, Some(Protocol::Http11));
    stream.start_time = UNIX_EPOCH + Duration::from_millis(1_577_836_800_500);
    stream.duration = Some(Duration::from_millis(20));
    stream.response_code = Some(200);
    stream.details = "via_upstream".into();
    stream.bytes_sent = 2;
    stream.route_name = Some("rt".into());
    let map = MetadataValue::Map(BTreeMap::from([("k".into(), MetadataValue::Bool(true))]));
    let list = MetadataValue::List(vec![MetadataValue::Number(1.0), MetadataValue::Text("b".into())]);
    for (key, value) in [
        ("a", MetadataValue::Text("x".into())),
        ("n", MetadataValue::Number(3.0)),
        ("l", list),
        ("m", map),
        ("z", MetadataValue::Null),
    ] {
        stream.set_metadata(&"my.ns".into(), &key.into(), value);
    }
    stream
}

fn headers() -> HeaderMap {
    let all = [("x-a", "foo"), ("x-n", "42"), ("x-many", "one"), ("x-many", "two"), ("referer", "http://r/")];
    let mut headers = HeaderMap::new();
    for (name, value) in all {
        headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    headers
}

fn truth(program: &Program) -> Option<bool> {
    let (stream, headers) = (stream(), headers());
    let request = HeadView {
        method: "GET",
        authority: "test.host",
        path: "/a/b?q=1&r=2",
        scheme: "http",
        ..HeadView::of(&headers)
    };
    let response = HeadView { status: "200", ..HeadView::of(&headers) };
    program.truth(&View {
        stream: &stream,
        request: Some(request),
        response: Some(response),
        trailers: None,
        route: None,
    })
}

fn come_to(wanted: Option<bool>, texts: &[&str]) {
    for text in texts {
        let program = compile(text, Extras::default()).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(truth(&program), wanted, "{text}");
    }
}

#[test]
fn attributes_are_those_of_the_request() {
    come_to(
        Some(true),
        &[
            "request.path == '/a/b?q=1&r=2'",
            "request.url_path == '/a/b'",
            "request.query == 'q=1&r=2'",
            "request.headers['X-A'] == 'foo' && request.headers['x-many'] == 'one,two'",
            "request.headers[':path'] == request.path && request.headers.host == request.host",
            "'x-a' in request.headers && !('nope' in request.headers)",
            "has(request.referer) && !has(request.useragent) && !has(request.headers.nope)",
            "request['method'] in ['GET', 'POST']",
            "request.time.getFullYear() == 2020 && request.time.getMilliseconds() == 500",
            "request.duration < duration('1s') && request.size == 0",
            "request.protocol == 'HTTP/1.1' && request.scheme == 'http'",
            "response.code == 200u && response.code == 200.0 && response.code / 100 == 2",
            "response.code_details == 'via_upstream' && response.size == 2 && response.grpc_status == 2",
            "connection.mtls == false && connection.id == 7u && !has(connection.tls_version)",
            "connection.requested_server_name == '' && !has(connection.termination_details)",
            "source.address == '127.0.0.1:1234' && source.port == 1234",
            "destination.address == '[::1]:8080' && destination.port == 8080",
            "metadata.filter_metadata['my.ns'].n == 3 && metadata.filter_metadata['my.ns']['l'][1] == 'b'",
            "metadata.filter_metadata['my.ns'].m == {'k': true} && metadata.filter_metadata['my.ns'].z == null",
            "'b' in metadata.filter_metadata['my.ns'].l && !('zz' in metadata.filter_metadata)",
            "size(metadata.filter_metadata['my.ns']) == 5 && has(metadata.filter_metadata['my.ns'].a)",
            "xds.route_name == 'rt' && xds.filter_chain_name == 'fc' && has(xds.listener_metadata)",
            "size(filter_state) == 0 && !has(filter_state.x) && size(request.headers) == 9",
            "upstream.request_attempt_count == 0u && !has(upstream.address)",
        ],
    );
    come_to(
        None,
        &[
            "request.headers['nope'] == 'x'",
            "request.headers['nope'] == 'a' ? true : true",
            "metadata.filter_metadata['zz']['a'] == 'x'",
            "upstream.transport_failure_reason == ''",
            "filter_state['x'] == 'y'",
            "has(request.path.x)",
            "request.path",
            "response.trailers['a'] == 'b'",
        ],
    );
}

#[test]
fn an_error_beside_and_and_or_is_overruled_by_the_side_that_decides() {
    let error = "request.headers['nope'] == 'x'";
    for (text, wanted) in [
        (format!("{error} || true"), Some(true)),
        (format!("true || {error}"), Some(true)),
        (format!("{error} && false"), Some(false)),
        (format!("{error} || false"), None),
        (format!("true && {error}"), None),
        ("1 || true".to_owned(), Some(true)),
        ("1 || false".to_owned(), None),
        ("1 && true".to_owned(), None),
        ("!1".to_owned(), None),
        ("1 ? true : false".to_owned(), None),
        (format!("false ? {error} : true"), Some(true)),
        (format!("[{error}, true][1]"), None),
    ] {
        come_to(wanted, &[&text]);
    }
}

#[test]
fn values_compare_as_in_envoy() {
    come_to(
        Some(true),
        &[
            "1 == 1u && 1 == 1.0 && 1 < 2u && 1 < 1.5 && -1 < 0u && 1 in [1.0]",
            "1 != '1' && !(1 == null) && null == null && !([] == {})",
            "[1, 2] == [1.0, 2u] && {'a': 1} == {'a': 1u} && {'a': null} != {}",
            "{1: 2}[1u] == 2 && {1: 2}[1.0] == 2 && [1, 2][1.0] == 2 && {'a': 1}.a == 1",
            "'abc' < 'abd' && true > false && b'a' < b'b' && 0.0 / 0.0 != 0.0",
            "7 / 2 == 3 && -7 % 2 == -1 && 1u - 1u == 0u && 1.0 / 0.0 > 1.0 && -(3) == -3",
            "int(' 5') == 5 && int(-1.9) == -1 && uint('+5') == 5u && double('1e3') == 1000.0 && bool('true')",
            "type(1) == int && type(request.path) == string && type(metadata) != map && type(int) == type",
            "'\u{e9}'.size() == 1 && size(bytes('\u{e9}')) == 2 && size(b'abc') == 3",
            "request.path.matches('^/a/.*$') && request.path.matches('b') && matches('abc', 'b')",
            "'abc'.startsWith('a') && 'abc'.endsWith('c') && 'abc'.contains('') && startsWith('abc', 'a')",
            "9223372036854775807 == 9223372036854775807.0 && !(9223372036854775807 < 9223372036854775808.0)",
            "!!true && --1 == 1 && 1 - 1 - 1 == -1 && (1 < 2) == true",
        ],
    );
    come_to(
        None,
        &[
            "1 + 1u == 2u",
            "'a' + 'b' == 'ab'",
            "[1] + [2] == [1, 2]",
            "7 / 0 == 3",
            "5 % 0 == 1",
            "9223372036854775807 + 1 > 0",
            "-9223372036854775808 / -1 == 0",
            "0u - 1u == 0u",
            "int(1e20) == 1",
            "uint(-1) == 1u",
            "int(request.headers['x-a']) == 42",
            "[1, 2][5] == 1",
            "[1, 2][-1] == 1",
            "{'a': 1, 'a': 2}.a == 1",
            "{1.5: 2}[1.5] == 2",
            "null < null",
            "'a' < 1",
            "[1] < [2]",
            "'a' in 'abc'",
            "[1] in {'1': 2}",
            "'abc'.contains(1)",
            "size(1) == 1",
        ],
    );
}

#[test]
fn times_and_durations_are_counted_with() {
    come_to(
        Some(true),
        &[
            "timestamp('2020-01-01T00:00:00Z').getHours('+01:00') == 1",
            "timestamp('2020-01-01T00:00:00Z').getHours('-02:30') == 21",
            "timestamp('2020-01-01T00:00:00Z').getDayOfWeek() == 3",
            "timestamp('2020-01-01T00:00:00Z').getMonth() == 0 && timestamp(0).getDate() == 1",
            "timestamp(0) == timestamp('1970-01-01T00:00:00Z') && int(timestamp(5)) == 5",
            "timestamp('2020-01-01T00:00:00+01:00') == timestamp('2019-12-31T23:00:00Z')",
            "timestamp(10) - duration('1s') == timestamp(9) && duration('1s') + timestamp(0) == timestamp(1)",
            "timestamp(10) - timestamp(9) == duration('1s') && duration('1h') - duration('30m') == duration('30m')",
            "duration('1.5s').getMilliseconds() == 500 && duration('3700s').getMinutes() == 61",
            "duration('1h30m') == duration('90m') && duration('-1.5s').getSeconds() == -1",
            "timestamp('9999-12-31T23:59:59Z') + duration('1s') > timestamp(0)",
            "duration('1s') != 1",
        ],
    );
    come_to(
        None,
        &[
            "timestamp('2020-01-01') == timestamp(0)",
            "duration('1d') == duration('24h')",
            "duration('315576000001s') > duration('1s')",
            "duration('1s') < 1",
        ],
    );
}

#[test]
fn texts_are_made_where_it_is_allowed_and_within_bounds() {
    for text in [
        "'a' + 'b' == 'ab' && b'a' + b'b' == b'ab'",
        "string(42) == '42' && string(true) == 'true' && string(b'ab') == 'ab'",
        "'Ab\u{c4}'.lowerAscii() == 'ab\u{c4}' && 'ab'.upperAscii() == 'AB' && ' a '.trim() == 'a'",
        "'aXbX'.replace('X', '-') == 'a-b-' && 'aXbX'.replace('X', '-', 1) == 'a-bX'",
        "'ab'.replace('', '-') == '-a-b-'",
        "'a,b,c'.split(',') == ['a', 'b', 'c'] && 'a,b,c'.split(',', 2) == ['a', 'b,c']",
        "'abc'.split('') == ['a', 'b', 'c'] && 'a,b'.split(',', 0) == [] && 'a,b'.split(',', -1) == ['a', 'b']",
        "['a', 'b'].join(',') == 'a,b' && ['a', 'b'].join() == 'ab' && ''.split(',') == ['']",
        "'A,B'.lowerAscii().split(',') == ['a', 'b']",
    ] {
        assert_eq!(truth(&compile(text, ALL).unwrap()), Some(true), "{text}");
    }
    let long = "request.path".to_owned() + &".replace('', '0123456789abcdef')".repeat(20) + " != ''";
    assert_eq!(truth(&compile(&long, ALL).unwrap()), None, "it would be longer than all memory");
}

#[test]
fn what_is_not_there_is_refused_when_it_is_compiled() {
    for (text, why) in [
        ("foo.bar == 1", "\"foo\" is no attribute"),
        ("request.nope == 1", "request has no attribute \"nope\""),
        ("has(request.nope)", "request has no attribute"),
        ("request['nope'] == 1", "request has no attribute"),
        ("request == request", "request is no value by itself"),
        ("metadata.foo == 1", "metadata has no attribute \"foo\""),
        ("xds.node.id == 'a'", "xds.node is not supported"),
        ("[1].exists(x, x == 1)", "all, exists"),
        ("request.headers.all(x, true)", "all, exists"),
        ("unknown(1)", "there is no such function"),
        ("size(1, 2)", "another number of arguments"),
        ("'a'.int()", "call it as function(value)"),
        ("string(1) == '1'", "enable_string_conversion"),
        ("'a'.lowerAscii() == 'a'", "enable_string_functions"),
        ("'abc'.matches(request.path)", "must be a text"),
        ("'abc'.matches('a(')", "not a regular expression"),
        ("request.headers['a b'] == ''", "not a header name"),
        ("timestamp(0).getHours('Europe/Berlin') == 1", "write an offset"),
        ("1 +", "not an expression of CEL"),
        ("google.protobuf.Duration{seconds: 1} == duration('1s')", "messages"),
    ] {
        let error = compile(text, Extras::default()).map(|_| ()).unwrap_err().to_string();
        assert!(error.contains(why), "{text}: {error}");
    }
}

#[test]
fn what_is_too_large_or_too_deep_is_refused() {
    let refused = |text: &str| compile(text, Extras::default()).map(|_| ()).unwrap_err();
    assert_eq!(refused(&" ".repeat(LONGEST + 1)), CelError::TooLong(LONGEST + 1));
    assert_eq!(refused(&format!("1{}", "+1".repeat(4000))), CelError::TooDeep);
    assert_eq!(refused(&format!("[{}] == []", "1,".repeat(3000) + "1")), CelError::TooMany);
    for text in
        ["(".repeat(4000), "[".repeat(4000), "!".repeat(4000), "f(".repeat(200) + "1" + &")".repeat(200)]
    {
        refused(&text);
    }
}

#[test]
fn an_expression_says_what_it_reads() {
    let reads = |text: &str| compile(text, Extras::default()).unwrap().reads();
    assert_eq!(reads("connection.mtls && destination.port > 1"), Reads::default());
    let asked = Reads { per_request: true, ..Reads::default() };
    assert_eq!(reads("source.port > 1"), asked);
    assert_eq!(reads("request.path != ''"), Reads { request: true, ..asked });
    assert_eq!(reads("has(response.headers.a)"), Reads { response: true, ..asked });
    assert_eq!(reads("has(metadata.filter_metadata)"), Reads { dynamic: true, ..asked });
    assert_eq!(reads("has(xds.cluster_metadata)"), Reads { metadata: true, ..asked });
}

/// Expressions as parsers make them.
fn expr() -> impl Strategy<Value = Expr> {
    let leaf = prop_oneof![
        Just(Expr::Literal(Literal::Null)),
        any::<bool>().prop_map(|value| Expr::Literal(Literal::Bool(value))),
        (0..i64::MAX).prop_map(|value| Expr::Literal(Literal::Int(value))),
        any::<u64>().prop_map(|value| Expr::Literal(Literal::Uint(value))),
        (0.0..1e300).prop_map(|value| Expr::Literal(Literal::Double(value))),
        any::<String>().prop_map(|text| Expr::Literal(Literal::Text(text))),
        any::<Vec<u8>>().prop_map(|bytes| Expr::Literal(Literal::Bytes(bytes))),
        "[a-d]{1,3}".prop_map(Expr::Ident),
    ];
    leaf.prop_recursive(4, 24, 3, |inner| {
        let operators =
            ["_==_", "_!=_", "_<_", "_<=_", "_>_", "_>=_", "_+_", "_-_", "_*_", "_/_", "_%_", "@in"];
        let call =
            |function: &str, args: Vec<Expr>| Expr::Call { function: function.into(), target: None, args };
        let two = (inner.clone(), inner.clone());
        prop_oneof![
            (0..operators.len(), two.clone()).prop_map(move |(i, (a, b))| call(operators[i], vec![a, b])),
            two.clone().prop_map(move |(a, b)| call("_&&_", vec![a, b])),
            two.clone().prop_map(move |(a, b)| call("_[_]", vec![a, b])),
            (inner.clone(), two.clone()).prop_map(move |(a, (b, c))| call("_?_:_", vec![a, b, c])),
            prop::collection::vec(two, 0..3).prop_map(Expr::Map),
            prop::collection::vec(inner.clone(), 0..3).prop_map(Expr::List),
            prop::collection::vec(inner.clone(), 0..3).prop_map(move |args| call("f", args)),
            (inner.clone(), inner.clone()).prop_map(|(target, arg)| Expr::Call {
                function: "g".into(),
                target: Some(Box::new(target)),
                args: vec![arg],
            }),
            (inner, "[a-d]{1,3}", any::<bool>()).prop_map(|(operand, field, test)| Expr::Select {
                operand: Box::new(operand),
                field,
                test,
            }),
        ]
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn what_is_printed_parses_to_the_same(expr in expr()) {
        let text = expr.to_string();
        prop_assume!(text.len() <= LONGEST);
        prop_assert_eq!(parse(&text), Ok(expr), "{}", text);
    }

    #[test]
    fn whatever_is_compiled_can_be_evaluated(text in "[a-z0-9'.()\\[\\]{}<>=!&|?:+*/%, \\-\"]{0,60}") {
        if let Ok(program) = compile(&text, ALL) {
            truth(&program);
        }
    }

    #[test]
    fn every_expression_is_compiled_or_refused(expr in expr()) {
        if let Ok(program) = Program::compile(&expr, &Options { place: Place::Policy, extras: ALL, regex: &regex }) {
            truth(&program);
        }
    }
}
