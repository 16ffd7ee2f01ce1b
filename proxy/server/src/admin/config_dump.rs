//! `/config_dump` and `/compat`: the bootstrap, expanded from its bytes when it is asked for.

use std::collections::BTreeSet;
use std::time::SystemTime;

use outrider_config::model::{NetworkFilter, Routes, ScopedRoutes, Scopes};
use outrider_proto::prost_reflect::DynamicMessage;
use outrider_proto::{Descriptors, to_json};
use outrider_xds::Kind;
use regex::Regex;
use serde_json::{Map, Value, json};

use crate::bootstrap;
use crate::check::Sheet;
use crate::control::Control;

use super::dynamic_dump::Dynamic;
use super::query::Query;
use super::reply::Reply;

const TYPE: &str = "type.googleapis.com/envoy.admin.v3.";

pub(super) fn config_dump(control: &Control, query: &Query) -> Reply {
    match dump(control, query) {
        Ok(value) => Reply::json(&value),
        Err(reply) => reply,
    }
}

fn expand(control: &Control) -> Result<(Descriptors, DynamicMessage), Reply> {
    let descriptors = Descriptors::load();
    let message = bootstrap::expand(&descriptors, &control.wire);
    let message = message.map_err(|error| Reply::text(format!("{error:#}\n")).status(500))?;
    Ok((descriptors, message))
}

fn dump(control: &Control, query: &Query) -> Result<Value, Reply> {
    let (descriptors, message) = expand(control)?;
    let bootstrap = to_json(&descriptors, &message);
    let names = query.get("name_regex").map(Regex::new).transpose();
    let names = names.map_err(|error| Reply::bad_request(format!("name_regex: {error}")))?;
    let configs = sections(control, &descriptors, &bootstrap, names.as_ref(), query.has("include_eds"));
    let mask = query.get("mask").filter(|mask| !mask.is_empty());
    let Some(resource) = query.get("resource").filter(|resource| !resource.is_empty()) else {
        let masked = configs.into_iter().map(|config| masked(config, mask));
        return Ok(json!({ "configs": masked.collect::<Vec<_>>() }));
    };
    // One repeated field of one section: `static_clusters`, `static_listeners`, ...; or `bootstrap`.
    let known = |config: &&Value| config.get(resource).is_some();
    let Some(section) = configs.iter().find(known) else {
        let fields = "bootstrap, static_listeners, static_clusters, static_route_configs, static_secrets, static_endpoint_configs, dynamic_listeners, dynamic_active_clusters, dynamic_warming_clusters, dynamic_route_configs, inline_scoped_route_configs, dynamic_scoped_route_configs, dynamic_endpoint_configs, dynamic_active_secrets, dynamic_warming_secrets";
        let message = format!(
            "{resource} not found in config dump; there are {fields} (where the configuration has any)"
        );
        return Err(Reply::text(message + "\n").status(404));
    };
    let items = match &section[resource] {
        Value::Array(items) => items.clone(),
        other => vec![other.clone()],
    };
    Ok(json!({ "configs": items.into_iter().map(|item| masked(item, mask)).collect::<Vec<_>>() }))
}

