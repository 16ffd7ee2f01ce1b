//! What the proxy adds to and takes from headers by itself.

use outrider_tests::reply::Reply;

use crate::driver::{Group, case, get};

const ROUTES: &str = r#"
route_config:
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - { match: { prefix: /none }, direct_response: { status: 200 } }
    - { match: { prefix: / }, route: { cluster: a } }
"#;

/// Forwarding headers under the options of the connection manager.
pub(crate) fn forwarding() -> Group {
    let listeners = [
        ("main", ""),
        ("edge", "use_remote_address: true"),
        ("hops", "use_remote_address: true\nxff_num_trusted_hops: 1"),
        ("hops2", "xff_num_trusted_hops: 2"),
        ("skip", "use_remote_address: true\nskip_xff_append: true"),
        ("v4", "use_remote_address: true\nrepresent_ipv4_remote_address_as_ipv4_mapped_ipv6: true"),
        ("via", "via: proxy-one"),
        ("noid", "generate_request_id: false"),
        ("keepid", "preserve_external_request_id: true\nuse_remote_address: true"),
        ("echoid", "always_set_request_id_in_response: true"),
        ("named", "server_name: our-server"),
        ("absent", "server_header_transformation: APPEND_IF_ABSENT"),
        ("pass", "server_header_transformation: PASS_THROUGH"),
        ("port", "append_x_forwarded_port: true\nuse_remote_address: true"),
        ("scheme", "scheme_header_transformation: { scheme_to_overwrite: https }"),
        (
            "edge_scheme",
            "scheme_header_transformation: { scheme_to_overwrite: https }\nuse_remote_address: true",
        ),
        (
            "internal",
            "use_remote_address: true\ninternal_address_config: { unix_sockets: false, cidr_ranges: [ { address_prefix: 10.0.0.0, prefix_len: 8 } ] }",
        ),
    ];
    let mut group = Group::new("forwarding").upstreams(&["a"]);
    for (name, options) in listeners {
        group = group.http(name, &format!("{options}\n{ROUTES}"));
    }
    let xff = |value: &str| get("/").h("x-forwarded-for", value);
    let server = || Reply::text("ok").header("server", "upstream-server");
    group.cases([
        case("plain", get("/")),
        case("plain over h2", get("/").h2()),
        case("two cookies", get("/").h("cookie", "a=1").h("cookie", "b=2")),
        case("two cookies over h2", get("/").h("cookie", "a=1").h("cookie", "b=2").h2()),
        case("edge scheme", get("/").to("edge_scheme")),
        case("edge scheme over h2", get("/").to("edge_scheme").h2()),
        case("xff untouched", xff("1.2.3.4")),
        case("xff of several", xff("1.2.3.4, 5.6.7.8")),
        case("xff private", xff("10.0.0.1")),
        case("proto kept", get("/").h("x-forwarded-proto", "https")),
        case("proto of nonsense", get("/").h("x-forwarded-proto", "gopher")),
        case("edge", get("/").to("edge")),
        case("edge with xff", xff("1.2.3.4").to("edge")),
        case("edge with two", xff("1.2.3.4,10.0.0.1").to("edge")),
        case("edge with proto", get("/").to("edge").h("x-forwarded-proto", "https")),
        case(
            "edge with envoy headers",
            get("/")
                .to("edge")
                .h("x-envoy-internal", "true")
                .h("x-envoy-external-address", "9.9.9.9")
                .h("x-envoy-original-path", "/o")
                .h("x-envoy-decorator-operation", "d")
                .h("x-envoy-force-trace", "t")
                .h("x-envoy-downstream-service-cluster", "c"),
        ),
        case(
            "envoy headers inside",
            get("/")
                .h("x-envoy-internal", "true")
                .h("x-envoy-external-address", "9.9.9.9")
                .h("x-envoy-expected-rq-timeout-ms", "3")
                .h("x-envoy-downstream-service-cluster", "c")
                .h("x-envoy-attempt-count", "7"),
        ),
        case("one trusted hop", xff("1.2.3.4, 5.6.7.8").to("hops")),
        case("one trusted hop, none given", get("/").to("hops")),
        case("one trusted hop, proto trusted", xff("1.2.3.4").h("x-forwarded-proto", "https").to("hops")),
        case("two trusted hops without remote address", xff("1.1.1.1, 2.2.2.2, 3.3.3.3").to("hops2")),
        case("too few hops", xff("1.1.1.1").to("hops2")),
        case("skip append", xff("1.2.3.4").to("skip")),
        case("skip append, none given", get("/").to("skip")),
        case("mapped", get("/").to("v4")),
        case("xff of nonsense", xff("not an address").to("edge")),
        case("via", get("/").to("via")),
        case("via appended", get("/").to("via").h("via", "1.1 other"))
            .reply(Reply::text("ok").header("via", "1.1 up")),
        case("request id kept", get("/").h("x-request-id", "mine")),
        case("request id generated", get("/").to("main")),
        case("request id not generated", get("/").to("noid")),
        case("request id of a stranger", xff("8.8.8.8").to("edge").h("x-request-id", "theirs")),
        case("request id of a stranger, kept", xff("8.8.8.8").to("keepid").h("x-request-id", "theirs")),
        case("request id in the response", get("/").to("echoid").h("x-request-id", "mine")),
        case("request id in a local response", get("/none").to("echoid")),
        case("server overwritten", get("/")).reply(server()),
        case("server named", get("/").to("named")).reply(server()),
        case("server if absent, there", get("/").to("absent")).reply(server()),
        case("server if absent, not there", get("/").to("absent")),
        case("server passed through", get("/").to("pass")).reply(server()),
        case("server passed through, none", get("/").to("pass")),
        case("server of a local reply", get("/none").to("pass")),
        case("forwarded port", get("/").to("port")),
        case("scheme overwritten", get("/").to("scheme")),
        case("internal by config", get("/").to("internal")),
        case("date of the upstream", get("/"))
            .reply(Reply::text("ok").header("date", "Mon, 01 Jan 2024 00:00:00 UTC")),
        case("service time of the upstream", get("/"))
            .reply(Reply::text("ok").header("x-envoy-upstream-service-time", "forged")),
        case("envoy headers of the upstream", get("/")).reply(
            Reply::text("ok")
                .header("x-envoy-overloaded", "true")
                .header("x-envoy-degraded", "true")
                .header("x-envoy-canary", "true")
                .header("x-envoy-immediate-health-check-fail", "true")
                .header("x-envoy-upstream-healthchecked-cluster", "c"),
        ),
        case("cookies", get("/").h("cookie", "a=1").h("cookie", "b=2")),
        case("two hosts' headers", get("/").h("x-dup", "1").h("x-dup", "2")).reply(
            Reply::text("ok")
                .header("set-cookie", "a")
                .header("set-cookie", "b")
                .header("x-dup", "1")
                .header("x-dup", "2"),
        ),
    ])
}

/// `add_user_agent`.
pub(crate) fn user_agent() -> Group {
    Group::new("user-agent")
        .upstreams(&["a"])
        .http("main", &format!("add_user_agent: true\n{ROUTES}"))
        .cases([case("added", get("/")), case("of the client", get("/").h("user-agent", "curl/8"))])
}
