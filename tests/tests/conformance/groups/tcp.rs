//! `tcp_proxy`, listener filters and filter chain match.

use outrider_tests::{
    bootstrap::{hcm_filter, indent, tcp_filter},
    upstream::TcpScript,
};

use crate::driver::{Group, case, get, talk};

/// Bare TCP.
pub(crate) fn tcp() -> Group {
    let big = "0123456789".repeat(30_000);
    Group::new("tcp")
        .tcp_upstream("echo", TcpScript::Echo)
        .tcp_upstream("greet", TcpScript::Greet("welcome\n".into()))
        .tcp_upstream("say", TcpScript::Say("good-bye".into()))
        .tcp_upstream("after", TcpScript::AfterEof("all read".into()))
        .upstream("closed", None, None)
        .with(|b| {
            b.hosts("dead", &["closed"], "")
                .hosts("empty", &[], "")
                .hosts("zero", &["echo"], "circuit_breakers: { thresholds: [ { max_connections: 0 } ] }\n")
                .tcp("main", "cluster: echo")
                .tcp("greet_l", "cluster: greet")
                .tcp("say_l", "cluster: say")
                .tcp("after_l", "cluster: after")
                .tcp("dead_l", "cluster: dead")
                .tcp("dead3", "cluster: dead\nmax_connect_attempts: 3")
                .tcp("empty_l", "cluster: empty")
                .tcp("missing", "cluster: nowhere")
                .tcp("zero_l", "cluster: zero")
                .tcp("idle", "cluster: echo\nidle_timeout: 0.15s")
                .tcp("short", "cluster: echo\nmax_downstream_connection_duration: 0.15s")
                .tcp("weighted", "weighted_clusters: { clusters: [ { name: echo, weight: 1 } ] }")
        })
        .cases([
            case("echo", talk("main").send("hello").read("hello").finish().drain()).logs(1).stats(&[
                "tcp.main.downstream_cx_total",
                "tcp.main.downstream_cx_rx_bytes_total",
                "tcp.main.downstream_cx_tx_bytes_total",
                "cluster.echo.upstream_cx_total",
                "cluster.echo.upstream_cx_rx_bytes_total",
            ]),
            case("bulk", talk("main").send(&big).finish().drain()).logs(1),
            case("server first", talk("greet_l").read("welcome\n").send("hi").read("hi").finish().drain())
                .logs(1),
            case("server closes", talk("say_l").drain()).logs(1),
            case("half close", talk("after_l").send("data").finish().drain()).logs(1),
            case("refused", talk("dead_l").drain()).logs(1).stats(&[
                "cluster.dead.upstream_cx_connect_fail",
                "cluster.dead.upstream_cx_total",
                "cluster.dead.upstream_cx_connect_attempts_exceeded",
            ]),
            case("refused three times", talk("dead3").drain()).logs(1).stats(&[
                "cluster.dead.upstream_cx_connect_fail",
                "cluster.dead.upstream_cx_connect_attempts_exceeded",
            ]),
            case("no hosts", talk("empty_l").drain())
                .logs(1)
                .stats(&["cluster.empty.upstream_cx_none_healthy"]),
            case("no cluster", talk("missing").drain())
                .logs(1)
                .stats(&["tcp.missing.downstream_cx_no_route"]),
            case("overflow", talk("zero_l").drain()).logs(1).stats(&["cluster.zero.upstream_cx_overflow"]),
            case("idle", talk("idle").send("x").read("x").drain()).logs(1).stats(&["tcp.idle.idle_timeout"]),
            case("limited duration", talk("short").send("x").read("x").drain())
                .logs(1)
                .stats(&["tcp.short.max_downstream_connection_duration"]),
            case("weighted", talk("weighted").send("hello").read("hello").finish().drain()).logs(1),
            case("client leaves at once", talk("main").finish().drain()).logs(1),
        ])
}

const ROUTES: &str = r#"
route_config:
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - { match: { prefix: / }, route: { cluster: a }, request_headers_to_add: [ { header: { key: x-remote, value: "%DOWNSTREAM_REMOTE_ADDRESS% %DOWNSTREAM_LOCAL_ADDRESS%" } } ] }
"#;

const PROXY_PROTOCOL: &str = "listener_filters:\n- name: envoy.filters.listener.proxy_protocol\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol\n";

