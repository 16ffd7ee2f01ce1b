//! What `/clusters` shows, in Envoy's text and JSON forms.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use outrider_config::model::{CircuitBreaker, EndpointHealth};
use outrider_core::stream::Address;
use serde_json::{Value, json};

use crate::cluster::ClusterShared;
use crate::host::{Host, HostState, flags};
use crate::manager::ClusterManager;

/// All clusters at one moment.
#[derive(Debug)]
pub struct Snapshot(Vec<Arc<ClusterShared>>);

impl ClusterManager {
    /// What `/clusters` shows.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot(self.clusters())
    }
}

impl Snapshot {
    /// `GET /clusters`
    pub fn text(&self) -> String {
        let mut out = String::new();
        for cluster in &self.0 {
            // Writing to a string cannot fail.
            let _ = cluster_text(&mut out, cluster);
        }
        out
    }

    /// `GET /clusters?format=json`: an `admin.v3.Clusters`.
    pub fn json(&self) -> Value {
        json!({ "cluster_statuses": self.0.iter().map(|cluster| cluster_json(cluster)).collect::<Vec<_>>() })
    }
}

fn cluster_text(out: &mut String, cluster: &ClusterShared) -> std::fmt::Result {
    let config = &cluster.config;
    let name = &config.name;
    writeln!(out, "{name}::observability_name::{}", config.alt_stat_name.as_ref().unwrap_or(name))?;
    if let Some(outlier) = &cluster.outlier {
        for (kind, norm) in ["", "local_origin_"].into_iter().zip(outlier.norms()) {
            let (average, threshold) = norm.map_or((-1.0, -1.0), |norm| (norm.average, norm.threshold));
            writeln!(out, "{name}::outlier::{kind}success_rate_average::{average}")?;
            writeln!(out, "{name}::outlier::{kind}success_rate_ejection_threshold::{threshold}")?;
        }
    }
    for (priority, limits) in [("default", &cluster.limits(false)), ("high", &cluster.limits(true))] {
        for (limit, value) in limits_of(limits) {
            writeln!(out, "{name}::{priority}_priority::{limit}::{value}")?;
        }
    }
    writeln!(out, "{name}::added_via_api::{}", cluster.via_api.load(Relaxed))?;
    for host in cluster.hosts.load().iter() {
        let address = &host.address;
        let mut line = |key: &str, value: &dyn std::fmt::Display| -> std::fmt::Result {
            writeln!(out, "{name}::{address}::{key}::{value}")
        };
        for (key, _, value) in stats_of(&host.state) {
            line(key, &value)?;
        }
        line("hostname", &host.hostname)?;
        line("health_flags", &host.health_flags(cluster.heeds()))?;
        line("weight", &host.weight)?;
        line("region", &host.locality.region)?;
        line("zone", &host.locality.zone)?;
        line("sub_zone", &host.locality.sub_zone)?;
        line("canary", &false)?;
        line("priority", &host.priority)?;
        let (rate, local) = success_rates(host);
        line("success_rate", &rate.unwrap_or(-1.0))?;
        line("local_origin_success_rate", &local.unwrap_or(-1.0))?;
    }
    Ok(())
}

fn cluster_json(cluster: &ClusterShared) -> Value {
    let config = &cluster.config;
    let mut thresholds = [thresholds(&cluster.limits(false)), thresholds(&cluster.limits(true))];
    if let [_, Value::Object(high)] = &mut thresholds {
        high.insert("priority".into(), "HIGH".into());
    }
    let hosts: Vec<_> = cluster.hosts.load().iter().map(|host| host_json(host, cluster.heeds())).collect();
    let mut value = json!({
        "name": &*config.name,
        "circuit_breakers": { "thresholds": thresholds },
        "observability_name": config.alt_stat_name.as_deref().unwrap_or(&config.name),
    });
    if let (true, Value::Object(fields)) = (cluster.via_api.load(Relaxed), &mut value) {
        fields.insert("added_via_api".into(), true.into());
    }
    if let (Some(outlier), Value::Object(fields)) = (&cluster.outlier, &mut value) {
        for (kind, norm) in ["", "local_origin_"].into_iter().zip(outlier.norms()) {
            if let Some(norm) = norm {
                let name = format!("{kind}success_rate_ejection_threshold");
                fields.insert(name, json!({ "value": norm.threshold }));
            }
        }
    }
    // As in proto3's JSON: what is empty is left out.
    if let (false, Value::Object(fields)) = (hosts.is_empty(), &mut value) {
        fields.insert("host_statuses".into(), hosts.into());
    }
    value
}

fn thresholds(limits: &CircuitBreaker) -> Value {
    let fields = limits_of(limits).into_iter().map(|(name, value)| (name.to_owned(), value.into()));
    Value::Object(fields.collect())
}

