//! Role-based access control.

use outrider_tests::{
    bootstrap::{access_log, hcm_filter, indent, tcp_filter},
    upstream::TcpScript,
};

use crate::driver::{Case, Group, Req, Tls, case, get, req, talk};

const TYPE: &str = "type.googleapis.com/envoy.extensions.filters.http.rbac.v3";
const ROUTER: &str = "- name: router\n  typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }\n";

/// What is compared of each request: how it was answered, and what the filter noted.
const LOG: &str = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% \
     %RESPONSE_CODE_DETAILS% enforced=%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_engine_result)% \
     by=%DYNAMIC_METADATA(envoy.filters.http.rbac:enforced_effective_policy_id)% \
     shadow=%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_engine_result)% \
     by=%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_effective_policy_id)% \
     p=%DYNAMIC_METADATA(envoy.filters.http.rbac:p_enforced_engine_result)% \
     by=%DYNAMIC_METADATA(envoy.filters.http.rbac:p_enforced_effective_policy_id)% \
     s=%DYNAMIC_METADATA(envoy.filters.http.rbac:s_shadow_engine_result)% \
     by=%DYNAMIC_METADATA(envoy.filters.http.rbac:s_shadow_effective_policy_id)% \
     q=%DYNAMIC_METADATA(envoy.filters.http.rbac:q_enforced_engine_result)% \
     t=%DYNAMIC_METADATA(envoy.filters.http.rbac:t_shadow_engine_result)% \
     hint=%DYNAMIC_METADATA(envoy.common:access_log_hint)%";

const ANY: &str = "{ any: true }";

/// A policy.
fn policy(name: &str, permission: &str, principal: &str) -> String {
    format!("{name:?}: {{ permissions: [ {permission} ], principals: [ {principal} ] }}")
}

fn rules(action: &str, policies: &[String]) -> String {
    format!("{{ action: {action}, policies: {{ {} }} }}", policies.join(", "))
}

fn permit(permission: &str) -> String {
    format!("rules: {}", rules("ALLOW", &[policy("p", permission, ANY)]))
}

fn principal(principal: &str) -> String {
    format!("rules: {}", rules("ALLOW", &[policy("p", ANY, principal)]))
}

/// A route with the filter's settings for it, and with more of the same kind.
pub(super) fn route(name: &str, rbac: &str, more: &str) -> String {
    format!(
        "- match: {{ prefix: /{name} }}\n  route: {{ cluster: a }}\n  metadata: {{ filter_metadata: {{ my: {{ color: blue, deep: {{ er: 3 }} }} }} }}\n  \
         typed_per_filter_config:\n    rbac: {{ \"@type\": {TYPE}.RBACPerRoute, rbac: {{ {rbac} }} }}\n{}",
        indent(4, more)
    )
}

pub(super) fn manager(name: &str, filter: &str, routes: &[String]) -> String {
    format!(
        "stat_prefix: {name}\nhttp_filters:\n- name: fault\n  typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault }}\n\
         - name: rbac\n  typed_config: {{ \"@type\": {TYPE}.RBAC, {filter} }}\n{ROUTER}{}route_config:\n  virtual_hosts:\n  - name: all\n    domains: [\"*\"]\n    routes:\n{}",
        access_log(LOG),
        indent(4, &routes.concat())
    )
}

/// A listener with TLS, for clients with and without certificates.
fn tls_listener(group: Group, hcm: &str) -> Group {
    let context = "name: envoy.transport_sockets.tls\ntyped_config:\n  \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n  common_tls_context:\n    tls_certificates: [ { certificate_chain: { filename: \"@{certs}/server.pem\" }, private_key: { filename: \"@{certs}/server.key\" } } ]\n    validation_context: { trusted_ca: { filename: \"@{certs}/ca.pem\" } }\n";
    let chain = |context: &str| {
        format!(
            "listener_filters:\n- name: tls\n  typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector }}\nfilter_chains:\n- transport_socket:\n{}  filters:\n{}",
            indent(4, context),
            indent(2, &hcm_filter("tls", hcm))
        )
    };
    let untrusted = context.replace(
        "trusted_ca: { filename: \"@{certs}/ca.pem\" }",
        "trusted_ca: { filename: \"@{certs}/ca.pem\" }, trust_chain_verification: ACCEPT_UNTRUSTED",
    );
    group.with(|b| b.listener("tls", &chain(context)).listener("untrusted", &chain(&untrusted)))
}

