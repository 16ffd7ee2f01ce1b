//! Mutual TLS in what sidecars get.

use outrider_proto::any::unpack;
use outrider_proto::pb::envoy::config::cluster::v3::Cluster;
use outrider_proto::pb::envoy::config::core::v3::transport_socket::ConfigType;
use outrider_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrider_proto::pb::envoy::config::listener::v3::{FilterChain, Listener, filter};
use outrider_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use outrider_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use outrider_proto::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;

use crate::model::{Key, Kind};
use crate::translate::testing::{WEB, conditions, context, envoy_takes, message, resources, sidecar};
use crate::translate::{Context, Resources, Type, translate};
use crate::world::Proxy;

/// The Pod behind [`WEB`], with an identity or without.
fn pod(labels: &str) -> String {
    format!(
        "---
apiVersion: v1
kind: Pod
metadata: {{name: web-0, namespace: shop, labels: {{app: web{labels}}}}}
spec:
  serviceAccountName: web
  containers:
  - name: app
    image: app
    ports: [{{name: health, containerPort: 8081}}]
    livenessProbe: {{httpGet: {{path: '/live?x=1', port: 8080}}}}
    readinessProbe: {{httpGet: {{path: /ready, port: health}}}}
"
    )
}

const MESHED: &str = ", security.istio.io/tlsMode: istio";

/// [`WEB`] with a selector, and its endpoint with its Pod.
fn web() -> String {
    WEB.replace("  clusterIP:", "  selector: {app: web}\n  clusterIP:")
        .replace("- addresses: [10.0.0.1]", "- addresses: [10.0.0.1]\n  targetRef: {kind: Pod, name: web-0}")
}

fn peers(name: &str, namespace: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: outrider.dev/v1\nkind: PeerPolicy\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {{{spec}}}\n"
    )
}

fn client() -> Proxy {
    let labels = [("security.istio.io/tlsMode".to_owned(), "istio".to_owned())].into();
    Proxy { pod: "client-0".into(), address: "10.0.0.9".parse().unwrap(), labels, ..sidecar() }
}

fn upstream(context: &Context, proxy: &Proxy, cluster: &str) -> Option<tls::UpstreamTlsContext> {
    let cluster: Cluster = message(&translate(context, proxy), Type::Cluster, cluster);
    let matched = || cluster.transport_socket_matches.first()?.transport_socket.clone();
    let socket = cluster.transport_socket.clone().or_else(matched)?;
    let Some(ConfigType::TypedConfig(config)) = socket.config_type else { return None };
    Some(unpack(&config).unwrap())
}

fn peers_of(common: &tls::CommonTlsContext) -> Vec<MatchPattern> {
    use tls::common_tls_context::ValidationContextType::CombinedValidationContext;
    let Some(CombinedValidationContext(combined)) = &common.validation_context_type else {
        panic!("{common:?}")
    };
    assert_eq!(combined.validation_context_sds_secret_config.as_ref().unwrap().name, "ROOTCA");
    let names = &combined.default_validation_context.as_ref().unwrap().match_typed_subject_alt_names;
    names.iter().map(|it| it.matcher.clone().unwrap().match_pattern.unwrap()).collect()
}

#[test]
fn a_sidecar_with_an_identity_expects_the_accounts_of_the_service() {
    const HTTP: &str = "outbound|80||web.shop.svc.cluster.local";
    let meshed = context(&format!("{}{}", web(), pod(MESHED)));
    let found = upstream(&meshed, &client(), HTTP).unwrap();
    assert_eq!(found.sni, "outbound_.80_._.web.shop.svc.cluster.local");
    let common = found.common_tls_context.unwrap();
    assert_eq!(common.alpn_protocols, ["istio", "h2", "http/1.1"]);
    assert_eq!(common.tls_certificate_sds_secret_configs[0].name, "default");
    let exact = |it: &str| MatchPattern::Exact(format!("spiffe://cluster.local/ns/shop/sa/{it}"));
    assert_eq!(peers_of(&common), [exact("web")]);
    // What is not HTTP does not say so, and who serves a Service is its Pods' affair, or its annotation's.
    let db = upstream(&meshed, &client(), "outbound|5432||web.shop.svc.cluster.local").unwrap();
    assert_eq!(db.common_tls_context.unwrap().alpn_protocols, ["istio"]);
    let annotated = web().replace(
        "{name: web, namespace: shop}\nspec",
        "{name: web, namespace: shop, annotations: {outrider.dev/service-accounts: 'a, b'}}\nspec",
    );
    let common = upstream(&context(&annotated), &client(), HTTP).unwrap().common_tls_context.unwrap();
    assert_eq!(peers_of(&common), [exact("a"), exact("b")]);
    // One that lists nobody does not mean everybody.
    let nobody = annotated.replace("'a, b'", "' , '");
    let common = upstream(&context(&nobody), &client(), HTTP).unwrap().common_tls_context.unwrap();
    assert_eq!(peers_of(&common), [MatchPattern::Prefix("spiffe://cluster.local/ns/shop/sa/".to_owned())]);
    let common = upstream(&context(WEB), &client(), HTTP).unwrap().common_tls_context.unwrap();
    assert_eq!(peers_of(&common), [MatchPattern::Prefix("spiffe://cluster.local/ns/shop/sa/".to_owned())]);
    // A client without an identity has none to show.
    assert!(upstream(&meshed, &Proxy { labels: Default::default(), ..client() }, HTTP).is_none());
}

