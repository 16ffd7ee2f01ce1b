//! HTTP/1 to the letter, by raw bytes.

use outrider_tests::reply::{Finish, Reply};

use crate::driver::{Case, Group, case, get, post, raw, req, talk};

const ROUTES: &str = r#"
route_config:
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - { match: { prefix: /direct }, direct_response: { status: 200, body: { inline_string: "direct" } } }
    - { match: { connect_matcher: {} }, direct_response: { status: 200 } }
    - { match: { prefix: / }, route: { cluster: a } }
"#;

/// A group with listeners of several strictnesses.
fn group(name: &'static str) -> Group {
    let mut group = Group::new(name).upstreams(&["a"]);
    for (name, options) in [
        ("main", ""),
        ("h10", "http_protocol_options: { accept_http_10: true, default_host_for_http_10: default.host }"),
        ("trailers", "http_protocol_options: { enable_trailers: true }"),
        ("chunkedlen", "http_protocol_options: { allow_chunked_length: true }"),
        ("rejectunder", "common_http_protocol_options: { headers_with_underscores_action: REJECT_REQUEST }"),
        ("dropunder", "common_http_protocol_options: { headers_with_underscores_action: DROP_HEADER }"),
        ("small", "max_request_headers_kb: 1\ncommon_http_protocol_options: { max_headers_count: 10 }"),
        ("proper", "http_protocol_options: { header_key_format: { proper_case_words: {} } }"),
        ("normalize", "normalize_path: true"),
        ("merge", "merge_slashes: true"),
        (
            "both",
            "normalize_path: true\nmerge_slashes: true\npath_with_escaped_slashes_action: UNESCAPE_AND_FORWARD",
        ),
        ("reject", "path_with_escaped_slashes_action: REJECT_REQUEST"),
        ("redirect", "path_with_escaped_slashes_action: UNESCAPE_AND_REDIRECT"),
        ("continue", "proxy_100_continue: true"),
        ("stream_error", "stream_error_on_invalid_http_message: true"),
        ("onereq", "common_http_protocol_options: { max_requests_per_connection: 1 }"),
    ] {
        group = group.http(name, &format!("{options}\n{ROUTES}"));
    }
    group
}

/// A GET of `/` with these further header lines.
fn lines(name: &str, lines: &str) -> Case {
    case(name, raw(&format!("GET /x HTTP/1.1\r\nhost: h\r\n{lines}\r\n")))
}