fn host_json(host: &Host, heeds: u32) -> Value {
    let mut value = json!({
        "address": address_json(&host.address),
        "stats": stats_json(&host.state),
        "health_status": health_json(host, heeds),
        "weight": host.weight,
        "locality": locality_json(host),
    });
    if let Value::Object(fields) = &mut value {
        if !host.hostname.is_empty() {
            fields.insert("hostname".into(), (*host.hostname).into());
        }
        if host.priority > 0 {
            fields.insert("priority".into(), host.priority.into());
        }
        let (rate, local) = success_rates(host);
        for (name, rate) in [("success_rate", rate), ("local_origin_success_rate", local)] {
            if let Some(rate) = rate {
                fields.insert(name.into(), json!({ "value": rate }));
            }
        }
    }
    value
}

/// The success rates that outlier detection last found, in percent: of responses, of what is of local origin.
fn success_rates(host: &Host) -> (Option<f64>, Option<f64>) {
    host.state.conduct.get().map_or((None, None), |conduct| conduct.success_rates())
}

fn health_json(host: &Host, heeds: u32) -> Value {
    let mut fields = serde_json::Map::new();
    let shown = [
        ("failed_active_health_check", flags::FAILED_ACTIVE),
        ("failed_outlier_check", flags::FAILED_OUTLIER),
        ("failed_active_degraded_check", flags::DEGRADED_ACTIVE),
        ("pending_dynamic_removal", flags::PENDING_REMOVAL),
        ("pending_active_hc", flags::PENDING_ACTIVE),
        ("excluded_via_immediate_hc_fail", flags::EXCLUDED),
        ("active_hc_timeout", flags::ACTIVE_TIMEOUT),
    ];
    for (name, flag) in shown {
        if host.has(flag & heeds) {
            fields.insert(name.into(), true.into());
        }
    }
    fields.insert("eds_health_status".into(), health_of(host.health).into());
    Value::Object(fields)
}

fn address_json(address: &Address) -> Value {
    match address {
        Address::Ip(ip) => {
            json!({ "socket_address": { "address": ip.ip().to_string(), "port_value": ip.port() } })
        }
        Address::Pipe(path) => json!({ "pipe": { "path": &**path } }),
    }
}

fn stats_json(state: &HostState) -> Value {
    let mut stats = stats_of(state);
    // Counters come before gauges here.
    stats.sort_by_key(|(_, gauge, _)| *gauge);
    let stat = |(name, gauge, value): (&str, bool, u64)| {
        let mut stat = json!({ "name": name });
        if let Value::Object(fields) = &mut stat {
            if gauge {
                fields.insert("type".into(), "GAUGE".into());
            }
            if value > 0 {
                fields.insert("value".into(), value.to_string().into());
            }
        }
        stat
    };
    stats.into_iter().map(stat).collect()
}

fn locality_json(host: &Host) -> Value {
    let locality = &host.locality;
    let fields = [("region", &locality.region), ("zone", &locality.zone), ("sub_zone", &locality.sub_zone)];
    let given = fields.into_iter().filter(|(_, value)| !value.is_empty());
    Value::Object(given.map(|(name, value)| (name.to_owned(), value.as_str().into())).collect())
}

const fn health_of(health: EndpointHealth) -> &'static str {
    match health {
        EndpointHealth::Healthy => "HEALTHY",
        EndpointHealth::Degraded => "DEGRADED",
        EndpointHealth::Unhealthy | EndpointHealth::Draining => "UNHEALTHY",
    }
}

fn limits_of(limits: &CircuitBreaker) -> [(&'static str, u32); 4] {
    [
        ("max_connections", limits.max_connections),
        ("max_pending_requests", limits.max_pending_requests),
        ("max_requests", limits.max_requests),
        ("max_retries", limits.max_retries),
    ]
}

/// Name, whether it is a gauge, value; in the order of the text form.
fn stats_of(state: &HostState) -> Vec<(&'static str, bool, u64)> {
    vec![
        ("cx_active", true, state.cx_active.load(Relaxed).into()),
        ("cx_connect_fail", false, state.cx_connect_fail.load(Relaxed)),
        ("cx_total", false, state.cx_total.load(Relaxed)),
        ("rq_active", true, state.rq_active.load(Relaxed).into()),
        ("rq_error", false, state.rq_error.load(Relaxed)),
        ("rq_pending_active", true, state.rq_pending_active.load(Relaxed).into()),
        ("rq_success", false, state.rq_success.load(Relaxed)),
        ("rq_timeout", false, state.rq_timeout.load(Relaxed)),
        ("rq_total", false, state.rq_total.load(Relaxed)),
    ]
}
