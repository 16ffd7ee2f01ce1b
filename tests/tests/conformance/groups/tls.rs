//! TLS on either side.

use outrider_tests::{
    bootstrap::{hcm_filter, indent, tcp_filter},
    reply::Reply,
    upstream::{Speaks, TcpScript},
};

use crate::driver::{Group, Tls, case, case::Act, get, talk};

const ROUTES: &str = r#"
route_config:
  virtual_hosts:
  - name: all
    domains: ["*"]
    routes:
    - { match: { prefix: /direct }, direct_response: { status: 200, body: { inline_string: "direct" } } }
    - { match: { prefix: /https }, redirect: { https_redirect: true } }
    - { match: { prefix: / }, route: { cluster: a } }
"#;

/// Adds a TLS listener: an HTTP chain with a common TLS context and further fields of the downstream context.
fn listener(group: Group, name: &str, common: &str, more: &str) -> Group {
    let chain = format!(
        "filter_chains:\n- transport_socket:\n{}  filters:\n{}",
        indent(4, &socket(common, more)),
        indent(2, &hcm_filter(name, ROUTES))
    );
    group.with(|b| b.listener(name, &format!("stat_prefix: {name}\n{INSPECT}{chain}")))
}

const INSPECT: &str = "listener_filters:\n- name: envoy.filters.listener.tls_inspector\n  typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector }\n";

fn socket(common: &str, more: &str) -> String {
    format!(
        "name: envoy.transport_sockets.tls\ntyped_config:\n  \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n{}  common_tls_context:\n{}",
        indent(2, more),
        indent(4, common)
    )
}

fn cert(name: &str) -> String {
    format!(
        "tls_certificates: [ {{ certificate_chain: {{ filename: \"@{{certs}}/{name}.pem\" }}, private_key: {{ filename: \"@{{certs}}/{name}.key\" }} }} ]\n"
    )
}

const CA: &str = "trusted_ca: { filename: \"@{certs}/ca.pem\" }";

fn san(kind: &str, matcher: &str) -> String {
    format!(
        "{}validation_context: {{ {CA}, match_typed_subject_alt_names: [ {{ san_type: {kind}, matcher: {{ {matcher} }} }} ] }}\n",
        cert("server")
    )
}

