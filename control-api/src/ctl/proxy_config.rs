//! `outriderctl proxy-config`.

use serde_json::{Value, json};

use super::args::{ConfigKind, Format};
use super::columns::{or_dash, plain};
use super::failure::Failure;
use super::proxies::short;
use super::table::{Cell, Style, Table};
use super::{Session, output};
use crate::pb;

/// Shows what a proxy was sent.
pub(super) async fn show(
    session: &mut Session<'_, '_>,
    kind: ConfigKind,
    proxy: String,
    name: Option<&str>,
    format: Option<Format>,
) -> Result<(), Failure> {
    let mut client = session.client().await?;
    let request = pb::DescribeProxyRequest { id: proxy, with_bodies: true };
    let answer = client.describe_proxy(request).await?.into_inner();
    let wanted = |it: &&pb::ProxyResource| {
        let of_kind = match kind {
            ConfigKind::All => true,
            ConfigKind::Clusters => short(&it.type_url) == "CDS",
            ConfigKind::Listeners => short(&it.type_url) == "LDS",
            ConfigKind::Routes => short(&it.type_url) == "RDS",
            ConfigKind::Endpoints => short(&it.type_url) == "EDS",
            ConfigKind::Secrets => short(&it.type_url) == "SDS",
        };
        of_kind && name.is_none_or(|name| it.name.contains(name))
    };
    let found: Vec<_> = answer.resources.iter().filter(wanted).collect();
    if found.is_empty() {
        session.warn("the proxy has none")?;
        return Ok(());
    }
    match format {
        None | Some(Format::Wide) => tables(session, &found),
        Some(Format::Name) => found.iter().try_for_each(|it| session.say(&it.name)).map_err(Failure::from),
        Some(format) => {
            let all: Vec<_> = found.iter().map(|it| whole(it)).collect();
            output::value(session.console.out, &Value::Array(all), format)
        }
    }
}

fn body(resource: &pb::ProxyResource) -> Value {
    serde_json::from_str(&resource.json).unwrap_or_default()
}

fn whole(resource: &pb::ProxyResource) -> Value {
    json!({
        "type": resource.type_url, "name": resource.name, "version": resource.version, "acked": resource.acked,
        "resource": body(resource),
    })
}

fn tables(session: &mut Session<'_, '_>, found: &[&pb::ProxyResource]) -> Result<(), Failure> {
    let mut first = true;
    for kind in ["CDS", "LDS", "RDS", "EDS", "SDS"] {
        let these: Vec<_> = found.iter().filter(|it| short(&it.type_url) == kind).collect();
        if these.is_empty() {
            continue;
        }
        if !first {
            session.say("")?;
        }
        first = false;
        let head: &[&str] = match kind {
            "CDS" => &["CLUSTER", "TYPE", "POLICY", "TLS", "ORIGIN", "ACKED"],
            "LDS" => &["LISTENER", "ADDRESS", "DIRECTION", "CHAINS", "ACKED"],
            "RDS" => &["TABLE", "HOST", "DOMAINS", "MATCH", "TO", "ORIGIN"],
            "EDS" => &["CLUSTER", "ENDPOINT", "HEALTH", "ZONE", "ACKED"],
            _ => &["SECRET", "TYPE", "ACKED"],
        };
        let mut table = Table::new(head);
        for resource in these {
            rows(kind, resource, &mut table);
        }
        table.print(session.console.out, session.color)?;
    }
    Ok(())
}

fn rows(kind: &str, resource: &pb::ProxyResource, table: &mut Table) {
    let body = body(resource);
    let at = |pointer: &str| body.pointer(pointer).map(plain).unwrap_or_default();
    let acked = || if resource.acked { Cell::new("yes", Style::Good) } else { Cell::new("no", Style::Odd) };
    let name = || Cell::from(resource.name.as_str());
    match kind {
        "CDS" => table.push(vec![
            name(),
            or_dash(at("/type")).into(),
            match at("/lb_policy") {
                empty if empty.is_empty() => "ROUND_ROBIN".into(),
                known => known.into(),
            },
            if body.get("transport_socket").is_some() { "yes" } else { "-" }.into(),
            or_dash(origin(&body)).into(),
            acked(),
        ]),
        "LDS" => {
            let socket = |part: &str| at(&format!("/address/socket_address/{part}"));
            let chains = body.get("filter_chains").and_then(Value::as_array).map_or(0, Vec::len)
                + usize::from(body.get("default_filter_chain").is_some());
            let address = socket("address");
            let address = if address.is_empty() {
                "-".to_owned()
            } else {
                format!("{address}:{}", socket("port_value"))
            };
            table.push(vec![
                name(),
                address.into(),
                or_dash(at("/traffic_direction")).into(),
                chains.to_string().into(),
                acked(),
            ]);
        }
        "RDS" => routes(resource, &body, table),
        "EDS" => endpoints(resource, &body, table, &acked()),
        _ => {
            let kinds = ["tls_certificate", "validation_context", "session_ticket_keys", "generic_secret"];
            let kind = kinds.into_iter().find(|it| body.get(it).is_some()).unwrap_or("-");
            table.push(vec![name(), kind.into(), acked()]);
        }
    }
}