/// The PROXY protocol.
pub(crate) fn proxy_protocol() -> Group {
    let chain = |name: &str| format!("filter_chains:\n- filters:\n{}", indent(2, &hcm_filter(name, ROUTES)));
    let edge = format!("use_remote_address: true\n{ROUTES}");
    let v2 = |command: u8, family: u8, addresses: &[u8]| {
        let mut bytes = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
        bytes.extend([0x20 | command, family]);
        bytes.extend(u16::try_from(addresses.len()).unwrap_or(0).to_be_bytes());
        bytes.extend_from_slice(addresses);
        bytes
    };
    let v4 = [1, 2, 3, 4, 10, 0, 0, 1, 0x04, 0xd2, 0x00, 0x50];
    let with_tlv = [&v4[..], &[0x02, 0, 4, b't', b'e', b's', b't']].concat();
    let mut v6 = [0; 36];
    v6[15] = 1;
    v6[31] = 2;
    v6[33] = 99;
    v6[35] = 80;
    let proxied = |prefix: &[u8]| get("/x").prefix(prefix);
    let refused = |name: &str, prefix: &[u8]| {
        case(name, talk("main").prefix(prefix).send("GET /x HTTP/1.1\r\nhost: h\r\n\r\n").drain())
            .ignore("date")
    };
    Group::new("proxy-protocol")
        .upstreams(&["a"])
        .with(|b| {
            b.listener("main", &format!("{PROXY_PROTOCOL}{}", chain("main")))
                .listener(
                    "edge",
                    &format!(
                        "{PROXY_PROTOCOL}filter_chains:\n- filters:\n{}",
                        indent(2, &hcm_filter("edge", &edge))
                    ),
                )
                .listener(
                    "allow",
                    &format!(
                        "{PROXY_PROTOCOL}    allow_requests_without_proxy_protocol: true\n{}",
                        chain("allow")
                    ),
                )
                .listener(
                    "onlyv2",
                    &format!("{PROXY_PROTOCOL}    disallowed_versions: [ V1 ]\n{}", chain("onlyv2")),
                )
        })
        .cases([
            case("v1", proxied(b"PROXY TCP4 1.2.3.4 10.0.0.1 1234 80\r\n")),
            case("v1 at the edge", proxied(b"PROXY TCP4 1.2.3.4 10.0.0.1 1234 80\r\n").to("edge")),
            case("v1 IPv6", proxied(b"PROXY TCP6 1:2:3::4 5::6 1234 80\r\n")),
            case("v1 unknown", proxied(b"PROXY UNKNOWN\r\n")),
            case("v1 unknown with words", proxied(b"PROXY UNKNOWN a b c d\r\n")),
            case("v2", proxied(&v2(1, 0x11, &v4))),
            case("v2 at the edge", proxied(&v2(1, 0x11, &v4)).to("edge")),
            case("v2 with extensions", proxied(&v2(1, 0x11, &with_tlv))),
            case("v2 IPv6", proxied(&v2(1, 0x21, &v6))),
            case("v2 local", proxied(&v2(0, 0x00, &[]))),
            case("v2 local with addresses", proxied(&v2(0, 0x11, &v4))),
            case("none, allowed", get("/x").to("allow")),
            case("v1, allowed", proxied(b"PROXY TCP4 1.2.3.4 10.0.0.1 1234 80\r\n").to("allow")),
            case("v2 where v1 is not allowed", proxied(&v2(1, 0x11, &v4)).to("onlyv2")),
            refused("none", b""),
            refused("v1 cut", b"PROXY TCP4 1.2.3.4\r\n"),
            refused("v1 bad address", b"PROXY TCP4 1.2.3.400 10.0.0.1 1234 80\r\n"),
            refused("v1 bad port", b"PROXY TCP4 1.2.3.4 10.0.0.1 123456 80\r\n"),
            refused("v1 bad family", b"PROXY UDP4 1.2.3.4 10.0.0.1 1234 80\r\n"),
            refused("v1 too long", "PROXY TCP4 ".repeat(20).as_bytes()),
            refused("v2 bad version", b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0"),
            refused("v2 short addresses", &v2(1, 0x11, &v4[..6])),
        ])
}

/// Which filter chain a connection takes.
pub(crate) fn chains() -> Group {
    let chain = |name: &str, m: &str| {
        format!(
            "- filter_chain_match: {{ {m} }}\n  name: {name}\n  filters:\n{}",
            indent(2, &tcp_filter(name, &format!("cluster: {name}")))
        )
    };
    let mut group = Group::new("chains");
    for name in ["first", "second", "third", "fourth"] {
        group = group.tcp_upstream(name, TcpScript::Say(name.to_owned()));
    }
    let listener = |name: &'static str, chains: &[(&str, &str)], default: bool| {
        let mut body = String::from("filter_chains:\n");
        for (cluster, m) in chains {
            body.push_str(&chain(cluster, m));
        }
        if default {
            body.push_str(&format!(
                "default_filter_chain:\n  filters:\n{}",
                indent(2, &tcp_filter("default", "cluster: fourth"))
            ));
        }
        (name, format!("stat_prefix: {name}\n{body}"))
    };
    let listeners = [
        listener(
            "main",
            &[
                ("first", "source_prefix_ranges: [ { address_prefix: 127.0.0.0, prefix_len: 8 } ]"),
                ("second", "source_prefix_ranges: [ { address_prefix: 127.0.0.1, prefix_len: 32 } ]"),
                ("third", ""),
            ],
            false,
        ),
        listener(
            "srctype",
            &[("first", "source_type: EXTERNAL"), ("second", "source_type: SAME_IP_OR_LOOPBACK")],
            true,
        ),
        listener(
            "dst",
            &[
                ("first", "prefix_ranges: [ { address_prefix: 10.0.0.0, prefix_len: 8 } ]"),
                ("second", "prefix_ranges: [ { address_prefix: 127.0.0.1, prefix_len: 32 } ]"),
            ],
            true,
        ),
        listener(
            "none",
            &[("first", "source_prefix_ranges: [ { address_prefix: 10.0.0.0, prefix_len: 8 } ]")],
            false,
        ),
        listener(
            "default_l",
            &[("first", "source_prefix_ranges: [ { address_prefix: 10.0.0.0, prefix_len: 8 } ]")],
            true,
        ),
        listener(
            "raw",
            &[("first", "transport_protocol: tls"), ("second", "transport_protocol: raw_buffer")],
            false,
        ),
        listener("sni", &[("first", "server_names: [ a.test ]"), ("second", "")], false),
        listener(
            "tls_closes",
            &[("first", "transport_protocol: tls"), ("second", "transport_protocol: raw_buffer")],
            false,
        ),
        listener(
            "tls_goes_on",
            &[("first", "transport_protocol: tls"), ("second", "transport_protocol: raw_buffer")],
            false,
        ),
        listener("dstport", &[("first", "destination_port: 1"), ("second", "")], false),
        listener(
            "backtrack",
            &[
                (
                    "first",
                    "prefix_ranges: [ { address_prefix: 127.0.0.1, prefix_len: 32 } ], source_type: EXTERNAL",
                ),
                ("second", "prefix_ranges: [ { address_prefix: 127.0.0.0, prefix_len: 8 } ]"),
            ],
            true,
        ),
        listener(
            "alpn",
            &[
                ("first", "application_protocols: [ h2c ]"),
                ("second", "application_protocols: [ http/1.1 ]"),
                ("third", ""),
            ],
            false,
        ),
    ];
    for (name, body) in &listeners {
        let inspect = "listener_filters:\n- name: envoy.filters.listener.http_inspector\n  typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector }\nlistener_filters_timeout: 0.2s\ncontinue_on_listener_filters_timeout: true\n";
        let tls = "listener_filters:\n- name: envoy.filters.listener.tls_inspector\n  typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector }\nlistener_filters_timeout: 0.2s\n";
        let body = match *name {
            "alpn" => format!("{inspect}{body}"),
            "tls_closes" => format!("{tls}{body}"),
            "tls_goes_on" => format!("{tls}continue_on_listener_filters_timeout: true\n{body}"),
            _ => body.clone(),
        };
        group = group.with(|b| b.listener(name, &body));
    }
    let to = |name: &str| case(name, talk(name).drain());
    group.cases([
        to("main").logs(1),
        to("srctype").logs(1),
        to("dst").logs(1),
        to("none"),
        to("default_l").logs(1),
        to("raw").logs(1),
        to("sni").logs(1),
        to("tls_closes").stats(&["tls_inspector.*", "listener.tls_closes.downstream_pre_cx_timeout"]),
        to("tls_goes_on").logs(1),
        case("raw after the inspector", talk("tls_closes").send("hello, no TLS here").read("d"))
            .logs(1)
            .ignore("in=")
            .stats(&["tls_inspector.tls_not_found"]),
        to("dstport").logs(1),
        to("backtrack").logs(1),
        case("http inspector, h1", talk("alpn").send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").read("d"))
            .logs(1)
            .ignore("in="),
        case("http inspector, h2", talk("alpn").send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").read("t"))
            .logs(1)
            .ignore("in="),
        case(
            "http inspector, else",
            talk("alpn").send("\u{1}\u{2}\u{3} nothing known here\r\n\r\n").read("d"),
        )
        .logs(1)
        .ignore("in="),
        case("http inspector, silence", talk("alpn").read("d")).logs(1),
    ])
}
