//! HTTP/2 on either side.

use outrider_tests::{
    client::frames,
    reply::{Finish, Reply},
};

use crate::driver::{Case, Group, Talk, case, case::H2_CLUSTER, get, post, req, talk};

const ROUTES: &str = r#"
route_config:
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - { match: { prefix: /direct }, direct_response: { status: 200, body: { inline_string: "direct" } } }
    - { match: { prefix: /h2 }, route: { cluster: h2 } }
    - { match: { prefix: /same }, route: { cluster: same } }
    - { match: { prefix: / }, route: { cluster: a } }
"#;

const SAME: &str = "typed_extension_protocol_options:\n  \
     envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \
     \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    \
     use_downstream_protocol_config: { http2_protocol_options: {} }\n";

fn hand(fields: &[(&str, &str)]) -> Talk {
    let mut bytes = frames::preface();
    bytes.extend(frames::headers(1, true, fields));
    talk("main").send(bytes).frames(1)
}

fn with(name: &str, more: &[(&str, &str)]) -> Case {
    let mut fields = vec![(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/direct")];
    fields.extend_from_slice(more);
    case(name, hand(&fields))
}

/// Requests through HTTP/2.
pub(crate) fn h2() -> Group {
    let text = || Reply::text("ok");
    let bad_frame = |name: &str, bytes: Vec<u8>| {
        let mut all = frames::preface();
        all.extend(bytes);
        case(name, talk("main").send(all).frames(1))
    };
    Group::new("h2")
        .upstreams(&["a"])
        .with(|b| b.hosts("h2", &["a"], H2_CLUSTER).hosts("same", &["a"], SAME))
        .http("main", ROUTES)
        .http("only1", &format!("codec_type: HTTP1\n{ROUTES}"))
        .http("only2", &format!("codec_type: HTTP2\n{ROUTES}"))
        .http("connectproto", &format!("http2_protocol_options: {{ allow_connect: true }}\n{ROUTES}"))
        .http(
            "streamerr",
            &format!(
                "http2_protocol_options: {{ override_stream_error_on_invalid_http_message: true }}\n{ROUTES}"
            ),
        )
        .cases([
            case("h2 to h1", get("/x").h2()),
            case("h2 to h1 with a body", post("/x", "body").h2()).reply(Reply::echo()),
            case("h2 to h1 with a length", post("/x", "body").h2().h("content-length", "4"))
                .reply(Reply::echo()),
            case("h1 to h2", get("/h2/x")),
            case("h1 to h2 with a body", post("/h2/x", "body")).reply(Reply::echo()).ignore("service-time"),
            case("h1 chunked to h2", post("/h2/x", "body").chunked())
                .reply(Reply::echo())
                .ignore("service-time"),
            case("h2 to h2", get("/h2/x?q").h2()),
            case("h2 to h2 with a body", post("/h2/x", "one").piece("two").h2())
                .reply(Reply::echo())
                .ignore("service-time"),
            case("same protocol, h1", get("/same")),
            case("same protocol, h2", get("/same").h2()),
            case("trailers h2 to h2", post("/h2/x", "b").trailer("x-t", "1").h2())
                .reply(text().trailer("x-u", "2")),
            case("trailers h2 to h1", post("/x", "b").trailer("x-t", "1").h2())
                .reply(text().trailer("x-u", "2")),
            case("trailers h1 to h2", post("/h2/x", "b").trailer("x-t", "1"))
                .reply(text().trailer("x-u", "2")),
            case("trailers without a body", req("POST", "/h2/x").trailer("x-t", "1").h2())
                .reply(Reply::status(200).trailer("x-u", "2")),
            case("cookies joined for h1", get("/x").h2().h("cookie", "a=1").h("cookie", "b=2")),
            case("cookies to h2", get("/h2/x").h2().h("cookie", "a=1").h("cookie", "b=2")),
            case("cookies h1 to h2", get("/h2/x").h("cookie", "a=1; b=2")),
            case("set-cookie", get("/h2/x").h2())
                .reply(text().header("set-cookie", "a").header("set-cookie", "b")),
            case("te", get("/h2/x").h2().h("te", "trailers")),
            case("te of h1 to h2", get("/h2/x").h("te", "trailers").h("connection", "te")),
            case(
                "hop headers h1 to h2",
                get("/h2/x")
                    .h("connection", "x-hop, keep-alive")
                    .h("x-hop", "1")
                    .h("keep-alive", "5")
                    .h("proxy-connection", "k"),
            ),
            case("hop headers of the answer", get("/x").h2())
                .reply(text().header("keep-alive", "5").header("connection", "keep-alive")),
            case("hop headers of a closing answer", get("/x").h2())
                .reply(text().header("connection", "close")),
            case("capitals h1 to h2", get("/h2/x").h("X-Upper", "1")),
            case("host header beside authority", get("/x").h2().h("host", "other")),
            case("interim", get("/h2/x").h2()).reply(text().informational(103)),
            case("interim to h1", get("/h2/x")).reply(text().informational(103)),
            case("204", get("/h2/x")).reply(Reply::status(204).head_only()),
            case("204 to h2", get("/h2/x").h2()).reply(Reply::status(204).head_only()),
            case("head", req("HEAD", "/h2/x"))
                .reply(Reply::status(200).header("content-length", "10").head_only()),
            case("head-only answer", get("/h2/x")).reply(Reply::status(200).head_only()),
            case("head-only answer with a length", get("/h2/x"))
                .reply(Reply::status(200).header("content-length", "0").head_only()),
            case("answer with a length", get("/h2/x")).reply(text().header("content-length", "2")),
            case("answer shorter than its length", get("/h2/x").h2())
                .reply(text().header("content-length", "5")),
            case("early answer", post("/h2/x", "body").h2()).reply(text().early()).ignore("service-time"),
            case("reset by the upstream", get("/h2/x").h2())
                .reply(Reply::status(0).finish(Finish::ResetFirst)),
            case("two on a connection", vec![get("/x").h2(), get("/h2/y").h2()]),
            case("options star", req("OPTIONS", "*").h2()),
            case("h1 to the h2-only listener", get("/x").to("only2")),
            // What the client library makes of an HTTP/1 answer depends on how its bytes arrive.
            case("h2 to the h1-only listener", get("/x").to("only1").h2()).ignore("client "),
            case("h2-only listener", get("/x").to("only2").h2()),
            with("by hand", &[]),
            case("no method", hand(&[(":scheme", "http"), (":authority", "h"), (":path", "/direct")])),
            case("no path", hand(&[(":method", "GET"), (":scheme", "http"), (":authority", "h")])),
            case("no scheme", hand(&[(":method", "GET"), (":authority", "h"), (":path", "/direct")])),
            case("no authority", hand(&[(":method", "GET"), (":scheme", "http"), (":path", "/direct")])),
            case(
                "no authority but host",
                hand(&[(":method", "GET"), (":scheme", "http"), (":path", "/direct"), ("host", "h")]),
            ),
            case(
                "empty path",
                hand(&[(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "")]),
            ),
            case(
                "path without slash",
                hand(&[(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "direct")]),
            ),
            case(
                "path in absolute form",
                hand(&[
                    (":method", "GET"),
                    (":scheme", "http"),
                    (":authority", "h"),
                    (":path", "http://h/direct"),
                ]),
            ),
            case(
                "scheme of nonsense",
                hand(&[(":method", "GET"), (":scheme", "gopher"), (":authority", "h"), (":path", "/direct")]),
            ),
            case(
                "scheme https on plaintext",
                hand(&[(":method", "GET"), (":scheme", "https"), (":authority", "h"), (":path", "/direct")]),
            ),
            case(
                "bad authority",
                hand(&[(":method", "GET"), (":scheme", "http"), (":authority", "h h"), (":path", "/direct")]),
            ),
            case(
                "lower-case method",
                hand(&[(":method", "get"), (":scheme", "http"), (":authority", "h"), (":path", "/direct")]),
            ),
            case("connect without protocol", hand(&[(":method", "CONNECT"), (":authority", "h:80")])),
            with("unknown pseudo-header", &[(":other", "x")]),
            with("method twice", &[(":method", "GET")]),
            with("pseudo-header late", &[("x", "1"), (":path", "/x")]),
            with("status in a request", &[(":status", "200")]),
            with("protocol without connect", &[(":protocol", "websocket")]),
            with("capital in a name", &[("X-Upper", "1")]),
            with("space in a name", &[("x a", "1")]),
            with("empty name", &[("", "1")]),
            with("newline in a value", &[("x-a", "1\r\nx-b: 2")]),
            with("NUL in a value", &[("x-a", "1\0")]),
            with("connection header", &[("connection", "keep-alive")]),
            with("connection close header", &[("connection", "close")]),
            with("keep-alive header", &[("keep-alive", "5")]),
            with("proxy-connection header", &[("proxy-connection", "close")]),
            with("transfer-encoding header", &[("transfer-encoding", "chunked")]),
            with("upgrade header", &[("upgrade", "websocket")]),
            with("te gzip", &[("te", "gzip")]),
            with("te trailers", &[("te", "trailers")]),
            with("host differs", &[("host", "other")]),
            with("length without a body", &[("content-length", "5")]),
            with("two lengths", &[("content-length", "0"), ("content-length", "0")]),
            with("length of nonsense", &[("content-length", "x")]),
            with("underscore", &[("x_a", "1")]),
            bad_frame("data on stream 0", frames::frame(0, 0, 0, b"x")),
            bad_frame("data on an idle stream", frames::frame(0, 0, 5, b"x")),
            bad_frame("headers on an even stream", frames::headers(2, true, &[(":method", "GET")])),
            bad_frame("headers on stream 0", frames::headers(0, true, &[(":method", "GET")])),
            bad_frame("rst on an idle stream", frames::frame(3, 0, 9, &[0, 0, 0, 0])),
            bad_frame("settings with a bad length", frames::frame(4, 0, 0, b"abc")),
            bad_frame("ping with a bad length", frames::frame(6, 0, 0, b"abc")),
            bad_frame("window update of 0", frames::frame(8, 0, 0, &[0, 0, 0, 0])),
            bad_frame("push promise", frames::frame(5, 4, 1, &[0, 0, 0, 2])),
            bad_frame("continuation alone", frames::frame(9, 4, 1, &[0])),
            bad_frame("bad HPACK", frames::frame(1, 5, 1, &[0xff, 0xff, 0xff, 0xff])),
            case(
                "no settings",
                talk("main")
                    .send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
                    .send(frames::headers(
                        1,
                        true,
                        &[(":method", "GET"), (":scheme", "http"), (":authority", "h"), (":path", "/direct")],
                    ))
                    .frames(1),
            ),
            case("broken preface", talk("main").send("PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n").drain())
                .ignore("client read"),
        ])
}
