//! What others may change of a sidecar's listeners, and what not.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};

use outrider_proto::pb::envoy::config::cluster::v3::Cluster;
use outrider_proto::pb::envoy::config::core::v3::address::Address;
use outrider_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrider_proto::pb::envoy::config::listener::v3::Listener;
use serde_json::json;

use crate::translate::testing::{
    Running, WEB, as_json, ask, context, envoy_takes, message, resources, sidecar,
};
use crate::translate::{Resources, Type, translate};
use crate::world::Proxy;

/// A Service whose port has no name, so that nobody says what is spoken.
const ODD: &str = "---
apiVersion: v1
kind: Service
metadata: {name: odd, namespace: shop}
spec: {clusterIP: 10.96.0.5, ports: [{port: 9100}]}
";

fn route(namespace: &str) -> String {
    format!(
        "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: odd, namespace: {namespace}}}
spec: {{parentRefs: [{{group: '', kind: Service, name: odd, namespace: shop}}], rules: [{{backendRefs: [{{name: odd, namespace: shop, port: 9100}}]}}]}}
"
    )
}

#[test]
fn a_route_of_one_client_changes_nothing_for_the_others() {
    let detected = |context: &_, namespace: &str| {
        let all = translate(context, &Proxy { namespace: namespace.into(), ..sidecar() });
        all.of(Type::Listener).get("10.96.0.5_9100").is_some()
    };
    let consumer = context(&format!("{WEB}{ODD}{}", route("other")));
    assert!(detected(&consumer, "shop"), "a stranger's route made HTTP of everybody's connections");
    assert!(!detected(&consumer, "other"), "for the client itself it is HTTP");
    let producer = context(&format!("{WEB}{ODD}{}", route("shop")));
    assert!(!detected(&producer, "other"), "the owner's route is for all");
}