/// What can be matched.
pub(crate) fn conditions() -> Group {
    let dynamic = "fault: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, delay: { fixed_delay: 0.001s, percentage: { numerator: 100 } }, filter_metadata: { name: tiger, num: 3, b: true, z: null, list: [ 1, two ], map: { in: x } } }\n";
    let meta = |value: &str, path: &str, more: &str| {
        let path: Vec<String> = path.split('.').map(|key| format!("{{ key: {key} }}")).collect();
        format!("filter: envoy.filters.http.fault, path: [ {} ], value: {{ {value} }}{more}", path.join(", "))
    };
    let with = |name: &str, value: &str, path: &str, more: &str| {
        route(name, &permit(&format!("{{ metadata: {{ {} }} }}", meta(value, path, more))), dynamic)
    };
    let sourced = |name: &str, source: &str, matcher: &str| {
        let text = format!(
            "{{ sourced_metadata: {{ metadata_source: {source}, metadata_matcher: {{ {matcher} }} }} }}"
        );
        route(name, &permit(&text), dynamic)
    };
    let of_route = |key: &str, value: &str| format!("filter: my, path: [ {key} ], value: {{ {value} }}");
    let header = |text: &str| format!("{{ header: {{ {text} }} }}");
    let name = |text: &str| principal(&format!("{{ authenticated: {{ principal_name: {{ {text} }} }} }}"));
    let mtls = |text: &str| {
        principal(&format!(
            "{{ custom: {{ name: mtls, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.rbac.principals.mtls_authenticated.v3.Config, {text} }} }} }}"
        ))
    };
    let san = |kind: &str, matcher: &str| {
        mtls(&format!("san_matcher: {{ san_type: {kind}, matcher: {{ {matcher} }} }}"))
    };
    let routes = [
        route("any", &permit(ANY), ""),
        route("header", &permit(&header("name: x-a, string_match: { prefix: b }")), ""),
        route(
            "noheader",
            &permit(&format!("{{ not_rule: {} }}", header("name: x-a, present_match: true"))),
            "",
        ),
        route("inverted", &permit(&header("name: x-a, string_match: { exact: b }, invert_match: true")), ""),
        route("method", &permit(&header("name: \":method\", string_match: { exact: POST }")), ""),
        route("authority", &permit(&header("name: \":authority\", string_match: { suffix: .good }")), ""),
        route("fullpath", &permit(&header("name: \":path\", string_match: { suffix: \"?q=1\" }")), ""),
        route("path", &permit("{ url_path: { path: { exact: /path/x } } }"), ""),
        route("case", &permit("{ url_path: { path: { prefix: /CASE/X, ignore_case: true } } }"), ""),
        route("regex", &permit("{ url_path: { path: { safe_regex: { regex: \"/regex/[a-c]+\" } } } }"), ""),
        route(
            "and",
            &permit(&format!(
                "{{ and_rules: {{ rules: [ {}, {{ or_rules: {{ rules: [ {}, {} ] }} }} ] }} }}",
                header("name: x-a, string_match: { exact: a }"),
                header("name: x-b, string_match: { exact: b }"),
                header("name: x-c, string_match: { exact: c }"),
            )),
            "",
        ),
        route("net", &permit("{ destination_ip: { address_prefix: 127.0.0.0, prefix_len: 8 } }"), ""),
        route("othernet", &permit("{ destination_ip: { address_prefix: 10.0.0.0, prefix_len: 8 } }"), ""),
        route("sixnet", &permit("{ destination_ip: { address_prefix: \"::\", prefix_len: 0 } }"), ""),
        route("port", &permit("{ destination_port: @{main} }"), ""),
        route("otherport", &permit("{ destination_port: 1 }"), ""),
        route("range", &permit("{ destination_port_range: { start: 1, end: 65536 } }"), ""),
        route("below", &permit("{ destination_port_range: { start: 1, end: @{main} } }"), ""),
        route("sni", &permit("{ requested_server_name: { exact: server.test } }"), ""),
        route("nosni", &permit("{ requested_server_name: { exact: \"\" } }"), ""),
        with("mtext", "string_match: { exact: tiger }", "name", ""),
        with("mtextnot", "string_match: { exact: tiger }", "name", ", invert: true"),
        with("mabsentnot", "string_match: { exact: tiger }", "nothing", ", invert: true"),
        with("mnumber", "double_match: { exact: 3 }", "num", ""),
        with("mrange", "double_match: { range: { start: 1, end: 3 } }", "num", ""),
        with("mbool", "bool_match: true", "b", ""),
        with("mnull", "null_match: {}", "z", ""),
        with("mnullabsent", "null_match: {}", "nothing", ""),
        with("mpresent", "present_match: true", "z", ""),
        with("mpresentno", "present_match: false", "name", ""),
        with("mpresentnone", "present_match: false", "nothing", ""),
        with("mlist", "list_match: { one_of: { string_match: { exact: two } } }", "list", ""),
        with("mlistno", "list_match: { one_of: { string_match: { exact: three } } }", "list", ""),
        with(
            "mor",
            "or_match: { value_matchers: [ { bool_match: true }, { string_match: { exact: x } } ] }",
            "map.in",
            "",
        ),
        sourced("sdynamic", "DYNAMIC", &meta("string_match: { exact: tiger }", "name", "")),
        sourced("sroute", "ROUTE", &of_route("{ key: color }", "string_match: { exact: blue }")),
        sourced("sdeep", "ROUTE", &of_route("{ key: deep }, { key: er }", "double_match: { exact: 3 }")),
        sourced("sother", "ROUTE", &of_route("{ key: color }", "string_match: { exact: red }")),
        route(
            "upstream",
            &permit(
                "{ not_rule: { matcher: { name: envoy.rbac.matchers.upstream_ip_port, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.rbac.matchers.upstream_ip_port.v3.UpstreamIpPortMatcher, upstream_port_range: { start: 1, end: 65535 } } } } }",
            ),
            "",
        ),
        route("who", &principal("{ authenticated: {} }"), ""),
        route("uri", &name("exact: \"spiffe://test/client\""), ""),
        route("dns", &name("exact: client.test"), ""),
        route("mail", &name("exact: client@test"), ""),
        route("subject", &name("contains: CN"), ""),
        route("empty", &name("exact: \"\""), ""),
        route(
            "noturi",
            &principal("{ not_id: { authenticated: { principal_name: { prefix: \"spiffe://\" } } } }"),
            "",
        ),
        route("verified", &mtls("any_validated_client_certificate: true"), ""),
        route("vuri", &san("URI", "exact: \"spiffe://test/client\""), ""),
        route("vdns", &san("DNS", "suffix: .test"), ""),
        route("vmail", &san("EMAIL", "exact: client@test"), ""),
        route("vother", &san("URI", "exact: \"spiffe://test/other\""), ""),
        route("source", &principal("{ source_ip: { address_prefix: 127.0.0.1, prefix_len: 32 } }"), ""),
        route(
            "direct",
            &principal("{ direct_remote_ip: { address_prefix: 127.0.0.1, prefix_len: 32 } }"),
            "",
        ),
        route("remote", &principal("{ remote_ip: { address_prefix: 127.0.0.1, prefix_len: 32 } }"), ""),
        route("idheader", &principal("{ header: { name: x-a, string_match: { exact: b } } }"), ""),
        route("idpath", &principal("{ url_path: { path: { suffix: /me } } }"), ""),
        route(
            "idmeta",
            &principal(&format!("{{ metadata: {{ {} }} }}", meta("string_match: { prefix: t }", "name", ""))),
            dynamic,
        ),
        route("idstate", &principal("{ filter_state: { key: no.such, string_match: { contains: x } } }"), ""),
        route(
            "idstatenot",
            &principal(
                "{ not_id: { filter_state: { key: no.such, address_match: { ranges: [ { address_prefix: 10.0.0.0, prefix_len: 8 } ] } } } }",
            ),
            "",
        ),
        route(
            "ids",
            &principal(
                "{ and_ids: { ids: [ { header: { name: x-a, present_match: true } }, { or_ids: { ids: [ { header: { name: x-b, present_match: true } }, { source_ip: { address_prefix: 10.0.0.0, prefix_len: 8 } } ] } } ] } }",
            ),
            "",
        ),
    ];
    let hcm = manager("main", "", &routes);
    let tls = || Tls::to("server.test");
    let over = |path: &str, cert: Option<&'static str>| {
        let tls = if let Some(cert) = cert { tls().cert(cert) } else { tls() };
        get(path).to("tls").tls(tls)
    };
    let mut cases: Vec<Case> = plain_conditions();
    for path in [
        "/who",
        "/uri",
        "/dns",
        "/mail",
        "/subject",
        "/empty",
        "/noturi",
        "/verified",
        "/vuri",
        "/vdns",
        "/vmail",
        "/vother",
    ] {
        cases.push(case(&format!("{path} without TLS"), get(path)));
        cases.push(case(&format!("{path} without a certificate"), over(path, None)));
        cases.push(case(&format!("{path} as client"), over(path, Some("client"))));
        cases.push(case(&format!("{path} as server"), over(path, Some("server"))));
        let stranger = |cert| get(path).to("untrusted").tls(tls().cert(cert));
        cases.push(case(&format!("{path} as a stranger"), stranger("stranger")));
        cases.push(case(&format!("{path} as client where strangers are let in"), stranger("client")));
    }
    cases.push(case("sni over TLS", over("/sni", None)));
    cases.push(case("other sni over TLS", get("/sni").to("tls").tls(Tls::to("alt.test"))));
    cases.push(case("no sni over TLS", get("/nosni").to("tls").tls(Tls { no_sni: true, ..tls() })));
    let group = Group::new("rbac conditions").upstreams(&["a"]).http("main", &hcm);
    tls_listener(group, &hcm).cases(cases)
}

