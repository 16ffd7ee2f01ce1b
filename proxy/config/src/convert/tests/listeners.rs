use super::{bad, good, indent};
use crate::model::{Listener, ListenerFilterKind, NetworkFilter, SocketAddress};

const TCP: &str = r#"filters: [{name: tcp, typed_config: {"@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: later}}]"#;

/// A bootstrap with the listeners `listeners`.
fn listeners(listeners: &str) -> String {
    format!("static_resources:\n  listeners:\n{}", indent(listeners, 2))
}

fn one(yaml: &str) -> Listener {
    good(&listeners(yaml)).0.listeners[0].as_ref().clone()
}

fn address(port: u16) -> String {
    format!("address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}")
}

#[test]
fn a_listener_without_a_name_is_called_by_its_address() {
    let listener = one(&format!("- {}\n  filter_chains: [{{{TCP}}}]", address(80)));
    assert_eq!((&*listener.name, &*listener.stat_prefix), ("127.0.0.1:80", "127.0.0.1_80"));
    assert_eq!(listener.listener_filters_timeout.unwrap().as_secs(), 15);
    assert_eq!(listener.per_connection_buffer_limit, 1 << 20);
    let NetworkFilter::TcpProxy(proxy) = &listener.filter_chains[0].filter else { panic!() };
    assert_eq!(proxy.idle_timeout.unwrap().as_secs(), 3600);
    assert_eq!((&*proxy.clusters[0].name, proxy.max_connect_attempts), ("later", 1));
}

#[test]
fn filters_that_other_fields_ask_for_are_put_in() {
    let listener = one(&format!(
        "- {}\n  use_original_dst: true\n  bind_to_port: false\n  filter_chains: [{{filter_chain_match: {{server_names: [A.example]}}, {TCP}}}]",
        address(80)
    ));
    assert!(!listener.bind_to_port && listener.use_original_dst);
    assert!(matches!(listener.listener_filters[0].kind, ListenerFilterKind::OriginalDst));
    // Not so a TLS inspector: without one a connection has no server name.
    assert_eq!(listener.listener_filters.len(), 1);
    assert_eq!(&*listener.filter_chains[0].matches.server_names[0], "a.example");
}

#[test]
fn upstream_connections_may_come_from_the_client() {
    let filter = |more: &str| {
        let kind = "type.googleapis.com/envoy.extensions.filters.listener.original_src.v3.OriginalSrc";
        format!(
            "- {}\n  listener_filters: [{{name: src, typed_config: {{\"@type\": {kind}, {more}}}}}]\n  filter_chains: [{{{TCP}}}]",
            address(80)
        )
    };
    let listener = one(&filter("mark: 1337"));
    assert!(matches!(listener.listener_filters[0].kind, ListenerFilterKind::OriginalSrc { mark: 1337 }));
    let problems = bad(&listeners(&filter("bind_port: true")));
    let at = "static_resources.listeners[0].listener_filters[0].typed_config.bind_port";
    assert_eq!(problems, [format!("{at}: the kernel chooses the port; remove it")]);
}

#[test]
fn the_runtime_limits_connections() {
    let yaml = listeners(&format!("- name: l\n  {}\n  filter_chains: [{{{TCP}}}]", address(80)));
    let runtime = "layered_runtime: {layers: [{name: s, static_layer: {envoy: {resource_limits: {listener: {l: {connection_limit: 7}}}}}}]}";
    assert_eq!(good(&format!("{yaml}{runtime}")).0.listeners[0].connection_limit.get(), 7);
}

#[test]
fn chains_may_not_share_a_match() {
    let problems = bad(&listeners(&format!(
        "- {}\n  filter_chains:\n  - {{filter_chain_match: {{server_names: [a, b]}}, {TCP}}}\n  - {{filter_chain_match: {{server_names: [b]}}, {TCP}}}",
        address(80)
    )));
    let chains = "static_resources.listeners[0].filter_chains";
    assert_eq!(
        problems,
        [format!(
            "{chains}[1].filter_chain_match: it matches connections that {chains}[0] matches with the same rules; change or remove one of them"
        )]
    );
}

#[test]
fn listeners_share_neither_name_nor_address() {
    let listener =
        |name: &str, port| format!("- name: {name}\n  {}\n  filter_chains: [{{{TCP}}}]\n", address(port));
    let problems = bad(&listeners(&(listener("a", 80) + &listener("a", 81) + &listener("b", 80))));
    assert_eq!(
        problems,
        [
            "static_resources.listeners[1].name: there is a listener named \"a\" already",
            "static_resources.listeners[2].address: 127.0.0.1:80 is the address of the listener \"a\" already"
        ]
    );
    good(&listeners(&(listener("a", 0) + &listener("b", 0))));
}

#[test]
fn unsupported_parts_are_refused_by_their_path_and_type() {
    let yaml = listeners(&format!(
        r#"
- {}
  api_listener: {{}}
  enable_mptcp: true
  listener_filters:
  - name: lr
    typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit}}
  filter_chains:
  - filters:
    - name: echo
      typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.network.echo.v3.Echo}}
"#,
        address(80)
    ));
    let listener = "static_resources.listeners[0]";
    assert_eq!(
        bad(&yaml),
        [
            format!("{listener}.enable_mptcp: not supported by this version of Outrider; remove the field"),
            format!("{listener}.api_listener: API listeners are for Envoy Mobile; write filter_chains"),
            format!(
                "{listener}.filter_chains[0].filters[0].typed_config: the network filter envoy.extensions.filters.network.echo.v3.Echo is not supported; use tcp_proxy or http_connection_manager"
            ),
            format!(
                "{listener}.listener_filters[0].typed_config: the listener filter envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit is not supported; remove it"
            ),
        ]
    );
}

#[test]
fn addresses_of_every_kind() {
    let listener = one(&format!(
        "- name: l\n  address: {{pipe: {{path: /run/x.sock, mode: 384}}}}\n  additional_addresses: [{{address: {{socket_address: {{address: '::', port_value: 1, ipv4_compat: true}}}}}}]\n  filter_chains: [{{{TCP}}}]"
    ));
    assert_eq!(
        listener.addresses[0].address,
        SocketAddress::Pipe { path: "/run/x.sock".into(), mode: 0o600 }
    );
    assert!(listener.addresses[1].ipv4_compat);
    let name = bad(&listeners(&format!(
        "- name: l\n  address: {{socket_address: {{address: localhost, port_value: 1}}}}\n  filter_chains: [{{{TCP}}}]"
    )));
    assert!(name[0].contains("address: \"localhost\" is not an IP address"), "{name:?}");
}
