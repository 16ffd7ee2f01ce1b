//! `/listeners`.

use outrider_config::model::SocketAddress;
use serde_json::{Value, json};

use crate::control::Control;

use super::query::Query;
use super::reply::Reply;

pub(super) fn listeners(control: &Control, query: &Query) -> Reply {
    let active = control.listeners.active();
    let listeners = active.iter().map(|active| (&**active.listener.name(), &active.bound[..]));
    if query.get("format") == Some("json") {
        let statuses: Vec<Value> = listeners.map(|(name, addresses)| status(name, addresses)).collect();
        return Reply::json(&json!({ "listener_statuses": statuses }));
    }
    let lines = listeners
        .flat_map(|(name, addresses)| addresses.iter().map(move |address| format!("{name}::{address}\n")));
    Reply::text(lines.collect::<String>())
}

fn status(name: &str, addresses: &[SocketAddress]) -> Value {
    let mut status = json!({ "name": name });
    let mut addresses = addresses.iter().map(address);
    status["local_address"] = addresses.next().unwrap_or(Value::Null);
    let more: Vec<Value> = addresses.collect();
    if !more.is_empty() {
        status["additional_local_addresses"] = more.into();
    }
    status
}

fn address(address: &SocketAddress) -> Value {
    match address {
        SocketAddress::Ip(ip) => {
            json!({ "socket_address": { "address": ip.ip().to_string(), "port_value": ip.port() } })
        }
        SocketAddress::Name { host, port } => {
            json!({ "socket_address": { "address": &**host, "port_value": port } })
        }
        SocketAddress::Pipe { path, .. } => json!({ "pipe": { "path": &**path } }),
    }
}