fn plain_conditions() -> Vec<Case> {
    let both = |name: &str, yes: Req, no: Req| [case(name, yes), case(&format!("not {name}"), no)];
    let mut cases = vec![
        case("any", get("/any")),
        case("inverted, absent", get("/inverted")),
        case("net", get("/net")),
        case("another net", get("/othernet")),
        case("a net of the other version", get("/sixnet")),
        case("port", get("/port")),
        case("another port", get("/otherport")),
        case("port range", get("/range")),
        case("port range's end", get("/below")),
        case("sni of plain text", get("/sni")),
        case("no sni of plain text", get("/nosni")),
        case("upstream", get("/upstream")),
        case("source", get("/source").h("x-forwarded-for", "1.2.3.4")),
        case("direct", get("/direct").h("x-forwarded-for", "1.2.3.4")),
        case("remote", get("/remote")),
        case("remote by header", get("/remote").h("x-forwarded-for", "1.2.3.4")),
        case("metadata of a principal", get("/idmeta")),
        case("filter state", get("/idstate")),
        case("no filter state", get("/idstatenot")),
        case("a CONNECT has no path", req("OPTIONS", "/path")),
    ];
    cases.extend(both("header", get("/header").h("x-a", "bc"), get("/header").h("x-a", "c")));
    cases.extend(both("no header", get("/noheader"), get("/noheader").h("x-a", "c")));
    cases.extend(both("inverted", get("/inverted").h("x-a", "c"), get("/inverted").h("x-a", "b")));
    cases.extend(both("method", req("POST", "/method"), get("/method")));
    cases.extend(both("authority", get("/authority").host("x.good"), get("/authority").host("x.bad")));
    cases.extend(both("path with query", get("/fullpath?q=1"), get("/fullpath?q=2")));
    cases.extend(both("path", get("/path/x?y=1"), get("/path/x/")));
    cases.extend(both("path without case", get("/case/xY"), get("/case/y")));
    cases.extend(both("path by expression", get("/regex/abc?d"), get("/regex/abcd")));
    cases.extend(both("and", get("/and").h("x-a", "a").h("x-c", "c"), get("/and").h("x-c", "c")));
    cases.extend(both("header of a principal", get("/idheader").h("x-a", "b"), get("/idheader")));
    cases.extend(both("path of a principal", get("/idpath/me?x"), get("/idpath?x=/me")));
    cases.extend(both(
        "and of principals",
        get("/ids").h("x-a", "a").h("x-b", "b"),
        get("/ids").h("x-a", "c"),
    ));
    for path in [
        "/mtext",
        "/mtextnot",
        "/mabsentnot",
        "/mnumber",
        "/mrange",
        "/mbool",
        "/mnull",
        "/mnullabsent",
        "/mpresent",
        "/mpresentno",
        "/mpresentnone",
        "/mlist",
        "/mlistno",
        "/mor",
        "/sdynamic",
        "/sroute",
        "/sdeep",
        "/sother",
    ] {
        cases.push(case(&format!("metadata {path}"), get(path)));
    }
    cases
}

