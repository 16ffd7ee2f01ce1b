//! What load reports say (LRS). The counts are those that hosts have anyway: the request path knows nothing of reports.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use outrider_config::model::Discovery;
use outrider_core::stream::Address as HostAddress;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::pb::envoy::config::endpoint::v3::cluster_stats::DroppedRequests;
use outrider_proto::pb::envoy::config::endpoint::v3::{
    ClusterStats, UpstreamEndpointStats, UpstreamLocalityStats,
};
use outrider_proto::pb::google::protobuf as google;
use outrider_proto::prost::Message as _;
use outrider_upstream::{ClusterManager, ClusterShared, Host, HostSet, HostState, WorkerClusters};
use outrider_xds::lrs::{LoadSource, Wanted, report_load};

use super::connector::Dialer;
use super::streams::{backoff, service};
use crate::control::Control;

/// Begins to report, if the bootstrap says where to.
pub(super) fn start(control: &Arc<Control>) {
    let Some(api) = control.model.load_reports.clone() else { return };
    let clusters = WorkerClusters::new(control.clusters.clone());
    let dialer = Rc::new(Dialer::new(api.services.clone(), clusters, control.registry.clone()));
    let node = core_pb::Node::decode(&*control.model.node.wire).unwrap_or_default();
    let source = Rc::new(Loads::new(control.clusters.clone()));
    let services = api.services.iter().map(service).collect();
    let scope = control.registry.scope("load_reporter.");
    tokio::task::spawn_local(report_load(services, backoff(&api), node, dialer, source, scope));
}

/// What was reported, and what of it was wanted.
struct Loads {
    clusters: ClusterManager,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    wanted: Wanted,
    /// What has been told of each cluster.
    told: HashMap<String, Told>,
}

/// What has been told of a cluster.
struct Told {
    since: Instant,
    /// By circuit breakers.
    dropped: u64,
    /// By `drop_overloads`.
    dropped_by_policy: u64,
    hosts: HashMap<u64, Counts>,
}

/// A host's counts, which only grow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    issued: u64,
    success: u64,
    error: u64,
}

impl Counts {
    fn of(state: &HostState) -> Self {
        Self {
            issued: state.rq_total.load(Relaxed),
            success: state.rq_success.load(Relaxed),
            error: state.rq_error.load(Relaxed),
        }
    }

    fn since(self, earlier: Self) -> Self {
        Self {
            issued: self.issued.saturating_sub(earlier.issued),
            success: self.success.saturating_sub(earlier.success),
            error: self.error.saturating_sub(earlier.error),
        }
    }
}

impl Told {
    /// All that `hosts` of `cluster` counted until now. What is told and what is remembered as told must be one reading:
    /// workers count on between two.
    fn until_now(cluster: &ClusterShared, hosts: &HostSet) -> Self {
        Self {
            since: Instant::now(),
            dropped: cluster.dropped_requests(),
            dropped_by_policy: cluster.dropped(),
            hosts: hosts.iter().map(|host| (host.id, Counts::of(&host.state))).collect(),
        }
    }
}

impl Loads {
    fn new(clusters: ClusterManager) -> Self {
        Self { clusters, state: RefCell::default() }
    }

    fn wanted_clusters(&self, wanted: &Wanted) -> Vec<Arc<ClusterShared>> {
        if wanted.all {
            return self.clusters.clusters();
        }
        let find = |name: &String| self.clusters.slot(name)?.current.load_full();
        wanted.clusters.iter().filter_map(find).collect()
    }
}

impl LoadSource for Loads {
    fn wanted(&self, wanted: &Wanted) {
        let clusters = self.wanted_clusters(wanted);
        let mut state = self.state.borrow_mut();
        let mut before = std::mem::take(&mut state.told);
        for cluster in clusters {
            let name = cluster.config.name.to_string();
            let told =
                before.remove(&name).unwrap_or_else(|| Told::until_now(&cluster, &cluster.hosts.load()));
            state.told.insert(name, told);
        }
        state.wanted = wanted.clone();
    }

    fn report(&self) -> Vec<ClusterStats> {
        let mut state = self.state.borrow_mut();
        let clusters = self.wanted_clusters(&state.wanted);
        let endpoints = state.wanted.endpoints;
        let mut before = std::mem::take(&mut state.told);
        let mut reports = Vec::with_capacity(clusters.len());
        for cluster in clusters {
            let name = cluster.config.name.to_string();
            // One that came since then is told of from its beginning on.
            let told = before.remove(&name);
            let hosts = cluster.hosts.load();
            let now = Told::until_now(&cluster, &hosts);
            reports.push(report(&cluster, &hosts, told.as_ref(), &now, endpoints));
            state.told.insert(name, now);
        }
        reports
    }
}