/// The address of a listener, and whether it takes IPv4 beside IPv6.
fn bound(all: &Resources, name: &str) -> (String, bool) {
    let listener: Listener = message(all, Type::Listener, name);
    match listener.address.and_then(|it| it.address) {
        Some(Address::SocketAddress(it)) => (it.address, it.ipv4_compat),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_pod_with_both_families_is_served_in_both() {
    let of = |more: &str, proxy: &Proxy| {
        let pod = format!(
            "---
apiVersion: v1
kind: Pod
metadata: {{name: web-0, namespace: shop, labels: {{app: web}}}}
spec: {{containers: [{{name: web}}]}}
status: {{podIP: 10.0.0.1, podIPs: [{{ip: 10.0.0.1}}{more}]}}
"
        );
        let all = translate(&context(&format!("{WEB}{pod}")), proxy);
        let cluster: Cluster = message(&all, Type::Cluster, "InboundPassthroughCluster");
        let bind = cluster.upstream_bind_config.unwrap();
        let others = bind.extra_source_addresses.into_iter().filter_map(|it| it.address);
        let sources: Vec<_> = bind.source_address.into_iter().chain(others).map(|it| it.address).collect();
        (["virtualOutbound", "virtualInbound", "0.0.0.0_80"].map(|name| bound(&all, name)), sources)
    };
    let (addresses, sources) = of("", &sidecar());
    assert!(addresses.iter().all(|it| *it == ("0.0.0.0".to_owned(), false)), "{addresses:?}");
    assert_eq!(sources, ["127.0.0.6"]);
    // The pod's status says it later, or the proxy from the beginning.
    let first = Proxy { address: "fd00::1".parse().unwrap(), ..sidecar() };
    for (more, proxy) in [(", {ip: 'fd00::1'}", sidecar()), ("", first)] {
        let (addresses, sources) = of(more, &proxy);
        assert!(addresses.iter().all(|it| *it == ("::".to_owned(), true)), "{addresses:?}");
        assert_eq!(sources, ["127.0.0.6", "::6"]);
    }
}

#[test]
fn under_tproxy_the_application_sees_its_clients() {
    let shown = |tproxy| {
        let all = translate(&context(WEB), &Proxy { tproxy, ..sidecar() });
        let listener: Listener = message(&all, Type::Listener, "virtualInbound");
        let filters: Vec<_> = listener.listener_filters.into_iter().map(|it| it.name).collect();
        let cluster: Cluster = message(&all, Type::Cluster, "inbound|8080||");
        let source = filters.iter().position(|it| it == "envoy.filters.listener.original_src");
        (listener.transparent.is_some_and(|it| it.value), source, cluster.upstream_bind_config.is_some())
    };
    assert_eq!(shown(true), (true, Some(1), false));
    assert_eq!(shown(false), (false, None, true));
}

fn slice(namespace: &str, service: &str, port: &str, kind: &str, address: &str) -> String {
    format!(
        "---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: {service}-x, namespace: {namespace}, labels: {{kubernetes.io/service-name: {service}}}}}
addressType: {kind}
ports: [{port}]
endpoints: [{{addresses: [{address}]}}]
"
    )
}

#[test]
fn what_is_no_address_is_no_endpoint() {
    let yaml = format!("{WEB}{}", slice("shop", "web", "{name: http, port: 1}", "FQDN", "evil.example"));
    let all = resources(&context(&yaml));
    let found: ClusterLoadAssignment =
        message(&all, Type::Endpoints, "outbound|80||web.shop.svc.cluster.local");
    let text = format!("{found:?}");
    assert!(text.contains("10.0.0.1") && !text.contains("evil.example"), "{text}");
}

/// The names of the inbound chains, and whether each has a connection manager.
fn inbound(yaml: &str) -> Vec<(String, bool)> {
    let all = resources(&context(yaml));
    envoy_takes(&all);
    let listener: Listener = message(&all, Type::Listener, "virtualInbound");
    let http = |name: &str| name == "envoy.filters.network.http_connection_manager";
    listener
        .filter_chains
        .into_iter()
        .skip(1)
        .map(|it| (it.name, it.filters.iter().any(|filter| http(&filter.name))))
        .collect()
}

fn named(list: &[(&str, bool)]) -> Vec<(String, bool)> {
    list.iter().map(|(name, http)| ((*name).to_owned(), *http)).collect()
}

#[test]
fn services_elsewhere_do_not_say_what_is_spoken_here() {
    let own = [("inbound|5432||", false), ("inbound|8080||", true), ("inbound|9000||", true)];
    assert_eq!(inbound(WEB), named(&own));
    let foreign = format!(
        "{WEB}---\n{{apiVersion: v1, kind: Service, metadata: {{name: x, namespace: evil}}, spec: {{ports: [{{name: tcp, port: 80, targetPort: 8080}}, {{name: http, port: 7}}]}}}}\n{}",
        slice("evil", "x", "{name: tcp, port: 8080}, {name: http, port: 7}", "IPv4", "10.0.0.1")
    );
    assert_eq!(inbound(&foreign), named(&own));
}

#[test]
fn two_services_of_one_port_do_not_take_its_http_away() {
    let with = |port: &str| {
        format!(
            "{WEB}---\n{{apiVersion: v1, kind: Service, metadata: {{name: x, namespace: shop}}, spec: {{ports: [{{{port}, port: 80, targetPort: 8080}}]}}}}\n{}",
            slice("shop", "x", &format!("{{{port}, port: 8080}}"), "IPv4", "10.0.0.1")
        )
    };
    let at = |yaml: &str| -> Vec<_> {
        inbound(yaml).into_iter().filter(|(name, _)| name.starts_with("inbound|8080||")).collect()
    };
    // Without a name nobody says what it is, so that the other counts.
    assert_eq!(at(&with("name: ''")), named(&[("inbound|8080||", true)]));
    assert_eq!(at(&with("name: grpc")), named(&[("inbound|8080||", true)]));
    // They disagree: it is found out.
    let detected = named(&[("inbound|8080||http", true), ("inbound|8080||", false)]);
    assert_eq!(at(&with("name: tcp")), detected);
}

#[test]
fn what_arrives_at_a_port_without_a_name_is_found_out() {
    let yaml = format!("{WEB}{ODD}{}", slice("shop", "odd", "{port: 9100}", "IPv4", "10.0.0.1"));
    let found = inbound(&yaml);
    let both = named(&[("inbound|9100||http", true), ("inbound|9100||", false)]);
    assert_eq!(found.iter().filter(|(name, _)| name.contains("9100")).cloned().collect::<Vec<_>>(), both);
    let all = resources(&context(&yaml));
    let listener: Listener = message(&all, Type::Listener, "virtualInbound");
    let inspector = listener.listener_filters.iter().find(|it| it.name.ends_with("http_inspector")).unwrap();
    assert!(inspector.filter_disabled.is_some(), "servers that speak first would wait at all ports");
    let plain: Listener = message(&resources(&context(WEB)), Type::Listener, "virtualInbound");
    assert!(!plain.listener_filters.iter().any(|it| it.name.ends_with("http_inspector")));
}

/// Answers whatever comes first on each connection as a server of HTTP would.
fn application() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            if stream.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {
                let _ =
                    stream.write_all(b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n");
            }
        }
    });
    port
}