fn sections(
    control: &Control,
    descriptors: &Descriptors,
    bootstrap: &Value,
    names: Option<&Regex>,
    endpoints: bool,
) -> Vec<Value> {
    let at = timestamp(control.state.started_at);
    let resources = &bootstrap["static_resources"];
    let list = |field: &str| resources[field].as_array().cloned().unwrap_or_default();
    let wanted = |resource: &Value, field: &str| {
        names.is_none_or(|names| resource[field].as_str().is_some_and(|name| names.is_match(name)))
    };
    let wrap = |resource: &Value, key: &str, wire_type: &str| {
        let mut typed = Map::new();
        typed.insert("@type".into(), format!("type.googleapis.com/{wire_type}").into());
        typed.extend(resource.as_object().cloned().unwrap_or_default());
        json!({ key: typed, "last_updated": &at })
    };
    let all = |field: &str, key: &str, wire_type: &str| -> Vec<Value> {
        list(field)
            .iter()
            .filter(|item| wanted(item, "name"))
            .map(|item| wrap(item, key, wire_type))
            .collect()
    };
    let mut configs = Vec::new();
    if names.is_none() {
        configs.push(json!({ "@type": format!("{TYPE}BootstrapConfigDump"), "bootstrap": bootstrap, "last_updated": &at }));
    }
    let clusters = all("clusters", "cluster", "envoy.config.cluster.v3.Cluster");
    let dynamic = Dynamic { records: &control.records, descriptors, names };
    configs.push(
        dynamic
            .clusters(json!({ "@type": format!("{TYPE}ClustersConfigDump"), "static_clusters": clusters })),
    );
    configs.extend(dynamic.extensions(json!({ "@type": format!("{TYPE}EcdsConfigDump") })));
    let listeners = all("listeners", "listener", "envoy.config.listener.v3.Listener");
    configs.push(
        dynamic.listeners(
            json!({ "@type": format!("{TYPE}ListenersConfigDump"), "static_listeners": listeners }),
        ),
    );
    let mut scoped = Vec::new();
    find("scoped_routes", resources, &mut scoped);
    let scoped = scoped.into_iter().filter(|scoped| wanted(scoped, "name"));
    configs.push(scopes(control, &dynamic, scoped, &at));
    let mut routes = Vec::new();
    find("route_config", resources, &mut routes);
    find("route_configuration", resources, &mut routes);
    let routes = routes.into_iter().filter(|route| wanted(route, "name"));
    let routes: Vec<Value> =
        routes.map(|route| wrap(route, "route_config", "envoy.config.route.v3.RouteConfiguration")).collect();
    configs.push(
        dynamic.routes(json!({ "@type": format!("{TYPE}RoutesConfigDump"), "static_route_configs": routes })),
    );
    let secrets = list("secrets");
    let secrets = secrets.iter().filter(|item| wanted(item, "name")).map(|secret| {
        let mut entry = wrap(secret, "secret", "envoy.extensions.transport_sockets.tls.v3.Secret");
        entry["name"] = secret["name"].clone();
        entry
    });
    let secrets: Vec<Value> = secrets.collect();
    configs.push(
        dynamic.secrets(json!({ "@type": format!("{TYPE}SecretsConfigDump"), "static_secrets": secrets })),
    );
    if endpoints {
        let assignments = list("clusters").into_iter().filter(|cluster| wanted(cluster, "name"));
        let assignments = assignments.filter_map(|cluster| Some(cluster.get("load_assignment")?.clone()));
        let assignments: Vec<Value> = assignments
            .map(|item| wrap(&item, "endpoint_config", "envoy.config.endpoint.v3.ClusterLoadAssignment"))
            .collect();
        configs.push(dynamic.endpoints(
            json!({ "@type": format!("{TYPE}EndpointsConfigDump"), "static_endpoint_configs": assignments }),
        ));
    }
    if names.is_none() {
        configs.push(generations(control));
    }
    configs
}

/// Ours, after all that is Envoy's. A `TypedStruct` is of a type that whoever reads dumps by the API's descriptors knows,
/// and names what it holds to everyone else.
fn generations(control: &Control) -> Value {
    json!({
        "@type": "type.googleapis.com/xds.type.v3.TypedStruct",
        "type_url": "type.googleapis.com/outrider.admin.v1.Generations",
        "value": super::generations::dump(control),
    })
}

