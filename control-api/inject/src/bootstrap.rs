//! The sidecar's bootstrap, as an argument. What differs from pod to pod is `$(NAME)` in it, which Kubernetes replaces by the variable of
//! that name before the process starts: nothing has to be written into a file first.

use serde_json::{Value, json};

use crate::names::{ADMIN, MUTUAL, READY, STATS, TLS_MODE};
use crate::settings::{Capture, Settings};

/// Where sockets, certificates and state are.
pub(crate) const RUN: &str = "/run/outrider";
/// Where the token is.
pub(crate) const TOKEN: &str = "/var/run/secrets/outrider";
/// Where the authorities are that the control plane's certificate is verified with.
pub(crate) const CA: &str = "/etc/outrider/ca";

/// The variables that it uses, with the fields of the pod that they are.
pub(crate) const VARIABLES: [(&str, &str); 5] = [
    ("POD_NAME", "metadata.name"),
    ("POD_NAMESPACE", "metadata.namespace"),
    ("POD_IP", "status.podIP"),
    ("SERVICE_ACCOUNT", "spec.serviceAccountName"),
    ("NODE_NAME", "spec.nodeName"),
];

/// The bootstrap of a sidecar.
pub(crate) fn text(settings: &Settings) -> String {
    let ca_file = format!("{CA}/{}", settings.trust_key);
    let ads = json!({
        "api_type": "DELTA_GRPC",
        "transport_api_version": "V3",
        "grpc_services": [{ "envoy_grpc": { "cluster_name": "control-plane" } }],
    });
    // Without an end: what is served before the first configuration is there would be served without its policies.
    let source = json!({ "ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s" });
    let bootstrap = json!({
        "node": {
            "id": format!("sidecar~$(POD_IP)~$(POD_NAME).$(POD_NAMESPACE)~$(POD_NAMESPACE).svc.{}", settings.cluster_domain),
            "cluster": "$(SERVICE_ACCOUNT).$(POD_NAMESPACE)",
            "metadata": metadata(settings),
        },
        "admin": { "address": at("127.0.0.1", ADMIN) },
        "bootstrap_extensions": [{
            "name": "identity",
            "typed_config": {
                "@type": "type.googleapis.com/outrider.extensions.bootstrap.identity.v1.IdentityAgent",
                "address": settings.control_plane,
                "server_name": settings.server_name,
                "ca_file": ca_file,
                "service_account_token_file": format!("{TOKEN}/token"),
                "socket_path": format!("{RUN}/sds"),
                // In memory, and gone with the pod: a sidecar that is started again need not ask for a certificate.
                "state_dir": format!("{RUN}/identity"),
            },
        }],
        "dynamic_resources": { "ads_config": ads, "cds_config": source, "lds_config": source },
        "static_resources": {
            "listeners": [
                local("ready", READY, "/healthz/ready", "/ready"),
                local("stats", STATS, "/stats/prometheus", "/stats/prometheus"),
            ],
            "clusters": [
                cluster("sds-grpc", &json!({ "pipe": { "path": format!("{RUN}/sds") } }), true),
                control_plane(settings, &ca_file),
                cluster("admin", &at("127.0.0.1", ADMIN), false),
            ],
        },
    });
    bootstrap.to_string()
}

/// What the control plane is told besides.
fn metadata(settings: &Settings) -> Value {
    // Where nothing that comes in is captured, nobody is to speak mutual TLS.
    let labels = if settings.capture == Capture::None { json!({}) } else { json!({ TLS_MODE: MUTUAL }) };
    json!({ "NAMESPACE": "$(POD_NAMESPACE)", "SERVICE_ACCOUNT": "$(SERVICE_ACCOUNT)", "NODE_NAME": "$(NODE_NAME)", "LABELS": labels })
}

fn at(address: &str, port: u16) -> Value {
    json!({ "socket_address": { "address": address, "port_value": port } })
}

fn cluster(name: &str, address: &Value, http2: bool) -> Value {
    let mut cluster = json!({
        "name": name,
        "type": "STATIC",
        "load_assignment": endpoint(name, address),
    });
    if http2 && let Some(fields) = cluster.as_object_mut() {
        fields.insert("typed_extension_protocol_options".to_owned(), http2_options());
    }
    cluster
}

fn endpoint(name: &str, address: &Value) -> Value {
    json!({ "cluster_name": name, "endpoints": [{ "lb_endpoints": [{ "endpoint": { "address": address } }] }] })
}

fn http2_options() -> Value {
    json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": { "http2_protocol_options": {} },
        },
    })
}

/// The control plane, to which the sidecar shows the certificate that its identity agent got there.
fn control_plane(settings: &Settings, ca_file: &str) -> Value {
    let (host, port) = settings.control_plane.rsplit_once(':').unwrap_or_default();
    let address = at(host, port.parse().unwrap_or_default());
    let sds = json!({
        "resource_api_version": "V3",
        "api_config_source": {
            "api_type": "GRPC",
            "transport_api_version": "V3",
            "grpc_services": [{ "envoy_grpc": { "cluster_name": "sds-grpc" } }],
        },
    });
    json!({
        "name": "control-plane",
        "type": "STRICT_DNS",
        "connect_timeout": "5s",
        "typed_extension_protocol_options": http2_options(),
        "load_assignment": endpoint("control-plane", &address),
        "transport_socket": {
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": settings.server_name,
                "common_tls_context": {
                    "alpn_protocols": ["h2"],
                    "tls_certificate_sds_secret_configs": [{ "name": "default", "sds_config": sds }],
                    "validation_context": {
                        "trusted_ca": { "filename": ca_file },
                        "match_typed_subject_alt_names": [{ "san_type": "DNS", "matcher": { "exact": settings.server_name } }],
                    },
                },
            },
        },
    })
}

/// A port of the pod where one path of the admin interface can be asked for, and nothing else. It listens on the pod's own address,
/// whose family is that of whoever asks.
fn local(name: &str, port: u16, path: &str, asked: &str) -> Value {
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": name,
        "route_config": {
            "name": name,
            "virtual_hosts": [{
                "name": name,
                "domains": ["*"],
                "routes": [{ "match": { "path": path }, "route": { "cluster": "admin", "prefix_rewrite": asked } }],
            }],
        },
        "http_filters": [{
            "name": "envoy.filters.http.router",
            "typed_config": { "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router" },
        }],
    });
    json!({
        "name": name,
        "address": at("$(POD_IP)", port),
        "filter_chains": [{
            "filters": [{ "name": "envoy.filters.network.http_connection_manager", "typed_config": manager }],
        }],
    })
}
