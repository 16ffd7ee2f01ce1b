//! Resources as one bootstrap: what they refer to over ADS stands in them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

type Named = BTreeMap<String, Value>;

/// A bootstrap that a proxy can judge without a control plane.
pub(crate) fn of(mut resources: Value) -> Value {
    let mut take = |kind: &str| match resources.get_mut(kind).map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let named = |items: Vec<Value>, key: &str| -> Named {
        items.into_iter().map(|it| (it[key].as_str().unwrap_or_default().to_owned(), it)).collect()
    };
    let (tables, endpoints) = (named(take("Route"), "name"), named(take("Endpoints"), "cluster_name"));
    let (secrets, mut listeners, mut clusters) = (take("Secret"), take("Listener"), take("Cluster"));
    let mut used = Vec::new();
    for listener in &mut listeners {
        inline(listener, &tables, &mut used);
    }
    // A gRPC client has listeners that no proxy has; their tables are judged behind a listener of our own.
    let api = listeners.iter().any(|it| it.get("api_listener").is_some());
    if api {
        listeners = tables.values().enumerate().map(|(i, table)| carrier(i, table)).collect();
    } else {
        let unused: Vec<_> = tables.keys().filter(|name| !used.contains(*name)).collect();
        assert!(unused.is_empty(), "tables that no listener names: {unused:?}");
    }
    for cluster in &mut clusters {
        static_cluster(cluster, &endpoints);
        local(cluster);
    }
    listeners.iter_mut().for_each(local);
    // Where a proxy has its own identity from.
    clusters.insert(
        0,
        json!({
            "name": "sds-grpc",
            "type": "STATIC",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}},
            }},
            "load_assignment": {"cluster_name": "sds-grpc", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": {"pipe": {"path": "/var/run/sds"}}}},
            ]}]},
        }),
    );
    json!({
        "node": {"id": "golden", "cluster": "golden"},
        "static_resources": {"listeners": listeners, "clusters": clusters, "secrets": secrets},
    })
}

/// Puts route tables in the place of their names.
fn inline(value: &mut Value, tables: &Named, used: &mut Vec<String>) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|it| inline(it, tables, used)),
        Value::Object(fields) => {
            if let Some(rds) = fields.remove("rds") {
                let name = rds["route_config_name"].as_str().unwrap_or_default().to_owned();
                let table = tables.get(&name).unwrap_or_else(|| panic!("no table {name:?}"));
                fields.insert("route_config".to_owned(), table.clone());
                used.push(name);
            }
            fields.values_mut().for_each(|it| inline(it, tables, used));
        }
        _ => {}
    }
}

/// Puts endpoints into a cluster that would ask for them.
fn static_cluster(cluster: &mut Value, endpoints: &Named) {
    if cluster["type"] != "EDS" {
        return;
    }
    let other = cluster["eds_cluster_config"]["service_name"].as_str();
    let name = other.or_else(|| cluster["name"].as_str()).unwrap_or_default().to_owned();
    let mut found = endpoints.get(&name).unwrap_or_else(|| panic!("no endpoints for {name:?}")).clone();
    found["cluster_name"] = cluster["name"].clone();
    let Some(fields) = cluster.as_object_mut() else { return };
    fields.remove("eds_cluster_config");
    fields.insert("type".to_owned(), "STATIC".into());
    fields.insert("load_assignment".to_owned(), found);
}

/// Secrets of the control plane stand in the bootstrap itself.
fn local(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(local),
        Value::Object(fields) => {
            if fields.get("sds_config").is_some_and(|it| it.get("ads").is_some()) {
                fields.remove("sds_config");
            }
            // gRPC's word for what Envoy has in a file.
            if fields.remove("system_root_certs").is_some() {
                let file =
                    Map::from_iter([("filename".to_owned(), "/etc/ssl/certs/ca-certificates.crt".into())]);
                fields.insert("trusted_ca".to_owned(), Value::Object(file));
            }
            fields.values_mut().for_each(local);
        }
        _ => {}
    }
}

fn carrier(index: usize, table: &Value) -> Value {
    let types = "type.googleapis.com/envoy.extensions.filters";
    json!({
        "name": format!("carrier_{index}"),
        "address": {"socket_address": {"address": "127.0.0.1", "port_value": 20000 + index}},
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": {
                "@type": format!("{types}.network.http_connection_manager.v3.HttpConnectionManager"),
                "stat_prefix": "carrier",
                "route_config": table,
                "http_filters": [{
                    "name": "envoy.filters.http.router",
                    "typed_config": {"@type": format!("{types}.http.router.v3.Router")},
                }],
            },
        }]}],
    })
}