#[test]
fn http_between_sidecars_is_many_requests_on_one_connection_where_all_speak_tls() {
    use outrider_proto::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
    use outrider_proto::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::UpstreamProtocolOptions::AutoConfig;
    let agreed = |more: &str, name: &str| {
        let all = translate(&context(&format!("{}{}{more}", web(), pod(MESHED))), &client());
        envoy_takes(&all);
        let cluster: Cluster = message(&all, Type::Cluster, name);
        let packed = cluster.typed_extension_protocol_options.values().next().unwrap();
        let auto = matches!(
            unpack::<HttpProtocolOptions>(packed).unwrap().upstream_protocol_options,
            Some(AutoConfig(_))
        );
        // Where something is agreed upon there is TLS and nothing else.
        assert_eq!(auto, cluster.transport_socket.is_some());
        assert_eq!(auto, cluster.transport_socket_matches.is_empty());
        auto
    };
    let http = "outbound|80||web.shop.svc.cluster.local";
    assert!(agreed("", http));
    assert!(!agreed("", "outbound|9000||web.shop.svc.cluster.local"), "gRPC is HTTP/2 by itself");
    assert!(!agreed("", "outbound|5432||web.shop.svc.cluster.local"), "it is not HTTP");
    let bare = pod("").replace("web-0", "web-1");
    assert!(!agreed(&bare, http), "one of them speaks in clear");
    assert!(agreed(&bare.replace("app: web", "app: other"), http), "it does not serve");
    let off = |more: &str| peers("plain", "shop", &format!("{more}mtls: {{mode: Disabled}}"));
    assert!(!agreed(&off(""), http));
    assert!(agreed(&off("selector: {matchLabels: {app: other}}, "), http));
    let limited = "---
apiVersion: outrider.dev/v1
kind: TrafficPolicy
metadata: {name: web, namespace: shop}
spec: {targetRefs: [{kind: Service, name: web}], connectionPool: {idleTimeout: 5m}}
";
    assert!(agreed(limited, http), "a policy of its connections is no reason");
}

#[test]
fn what_was_http_1_for_the_client_is_so_for_the_application() {
    use outrider_proto::pb::envoy::config::route::v3::{route::Action, route_action::ClusterSpecifier};
    use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
    let all = inbound("");
    let _: Cluster = message(&all, Type::Cluster, "inbound|8080|http1|");
    let manager = |name: &str| {
        let listener: Listener = message(&all, Type::Listener, "virtualInbound");
        let chain = listener.filter_chains.into_iter().find(|it| it.name == name).unwrap();
        let Some(filter::ConfigType::TypedConfig(config)) = &chain.filters[0].config_type else { panic!() };
        unpack::<hcm::HttpConnectionManager>(config).unwrap()
    };
    let leads = |manager: &hcm::HttpConnectionManager| -> Vec<(bool, String)> {
        let Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(table)) = &manager.route_specifier
        else {
            panic!()
        };
        let one = |route: &outrider_proto::pb::envoy::config::route::v3::Route| {
            let Some(Action::Route(action)) = &route.action else { panic!() };
            let Some(ClusterSpecifier::Cluster(cluster)) = &action.cluster_specifier else { panic!() };
            (route.r#match.as_ref().unwrap().grpc.is_some(), cluster.clone())
        };
        table.virtual_hosts[0].routes.iter().map(one).collect()
    };
    let peer = manager("inbound|8080||mtls");
    // A WebSocket comes as an extended CONNECT.
    assert!(peer.http2_protocol_options.as_ref().is_some_and(|it| it.allow_connect));
    assert_eq!(
        leads(&peer),
        [(true, "inbound|8080||".to_owned()), (false, "inbound|8080|http1|".to_owned())]
    );
    assert_eq!(leads(&manager("inbound|8080||")), [(false, "inbound|8080||".to_owned())]);
    assert_eq!(leads(&manager("inbound|9000||mtls")), [(false, "inbound|9000||".to_owned())]);
}

