//! `outriderctl proxy-status`.

use serde_json::{Value, json};

use super::args::Format;
use super::failure::Failure;
use super::table::{Cell, Style, Table, age};
use super::{Session, output};
use crate::pb::{self, type_status::State};

/// The types, in the order in which they are read.
const TYPES: [(&str, &str); 5] = [
    ("CDS", "envoy.config.cluster.v3.Cluster"),
    ("LDS", "envoy.config.listener.v3.Listener"),
    ("EDS", "envoy.config.endpoint.v3.ClusterLoadAssignment"),
    ("RDS", "envoy.config.route.v3.RouteConfiguration"),
    ("SDS", "envoy.extensions.transport_sockets.tls.v3.Secret"),
];

/// The short name of a type.
pub(super) fn short(type_url: &str) -> &str {
    let message = type_url.rsplit('/').next().unwrap_or_default();
    TYPES.iter().find(|(_, known)| *known == message).map_or(message, |(short, _)| short)
}

/// Shows how far proxies are.
pub(super) async fn status(
    session: &mut Session<'_, '_>,
    proxy: Option<String>,
    format: Option<Format>,
) -> Result<(), Failure> {
    let mut client = session.client().await?;
    if let Some(id) = proxy {
        let request = pb::DescribeProxyRequest { id, with_bodies: false };
        let answer = client.describe_proxy(request).await?.into_inner();
        let summary = answer.summary.unwrap_or_default();
        return match format {
            None | Some(Format::Wide) => one(session, &summary, &answer.node_json),
            Some(format) => output::value(session.console.out, &summary_json(&summary), format),
        };
    }
    let namespace = if session.namespace.1 { session.namespace().to_owned() } else { String::new() };
    let answer = client.list_proxies(pb::ListProxiesRequest { namespace }).await?.into_inner();
    match format {
        None | Some(Format::Wide) => {
            if answer.proxies.is_empty() {
                session.warn(&format!("no proxy is connected to {}", answer.instance))?;
                return Ok(());
            }
            all(session, &answer, format.is_some())
        }
        Some(Format::Name) => {
            for proxy in &answer.proxies {
                session.say(name_of(&proxy.id))?;
            }
            Ok(())
        }
        Some(format) => {
            let proxies: Vec<_> = answer.proxies.iter().map(summary_json).collect();
            let value = json!({
                "instance": answer.instance, "generation": answer.generation, "proxies": proxies,
            });
            output::value(session.console.out, &value, format)
        }
    }
}

/// `pod.namespace` in a node's id.
fn name_of(id: &str) -> &str {
    id.split('~').nth(2).unwrap_or(id)
}

fn all(session: &mut Session<'_, '_>, answer: &pb::ListProxiesResponse, wide: bool) -> Result<(), Failure> {
    let mut head = vec!["NAME", "ROLE"];
    head.extend(TYPES.iter().map(|(short, _)| *short));
    head.extend(["CONNECTED", "CLIENT"]);
    if wide {
        head.extend(["GENERATION", "STREAM", "PEER", "ID"]);
    }
    let mut table = Table::new(&head);
    let mut refused = Vec::new();
    for proxy in &answer.proxies {
        let mut row: Vec<Cell> = vec![name_of(&proxy.id).into(), proxy.role.as_str().into()];
        for (short, message) in TYPES {
            let found = proxy.types.iter().find(|it| it.type_url.ends_with(message));
            row.push(found.map_or_else(|| "-".into(), state));
            if let Some(found) = found.filter(|it| !it.refused.is_empty()) {
                refused.push(format!("{} refused {short}: {}", name_of(&proxy.id), found.refused));
            }
        }
        row.push(age(seconds(proxy.connected_for)).into());
        row.push(if proxy.client.is_empty() { "-" } else { &proxy.client }.into());
        if wide {
            let current = proxy.generation_acked == answer.generation;
            let style = if current { Style::Good } else { Style::Odd };
            row.push(Cell::new(format!("{}/{}", proxy.generation_acked, answer.generation), style));
            row.push(if proxy.delta { "delta" } else { "state-of-the-world" }.into());
            row.push(proxy.peer.as_str().into());
            row.push(proxy.id.as_str().into());
        }
        table.push(row);
    }
    table.print(session.console.out, session.color)?;
    for line in refused {
        let line = Style::Bad.paint(&line, session.color);
        session.say(&line)?;
    }
    Ok(())
}

fn state(status: &pb::TypeStatus) -> Cell {
    match status.state() {
        State::Synced => Cell::new("SYNCED", Style::Good),
        State::Sent => Cell::new("SENT", Style::Odd),
        State::Pending => Cell::new("PENDING", Style::Odd),
        State::Refused => Cell::new("REFUSED", Style::Bad),
        State::NotSubscribed | State::Unspecified => Cell::new("-", Style::Faint),
    }
}

fn one(session: &mut Session<'_, '_>, proxy: &pb::ProxySummary, node: &str) -> Result<(), Failure> {
    let connected = age(seconds(proxy.connected_for));
    let stream = if proxy.delta { "delta" } else { "state of the world" };
    for (name, value) in [
        ("Proxy:", proxy.id.as_str()),
        ("Role:", &proxy.role),
        ("Client:", &proxy.client),
        ("Peer:", &proxy.peer),
        ("Stream:", stream),
        ("Connected:", &connected),
        ("Generation:", &proxy.generation_acked.to_string()),
        ("Node:", node),
    ] {
        session.say(&format!("{name:<12}{value}"))?;
    }
    session.say("")?;
    let mut table = Table::new(&["TYPE", "STATE", "RESOURCES", "SENT", "ACKED", "VERSION"]);
    for status in &proxy.types {
        let ago = |seconds: f64| {
            if seconds < 0.0 { "never".to_owned() } else { format!("{} ago", age(self::seconds(seconds))) }
        };
        table.push(vec![
            short(&status.type_url).into(),
            state(status),
            status.resources.to_string().into(),
            ago(status.sent_ago).into(),
            ago(status.acked_ago).into(),
            status.version_acked.as_str().into(),
        ]);
    }
    table.print(session.console.out, session.color)?;
    for status in proxy.types.iter().filter(|it| !it.refused.is_empty()) {
        let line = format!("refused {}: {}", short(&status.type_url), status.refused);
        let line = Style::Bad.paint(&line, session.color);
        session.say(&line)?;
    }
    Ok(())
}

fn summary_json(proxy: &pb::ProxySummary) -> Value {
    let types: Vec<_> = proxy
        .types
        .iter()
        .map(|it| {
            json!({
                "type": short(&it.type_url),
                "typeUrl": it.type_url,
                "state": it.state().as_str_name().trim_start_matches("STATE_"),
                "resources": it.resources,
                "versionSent": it.version_sent,
                "versionAcked": it.version_acked,
                "refused": it.refused,
                "sentAgo": it.sent_ago,
                "ackedAgo": it.acked_ago,
            })
        })
        .collect();
    json!({
        "id": proxy.id, "namespace": proxy.namespace, "role": proxy.role, "client": proxy.client,
        "peer": proxy.peer, "connectedFor": proxy.connected_for, "delta": proxy.delta,
        "generationAcked": proxy.generation_acked, "types": types,
    })
}

#[expect(clippy::cast_possible_truncation, reason = "a float is cut to what an integer holds")]
fn seconds(seconds: f64) -> i64 {
    seconds as i64
}