/// The side of the clients.
pub(crate) fn downstream() -> Group {
    let mut group = Group::new("tls").upstreams(&["a"]);
    let three = "tls_certificates:\n- { certificate_chain: { filename: \"@{certs}/server.pem\" }, private_key: { filename: \"@{certs}/server.key\" } }\n- { certificate_chain: { filename: \"@{certs}/alt.pem\" }, private_key: { filename: \"@{certs}/alt.key\" } }\n- { certificate_chain: { filename: \"@{certs}/wild.pem\" }, private_key: { filename: \"@{certs}/wild.key\" } }\n";
    let mutual = format!("{}validation_context: {{ {CA} }}\n", cert("server"));
    let crl = format!(
        "{}validation_context: {{ {CA}, crl: {{ filename: \"@{{certs}}/crl.pem\" }} }}\n",
        cert("server")
    );
    let require = "require_client_certificate: true\n";
    for (name, common, more) in [
        ("main", cert("server"), ""),
        ("sni", three.to_owned(), ""),
        ("alpn", format!("{}alpn_protocols: [ h2, http/1.1 ]\n", cert("server")), ""),
        ("alpn1", format!("{}alpn_protocols: [ http/1.1 ]\n", cert("server")), ""),
        ("mutual", mutual.clone(), require),
        ("optional", mutual, ""),
        ("crl", crl, require),
        ("sanuri", san("URI", "exact: spiffe://test/client"), require),
        ("sanprefix", san("URI", "prefix: \"spiffe://test/\""), require),
        ("sandns", san("DNS", "suffix: .test"), require),
        ("sanmail", san("EMAIL", "exact: client@test"), require),
        ("sanregex", san("URI", "safe_regex: { regex: \"spiffe://[a-z]+/client\" }"), require),
        ("sanother", san("URI", "exact: spiffe://test/other"), require),
        ("v12", format!("{}tls_params: {{ tls_maximum_protocol_version: TLSv1_2 }}\n", cert("server")), ""),
        ("v13", format!("{}tls_params: {{ tls_minimum_protocol_version: TLSv1_3 }}\n", cert("server")), ""),
        ("strictsni", cert("alt"), "full_scan_certs_on_sni_mismatch: false\n"),
        ("xfcc", format!("{}validation_context: {{ {CA} }}\n", cert("server")), require),
    ] {
        group = listener(group, name, &common, more);
    }
    let tls = || Tls::to("server.test");
    let to = |listener: &str, tls: Tls| get("/x").to(listener).tls(tls);
    group.cases([
        case("plain tls", to("main", tls())),
        case("forwarded proto is https", to("main", tls())),
        case("redirect when https already", get("/https").tls(tls())),
        case("counted", to("main", tls())).stats(&["listener.main.ssl.*"]).ignore("ocsp_staple"),
        // The client names suites of 1.3 too, by which a server takes it to speak that.
        case("counted TLS 1.2", to("main", Tls { tls12: true, ..tls() }))
            .ignore("ciphers")
            .stats(&["listener.main.ssl.*"])
            .ignore("ocsp_staple"),
        case("counted mutual", to("mutual", tls().cert("client")))
            .stats(&["listener.mutual.ssl.*"])
            .ignore("ocsp_staple"),
        case("counted without a certificate", to("mutual", tls()))
            .stats(&["listener.mutual.ssl.*"])
            .ignore("ocsp_staple"),
        case("counted stranger", to("mutual", tls().cert("stranger")))
            .stats(&["listener.mutual.ssl.*"])
            .ignore("ocsp_staple"),
        case(
            "ends of certificates",
            Act::Admin("GET", "/stats?filter=certificate.*expiration", &["ssl.certificate"]),
        ),
        case("TLS 1.2", to("main", Tls { tls12: true, ..tls() })),
        case("no TLS to a TLS listener", talk("main").send("GET / HTTP/1.1\r\nhost: h\r\n\r\n").drain())
            .ignore("client read"),
        case("sni picks the first", to("sni", tls())),
        case("sni picks the second", to("sni", Tls::to("alt.test"))),
        case("sni picks the wildcard", to("sni", Tls::to("x.wild.test"))),
        case("sni unknown", to("sni", Tls { no_sni: true, ..tls() })),
        case("sni with capitals", to("sni", Tls::to("ALT.test"))),
        case("h2 by ALPN", to("alpn", tls().alpn(&["h2"])).h2()),
        case("h1 by ALPN", to("alpn", tls().alpn(&["http/1.1"]))),
        case("server's ALPN order wins", to("alpn", tls().alpn(&["http/1.1", "h2"])).h2()),
        case("no ALPN offered", to("alpn", tls())),
        case("h2 by prior knowledge on TLS", to("alpn", tls()).h2()),
        case("no ALPN in common", to("alpn1", tls().alpn(&["h2"]))),
        case("no ALPN configured", to("main", tls().alpn(&["h2", "http/1.1"]))),
        case("mutual", to("mutual", tls().cert("client"))),
        case("mutual without a certificate", to("mutual", tls())),
        case("mutual, expired", to("mutual", tls().cert("expired"))),
        case("mutual, stranger", to("mutual", tls().cert("stranger"))),
        case("mutual over TLS 1.2", to("mutual", Tls { tls12: true, ..tls() }.cert("client"))),
        case("mutual over TLS 1.2 without", to("mutual", Tls { tls12: true, ..tls() })),
        case("optional, given", to("optional", tls().cert("client"))),
        case("optional, not given", to("optional", tls())),
        case("optional, stranger", to("optional", tls().cert("stranger"))),
        case("crl, good", to("crl", tls().cert("client"))),
        case("crl, revoked", to("crl", tls().cert("revoked"))),
        case("san uri", to("sanuri", tls().cert("client"))),
        case("san prefix", to("sanprefix", tls().cert("client"))),
        case("san prefix, other names", to("sanprefix", tls().cert("server"))),
        case("san dns", to("sandns", tls().cert("client"))),
        case("san mail", to("sanmail", tls().cert("client"))),
        case("san regex", to("sanregex", tls().cert("client"))),
        case("san regex is whole", to("sanregex", tls().cert("upstream"))),
        case("san mismatch", to("sanother", tls().cert("client"))),
        case("san without a certificate", to("sanother", tls())),
        case("only 1.2", to("v12", tls())),
        case("only 1.3", to("v13", tls())),
        case("only 1.3, asked for 1.2", to("v13", Tls { tls12: true, ..tls() })),
        case("stats", to("mutual", tls().cert("client")))
            .stats(&["listener.127.0.0.1_*"])
            .ignore("stat listener"),
        case(
            "certificate of a client is not forwarded",
            to("xfcc", tls().cert("client")).h("x-forwarded-client-cert", "Hash=forged"),
        ),
    ])
}