/// What is done with what matched.
pub(crate) fn actions() -> Group {
    let get_only =
        |name: &str| policy(name, "{ header: { name: \":method\", string_match: { exact: GET } } }", ANY);
    let admin = |name: &str| policy(name, "{ url_path: { path: { prefix: /allow/admin } } }", ANY);
    let stats = |prefix: &str| vec![format!("http.{prefix}.rbac.*")];
    let per_route = [
        route("allow", &format!("rules: {}", rules("ALLOW", &[get_only("zeta get"), admin("admin")])), ""),
        route("deny", &format!("rules: {}", rules("DENY", &[get_only("no\tgets at all")])), ""),
        route("log", &format!("rules: {}", rules("LOG", &[get_only("gets")])), ""),
        route("empty", "rules: {}", ""),
        route("nodeny", "rules: { action: DENY }", ""),
        route(
            "shadow",
            &format!(
                "rules: {}, shadow_rules: {}",
                rules("ALLOW", &[policy("all", ANY, ANY)]),
                rules("ALLOW", &[get_only("gets")])
            ),
            "",
        ),
        route("slog", &format!("shadow_rules: {}", rules("LOG", &[get_only("gets")])), ""),
        route("sdeny", &format!("shadow_rules: {}", rules("DENY", &[get_only("gets")])), ""),
        route(
            "named",
            &format!(
                "rules: {}, rules_stat_prefix: p_, shadow_rules: {}, shadow_rules_stat_prefix: s_, track_per_rule_stats: true",
                rules("ALLOW", &[get_only("gets")]),
                rules("DENY", &[get_only("no gets")])
            ),
            "",
        ),
        route(
            "renamed",
            &format!(
                "rules: {}, rules_stat_prefix: q_, shadow_rules: {}, shadow_rules_stat_prefix: t_",
                rules("ALLOW", &[get_only("gets")]),
                rules("DENY", &[get_only("no gets")])
            ),
            "",
        ),
        format!(
            "- match: {{ prefix: /off }}\n  route: {{ cluster: a }}\n  typed_per_filter_config:\n    rbac: {{ \"@type\": {TYPE}.RBACPerRoute }}\n"
        ),
        "- match: { prefix: /disabled }\n  route: { cluster: a }\n  typed_per_filter_config:\n    rbac: { \"@type\": type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true }\n".to_owned(),
        format!(
            "- match: {{ prefix: /weighted }}\n  route: {{ weighted_clusters: {{ clusters: [ {{ name: a, weight: 1, typed_per_filter_config: {{ rbac: {{ \"@type\": {TYPE}.RBACPerRoute, rbac: {{ rules: {{ action: DENY, policies: {{ {} }} }} }} }} }} }} ] }} }}\n  typed_per_filter_config:\n    rbac: {{ \"@type\": {TYPE}.RBACPerRoute }}\n",
            policy("of the cluster", ANY, ANY)
        ),
        format!(
            "- match: {{ prefix: /direct }}\n  direct_response: {{ status: 200 }}\n  typed_per_filter_config:\n    rbac: {{ \"@type\": {TYPE}.RBACPerRoute, rbac: {{ rules: {{}} }} }}\n"
        ),
        "- match: { prefix: /own }\n  route: { cluster: a }\n".to_owned(),
    ];
    let own = format!(
        "rules: {}, rules_stat_prefix: p_, shadow_rules: {}, shadow_rules_stat_prefix: s_, track_per_rule_stats: true",
        rules(
            "ALLOW",
            &[
                get_only("gets"),
                policy("heads", "{ header: { name: \":method\", string_match: { exact: HEAD } } }", ANY)
            ]
        ),
        rules("DENY", &[get_only("no gets")])
    );
    let mut cases = Vec::new();
    for (method, path) in [
        ("GET", "/allow"),
        ("POST", "/allow"),
        ("GET", "/allow/admin"),
        ("POST", "/allow/admin"),
        ("GET", "/deny"),
        ("POST", "/deny"),
        ("GET", "/log"),
        ("POST", "/log"),
        ("GET", "/empty"),
        ("GET", "/nodeny"),
        ("GET", "/shadow"),
        ("POST", "/shadow"),
        ("GET", "/slog"),
        ("POST", "/slog"),
        ("GET", "/sdeny"),
        ("POST", "/sdeny"),
        ("GET", "/named"),
        ("POST", "/named"),
        ("GET", "/renamed"),
        ("POST", "/renamed"),
        ("POST", "/off"),
        ("POST", "/disabled"),
        ("POST", "/weighted"),
        ("GET", "/direct"),
        ("GET", "/own"),
        ("POST", "/own"),
        ("HEAD", "/own"),
        ("GET", "/none"),
    ] {
        let mut case = case(&format!("{method} {path}"), req(method, path));
        case.stats = stats("main");
        cases.push(case);
        // The same where the filter itself does nothing.
        let mut bare = crate::driver::case(&format!("bare {method} {path}"), req(method, path).to("bare"));
        bare.stats = stats("bare");
        cases.push(bare);
    }
    cases.push(case("a denied gRPC call", Req::grpc("/deny/x", &["hi"]).h2()));
    cases.push(case("a denied call", req("DELETE", "/allow").h2()));
    Group::new("rbac actions")
        .upstreams(&["a"])
        .http("main", &manager("main", &own, &per_route))
        .http("bare", &manager("bare", "", &per_route))
        .cases(cases)
}

