//! Listeners and upstreams that are not IPv4: Unix sockets by path and by abstract name, and IPv6; and copies of
//! requests that go elsewhere.

use outrider_tests::{
    bootstrap::{hcm_filter, indent, tcp_filter},
    reply::{Finish, Reply},
    upstream::TcpScript,
};

use crate::driver::{Group, case, case::H2_CLUSTER, get, post, req, talk};

const PIPE: &str = "{ pipe: { path: \"@{dir}/l.sock\" } }";
const H2_PIPE: &str = "{ pipe: { path: \"@{dir}/h2.sock\", mode: 432 } }";
const ABSTRACT: &str = "{ pipe: { path: \"@outrider-@{inner}\" } }";
const V6: &str = "{ socket_address: { address: \"::1\", port_value: @{inner} } }";

fn cluster(name: &str, address: &str, more: &str) -> String {
    format!(
        "connect_timeout: 2s\ntype: STATIC\nload_assignment:\n  cluster_name: {name}\n  endpoints:\n  - lb_endpoints:\n    - endpoint: {{ address: {address} }}\n{more}"
    )
}

fn listener(name: &str, address: &str, filter: &str) -> String {
    format!("- name: {name}\n  address: {address}\n  filter_chains:\n  - filters:\n{}", indent(4, filter))
}

/// A listener on each kind of address, each reached through the proxy itself.
pub(crate) fn places() -> Group {
    let routes = |to: &str| {
        format!(
            "route_config: {{ virtual_hosts: [ {{ name: all, domains: [\"*\"], routes: [ {{ match: {{ prefix: / }}, route: {{ cluster: {to} }} }} ] }} ] }}\n"
        )
    };
    let inner = |name: &str, address: &str| {
        let hcm = format!("use_remote_address: true\nappend_x_forwarded_port: true\n{}", routes("a"));
        listener(name, address, &hcm_filter(name, &hcm))
    };
    let log = outrider_tests::bootstrap::access_log(
        "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %RESPONSE_CODE% %RESPONSE_FLAGS% host=%UPSTREAM_HOST% remote=%UPSTREAM_REMOTE_ADDRESS% \
         bare=%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% port=%UPSTREAM_REMOTE_PORT% failure=%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    );
    let kinds =
        [("unix", PIPE, ""), ("unix_h2", H2_PIPE, H2_CLUSTER), ("abstract", ABSTRACT, ""), ("v6", V6, "")];
    let mut group = Group::new("places")
        .upstreams(&["a"])
        .tcp_upstream("echo", TcpScript::Echo)
        .upstream("inner", None, None)
        .upstream("tcp_inner", None, None);
    for (name, address, more) in kinds {
        group = group
            .with(|b| {
                b.raw_listener(&inner(&format!("in_{name}"), address))
                    .cluster(name, &cluster(name, address, more))
            })
            .http(&format!("to_{name}"), &format!("{}{log}", routes(name)));
    }
    let tcp_pipe = "{ pipe: { path: \"@{dir}/t.sock\" } }";
    let tcp_v6 = "{ socket_address: { address: \"::1\", port_value: @{tcp_inner} } }";
    for (name, address) in [("tcp_unix", tcp_pipe), ("tcp_v6", tcp_v6)] {
        group = group.with(|b| {
            b.raw_listener(&listener(&format!("in_{name}"), address, &tcp_filter(name, "cluster: echo")))
                .cluster(name, &cluster(name, address, ""))
                .tcp(&format!("to_{name}"), &format!("cluster: {name}"))
        });
    }
    group = group
        .with(|b| b.cluster("nobody", &cluster("nobody", "{ pipe: { path: \"@{dir}/none.sock\" } }", "")))
        .http("to_nobody", &format!("{}{log}", routes("nobody")));
    for (name, ..) in kinds {
        let to = format!("to_{name}");
        group = group.cases([
            case(&format!("{name} get"), get("/x").to(&to)),
            case(&format!("{name} post"), post("/x", "body").to(&to)).reply(Reply::echo()),
            case(&format!("{name} xff"), get("/x").h("x-forwarded-for", "1.2.3.4").to(&to)),
            case(&format!("{name} cut"), get("/x").to(&to))
                .reply(Reply::text("0123456789").finish(Finish::Close(3))),
        ]);
    }
    group.cases([
        case("nobody there", get("/x").to("to_nobody")),
        case("tcp over a unix socket", talk("to_tcp_unix").send("ping").read("ping").finish().drain())
            .logs(1),
        case("tcp over ipv6", talk("to_tcp_v6").send("ping").read("ping").finish().drain()).logs(1),
    ])
}

/// Mirrors.
pub(crate) fn mirrors() -> Group {
    let to = |cluster: &str, more: &str| format!("{{ cluster: {cluster}{more} }}");
    let all = ", runtime_fraction: { default_value: { numerator: 100 } }";
    let none = ", runtime_fraction: { default_value: { numerator: 0 } }";
    let routes = [
        ("/one", to("b", "")),
        ("/all", to("b", all)),
        ("/none", to("b", none)),
        ("/two", format!("{}, {}", to("b", ""), to("c", ""))),
        ("/plainhost", to("b", ", disable_shadow_host_suffix_append: true")),
        ("/dead", to("dead", "")),
        ("/h2", to("b2", "")),
        ("/nowhere", to("b", "")),
        ("/header", "{ cluster_header: x-mirror }".to_owned()),
    ];
    let mut yaml = String::from("virtual_hosts:\n- name: all\n  domains: [\"*\"]\n  routes:\n");
    for (prefix, mirrors) in &routes {
        let cluster = if *prefix == "/nowhere" { "dead" } else { "a" };
        yaml.push_str(&format!(
            "  - {{ match: {{ prefix: {prefix} }}, route: {{ cluster: {cluster}, request_mirror_policies: [ {mirrors} ] }} }}\n"
        ));
    }
    yaml.push_str("  - { match: { prefix: /rewrite }, route: { cluster: a, prefix_rewrite: /new, host_rewrite_literal: new.host, request_mirror_policies: [ { cluster: b } ] } }\n");
    yaml.push_str("  - { match: { prefix: /retry }, route: { cluster: a, retry_policy: { retry_on: 5xx }, request_mirror_policies: [ { cluster: b } ] } }\n");
    let counts =
        ["cluster.b.upstream_rq_total", "cluster.c.upstream_rq_total", "cluster.a.upstream_rq_total"];
    let group = Group::new("mirrors")
        .upstreams(&["a", "b", "c"])
        .upstream("closed", None, None)
        .with(|b| b.hosts("dead", &["closed"], "").hosts("b2", &["b"], H2_CLUSTER))
        .routes(&yaml);
    let paths = routes.iter().map(|(prefix, _)| *prefix).chain(["/rewrite", "/retry"]);
    group.cases(paths.flat_map(|path| {
        let name = path.trim_start_matches('/');
        // How much of a body the mirror gets before the main request fails is a race.
        let bodies = if path == "/nowhere" { 1 } else { 3 };
        let cases = [
            case(&format!("{name} get"), get(path).h("x-mirror", "c").h("x-secret", "s"))
                .by_name()
                .stats(&counts),
            case(&format!("{name} post over h2"), post(path, "body").h2().h("x-mirror", "b"))
                .by_name()
                .stats(&counts),
            case(&format!("{name} chunked"), req("POST", path).piece("a").piece("b").h("x-mirror", "c"))
                .by_name()
                .stats(&counts),
        ];
        cases.into_iter().take(bodies)
    }))
}