fn endpoint_is_tls(yaml: &str) -> bool {
    let found: ClusterLoadAssignment =
        message(&resources(&context(yaml)), Type::Endpoints, "outbound|80||web.shop.svc.cluster.local");
    found.endpoints[0].lb_endpoints[0].metadata.is_some()
}

#[test]
fn endpoints_say_whether_their_sidecar_has_an_identity() {
    assert!(endpoint_is_tls(&format!("{}{}", web(), pod(MESHED))));
    assert!(!endpoint_is_tls(&format!("{}{}", web(), pod(""))));
    assert!(!endpoint_is_tls(&web()), "nobody tells of Pods");
    // Where Pods are told of, one that is not known is not spoken to before it is known how.
    let other = pod(MESHED).replace("web-0", "other-0");
    let found: ClusterLoadAssignment = message(
        &resources(&context(&format!("{}{other}", web()))),
        Type::Endpoints,
        "outbound|80||web.shop.svc.cluster.local",
    );
    assert_eq!(found.endpoints, []);
    // Without Pods the slice says it.
    let slice = "{kubernetes.io/service-name: web}";
    let meshed = slice.replace('}', ", security.istio.io/tlsMode: istio}");
    assert!(endpoint_is_tls(&WEB.replace(slice, &meshed)));
    // TLS is not spoken to what does not take it.
    let off = peers("clear", "shop", "mtls: {mode: Disabled}");
    assert!(!endpoint_is_tls(&format!("{}{}{off}", web(), pod(MESHED))));
    let elsewhere = peers("clear", "shop", "ports: [{number: 9000, mtls: {mode: Disabled}}]");
    assert!(endpoint_is_tls(&format!("{}{}{elsewhere}", web(), pod(MESHED))));
}

/// The inbound listener's chains at a port as `name transport protocols... tls?`; port 0: those of the rest.
fn doors(all: &Resources, port: u32) -> Vec<String> {
    let listener: Listener = message(all, Type::Listener, "virtualInbound");
    let text = |it: &FilterChain| {
        let wanted = it.filter_chain_match.clone().unwrap_or_default();
        let tls = if it.transport_socket.is_some() { "mtls" } else { "clear" };
        let transport = if wanted.transport_protocol.is_empty() { "any" } else { &wanted.transport_protocol };
        let protocols = wanted.application_protocols.first().map_or("*", String::as_str);
        format!("{} {transport} {protocols} {tls}", it.name)
    };
    let at = |it: &&FilterChain| {
        let wanted = it.filter_chain_match.as_ref().and_then(|it| it.destination_port);
        wanted.map_or(0, |it| it.value) == port
    };
    let default = listener.default_filter_chain.iter().filter(|_| port == 0);
    listener.filter_chains.iter().filter(at).chain(default).map(text).collect()
}

fn inbound(policies: &str) -> Resources {
    let all = resources(&context(&format!("{}{}{policies}", web(), pod(MESHED))));
    envoy_takes(&all);
    all
}

#[test]
fn both_are_let_in_where_nobody_says_anything() {
    let all = inbound("");
    assert_eq!(
        doors(&all, 8080),
        ["inbound|8080||mtls tls istio mtls", "inbound|8080||tls tls * clear", "inbound|8080|| any * clear"]
    );
    assert_eq!(
        doors(&all, 5432),
        ["inbound|5432||mtls tls istio mtls", "inbound|5432||tls tls * clear", "inbound|5432|| any * clear"]
    );
    assert_eq!(doors(&all, 0), ["virtualInbound|mtls tls istio mtls", "virtualInbound any * clear"]);
    // A sidecar without an identity is as it was.
    let bare = resources(&context(&format!("{}{}", web(), pod(""))));
    assert_eq!(doors(&bare, 8080), ["inbound|8080|| any * clear"]);
    let listener: Listener = message(&bare, Type::Listener, "virtualInbound");
    assert!(!listener.listener_filters.iter().any(|it| it.name.ends_with("tls_inspector")));
}