fn list<'v>(value: &'v Value, name: &str) -> impl Iterator<Item = &'v Value> {
    value.get(name).and_then(Value::as_array).into_iter().flatten()
}

fn routes(resource: &pb::ProxyResource, body: &Value, table: &mut Table) {
    for host in list(body, "virtual_hosts") {
        let domains: Vec<_> = list(host, "domains").map(plain).collect();
        let shown = match domains.as_slice() {
            [first, _, _, ..] => format!("{first} +{}", domains.len() - 1),
            few => few.join(","),
        };
        for route in list(host, "routes") {
            table.push(vec![
                resource.name.as_str().into(),
                host.get("name").map(plain).unwrap_or_default().into(),
                shown.as_str().into(),
                matched(route).into(),
                destination(route).into(),
                or_dash(origin(route)).into(),
            ]);
        }
    }
}

/// What a route matches, in short.
fn matched(route: &Value) -> String {
    let Some(found) = route.get("match") else { return "-".to_owned() };
    let path = [("prefix", "*"), ("path_separated_prefix", "/*"), ("path", "")]
        .into_iter()
        .find_map(|(name, tail)| Some(format!("{}{tail}", found.get(name)?.as_str()?)));
    let regex = || Some(format!("~{}", found.pointer("/safe_regex/regex")?.as_str()?));
    let mut out = path.or_else(regex).unwrap_or_else(|| "*".to_owned());
    for header in list(found, "headers") {
        out.push_str(&format!(" {}", header.get("name").map(plain).unwrap_or_default()));
    }
    for parameter in list(found, "query_parameters") {
        out.push_str(&format!(" ?{}", parameter.get("name").map(plain).unwrap_or_default()));
    }
    out
}

/// Where a route leads, in short.
fn destination(route: &Value) -> String {
    if let Some(redirect) = route.get("redirect") {
        let host = redirect.get("host_redirect").map(plain).unwrap_or_default();
        return format!("redirect {host}").trim_end().to_owned();
    }
    if let Some(direct) = route.get("direct_response") {
        return format!("status {}", direct.get("status").map(plain).unwrap_or_default());
    }
    let Some(action) = route.get("route") else { return "-".to_owned() };
    if let Some(cluster) = action.get("cluster") {
        return plain(cluster);
    }
    let weighted = action.get("weighted_clusters").into_iter().flat_map(|it| list(it, "clusters"));
    let parts: Vec<_> = weighted
        .map(|it| {
            format!(
                "{} ({})",
                it.get("name").map(plain).unwrap_or_default(),
                it.get("weight").map(plain).unwrap_or_default()
            )
        })
        .collect();
    or_dash(parts.join(", "))
}

fn endpoints(resource: &pb::ProxyResource, body: &Value, table: &mut Table, acked: &Cell) {
    let mut any = false;
    for locality in list(body, "endpoints") {
        let zone = locality.pointer("/locality/zone").map(plain).unwrap_or_default();
        for endpoint in list(locality, "lb_endpoints") {
            any = true;
            let part = |part: &str| {
                let pointer = format!("/endpoint/address/socket_address/{part}");
                endpoint.pointer(&pointer).map(plain).unwrap_or_default()
            };
            let health = endpoint.get("health_status").map_or_else(|| "UNKNOWN".to_owned(), plain);
            let style = if health == "HEALTHY" { Style::Good } else { Style::Odd };
            table.push(vec![
                resource.name.as_str().into(),
                format!("{}:{}", part("address"), part("port_value")).into(),
                Cell::new(health, style),
                or_dash(zone.clone()).into(),
                acked.clone(),
            ]);
        }
    }
    if !any {
        table.push(vec![
            resource.name.as_str().into(),
            Cell::new("none", Style::Bad),
            "-".into(),
            "-".into(),
            acked.clone(),
        ]);
    }
}

/// Which object something comes from.
fn origin(value: &Value) -> String {
    value.pointer("/metadata/filter_metadata/outrider.dev/origin").map(plain).unwrap_or_default()
}
