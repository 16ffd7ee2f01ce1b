//! An Envoy v3 bootstrap in YAML. Outrider is given the same file.
//!
//! All is at its default: stats on, no access log, no tracing. Nothing is tuned for either proxy.

use std::fmt::Write;

use super::{Edge, Plan, Shape, filters};
use crate::certs::{CLIENT_NAME, Certs, SERVER_NAME};
use crate::upstream::BODY;

/// The bootstrap for a plan.
pub(crate) fn bootstrap(plan: &Plan<'_>) -> String {
    let mut out = format!(
        "admin:\n  address:\n    socket_address: {{address: 127.0.0.1, port_value: {}}}\n\
         static_resources:\n  listeners:\n",
        plan.admin
    );
    for (index, edge) in plan.edges.iter().enumerate() {
        listener(&mut out, index, edge, plan.certs);
    }
    out.push_str("  clusters:\n");
    for (index, edge) in plan.edges.iter().enumerate() {
        cluster(&mut out, index, edge, plan.certs);
    }
    let port = plan.edges.first().map_or(1, |edge| edge.upstream);
    for index in 0..plan.extra_clusters {
        // Writing to a String cannot fail.
        let _ = writeln!(
            out,
            "  - {{name: extra_{index}, type: STATIC, connect_timeout: 5s, load_assignment: {{cluster_name: extra_{index}, \
             endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, \
             port_value: {port}}}}}}}}}]}}]}}}}"
        );
    }
    out
}

fn listener(out: &mut String, index: usize, edge: &Edge, certs: &Certs) {
    let _ = write!(
        out,
        "  - name: listener_{index}\n    address:\n      socket_address: {{address: 127.0.0.1, port_value: {}}}\n    \
         filter_chains:\n    - filters:\n",
        edge.listen
    );
    if matches!(edge.shape, Shape::Tcp { .. }) {
        let _ = write!(
            out,
            r#"      - name: envoy.filters.network.tcp_proxy
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp_{index}
          cluster: upstream_{index}
"#
        );
        return;
    }
    let action = match edge.shape {
        Shape::Handshake { .. } => {
            format!("direct_response: {{status: 200, body: {{inline_string: \"{BODY}\"}}}}")
        }
        _ => format!("route: {{cluster: upstream_{index}}}"),
    };
    let filter = match edge.shape {
        Shape::Guarded { filter: Some(filter), .. } => filters::entry(filter, certs),
        _ => String::new(),
    };
    let _ = write!(
        out,
        r#"      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: http_{index}
          codec_type: AUTO
          route_config:
            name: routes_{index}
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: "/"}}
                {action}
          http_filters:
{filter}          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
"#
    );
    // Protocols, own certificate, the name that the client's must have.
    let tls = match edge.shape {
        Shape::MeshInbound => Some(("h2, http/1.1", "server", Some(CLIENT_NAME))),
        Shape::Handshake { rsa: false } => Some(("http/1.1", "server", Some(CLIENT_NAME))),
        Shape::Handshake { rsa: true } => Some(("http/1.1", "server-rsa", Some(CLIENT_NAME))),
        Shape::Guarded { tls: true, .. } => Some(("http/1.1", "server", None)),
        _ => None,
    };
    if let Some((protocols, own, peer)) = tls {
        let _ = write!(
            out,
            r#"      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            alpn_protocols: [{protocols}]
{}"#,
            tls_context(certs, own, peer)
        );
    }
}

fn cluster(out: &mut String, index: usize, edge: &Edge, certs: &Certs) {
    let _ = write!(
        out,
        r#"  - name: upstream_{index}
    type: STATIC
    connect_timeout: 5s
    load_assignment:
      cluster_name: upstream_{index}
      endpoints:
      - lb_endpoints:
        - endpoint:
            address:
              socket_address: {{address: 127.0.0.1, port_value: {}}}
"#,
        edge.upstream
    );
    if matches!(edge.shape, Shape::ToHttp2 | Shape::MeshOutbound) {
        out.push_str(
            r#"    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config:
          http2_protocol_options: {}
"#,
        );
    }
    if edge.shape == Shape::MeshOutbound {
        let _ = write!(
            out,
            r#"    transport_socket:
      name: envoy.transport_sockets.tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        sni: {SERVER_NAME}
        common_tls_context:
          alpn_protocols: [h2]
{}"#,
            tls_context(certs, "client", Some(SERVER_NAME)).replace("            ", "          ")
        );
    }
}

/// Own certificate and what is asked of the peer's, indented for a listener.
fn tls_context(certs: &Certs, own: &str, peer: Option<&str>) -> String {
    let mut out = format!(
        r#"            tls_certificates:
            - certificate_chain: {{filename: "{chain}"}}
              private_key: {{filename: "{key}"}}
            validation_context:
              trusted_ca: {{filename: "{ca}"}}
"#,
        chain = certs.path(&format!("{own}.pem")),
        key = certs.path(&format!("{own}.key")),
        ca = certs.path("ca.pem"),
    );
    if let Some(peer) = peer {
        let _ = write!(
            out,
            r#"              match_typed_subject_alt_names:
              - san_type: DNS
                matcher: {{exact: "{peer}"}}
"#
        );
    }
    out
}