#[test]
fn strict_lets_in_mutual_tls_and_what_the_kubelet_asks_for() {
    let all = inbound(&peers("strict", "shop", "mtls: {mode: Strict}"));
    assert_eq!(
        doors(&all, 8080),
        [
            "inbound|8080||mtls tls * mtls",
            "inbound|8080||probe raw_buffer * clear",
            "inbound|8080||closed any * clear"
        ]
    );
    assert_eq!(doors(&all, 5432), ["inbound|5432||mtls tls * mtls", "inbound|5432||closed any * clear"]);
    // A port that no Service has.
    assert_eq!(
        doors(&all, 8081),
        [
            "inbound|8081||mtls tls * mtls",
            "inbound|8081||probe raw_buffer * clear",
            "inbound|8081||closed any * clear"
        ]
    );
    assert_eq!(doors(&all, 0), ["virtualInbound|mtls tls * mtls"]);
    // Filters are packed; their bytes have the paths as they are.
    let bytes = all.of(Type::Listener).get("virtualInbound").unwrap().body.clone();
    let text = String::from_utf8_lossy(&bytes);
    assert!(text.contains("/live?x=1") && text.contains("/ready"), "{text}");
}

/// Which chain takes clear text at a port, as Envoy and Outrider choose: one for the port goes before the one for the rest, whatever the rest is.
#[test]
fn a_port_that_is_strict_is_closed_where_the_rest_is_open() {
    let leads = |all: &Resources| {
        let listener: Listener = message(all, Type::Listener, "virtualInbound");
        let chain = listener.filter_chains.into_iter().find(|it| it.name == "inbound|5432||closed").unwrap();
        let Some(filter::ConfigType::TypedConfig(config)) = &chain.filters[0].config_type else { panic!() };
        unpack::<TcpProxy>(config).unwrap().cluster_specifier
    };
    for rest in ["", "mtls: {mode: Disabled}, "] {
        let policy =
            peers("port", "shop", &format!("{rest}ports: [{{number: 5432, mtls: {{mode: Strict}}}}]"));
        let all = inbound(&policy);
        assert_eq!(doors(&all, 5432), ["inbound|5432||mtls tls * mtls", "inbound|5432||closed any * clear"]);
        assert_eq!(leads(&all), Some(ClusterSpecifier::Cluster("BlackHoleCluster".to_owned())));
        // Without an identity nothing can come by TLS, and nothing does in clear.
        let all = resources(&context(&format!("{}{}{policy}", web(), pod(""))));
        envoy_takes(&all);
        assert_eq!(doors(&all, 5432), ["inbound|5432||closed any * clear"]);
        assert_eq!(leads(&all), Some(ClusterSpecifier::Cluster("BlackHoleCluster".to_owned())));
    }
}

#[test]
fn the_nearest_policy_counts_and_the_port_before_the_rest() {
    let mesh = peers("mesh", "outrider-system", "mtls: {mode: Strict}");
    assert_eq!(doors(&inbound(&mesh), 0), ["virtualInbound|mtls tls * mtls"]);
    let space = format!("{mesh}{}", peers("space", "shop", "mtls: {mode: Permissive}"));
    assert_eq!(doors(&inbound(&space), 0).len(), 2, "that of the namespace goes before that of the mesh");
    let own = peers(
        "own",
        "shop",
        "selector: {matchLabels: {app: web}}, mtls: {mode: Disabled}, ports: [{number: 8080, mtls: {mode: Strict}}]",
    );
    let all = inbound(&format!("{space}{own}"));
    assert_eq!(doors(&all, 0), ["virtualInbound any * clear"]);
    assert_eq!(doors(&all, 8080)[0], "inbound|8080||mtls tls * mtls");
    let other = peers("other", "shop", "selector: {matchLabels: {app: other}}, mtls: {mode: Disabled}");
    assert_eq!(doors(&inbound(&format!("{mesh}{other}")), 0), ["virtualInbound|mtls tls * mtls"]);
    // A policy that speaks of ports alone leaves the rest to those behind it.
    let port = peers("port", "shop", "ports: [{number: 5432, mtls: {mode: Disabled}}]");
    let all = inbound(&format!("{mesh}{port}"));
    assert_eq!(doors(&all, 5432), ["inbound|5432|| any * clear"]);
    assert_eq!(doors(&all, 0), ["virtualInbound|mtls tls * mtls"]);
}

