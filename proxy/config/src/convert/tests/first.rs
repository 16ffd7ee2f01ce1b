use super::{bad, good, manager, route, table, with_hcm, with_route};
use crate::model::{ClusterSpecifier, DirectBody, Discovery, PathMatch, RouteAction, SocketAddress};

#[test]
fn a_plain_bootstrap() {
    let yaml = with_route("match: {prefix: /a}\nroute: {cluster: c}")
        + "admin: {address: {socket_address: {address: '::1', port_value: 9901}}}\n";
    let (model, ledger) = good(&yaml);
    assert_eq!(model.admin.unwrap().address, SocketAddress::Ip("[::1]:9901".parse().unwrap()));
    let listener = &model.listeners[0];
    assert_eq!(&*listener.name, "l");
    assert_eq!(&*listener.stat_prefix, "127.0.0.1_10000");
    assert!(listener.bind_to_port && listener.reuse_port);
    let Discovery::Static(endpoints) = &model.clusters[0].discovery else { panic!() };
    assert_eq!(endpoints.localities[0].endpoints[0].address.to_string(), "127.0.0.1:1");
    assert_eq!(ledger, super::Ledger::default());
}

#[test]
fn routes_forward_and_answer() {
    let forward = route("match: {prefix: /a}\nroute: {cluster: c, timeout: 0s}");
    assert!(matches!(&forward.matches.path, PathMatch::Prefix(text) if &**text == "/a"));
    let RouteAction::Forward(forward) = &forward.action else { panic!() };
    assert!(matches!(&forward.cluster, ClusterSpecifier::Name(name) if &**name == "c"));
    assert_eq!(forward.timeout, None);
    let direct = route("match: {path: /b}\ndirect_response: {status: 418, body: {inline_string: teapot}}");
    let RouteAction::Direct(direct) = &direct.action else { panic!() };
    assert_eq!(direct.status.as_u16(), 418);
    assert!(matches!(&direct.body, DirectBody::Inline(body) if &**body == b"teapot"));
}

#[test]
fn defaults_are_envoys() {
    let manager = manager(&with_route("match: {prefix: /}\nroute: {cluster: c}"));
    assert_eq!(manager.server_name, "envoy");
    assert_eq!(manager.stream_idle_timeout.unwrap().as_secs(), 300);
    assert_eq!(manager.idle_timeout.unwrap().as_secs(), 3600);
    assert_eq!(manager.drain_timeout.as_secs(), 5);
    assert_eq!(manager.delayed_close_timeout.unwrap().as_secs(), 1);
    assert_eq!(manager.max_request_headers_kb, 60);
    assert!(manager.generate_request_id && manager.pack_trace_reason && !manager.use_remote_address);
    let RouteAction::Forward(forward) = &table(&manager).virtual_hosts[0].routes[0].action else { panic!() };
    assert_eq!(forward.timeout.unwrap().as_secs(), 15);
}

#[test]
fn every_problem_is_found_in_one_go_with_its_full_path() {
    let manager = "static_resources.listeners[0].filter_chains[0].filters[0].typed_config";
    let yaml = with_hcm(
        r#"
tracing: {}
route_config:
  virtual_hosts:
  - name: v
    domains: ["*"]
    routes:
    - {match: {safe_regex: {regex: "a("}}, route: {cluster: c}}
    - {match: {prefix: /}, route: {cluster: c, hash_policy: [{filter_state: {key: a}}]}}
"#,
    );
    let problems = bad(&yaml);
    assert_eq!(problems.len(), 3, "{problems:#?}");
    assert_eq!(problems[0], format!("{manager}.tracing: tracing is not supported; remove it"));
    let routes = format!("{manager}.route_config.virtual_hosts[0].routes");
    assert!(
        problems[1].starts_with(&format!(
            "{routes}[0].match.safe_regex.regex: \"a(\" is not a regular expression: "
        ))
    );
    assert!(problems[2].starts_with(&format!("{routes}[1].route.hash_policy[0].filter_state: no filter")));
}

#[test]
fn a_dangling_cluster_reference_is_found() {
    let problems = bad(&with_route("match: {prefix: /}\nroute: {cluster: nowhere}"));
    assert_eq!(
        problems,
        [concat!(
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0]",
            ".routes[0].route.cluster: there is no cluster named \"nowhere\" in static_resources.clusters"
        )]
    );
}