const INPUTS: &str = "type.googleapis.com/envoy.extensions.matching.common_inputs";

/// An action of a match tree.
fn act(name: &str, action: &str) -> String {
    format!(
        "action: {{ name: action, typed_config: {{ \"@type\": type.googleapis.com/envoy.config.rbac.v3.Action, name: {name:?}, action: {action} }} }}"
    )
}

fn input(of: &str) -> String {
    format!("input: {{ name: in, typed_config: {{ \"@type\": {of} }} }}")
}

fn header_input(name: &str) -> String {
    input(&format!(
        "type.googleapis.com/envoy.type.matcher.v3.HttpRequestHeaderMatchInput, header_name: {name:?}"
    ))
}

fn single(input: &str, wanted: &str) -> String {
    format!("single_predicate: {{ {input}, {wanted} }}")
}

/// The form of match trees.
pub(crate) fn trees() -> Group {
    let list = |entries: &[(String, String)], more: &str| {
        let entries: Vec<String> = entries
            .iter()
            .map(|(predicate, on_match)| {
                format!("{{ predicate: {{ {predicate} }}, on_match: {{ {on_match} }} }}")
            })
            .collect();
        format!("matcher: {{ matcher_list: {{ matchers: [ {} ] }}{more} }}", entries.join(", "))
    };
    let one = |input: &str, wanted: &str| list(&[(single(input, wanted), act("it", "ALLOW"))], "");
    let exact = |text: &str| format!("value_match: {{ exact: {text:?} }}");
    let is = |name: &str, text: &str| single(&header_input(name), &exact(text));
    let network = |kind: &str| input(&format!("{INPUTS}.network.v3.{kind}"));
    let ssl = |kind: &str| input(&format!("{INPUTS}.ssl.v3.{kind}"));
    let ip = "custom_match: { name: ip, typed_config: { \"@type\": type.googleapis.com/envoy.extensions.matching.input_matchers.ip.v3.Ip, stat_prefix: ip, cidr_ranges: [ { address_prefix: 127.0.0.0, prefix_len: 8 } ] } }";
    let map = |kind: &str, entries: &[(&str, String)], more: &str| {
        let entries: Vec<String> = entries.iter().map(|(key, on)| format!("{key:?}: {{ {on} }}")).collect();
        format!(
            "matcher: {{ matcher_tree: {{ {}, {kind}: {{ map: {{ {} }} }} }}{more} }}",
            header_input("x-a"),
            entries.join(", ")
        )
    };
    let nested = format!(
        "matcher: {{ matcher_list: {{ matchers: [ {{ predicate: {{ {} }}, on_match: {{ {} }} }} ] }} }}",
        is("x-b", "b"),
        act("inner", "ALLOW")
    );
    let otherwise = format!(", on_no_match: {{ {} }}", act("otherwise", "ALLOW"));
    let routes = [
        route(
            "first",
            &list(
                &[
                    (is("x-a", "a"), act("one", "ALLOW")),
                    (is("x-a", "b"), act("two", "DENY")),
                    (is("x-b", "b"), act("three", "LOG")),
                ],
                "",
            ),
            "",
        ),
        route("prefixed", &one(&header_input("x-a"), "value_match: { prefix: B, ignore_case: true }"), ""),
        route(
            "not",
            &list(&[(format!("not_matcher: {{ {} }}", is("x-a", "a")), act("not", "ALLOW"))], ""),
            "",
        ),
        route(
            "and",
            &list(
                &[(
                    format!(
                        "and_matcher: {{ predicate: [ {{ {} }}, {{ {} }} ] }}",
                        is("x-a", "a"),
                        is("x-b", "b")
                    ),
                    act("and", "ALLOW"),
                )],
                "",
            ),
            "",
        ),
        route(
            "or",
            &list(
                &[(
                    format!(
                        "or_matcher: {{ predicate: [ {{ {} }}, {{ {} }} ] }}",
                        is("x-a", "a"),
                        is("x-b", "b")
                    ),
                    act("or", "ALLOW"),
                )],
                "",
            ),
            "",
        ),
        route("otherwise", &list(&[(is("x-a", "a"), act("denied", "DENY"))], &otherwise), ""),
        route(
            "nested",
            &list(&[(is("x-a", "a"), nested.clone()), (is("x-a", "a"), act("outer", "DENY"))], &otherwise),
            "",
        ),
        route("empty", "matcher: {}", ""),
        route(
            "both",
            &format!(
                "{}, rules: {}",
                one(&header_input("x-a"), &exact("a")),
                rules("ALLOW", &[policy("p", ANY, ANY)])
            ),
            "",
        ),
        route(
            "whole",
            &map("exact_match_map", &[("a", act("a", "ALLOW")), ("b", nested.clone())], &otherwise),
            "",
        ),
        route(
            "starts",
            &map(
                "prefix_match_map",
                &[("a", act("a", "ALLOW")), ("ab", nested), ("abc", act("abc", "DENY"))],
                "",
            ),
            "",
        ),
        route("method", &one(&header_input(":method"), &exact("POST")), ""),
        route(
            "shadow",
            &format!(
                "shadow_{}",
                list(&[(is("x-a", "a"), act("one", "ALLOW")), (is("x-a", "b"), act("two", "LOG"))], "")
            ),
            "",
        ),
        route("dip", &one(&network("DestinationIPInput"), &exact("127.0.0.1")), ""),
        route("dport", &one(&network("DestinationPortInput"), "value_match: { exact: \"@{main}\" }"), ""),
        route("sip", &one(&network("SourceIPInput"), &exact("127.0.0.1")), ""),
        route("inside", &one(&network("SourceIPInput"), ip), ""),
        route("dsip", &one(&network("DirectSourceIPInput"), &exact("127.0.0.1")), ""),
        route("sni", &one(&network("ServerNameInput"), &exact("server.test")), ""),
        route("uri", &one(&ssl("UriSanInput"), &exact("spiffe://test/client")), ""),
        route("dns", &one(&ssl("DnsSanInput"), "value_match: { suffix: client.test }"), ""),
        route("subject", &one(&ssl("SubjectInput"), "value_match: { contains: CN }"), ""),
    ];
    let hcm = manager("main", "", &routes);
    let mut cases = Vec::new();
    for path in [
        "/first",
        "/prefixed",
        "/not",
        "/and",
        "/or",
        "/otherwise",
        "/nested",
        "/both",
        "/whole",
        "/starts",
        "/shadow",
    ] {
        for (a, b) in [
            ("", ""),
            ("a", ""),
            ("b", ""),
            ("", "b"),
            ("a", "b"),
            ("abx", ""),
            ("abx", "b"),
            ("abcd", "b"),
            ("b", "b"),
        ] {
            let request = |request: Req, name: &str, value: &str| {
                if value.is_empty() { request } else { request.h(name, value) }
            };
            let get = request(request(get(path), "x-a", a), "x-b", b);
            cases.push(case(&format!("{path} a={a} b={b}"), get));
        }
    }
    cases.push(case("several headers of a name", get("/both").h("x-a", "a").h("x-a", "b")));
    cases.push(case("empty", get("/empty")));
    cases.push(case("method", req("POST", "/method")));
    cases.push(case("another method", get("/method")));
    for path in ["/dip", "/dport", "/sip", "/inside", "/dsip", "/sni", "/uri", "/dns", "/subject"] {
        cases.push(case(&format!("{path} of plain text"), get(path)));
        cases.push(case(&format!("{path} for another"), get(path).h("x-forwarded-for", "1.2.3.4")));
        cases.push(case(
            &format!("{path} as client"),
            get(path).to("tls").tls(Tls::to("server.test").cert("client")),
        ));
        cases.push(case(
            &format!("{path} without a certificate"),
            get(path).to("tls").tls(Tls::to("server.test")),
        ));
    }
    let group = Group::new("rbac trees").upstreams(&["a"]).http("main", &hcm);
    tls_listener(group, &hcm).cases(cases)
}