#[test]
fn what_cannot_be_verified_does_not_come_in() {
    // Strict, and no identity: there is no certificate to show.
    let strict = peers("strict", "shop", "mtls: {mode: Strict}");
    let context = context(&format!("{}{}{strict}", web(), pod("")));
    let all = resources(&context);
    envoy_takes(&all);
    assert_eq!(doors(&all, 5432), ["inbound|5432||closed any * clear"]);
    assert_eq!(doors(&all, 0), Vec::<String>::new());
    let said = conditions(&context.policies.statuses[&Key::new(Kind::PeerPolicy, "shop", "strict")]);
    assert!(said.iter().any(|it| it.contains("PartiallyInvalid=True") && it.contains("web-0")), "{said:?}");
    // Nobody knows the labels: the strictest of what may be meant.
    let may = peers("may", "shop", "selector: {matchLabels: {app: other}}, mtls: {mode: Strict}");
    let nameless = Proxy { labels: Default::default(), ..sidecar() };
    let all = translate(&crate::translate::testing::context(&format!("{WEB}{may}")), &nameless);
    assert_eq!(doors(&all, 0), Vec::<String>::new());
}

#[test]
fn of_two_policies_for_a_pod_the_newer_is_told_that_the_older_goes_first() {
    let older = peers("a-older", "shop", "selector: {matchLabels: {app: web}}, mtls: {mode: Strict}");
    let newer = peers(
        "b-newer",
        "shop",
        "selector: {matchLabels: {security.istio.io/tlsMode: istio}}, mtls: {mode: Permissive}",
    );
    let context = context(&format!("{}{}{older}{newer}", web(), pod(MESHED)));
    let said = |name: &str| {
        conditions(&context.policies.statuses[&Key::new(Kind::PeerPolicy, "shop", name)]).join("\n")
    };
    assert!(!said("a-older").contains("PartiallyInvalid"), "{}", said("a-older"));
    let told = said("b-newer");
    assert!(
        told.contains("Accepted=True") && told.contains("of Pod web-0, PeerPolicy shop/a-older is older"),
        "{told}"
    );
    assert_eq!(doors(&resources(&context), 5432).len(), 2, "the older one counts");
}

#[test]
fn who_is_revoked_is_neither_let_in_nor_called() {
    let revoked = |namespace: &str, account: &str| {
        format!(
            "---\napiVersion: outrider.dev/v1\nkind: Revocation\nmetadata: {{name: lost, namespace: {namespace}}}\nspec: {{identities: ['spiffe://cluster.local/ns/shop/sa/{account}']}}\n"
        )
    };
    let first = |all: &Resources, name: &str| {
        let listener: Listener = message(all, Type::Listener, "virtualInbound");
        let chain = listener.filter_chains.into_iter().find(|it| it.name == name).unwrap();
        format!("{:?}", chain.filters[0])
    };
    let world = |more: &str| context(&format!("{}{}{more}", web(), pod(MESHED)));
    let http = "outbound|80||web.shop.svc.cluster.local";
    let theirs = world(&revoked("outrider-system", "thief"));
    let all = resources(&theirs);
    envoy_takes(&all);
    for chain in ["inbound|8080||mtls", "inbound|5432||mtls", "virtualInbound|mtls"] {
        let found = first(&all, chain);
        assert!(found.contains("envoy.filters.network.rbac"), "{chain}: {found}");
    }
    assert!(
        !first(&all, "inbound|8080||").contains("envoy.filters.network.rbac"),
        "nobody has an identity there"
    );
    let common = upstream(&theirs, &client(), http).unwrap().common_tls_context.unwrap();
    assert_eq!(peers_of(&common), [MatchPattern::Exact("spiffe://cluster.local/ns/shop/sa/web".to_owned())]);
    // The last one who might answer is gone: nobody does, not anybody.
    let common = upstream(&world(&revoked("outrider-system", "web")), &client(), http);
    let common = common.unwrap().common_tls_context.unwrap();
    assert_eq!(peers_of(&common), [MatchPattern::Exact("spiffe://cluster.local/revoked".to_owned())]);
    // Elsewhere it does not count, and says so.
    let elsewhere = world(&revoked("shop", "thief"));
    assert!(!first(&resources(&elsewhere), "inbound|8080||mtls").contains("network.rbac"));
    let said = conditions(&elsewhere.policies.statuses[&Key::new(Kind::Revocation, "shop", "lost")]);
    assert!(said.iter().any(|it| it.contains("Accepted=False WrongNamespace")), "{said:?}");
}
