//! Expressions of CEL: whatever the text is, it is refused or it comes to something.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use http::{HeaderMap, HeaderName, HeaderValue};
use outrider_core::cel::{Extras, Options, Place, Program, View};
use outrider_core::matcher::HeadView;
use outrider_core::stream::{Address, ConnInfo, Origin, Protocol, StreamInfo};
use regex::Regex;

/// What it begins with: each function and each operator once at least.
pub(crate) const SEEDS: [&str; 12] = [
    "request.path.startsWith('/a') && request.headers['x-a'] != 'foo' || has(request.headers.b)",
    "request.method in ['GET', \"POST\"] ? request.size > 5 : response.code / 100 == 2",
    "metadata.filter_metadata['a'].b == {'c': 1, 'd': [2.5, 3u, null, b'\\x00']}",
    "request.time + duration('1h30m') > timestamp('2020-01-01T00:00:00Z')",
    "timestamp(0).getHours('+01:00') + timestamp(0).getDayOfYear() % 7 - -3 * 2 <= 9",
    "request.path.matches('^/[a-z]+$') && !request.host.endsWith('.test')",
    "'a,b'.split(',', 2).join('-').replace('a', 'bb', 1).upperAscii().trim() == 'BB-B'",
    "string(1) + string(true) == '1true' && int('5') == 5 && uint(5) == 5u && double('1e3') > 1.0",
    "type(1) == int && dyn(size(b'ab')) == 2 && bool('true') && bytes('a') == b'a'",
    "source.address.contains('127') && destination.port == 80 && connection.mtls",
    "xds.route_name == '' || filter_state['x'] == 1 || 'a' in request.headers",
    "(((((((1 + 2) * 3) - 4) / 5) % 6) < 7) == true) != false",
];

/// What becomes of the expression `text`: what it came to, or why it was refused.
pub(crate) fn run(text: &str) -> String {
    let regex = |pattern: &str| Regex::new(pattern).map_err(|error| error.to_string());
    let extras = Extras { conversion: true, concat: true, functions: true };
    match Program::parse(text, &Options { place: Place::Log, extras, regex: &regex }) {
        Ok(program) => {
            let (stream, headers) = (stream(), headers());
            let head = HeadView { method: "GET", path: "/a/b?q=1", ..HeadView::of(&headers) };
            let view = View {
                stream: &stream,
                request: Some(head),
                response: Some(HeadView::of(&headers)),
                trailers: None,
                route: None,
            };
            format!("{:?} {:?}", program.truth(&view), program.reads())
        }
        Err(error) => error.to_string(),
    }
}

fn headers() -> HeaderMap {
    HeaderMap::from_iter([
        (HeaderName::from_static("x-a"), HeaderValue::from_static("foo")),
        (HeaderName::from_static("content-length"), HeaderValue::from_static("5")),
    ])
}

fn stream() -> StreamInfo {
    let pipe = || Address::Pipe(Arc::from("@a"));
    let conn = ConnInfo {
        id: 1,
        remote: pipe(),
        direct_remote: pipe(),
        local: pipe(),
        direct_local: pipe(),
        local_restored: false,
        source: None,
        sni: None,
        tls: None,
        filter_chain: Arc::from(""),
        origin: Arc::new(Origin::default()),
        handshake: None,
        accepted: Instant::now(),
        termination_details: Default::default(),
        reset: Default::default(),
        transport_failure: Default::default(),
    };
    StreamInfo::new(Rc::new(conn), Some(Protocol::Http11))
}