const NETWORK: &str = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";
const NETWORK_LOG: &str = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% %RESPONSE_FLAGS% %CONNECTION_TERMINATION_DETAILS% \
     in=%BYTES_RECEIVED% shadow=%DYNAMIC_METADATA(envoy.filters.network.rbac:shadow_engine_result)% \
     by=%DYNAMIC_METADATA(envoy.filters.network.rbac:shadow_effective_policy_id)% \
     s=%DYNAMIC_METADATA(envoy.filters.network.rbac:s_shadow_engine_result)% \
     enforced=%DYNAMIC_METADATA(envoy.filters.network.rbac:enforced_engine_result)% \
     hint=%DYNAMIC_METADATA(envoy.common:access_log_hint)%";

/// Connections.
pub(crate) fn network() -> Group {
    let gate = |prefix: &str, settings: &str| {
        format!(
            "- name: rbac\n  typed_config: {{ \"@type\": {NETWORK}, stat_prefix: {prefix}, {settings} }}\n"
        )
    };
    let allow = |permission: &str, principal: &str| {
        format!("rules: {}", rules("ALLOW", &[policy("p", permission, principal)]))
    };
    let chain = |name: &str, gates: &str| {
        let tcp = tcp_filter(name, &format!("cluster: echo\n{}", access_log(NETWORK_LOG)));
        format!("filter_chains:\n- filters:\n{}", indent(2, &format!("{gates}{tcp}")))
    };
    let lists = [
        ("all", gate("all", &allow(ANY, ANY))),
        ("none", gate("none", "rules: {}")),
        ("nothing", gate("nothing", "shadow_rules: {}")),
        ("deny", gate("deny", &format!("rules: {}", rules("DENY", &[policy("no one", ANY, ANY)])))),
        ("denynone", gate("denynone", "rules: { action: DENY }")),
        ("log", gate("log", &format!("rules: {}", rules("LOG", &[policy("l", ANY, ANY)])))),
        (
            "port",
            gate(
                "port",
                &allow(
                    "{ destination_port: @{port} }",
                    "{ source_ip: { address_prefix: 127.0.0.1, prefix_len: 32 } }",
                ),
            ),
        ),
        ("other", gate("other", &allow("{ destination_port: 1 }", ANY))),
        (
            "shadow",
            gate(
                "shadow",
                &format!("{}, shadow_rules: {}", allow(ANY, ANY), rules("DENY", &[policy("s", ANY, ANY)])),
            ),
        ),
        (
            "named",
            gate(
                "named",
                &format!(
                    "{}, shadow_rules: {}, shadow_rules_stat_prefix: s_",
                    allow(ANY, ANY),
                    rules("ALLOW", &[policy("s", ANY, ANY)])
                ),
            ),
        ),
        ("late", gate("late", "rules: {}, delay_deny: 0.1s")),
        ("twice", format!("{}{}", gate("one", &allow(ANY, ANY)), gate("two", "rules: {}"))),
        ("dotted", gate("dotted.", &allow(ANY, ANY))),
        (
            "tree",
            gate(
                "tree",
                &format!(
                    "matcher: {{ matcher_list: {{ matchers: [ {{ predicate: {{ {} }}, on_match: {{ {} }} }} ] }} }}",
                    single(
                        &input(&format!("{INPUTS}.network.v3.SourceIPInput")),
                        "value_match: { prefix: \"127.\" }"
                    ),
                    act("mine", "ALLOW")
                ),
            ),
        ),
        (
            "treeno",
            gate(
                "treeno",
                &format!(
                    "matcher: {{ matcher_list: {{ matchers: [ {{ predicate: {{ {} }}, on_match: {{ {} }} }} ] }} }}",
                    single(
                        &input(&format!("{INPUTS}.network.v3.DestinationPortInput")),
                        "value_match: { exact: \"@{treeno}\" }"
                    ),
                    act("mine", "DENY")
                ),
            ),
        ),
    ];
    let mut group = Group::new("rbac network").tcp_upstream("echo", TcpScript::Echo).upstreams(&["a"]);
    let mut cases = Vec::new();
    for (name, gates) in &lists {
        group = group.with(|b| b.listener(name, &chain(name, gates)));
        let prefix = if *name == "twice" { "two" } else { name };
        let stats = format!("{prefix}.rbac.*");
        let passes = !matches!(*name, "none" | "deny" | "other" | "late" | "twice" | "treeno");
        let talk = if passes {
            talk(name).send("hello").read("hello").finish().drain()
        } else {
            talk(name).send("hello").drain()
        };
        cases.push(case(name, talk).logs(1).stats(&[&stats]));
    }
    let http = |name: &str, settings: &str| {
        let routes = "route_config: { virtual_hosts: [ { name: all, domains: [\"*\"], routes: [ { match: { prefix: / }, route: { cluster: a } } ] } ] }\n";
        format!("{}{}", gate(name, settings), hcm_filter(name, &format!("stat_prefix: {name}\n{routes}")))
    };
    for (name, settings) in [("http", allow(ANY, ANY)), ("httpno", "rules: {}".to_owned())] {
        group = group.with(|b| {
            b.listener(name, &format!("filter_chains:\n- filters:\n{}", indent(2, &http(name, &settings))))
        });
        let logs = usize::from(name == "http");
        cases.push(case(name, get("/x").to(name)).logs(logs).stats(&[&format!("{name}.rbac.*")]));
    }
    let client = allow(
        "{ requested_server_name: { exact: server.test } }",
        "{ authenticated: { principal_name: { exact: \"spiffe://test/client\" } } }",
    );
    let context = "name: envoy.transport_sockets.tls\ntyped_config:\n  \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n  common_tls_context:\n    tls_certificates: [ { certificate_chain: { filename: \"@{certs}/server.pem\" }, private_key: { filename: \"@{certs}/server.key\" } } ]\n    validation_context: { trusted_ca: { filename: \"@{certs}/ca.pem\" } }\n";
    let tls = format!(
        "filter_chains:\n- transport_socket:\n{}  filters:\n{}",
        indent(4, context),
        indent(2, &http("tls", &client))
    );
    group = group.with(|b| b.listener("tls", &tls));
    for (name, tls, logs) in [
        ("as client", Tls::to("server.test").cert("client"), 1),
        ("as server", Tls::to("server.test").cert("server"), 0),
        ("without a certificate", Tls::to("server.test"), 0),
        ("for another name", Tls::to("alt.test").cert("client"), 0),
    ] {
        cases.push(case(name, get("/x").to("tls").tls(tls)).logs(logs).stats(&["tls.rbac.*"]));
    }
    group.cases(cases)
}