/// Requests as such.
pub(crate) fn pedantry() -> Group {
    let big = "x".repeat(2000);
    let huge = "x".repeat(70_000);
    let many: String = (0..12).map(|i| format!("x-{i}: 1\r\n")).collect();
    let many_more: String = (0..120).map(|i| format!("x-{i}: 1\r\n")).collect();
    let get_to = |listener: &str, bytes: &str| talk(listener).send(bytes).responses(1);
    group("pedantry").cases([
        case("plain", raw("GET /x HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("http/1.0 refused", raw("GET /x HTTP/1.0\r\nhost: h\r\n\r\n")),
        case("http/1.0", get_to("h10", "GET /x HTTP/1.0\r\nhost: h\r\n\r\n")),
        case("http/1.0 without host", get_to("h10", "GET /x HTTP/1.0\r\n\r\n")),
        case("http/1.0 keep-alive", get_to("h10", "GET /x HTTP/1.0\r\nhost: h\r\nconnection: keep-alive\r\n\r\n")),
        case("http/1.0 gets no chunks", get_to("h10", "GET /x HTTP/1.0\r\nhost: h\r\n\r\n")).reply(Reply::text("abc").chunked()),
        case("http/1.1 on the 1.0 listener", get_to("h10", "GET /x HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("http/0.9", raw("GET /x\r\n\r\n")),
        case("http/1.2", raw("GET /x HTTP/1.2\r\nhost: h\r\n\r\n")),
        case("http/2.0 as text", raw("GET /x HTTP/2.0\r\nhost: h\r\n\r\n")),
        case("no host", raw("GET /x HTTP/1.1\r\n\r\n")),
        case("empty host", raw("GET /x HTTP/1.1\r\nhost:\r\n\r\n")),
        case("two hosts", raw("GET /x HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n")),
        case("bad host", raw("GET /x HTTP/1.1\r\nhost: a b\r\n\r\n")),
        case("two lengths, equal", raw("POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\ncontent-length: 2\r\n\r\nab")),
        case("two lengths", raw("POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\nabc")),
        case("length list", raw("POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 2, 2\r\n\r\nab")),
        case("bad length", raw("POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 2x\r\n\r\nab")),
        case("negative length", raw("POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: -2\r\n\r\nab")),
        case("plus length", raw("POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: +2\r\n\r\nab")),
        case("length and chunks", raw("POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n")),
        case("length and chunks, allowed", get_to("chunkedlen", "POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 4\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n")),
        case("unknown coding", raw("POST /x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: gzip\r\n\r\nab")),
        case("gzip then chunked", raw("POST /x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: gzip, chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n")),
        case("identity coding", raw("POST /x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: identity\r\ncontent-length: 2\r\n\r\nab")),
        case("capital Chunked", raw("POST /x HTTP/1.1\r\nhost: h\r\nTransfer-Encoding: Chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n")),
        case("bad chunk size", raw("POST /x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\nzz\r\nab\r\n0\r\n\r\n")).ignore("upstream"),
        case("chunk without its end", raw("POST /x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n")).ignore("upstream"),
        case("chunk extension", raw("POST /x HTTP/1.1\r\nhost: h\r\ntransfer-encoding: chunked\r\n\r\n2;a=b\r\nab\r\n0\r\n\r\n")),
        case("many small chunks", post("/x", "a").piece("b").piece("c").chunked()).reply(Reply::echo()),
        case("chunked answer", get("/x")).reply(Reply::text("one").body("two").chunked()),
        case("chunks both ways", post("/x", "up").chunked()).reply(Reply::text("down").chunked()),
        case("trailers dropped", post("/x", "b").trailer("x-t", "1")).reply(Reply::text("b").trailer("x-u", "2")),
        case("trailers", post("/x", "b").trailer("x-t", "1").to("trailers")).reply(Reply::text("b").trailer("x-u", "2")),
        case("trailers announced", post("/x", "b").trailer("x-t", "1").to("trailers").h("trailer", "x-t").h("te", "trailers")).reply(Reply::text("b").trailer("x-u", "2")),
        case("absolute form", raw("GET http://other.host/abs?q HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("absolute form, https", raw("GET https://other.host/abs HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("absolute form without path", raw("GET http://other.host HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("absolute form with port", raw("GET http://other.host:81/p HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("absolute form with user", raw("GET http://u:p@other.host/p HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("absolute form, other scheme", raw("GET ftp://other.host/p HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("options star", raw("OPTIONS * HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("get star", raw("GET * HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("connect", raw("CONNECT h:80 HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("connect without port", raw("CONNECT h HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("path without slash", raw("GET x HTTP/1.1\r\nhost: h\r\n\r\n")),
        lines("capital names", "X-Upper-Case: Yes\r\nACCEPT: */*\r\n"),
        case("proper case", get_to("proper", "GET /x HTTP/1.1\r\nhost: h\r\nx-lower-case: yes\r\n\r\n")),
        lines("nominated by connection", "connection: x-hop, keep-alive\r\nx-hop: 1\r\nx-stay: 1\r\n"),
        lines("nominated close and other", "connection: close, x-hop\r\nx-hop: 1\r\n"),
        lines("nominates host", "connection: host\r\n"),
        lines("nominates xff", "connection: x-forwarded-for\r\nx-forwarded-for: 1.2.3.4\r\n"),
        lines("te trailers", "te: trailers\r\nconnection: te\r\n"),
        lines("te trailers alone", "te: trailers\r\n"),
        lines("te gzip", "te: gzip\r\n"),
        lines("te several", "te: gzip, trailers;q=0.5\r\n"),
        lines("keep-alive header", "keep-alive: timeout=5\r\nconnection: keep-alive\r\n"),
        lines("proxy-connection", "proxy-connection: keep-alive\r\n"),
        lines("proxy-connection close", "proxy-connection: close\r\n"),
        lines("proxy-authorization", "proxy-authorization: basic x\r\nproxy-authenticate: y\r\n"),
        lines("upgrade without option", "connection: upgrade\r\nupgrade: websocket\r\n"),
        lines("h2c upgrade", "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n"),
        lines("no space after colon", "x-a:b\r\n"),
        lines("spaces around value", "x-a:   b \t \r\n"),
        lines("empty value", "x-a:\r\n"),
        lines("space before colon", "x-a : b\r\n"),
        lines("no colon", "x-a\r\n"),
        lines("empty name", ": b\r\n"),
        lines("space in name", "x a: b\r\n"),
        lines("folded", "x-a: b\r\n c\r\n"),
        lines("high bytes in value", "x-a: \u{e9}\r\n"),
        lines("NUL in value", "x-a: b\0c\r\n"),
        lines("control in value", "x-a: b\u{1}c\r\n"),
        lines("tab in value", "x-a: b\tc\r\n"),
        lines("bad character in name", "x(a): b\r\n"),
        lines("underscore allowed", "x_a: b\r\n"),
        case("underscore rejected", get_to("rejectunder", "GET /x HTTP/1.1\r\nhost: h\r\nx_a: b\r\n\r\n")),
        case("underscore dropped", get_to("dropunder", "GET /x HTTP/1.1\r\nhost: h\r\nx_a: b\r\n\r\n")).stats(&["http1.*"]),
        case("underscores counted", get_to("rejectunder", "GET /x HTTP/1.1\r\nhost: h\r\nx_a: b\r\n\r\n")).stats(&["http1.*"]),
        case("underscore dropped over h2", get("/x").to("dropunder").h2().h("x_a", "b")).stats(&["http2.dropped*"]),
        case("underscore rejected over h2, counted", get("/x").to("rejectunder").h2().h("x_a", "b")).stats(&["http2.requests*", "http2.tx_reset"]),
        case("bare LF", raw("GET /x HTTP/1.1\nhost: h\n\n")),
        case("leading blank lines", raw("\r\n\r\nGET /x HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("bad method", raw("G@T /x HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("unknown method", raw("BREW /x HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("method in small letters", raw("get /x HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("no path", raw("GET  HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("two spaces", raw("GET  /x HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("space in path", raw("GET /a b HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("high bytes in path", raw("GET /\u{e9} HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("quotes in path", raw("GET /\"<>\\^`{|} HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("garbage", raw("\u{16}\u{3}\u{1} what is this\r\n\r\n")),
        case("header too large", get_to("small", &format!("GET /x HTTP/1.1\r\nhost: h\r\nx-a: {big}\r\n\r\n"))),
        case("header too large over h2", get("/x").to("small").h2().h("x-a", &big)),
        case("header too large by default", get_to("main", &format!("GET /x HTTP/1.1\r\nhost: h\r\nx-a: {huge}\r\n\r\n"))),
        case("path too large", get_to("small", &format!("GET /{big} HTTP/1.1\r\nhost: h\r\n\r\n"))),
        case("too many headers", get_to("small", &format!("GET /x HTTP/1.1\r\nhost: h\r\n{many}\r\n"))),
        case("too many headers over h2", get("/x").to("small").h2().h("a", "1").h("b", "1").h("c", "1").h("d", "1").h("e", "1").h("f", "1").h("g", "1").h("x", "1").h("y", "1").h("z", "1")),
        case("too many headers by default", get_to("main", &format!("GET /x HTTP/1.1\r\nhost: h\r\n{many_more}\r\n"))),
        case("largish header passes", get("/x").h("x-a", &big)),
        case("expect", raw("POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\nab")),
        case("expect, proxied", get_to("continue", "POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\nab")),
        case("expect something else", raw("POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\nexpect: tea\r\n\r\nab")),
        case("expect over h2", post("/x", "ab").h2().h("expect", "100-continue")),
        case("early hints", get("/x")).reply(Reply::text("x").informational(103)),
        case("102 processing", get("/x")).reply(Reply::text("x").informational(102)),
        case("100 unasked", get("/x")).reply(Reply::text("x").informational(100)),
        case("pipelined", talk("main").send("GET /1 HTTP/1.1\r\nhost: h\r\n\r\nGET /2 HTTP/1.1\r\nhost: h\r\n\r\n").responses(2)),
        case("pipelined after a body", talk("main").send("POST /1 HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nabGET /2 HTTP/1.1\r\nhost: h\r\n\r\n").responses(2)),
        case("pipelined garbage", talk("main").send("GET /1 HTTP/1.1\r\nhost: h\r\n\r\nrubbish\r\n\r\n").responses(2)),
        case("pipelined to a local answer", talk("main").send("POST /direct HTTP/1.1\r\nhost: h\r\ncontent-length: 2\r\n\r\nabGET /2 HTTP/1.1\r\nhost: h\r\n\r\n").responses(2)),
        case("local answer before the body", talk("main").send("POST /direct HTTP/1.1\r\nhost: h\r\ncontent-length: 20\r\n\r\nab").responses(1)),
        case("close after", raw("GET /x HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n")),
        case("one request per connection", get_to("onereq", "GET /x HTTP/1.1\r\nhost: h\r\n\r\n")),
        case("stream errors", get_to("stream_error", "GET /x HTTP/1.1\r\nhost: h\r\ncontent-length: x\r\n\r\n")),
        case("body cut", talk("main").send("POST /x HTTP/1.1\r\nhost: h\r\ncontent-length: 5\r\n\r\nab").finish().drain()).logs(1),
        case("head cut", talk("main").send("GET /x HTTP/1.1\r\nhost").finish().drain()),
        case(
            "half-closed in the answer",
            talk("main").send("GET /x HTTP/1.1\r\nhost: h\r\n\r\n").read("0123").finish().drain(),
        )
        .reply(Reply::text("0123456789").finish(Finish::Stall(4)))
        .logs(1)
        .ignore("client read"),
        case("get with a body", req("GET", "/x").piece("body")),
        case("delete with a body", req("DELETE", "/x").piece("body")),
        case("post without a body", req("POST", "/x")),
        case("put with length 0", req("PUT", "/x").piece("")),
    ])
}

/// Answers as such.
pub(crate) fn answers() -> Group {
    let get_to = |listener: &str, path: &str| {
        case(
            &format!("{listener} {path}"),
            talk(listener).send(format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n")).responses(1),
        )
    };
    let mut group = group("answers").cases([
        case("head with length", req("HEAD", "/x")).reply(Reply::status(200).header("content-length", "10")),
        case("head with chunks", req("HEAD", "/x")).reply(Reply::status(200).chunked()),
        case("head over h2", req("HEAD", "/x").h2()).reply(Reply::status(200).header("content-length", "10")),
        case("204", get("/x")).reply(Reply::status(204)),
        case("204 with a length", get("/x")).reply(Reply::status(204).header("content-length", "0")),
        case("204 with a body", get("/x"))
            .reply(Reply::raw("HTTP/1.1 204 No Content\r\ncontent-length: 2\r\n\r\nab")),
        case("304", get("/x")).reply(Reply::status(304).header("etag", "\"x\"")),
        case("304 with a length", get("/x")).reply(Reply::status(304).header("content-length", "10")),
        case("205", get("/x")).reply(Reply::status(205)),
        case("101 unasked", get("/x"))
            .reply(Reply::raw("HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n")),
        case("status 600", get("/x")).reply(Reply::raw("HTTP/1.1 600 Beyond\r\ncontent-length: 0\r\n\r\n")),
        case("status 999", get("/x")).reply(Reply::raw("HTTP/1.1 999 Beyond\r\ncontent-length: 0\r\n\r\n")),
        case("own reason", get("/x"))
            .reply(Reply::raw("HTTP/1.1 200 Fine by me\r\ncontent-length: 0\r\n\r\n")),
        case("no reason", get("/x")).reply(Reply::raw("HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n")),
        case("capital names", get("/x")).reply(Reply::text("x").header("X-Upper", "1")),
        case("capital names, proper", get("/x").to("proper"))
            .reply(Reply::text("x").header("x-upper-case", "1")),
        case("nominated by connection", get("/x"))
            .reply(Reply::text("x").header("connection", "x-hop").header("x-hop", "1")),
        case("keep-alive header", get("/x"))
            .reply(Reply::text("x").header("keep-alive", "timeout=5").header("proxy-connection", "x")),
        case("upstream closes", get("/x")).reply(Reply::text("x").header("connection", "close")),
        case("upgrade header in an answer", get("/x"))
            .reply(Reply::text("x").header("upgrade", "h2c").header("connection", "upgrade")),
        case("redirect passes", get("/x")).reply(Reply::status(302).header("location", "/y")),
        case("large body", get("/x")).reply(Reply::text(&"0123456789".repeat(20_000))),
        case("large body over h2", get("/x").h2()).reply(Reply::text(&"0123456789".repeat(20_000))),
        case("large upload", post("/x", &"0123456789".repeat(20_000))),
        case("large echo over h2", post("/x", &"0123456789".repeat(20_000)).h2()).reply(Reply::echo()),
    ]);
    for (listener, path) in [
        ("main", "/a/../b"),
        ("normalize", "/a/../b"),
        ("normalize", "/a/./b//c"),
        ("normalize", "/a/%2e%2e/b"),
        ("normalize", "/%41%2f%7e"),
        ("normalize", "/../../x"),
        ("normalize", "/a\\b"),
        ("normalize", "/a/../b?x=/../y"),
        ("normalize", "/a%00b"),
        ("merge", "//a///b?c//d"),
        ("both", "/a%2fb//..%5Cc"),
        ("reject", "/a%2Fb"),
        ("reject", "/a?%2F"),
        ("redirect", "/a%2Fb?c"),
        ("main", "/a#b?c"),
        ("normalize", "/a#b?c"),
        ("main", "/?"),
        ("main", "/%zz"),
        ("normalize", "/%zz"),
    ] {
        group = group.cases([get_to(listener, path)]);
    }
    group
}

/// `allow_absolute_url`.
pub(crate) fn absolute() -> Group {
    Group::new("absolute-url")
        .upstreams(&["a"])
        .http("main", &format!("http_protocol_options: {{ allow_absolute_url: false }}\n{ROUTES}"))
        .cases([case("disallowed", raw("GET http://other.host/p HTTP/1.1\r\nhost: h\r\n\r\n"))])
}