/// `ScopedRoutesConfigDump`: the bootstrap's scopes, and those of SRDS by the name that connection managers give them.
fn scopes<'a>(
    control: &Control,
    dynamic: &Dynamic<'_>,
    scoped: impl Iterator<Item = &'a Value>,
    at: &str,
) -> Value {
    let typed = |scope: &Value| {
        let mut typed = Map::new();
        typed.insert("@type".into(), Kind::ScopedRoute.type_url().into());
        typed.extend(scope.as_object().cloned().unwrap_or_default());
        Value::Object(typed)
    };
    let inline = scoped.filter_map(|scoped| {
        let list = scoped["scoped_route_configurations_list"]["scoped_route_configurations"].as_array()?;
        let list: Vec<Value> = list.iter().map(typed).collect();
        Some(json!({ "name": scoped["name"], "scoped_route_configs": list, "last_updated": at }))
    });
    let inline: Vec<Value> = inline.collect();
    let mut section = json!({ "@type": format!("{TYPE}ScopedRoutesConfigDump") });
    if !inline.is_empty() {
        section["inline_scoped_route_configs"] = inline.into();
    }
    let mut names = BTreeSet::new();
    for active in control.listeners.active() {
        let config = active.listener.shared.config();
        for chain in config.filter_chains.iter().chain(&config.default_filter_chain) {
            if let NetworkFilter::Http(manager) = &chain.filter
                && let Routes::Scoped(ScopedRoutes { name, scopes: Scopes::Srds { .. }, .. }) =
                    &manager.routes
            {
                names.insert(name.clone());
            }
        }
    }
    dynamic.scopes(section, &names)
}

fn find<'a>(wanted: &str, value: &'a Value, found: &mut Vec<&'a Value>) {
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                if name == wanted { found.push(value) } else { find(wanted, value, found) }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| find(wanted, item, found)),
        _ => {}
    }
}

/// Keeps the fields that a field mask (`a.b,c`) names, and `@type`.
fn masked(value: Value, mask: Option<&str>) -> Value {
    let Some(mask) = mask else { return value };
    let mut kept = json!({});
    if let Some(wire_type) = value.get("@type") {
        kept["@type"] = wire_type.clone();
    }
    for path in mask.split(',').map(str::trim) {
        copy(&value, &mut kept, &path.split('.').collect::<Vec<_>>());
    }
    kept
}

fn copy(from: &Value, to: &mut Value, path: &[&str]) {
    let Some((first, rest)) = path.split_first() else { return };
    match from {
        Value::Array(items) => {
            // A mask looks into every element of a list.
            let list: Vec<Value> = items
                .iter()
                .map(|item| {
                    let mut kept = json!({});
                    copy(item, &mut kept, path);
                    kept
                })
                .collect();
            *to = list.into();
        }
        _ => {
            let Some(value) = from.get(*first) else { return };
            if rest.is_empty() {
                to[*first] = value.clone();
            } else {
                if to[*first].is_null() {
                    to[*first] = json!({});
                }
                copy(value, &mut to[*first], rest);
            }
        }
    }
}

pub(super) fn timestamp(time: SystemTime) -> String {
    chrono::DateTime::<chrono::Utc>::from(time).format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// The ledger of what is loaded.
pub(super) fn compat(control: &Control, query: &Query) -> Reply {
    let (_, message) = match expand(control) {
        Ok(expanded) => expanded,
        Err(reply) => return reply,
    };
    let sheet = Sheet {
        enforced: bootstrap::enforced(&message, &control.ledger, &[]),
        inert: control.ledger.inert.iter().cloned().chain(dynamic_inert(control)).collect(),
        refused: Vec::new(),
    };
    if query.get("format") == Some("json") {
        return Reply::json(&sheet.json());
    }
    let mut text = Vec::new();
    match sheet.print("bootstrap", &mut text) {
        Ok(()) => Reply::text(String::from_utf8_lossy(&text).into_owned()),
        Err(error) => Reply::text(format!("{error}\n")).status(500),
    }
}

/// What has no effect of the resources that came by xDS; paths begin with the resource's kind and name.
fn dynamic_inert(control: &Control) -> Vec<(String, String)> {
    let mut all = Vec::new();
    for kind in Kind::ALL {
        for (name, record) in control.records.of(kind) {
            let inert = record.inert.into_iter();
            all.extend(inert.map(|(path, why)| (format!("{kind} {name:?} {path}"), why)));
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_keeps_what_it_names_in_every_element() {
        let value = json!({"@type": "t", "a": [{"x": 1, "y": 2}, {"x": 3}], "b": {"c": 1, "d": 2}, "e": 5});
        assert_eq!(
            masked(value, Some("a.x,b.c")),
            json!({"@type": "t", "a": [{"x": 1}, {"x": 3}], "b": {"c": 1}})
        );
    }
}