/// The side of the upstreams.
pub(crate) fn upstream() -> Group {
    let cluster = |sni: &str, common: &str| {
        format!(
            "transport_socket:\n  name: envoy.transport_sockets.tls\n  typed_config:\n    \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n{}    common_tls_context:\n{}",
            indent(4, sni),
            indent(6, common)
        )
    };
    let options = |inner: &str| {
        format!(
            "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n{}",
            indent(4, inner)
        )
    };
    let check = format!("validation_context: {{ {CA} }}");
    let san = |kind: &str, m: &str| {
        format!(
            "validation_context: {{ {CA}, match_typed_subject_alt_names: [ {{ san_type: {kind}, matcher: {{ {m} }} }} ] }}"
        )
    };
    let sni = "sni: upstream.test";
    let auto = "explicit_http_config: { http_protocol_options: {} }\nupstream_http_protocol_options: { auto_sni: true, auto_san_validation: true }";
    let header = "explicit_http_config: { http_protocol_options: {} }\nupstream_http_protocol_options: { auto_sni: true, override_auto_sni_header: x-sni }";
    let clusters = [
        ("plain", "tls", cluster(sni, "{}")),
        ("checked", "tls", cluster(sni, &check)),
        ("nosni", "tls", cluster("", &check)),
        (
            "otherca",
            "tls",
            cluster(sni, "validation_context: { trusted_ca: { filename: \"@{certs}/other-ca.pem\" } }"),
        ),
        ("sanok", "tls", cluster(sni, &san("URI", "exact: spiffe://test/upstream"))),
        ("sandns", "tls", cluster(sni, &san("DNS", "exact: upstream.test"))),
        ("sanip", "tls", cluster(sni, &san("IP_ADDRESS", "exact: 127.0.0.1"))),
        ("sanmail", "tls", cluster(sni, &san("EMAIL", "suffix: \"@test\""))),
        ("sanbad", "tls", cluster(sni, &san("URI", "exact: spiffe://test/other"))),
        ("mutual", "mtls", cluster(sni, &format!("{check}\n{}", cert("client")))),
        ("nocert", "mtls", cluster(sni, &check)),
        ("stranger", "mtls", cluster(sni, &format!("{check}\n{}", cert("stranger")))),
        ("autosni", "tls", format!("{}{}", cluster("", &check), options(auto))),
        ("headersni", "tls", format!("{}{}", cluster("", &check), options(header))),
        ("alpnh2", "tls", format!("{}{}", cluster(sni, &check), options("auto_config: {}"))),
        ("alpnh1", "tls1", format!("{}{}", cluster(sni, &check), options("auto_config: {}"))),
        (
            "explicit2",
            "tls",
            format!(
                "{}{}",
                cluster(sni, &check),
                options("explicit_http_config: { http2_protocol_options: {} }")
            ),
        ),
        ("ownalpn", "tls", cluster(sni, &format!("{check}\nalpn_protocols: [ special, http/1.1 ]"))),
        (
            "v12",
            "tls",
            cluster(sni, &format!("{check}\ntls_params: {{ tls_maximum_protocol_version: TLSv1_2 }}")),
        ),
        ("expiredserver", "old", cluster(sni, &check)),
        ("totext", "text", cluster(sni, &check)),
        ("refused", "closed", cluster(sni, &check)),
    ];
    let names: Vec<&str> = clusters.iter().map(|(name, _, _)| *name).collect();
    let routes: String = names
        .iter()
        .map(|name| format!("  - {{ match: {{ path: /{name} }}, route: {{ cluster: {name} }} }}\n"))
        .collect();
    let mut group = Group::new("upstream-tls")
        .upstream("tls", Some(Speaks::Http), Some(("upstream", &["h2", "http/1.1", "special"], false)))
        .upstream("tls1", Some(Speaks::Http), Some(("upstream", &["http/1.1"], false)))
        .upstream("mtls", Some(Speaks::Http), Some(("upstream", &["http/1.1"], true)))
        .upstream("old", Some(Speaks::Http), Some(("expired", &[], false)))
        .upstream("text", Some(Speaks::Tcp(TcpScript::Say("plain words\r\n".into()))), None)
        .upstream("closed", None, None)
        .routes(&format!("virtual_hosts:\n- name: all\n  domains: [\"*\"]\n  routes:\n{routes}"));
    for (name, host, body) in &clusters {
        group = group.with(|b| b.hosts(name, &[host], body));
    }
    let mut cases: Vec<_> = names
        .iter()
        .map(|name| {
            let host = if name.contains("autosni") { "upstream.test" } else { "test.host" };
            let stat = |s: &str| format!("cluster.{name}.{s}");
            let stats =
                ["ssl.handshake", "ssl.fail_verify_san", "ssl.fail_verify_error", "upstream_cx_connect_fail"]
                    .map(stat);
            let stats: Vec<&str> = stats.iter().map(String::as_str).collect();
            case(name, get(&format!("/{name}")).host(host)).stats(&stats).ignore("upstream[0] text body")
        })
        .collect();
    cases.extend([
        case("auto sni, other host", get("/autosni").host("wrong.test")),
        case("auto sni, port dropped", get("/autosni").host("upstream.test:443")),
        case("sni by header", get("/headersni").h("x-sni", "from.header")),
        case("tls decided by the cluster alone", get("/totext").h("x-forwarded-proto", "http"))
            .ignore("text body"),
        case("scheme does not matter", get("/checked").h("x-forwarded-proto", "http").h2()),
        case("body through both", crate::driver::post("/explicit2", "body"))
            .reply(Reply::echo())
            .ignore("service-time"),
    ]);
    group.cases(cases)
}