#[test]
fn a_real_proxy_finds_out_what_arrives_and_judges_it_as_such() {
    // Chains are chosen by the port that was called, so the proxy must have it: one that was free a moment ago.
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let application = application();
    for (policy, statuses, tcp) in [
        ("", [200, 200], true),
        // By what can be seen of other connections, the rule is for each of them.
        ("{action: DENY, rules: [{to: [{paths: [/admin]}]}]}", [200, 403], false),
        ("{rules: [{to: [{methods: [POST]}]}, {to: [{notPorts: [1]}]}]}", [200, 200], true),
    ] {
        let policy = if policy.is_empty() {
            String::new()
        } else {
            format!(
                "---\napiVersion: outrider.dev/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: shop}}\nspec: {policy}\n"
            )
        };
        let slice = slice("shop", "odd", &format!("{{port: {port}}}"), "IPv4", "10.0.0.1");
        let all = resources(&context(&format!("{WEB}{ODD}{slice}{policy}")));
        envoy_takes(&all);
        let mut listeners = as_json(&all, Type::Listener, |name| name == "virtualInbound");
        listeners[0]["address"]["socket_address"] = json!({"address": "127.0.0.1", "port_value": port});
        // Without capture the connection was going to the proxy itself.
        let mut clusters = as_json(&all, Type::Cluster, |name| {
            name.starts_with("inbound|") || name == "BlackHoleCluster" || name.starts_with("Inbound")
        });
        for cluster in &mut clusters {
            let name = cluster["name"].clone();
            if name == format!("inbound|{port}||") {
                let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": application}});
                *cluster = json!({"name": name, "type": "STATIC", "load_assignment": {"cluster_name": name,
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}]}});
            }
        }
        let Some(envoy) = Running::start(&json!({"listeners": listeners, "clusters": clusters})) else {
            return;
        };
        let address = envoy.listener("virtualInbound");
        let asked = ["GET /", "GET /admin"].map(|request| ask(address, request, "").0);
        assert_eq!(asked, statuses, "{policy}");
        let mut stream = TcpStream::connect(address).unwrap();
        let _ = stream.write_all(b"\x00\x01\x02\x03");
        assert_eq!(matches!(stream.read(&mut [0; 1]), Ok(1)), tcp, "{policy}");
    }
}

#[test]
fn a_sidecar_without_capture_listens_where_it_says_and_leads_to_its_application() {
    use outrider_proto::pb::envoy::config::cluster::v3::Cluster;

    use crate::world::Explicit;
    let explicit =
        Explicit { listen: "10.0.0.1:8080".parse().unwrap(), application: "127.0.0.1:9999".parse().unwrap() };
    let all = translate(&context(WEB), &Proxy { explicit: Some(explicit), ..sidecar() });
    envoy_takes(&all);
    let listener: Listener = message(&all, Type::Listener, "virtualInbound");
    let text = format!("{listener:?}");
    assert!(text.contains("10.0.0.1") && !text.contains("15006"), "{text}");
    assert!(text.contains("inbound|8080||") && !text.contains("inbound|9000||"), "{text}");
    assert!(!text.contains("listener.original_dst") && !text.contains("InboundPassthroughCluster"), "{text}");
    let cluster: Cluster = message(&all, Type::Cluster, "inbound|8080||");
    let text = format!("{cluster:?}");
    assert!(text.contains("127.0.0.1") && text.contains("9999") && !text.contains("127.0.0.6"), "{text}");
    let other: Cluster = message(&all, Type::Cluster, "inbound|9000||");
    assert!(other.load_assignment.is_none(), "there is one application behind one port");
}