/// What happened from `told` to `now`, the counts of these hosts.
fn report(
    cluster: &ClusterShared,
    hosts: &HostSet,
    told: Option<&Told>,
    now: &Told,
    endpoints: bool,
) -> ClusterStats {
    let since = told.map_or(Duration::ZERO, |told| now.since.duration_since(told.since));
    let mut localities: BTreeMap<(u32, &str, &str, &str), UpstreamLocalityStats> = BTreeMap::new();
    for host in hosts.iter() {
        let counts = |told: &Told| told.hosts.get(&host.id).copied().unwrap_or_default();
        let counts = counts(now).since(told.map_or_else(Counts::default, counts));
        let active = u64::from(host.active_requests());
        if counts == Counts::default() && active == 0 {
            continue;
        }
        let locality = &host.locality;
        let key = (host.priority, &*locality.region, &*locality.zone, &*locality.sub_zone);
        let stats = localities.entry(key).or_insert_with(|| UpstreamLocalityStats {
            locality: Some(core_pb::Locality {
                region: locality.region.clone(),
                zone: locality.zone.clone(),
                sub_zone: locality.sub_zone.clone(),
            }),
            priority: host.priority,
            ..UpstreamLocalityStats::default()
        });
        stats.total_issued_requests += counts.issued;
        stats.total_successful_requests += counts.success;
        stats.total_error_requests += counts.error;
        stats.total_requests_in_progress += active;
        if endpoints {
            stats.upstream_endpoint_stats.push(UpstreamEndpointStats {
                address: Some(address(host)),
                total_issued_requests: counts.issued,
                total_successful_requests: counts.success,
                total_error_requests: counts.error,
                total_requests_in_progress: active,
                ..UpstreamEndpointStats::default()
            });
        }
    }
    let service = match &cluster.config.discovery {
        Discovery::Eds { service_name, .. } if *service_name != cluster.config.name => {
            service_name.to_string()
        }
        _ => String::new(),
    };
    let broken = now.dropped.saturating_sub(told.map_or(0, |told| told.dropped));
    let by_policy = now.dropped_by_policy.saturating_sub(told.map_or(0, |told| told.dropped_by_policy));
    // Envoy's name where the policy gives none.
    let by_category = DroppedRequests { category: "drop_overload".to_owned(), dropped_count: by_policy };
    ClusterStats {
        cluster_name: cluster.config.name.to_string(),
        cluster_service_name: service,
        upstream_locality_stats: localities.into_values().collect(),
        total_dropped_requests: broken + by_policy,
        dropped_requests: Vec::from_iter((by_policy > 0).then_some(by_category)),
        load_report_interval: Some(google::Duration {
            seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
            nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
        }),
    }
}

fn address(host: &Host) -> core_pb::Address {
    use core_pb::address::Address;
    use core_pb::socket_address::PortSpecifier;
    let address = match &host.address {
        HostAddress::Ip(ip) => Address::SocketAddress(core_pb::SocketAddress {
            address: ip.ip().to_string(),
            port_specifier: Some(PortSpecifier::PortValue(u32::from(ip.port()))),
            ..core_pb::SocketAddress::default()
        }),
        HostAddress::Pipe(path) => Address::Pipe(core_pb::Pipe { path: path.to_string(), mode: 0 }),
    };
    core_pb::Address { address: Some(address) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrider_config::convert;
    use outrider_core::stats::Registry;
    use outrider_proto::{Descriptors, load};

    #[test]
    fn each_request_is_told_of_once_however_many_come_while_reports_are_made() {
        const REQUESTS: u64 = 200_000;
        let text = "static_resources: { clusters: [ { name: c, type: STATIC, load_assignment: { cluster_name: c, \
            endpoints: [ { lb_endpoints: [ { endpoint: { address: { socket_address: { address: 127.0.0.1, \
            port_value: 1 } } } } ] } ] } } ] }";
        let name = "envoy.config.bootstrap.v3.Bootstrap";
        let loaded = load::parse(&Descriptors::load(), text, "t.yaml", name, load::ParseOptions::default());
        let wire = loaded.unwrap().typed().unwrap();
        let (model, _) = convert::bootstrap(&wire, &convert::Options::default());
        let clusters = ClusterManager::new(Registry::new());
        for cluster in model.unwrap().clusters {
            clusters.add(cluster).unwrap();
        }
        let loads = Loads::new(clusters.clone());
        loads.wanted(&Wanted { all: true, ..Wanted::default() });
        let shared = clusters.slot("c").unwrap().current.load_full().unwrap();
        let host = shared.hosts.load().iter().next().unwrap().clone();
        let worker = std::thread::spawn(move || {
            for _ in 0..REQUESTS {
                host.state.rq_total.fetch_add(1, Relaxed);
            }
        });
        let told = || -> u64 {
            let reports = loads.report();
            let localities = reports.iter().flat_map(|cluster| &cluster.upstream_locality_stats);
            localities.map(|locality| locality.total_issued_requests).sum()
        };
        let mut sum = 0;
        while !worker.is_finished() {
            sum += told();
        }
        worker.join().unwrap();
        assert_eq!(sum + told(), REQUESTS);
    }
}