/// TLS below `tcp_proxy`, and without termination.
pub(crate) fn passthrough() -> Group {
    let chains = format!(
        "{INSPECT}filter_chains:\n- filter_chain_match: {{ server_names: [ server.test ] }}\n  transport_socket:\n{}  filters:\n{}- filter_chain_match: {{ server_names: [ \"*.wild.test\" ] }}\n  filters:\n{}- filter_chain_match: {{ transport_protocol: raw_buffer }}\n  filters:\n{}",
        indent(4, &socket(&cert("server"), "")),
        indent(2, &tcp_filter("terminated", "cluster: echo")),
        indent(2, &tcp_filter("passed", "cluster: wild")),
        indent(2, &tcp_filter("bare", "cluster: echo")),
    );
    Group::new("tls-tcp")
        .tcp_upstream("echo", TcpScript::Echo)
        .upstream("wild", Some(Speaks::Tcp(TcpScript::Echo)), Some(("wild", &[], false)))
        .with(|b| b.hosts("wild", &["wild"], "").listener("main", &chains))
        .cases([
            case(
                "terminated",
                talk("main").tls(Tls::to("server.test")).send("hello").read("hello").finish().drain(),
            )
            .logs(1),
            case(
                "passed through",
                talk("main").tls(Tls::to("a.wild.test")).send("hello").read("hello").finish().drain(),
            )
            .logs(1)
            .ignore("in="),
            case("no TLS", talk("main").send("hello").read("hello").finish().drain()).logs(1),
            case("other name", talk("main").tls(Tls::to("other.test")).send("hello").drain()),
        ])
}
