//! `/clusters`: each cluster, its breakers and its hosts.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use outrider_config::model::{CircuitBreaker, EndpointHealth};
use outrider_core::stream::Address;
use outrider_upstream::{ClusterShared, Host};
use serde_json::{Value, json};

use crate::control::Control;

use super::query::Query;
use super::reply::Reply;

pub(super) fn clusters(control: &Control, query: &Query) -> Reply {
    let clusters = control.clusters.clusters();
    if query.get("format") == Some("json") {
        let statuses: Vec<Value> = clusters.iter().map(cluster_json).collect();
        return Reply::json(&json!({ "cluster_statuses": statuses }));
    }
    let mut text = String::new();
    for cluster in &clusters {
        cluster_text(cluster, &mut text);
    }
    Reply::text(text)
}

fn thresholds(breaker: &CircuitBreaker) -> [(&'static str, u32); 4] {
    [
        ("max_connections", breaker.max_connections),
        ("max_pending_requests", breaker.max_pending_requests),
        ("max_requests", breaker.max_requests),
        ("max_retries", breaker.max_retries),
    ]
}

fn cluster_text(cluster: &ClusterShared, out: &mut String) {
    let config = &cluster.config;
    let name = &config.name;
    let _ = writeln!(out, "{name}::observability_name::{}", config.alt_stat_name.as_ref().unwrap_or(name));
    for (priority, breaker) in [("default", &config.breaker_default), ("high", &config.breaker_high)] {
        for (limit, value) in thresholds(breaker) {
            let _ = writeln!(out, "{name}::{priority}_priority::{limit}::{value}");
        }
    }
    let _ = writeln!(out, "{name}::added_via_api::false");
    for host in cluster.hosts.load().iter() {
        let address = &host.address;
        let mut line = |key: &str, value: &dyn std::fmt::Display| {
            let _ = writeln!(out, "{name}::{address}::{key}::{value}");
        };
        for (key, value) in host_stats(host) {
            line(key, &value);
        }
        line("hostname", &host.hostname);
        line("health_flags", &host.health_flags());
        line("weight", &host.weight);
        line("region", &host.locality.region);
        line("zone", &host.locality.zone);
        line("sub_zone", &host.locality.sub_zone);
        line("canary", &false);
        line("priority", &host.priority);
        line("success_rate", &"-1");
        line("local_origin_success_rate", &"-1");
    }
}

fn host_stats(host: &Host) -> [(&'static str, u64); 8] {
    let state = &host.state;
    [
        ("cx_active", u64::from(state.cx_active.load(Relaxed))),
        ("cx_connect_fail", state.cx_connect_fail.load(Relaxed)),
        ("cx_total", state.cx_total.load(Relaxed)),
        ("rq_active", u64::from(state.rq_active.load(Relaxed))),
        ("rq_error", state.rq_error.load(Relaxed)),
        ("rq_success", state.rq_success.load(Relaxed)),
        ("rq_timeout", state.rq_timeout.load(Relaxed)),
        ("rq_total", state.rq_total.load(Relaxed)),
    ]
}

fn cluster_json(cluster: &Arc<ClusterShared>) -> Value {
    let config = &cluster.config;
    let breaker = |priority: &str, breaker: &CircuitBreaker| {
        let mut entry = json!({ "priority": priority });
        for (limit, value) in thresholds(breaker) {
            entry[limit] = value.into();
        }
        entry
    };
    json!({
        "name": &*config.name,
        "observability_name": &**config.alt_stat_name.as_ref().unwrap_or(&config.name),
        "added_via_api": false,
        "circuit_breakers": { "thresholds": [
            breaker("DEFAULT", &config.breaker_default),
            breaker("HIGH", &config.breaker_high),
        ]},
        "host_statuses": cluster.hosts.load().iter().map(|host| host_json(host)).collect::<Vec<_>>(),
    })
}

fn host_json(host: &Host) -> Value {
    let address = match &host.address {
        Address::Ip(ip) => {
            json!({ "socket_address": { "address": ip.ip().to_string(), "port_value": ip.port() } })
        }
        Address::Pipe(path) => json!({ "pipe": { "path": &**path } }),
    };
    let stat = |(name, value): (&str, u64)| {
        let kind = if name.ends_with("active") { "GAUGE" } else { "COUNTER" };
        json!({ "name": name, "value": value.to_string(), "type": kind })
    };
    json!({
        "address": address,
        "hostname": &*host.hostname,
        "stats": host_stats(host).map(stat),
        "health_status": { "eds_health_status": match host.health {
            EndpointHealth::Healthy => "HEALTHY",
            EndpointHealth::Degraded => "DEGRADED",
            EndpointHealth::Unhealthy => "UNHEALTHY",
            EndpointHealth::Draining => "DRAINING",
        }},
        "weight": host.weight,
        "priority": host.priority,
        "locality": {
            "region": host.locality.region, "zone": host.locality.zone, "sub_zone": host.locality.sub_zone,
        },
    })
}
