//! The bootstrap.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use outrider_proto::pb::envoy::config::bootstrap::v3 as pb;
use outrider_proto::pb::envoy::config::core::v3 as core_pb;
use outrider_proto::{Path, Problem};

use super::access_log::{self, Protocol};
use super::address::{Bind, Names, bind, required, socket_options};
use super::cx::{Cx, KnownClusters, Ledger, Options, UNSUPPORTED, inert, refuse};
use super::scalar::duration;
use super::xds::api_config_source;
use super::{bootstrap_extension, cluster, dns, dynamic, listener, node, overload, runtime, secret, stats};
use crate::model::{
    AccessLog, Admin, ApiConfigSource, Bootstrap, Cluster, ClusterDefaults, Listener, LogSink, Runtime,
    SocketAddress,
};

/// Converts a bootstrap.
///
/// The first part is the model, or every problem found, each with the full path of the field at fault; the
/// second tells what was accepted without effect and what was refused, and is given either way.
pub fn bootstrap(message: &pb::Bootstrap, options: &Options) -> (Result<Bootstrap, Vec<Problem>>, Ledger) {
    let root = Path::root();
    let mut cx = Cx::new(options);
    let resources = message.static_resources.iter();
    let names: HashSet<String> =
        resources.flat_map(|message| &message.clusters).map(|cluster| cluster.name.clone()).collect();
    cx.clusters = Some(KnownClusters::new(move |name| names.contains(name)));
    let ads = message.dynamic_resources.as_ref().and_then(|dynamic| dynamic.ads_config.as_ref());
    cx.has_ads = ads.is_some();
    cx.ads_is_delta = ads.is_some_and(dynamic::is_delta);
    cx.primary_clusters = Some(Arc::new(dynamic::primary_clusters(message)));
    // The runtime comes first: other fields may be overridden by it.
    cx.runtime = Runtime::default();
    let node = message.node.as_ref().map_or("", |node| node.cluster.as_str());
    let cluster = if options.service_cluster.is_empty() { node } else { &options.service_cluster };
    let at = root.field("layered_runtime");
    let (layers, places) = runtime::layers(&cx, &at, message.layered_runtime.as_ref(), options, cluster);
    let mut model = convert(&cx, &root, message, options);
    if !cx.has_problems() && lost(message, &model) {
        // A resource is never left out in silence, whatever mistake the conversion may have.
        cx.error(&root.field("static_resources"), "a resource of it cannot be used");
    }
    model.runtime = cx.runtime.clone();
    model.runtime_layers = layers;
    runtime::unread(&cx, &places, cx.uses_control_plane.get());
    cx.finish(model)
}

#[expect(clippy::too_many_lines, reason = "one message of forty fields, destructured and built once")]
fn convert(cx: &Cx, path: &Path<'_>, message: &pb::Bootstrap, options: &Options) -> Bootstrap {
    let pb::Bootstrap {
        node,
        node_context_params,
        static_resources,
        dynamic_resources,
        cluster_manager,
        hds_config,
        flags_path,
        stats_sinks,
        deferred_stat_options,
        stats_config,
        stats_flush_interval,
        watchdog,
        watchdogs,
        tracing,
        // Read before all others.
        layered_runtime: _layered_runtime,
        admin,
        overload_manager,
        enable_dispatcher_stats,
        header_prefix,
        stats_server_version_override,
        use_tcp_for_dns_lookups,
        dns_resolution_config,
        typed_dns_resolver_config,
        bootstrap_extensions,
        fatal_actions,
        config_sources,
        default_config_source,
        default_socket_interface,
        certificate_provider_instances,
        inline_headers,
        perf_tracing_file_path,
        default_regex_engine,
        xds_delegate_extension,
        xds_config_tracker_extension,
        listener_manager,
        application_log_config,
        grpc_async_client_manager_config,
        memory_allocator_manager,
        enable_worker_cpu_affinity,
        stats_flush,
        stats_eviction,
    } = message;
    const WATCHDOG: &str = "there is no watchdog that could kill the process";
    inert!(cx, path, "it goes into xdstp:// resource names alone, and those are refused"; node_context_params);
    refuse!(cx, path, "sources by authority serve xdstp:// resource names, which are not supported; write dynamic_resources";
        config_sources, default_config_source);
    refuse!(cx, path, UNSUPPORTED; xds_delegate_extension, hds_config);
    refuse!(cx, path, "stats are read from the admin interface; remove it"; stats_sinks);
    refuse!(cx, path, "tracing is not supported; remove it"; tracing);
    refuse!(cx, path, UNSUPPORTED;
        stats_server_version_override, fatal_actions, default_socket_interface,
        certificate_provider_instances, xds_config_tracker_extension, listener_manager, application_log_config,
        enable_worker_cpu_affinity);
    inert!(cx, path, WATCHDOG; watchdog, watchdogs);
    inert!(cx, path, "stats are created on first use anyway"; deferred_stat_options);
    inert!(cx, path, "Envoy does not read it either"; flags_path);
    inert!(cx, path, "there is no event dispatcher to measure"; enable_dispatcher_stats);
    inert!(cx, path, "how Envoy stores headers; none differs in meaning"; inline_headers);
    inert!(cx, path, "it traces Envoy's own code"; perf_tracing_file_path);
    inert!(cx, path, "a cache of gRPC clients, of which there are none"; grpc_async_client_manager_config);
    inert!(cx, path, "a setting of Envoy's allocator"; memory_allocator_manager);
    flushing(cx, path, stats_flush.as_ref(), stats_eviction.as_ref(), stats_flush_interval.is_some());
    let identity = bootstrap_extension::all(cx, &path.field("bootstrap_extensions"), bootstrap_extensions);
    regex_engine(cx, &path.field("default_regex_engine"), default_regex_engine.as_ref());
    let (bind, load_reports) = manager(cx, &path.field("cluster_manager"), cluster_manager.as_ref());
    let defaults = Arc::new(ClusterDefaults {
        bind,
        resolver: resolver(
            cx,
            path,
            typed_dns_resolver_config.as_ref(),
            dns_resolution_config.as_ref(),
            *use_tcp_for_dns_lookups,
        ),
    });
    cx.cluster_defaults.replace(defaults.clone());

    let mut stats = stats_config
        .as_ref()
        .map(|message| stats::config(cx, &path.field("stats_config"), message))
        .unwrap_or_default();
    if let Some(interval) = duration(cx, path, "stats_flush_interval", stats_flush_interval) {
        stats.flush_interval = interval;
    }
    let mut model = Bootstrap {
        node: node::node(cx, &path.field("node"), node.as_ref(), options),
        admin: admin.as_ref().and_then(|message| self::admin(cx, &path.field("admin"), message)),
        stats,
        cluster_defaults: defaults,
        load_reports,
        identity,
        dynamic: dynamic::resources(cx, &path.field("dynamic_resources"), dynamic_resources.as_ref()),
        header_prefix: self::header_prefix(cx, path, header_prefix),
        max_downstream_connections: overload::connections(
            cx,
            &path.field("overload_manager"),
            overload_manager.as_ref(),
        ),
        ..Bootstrap::default()
    };
    if let Some(message) = static_resources {
        resources(cx, &path.field("static_resources"), message, &mut model);
    }
    if cx.uses_control_plane.get() && (model.node.id.is_empty() || model.node.cluster.is_empty()) {
        cx.error(
            &path.field("node"),
            "a control plane is told who asks: id and cluster are needed, or --service-node and --service-cluster",
        );
    }
    model
}

/// Whether the model has fewer resources than the file.
fn lost(message: &pb::Bootstrap, model: &Bootstrap) -> bool {
    let empty = pb::bootstrap::StaticResources::default();
    let resources = message.static_resources.as_ref().unwrap_or(&empty);
    resources.listeners.len() != model.listeners.len()
        || resources.clusters.len() != model.clusters.len()
        || resources.secrets.len() != model.secrets.len()
        || resources.listeners.iter().zip(&model.listeners).any(|(message, listener)| {
            message.filter_chains.len() != listener.filter_chains.len()
                || message.default_filter_chain.is_some() != listener.default_filter_chain.is_some()
        })
}

/// Secrets come first, since clusters and listeners refer to them.
fn resources(cx: &Cx, path: &Path<'_>, message: &pb::bootstrap::StaticResources, model: &mut Bootstrap) {
    let pb::bootstrap::StaticResources { listeners, clusters, secrets } = message;
    let at = path.field("secrets");
    for (i, message) in secrets.iter().enumerate() {
        let path = at.index(i);
        let Some(secret) = secret::secret(cx, &path, message) else { continue };
        let kind = std::mem::discriminant(&secret.kind);
        if model
            .secrets
            .iter()
            .any(|other| other.name == secret.name && std::mem::discriminant(&other.kind) == kind)
        {
            cx.error(&path.field("name"), format!("there is a secret named {:?} already", secret.name));
        }
        let secret = Arc::new(secret);
        cx.add_secret(Arc::clone(&secret));
        model.secrets.push(secret);
    }
    let at = path.field("clusters");
    let mut names: HashSet<&str> = HashSet::new();
    for (i, message) in clusters.iter().enumerate() {
        let path = at.index(i);
        if !names.insert(&message.name) {
            cx.error(&path.field("name"), format!("there is a cluster named {:?} already", message.name));
        }
        let cluster: Option<Cluster> = cluster::cluster(cx, &path, message);
        model.clusters.extend(cluster.map(Arc::new));
    }
    let at = path.field("listeners");
    let taken = RefCell::new(Taken::default());
    for (i, message) in listeners.iter().enumerate() {
        let path = at.index(i);
        let Some(listener) = listener::listener(cx, &path, message) else { continue };
        taken.borrow_mut().check(cx, &path, &listener);
        model.listeners.push(Arc::new(listener));
    }
}

/// Names and addresses of the listeners so far.
#[derive(Default)]
struct Taken {
    names: HashSet<Arc<str>>,
    addresses: HashMap<SocketAddress, Arc<str>>,
}

impl Taken {
    /// Two listeners may share neither a name nor an address, unless its port is 0.
    fn check(&mut self, cx: &Cx, path: &Path<'_>, listener: &Listener) {
        if !self.names.insert(Arc::clone(&listener.name)) {
            cx.error(&path.field("name"), format!("there is a listener named {:?} already", listener.name));
        }
        for address in &listener.addresses {
            let key = match &address.address {
                SocketAddress::Ip(ip) if ip.port() == 0 => continue,
                SocketAddress::Pipe { path, .. } => SocketAddress::Pipe { path: Arc::clone(path), mode: 0 },
                other => other.clone(),
            };
            if let Some(first) = self.addresses.insert(key, Arc::clone(&listener.name))
                && first != listener.name
            {
                cx.error(
                    &path.field("address"),
                    format!("{} is the address of the listener {first:?} already", address.address),
                );
            }
        }
    }
}

/// When stats would be flushed and forgotten.
fn flushing(
    cx: &Cx,
    path: &Path<'_>,
    flush: Option<&pb::bootstrap::StatsFlush>,
    eviction: Option<&pb::bootstrap::StatsEviction>,
    interval: bool,
) {
    if let Some(pb::bootstrap::StatsFlush::StatsFlushOnAdmin(_)) = flush {
        let path = path.field("stats_flush_on_admin");
        if interval {
            cx.error(&path, "it excludes stats_flush_interval; keep one");
        }
        cx.inert(&path, "there are no sinks to flush to");
    }
    if let Some(pb::bootstrap::StatsEviction::StatsEvictionInterval(_)) = eviction {
        cx.inert(&path.field("stats_eviction_interval"), "unused stats are cheap and kept");
    }
}

/// The prefix of the headers that Envoy calls `x-envoy-*`: it cannot be changed.
fn header_prefix(cx: &Cx, path: &Path<'_>, prefix: &str) -> String {
    if !prefix.is_empty() && prefix != "x-envoy" {
        cx.refuse(&path.field("header_prefix"), "the headers are called x-envoy-*; remove it");
    }
    prefix.to_owned()
}

fn regex_engine(cx: &Cx, path: &Path<'_>, message: Option<&core_pb::TypedExtensionConfig>) {
    use outrider_proto::pb::envoy::extensions::regex_engines::v3::GoogleRe2;
    let Some(core_pb::TypedExtensionConfig { name: _name, typed_config }) = message else { return };
    match typed_config {
        Some(any) if outrider_proto::any::is::<GoogleRe2>(any) => {
            cx.inert(path, "expressions have RE2's syntax and linear time anyway");
        }
        _ => cx.refuse(path, "expressions have RE2's syntax; remove it"),
    }
}

/// The resolver of clusters that say nothing of theirs: the newest field that is given.
fn resolver(
    cx: &Cx,
    path: &Path<'_>,
    typed: Option<&core_pb::TypedExtensionConfig>,
    config: Option<&core_pb::DnsResolutionConfig>,
    tcp: bool,
) -> Option<dns::Resolver> {
    match (typed, config) {
        (Some(_), _) => dns::typed(cx, &path.field("typed_dns_resolver_config"), typed),
        (None, Some(message)) => Some(dns::resolution(cx, &path.field("dns_resolution_config"), message)),
        (None, None) => tcp.then(|| dns::Resolver { use_tcp: true, ..dns::Resolver::default() }),
    }
}

/// What all clusters share, and where their load is reported to.
fn manager(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::ClusterManager>,
) -> (Bind, Option<Arc<ApiConfigSource>>) {
    let Some(message) = message else { return Default::default() };
    let pb::ClusterManager {
        local_cluster_name,
        outlier_detection,
        upstream_bind_config,
        load_stats_config,
        enable_deferred_cluster_creation,
    } = message;
    refuse!(cx, path, "zone aware routing is not supported; remove it"; local_cluster_name);
    refuse!(cx, path, UNSUPPORTED; outlier_detection);
    inert!(cx, path, "pools are made on first use anyway"; enable_deferred_cluster_creation);
    let reports = load_stats_config
        .as_ref()
        .and_then(|message| api_config_source(cx, &path.field("load_stats_config"), message, false));
    let bind = upstream_bind_config
        .as_ref()
        .map(|message| bind(cx, &path.field("upstream_bind_config"), message))
        .unwrap_or_default();
    (bind, reports.map(Arc::new))
}

fn admin(cx: &Cx, path: &Path<'_>, message: &pb::Admin) -> Option<Admin> {
    let pb::Admin {
        access_log,
        access_log_path,
        profile_path,
        address,
        socket_options: options,
        ignore_global_conn_limit,
        allow_paths,
    } = message;
    inert!(cx, path, "there is no profiler that would write there"; profile_path);
    inert!(cx, path, "connections to the admin interface are never limited"; ignore_global_conn_limit);
    refuse!(cx, path, UNSUPPORTED; allow_paths);
    let mut access_logs = access_log::logs(cx, &path.field("access_log"), access_log, Protocol::Http);
    if !access_log_path.is_empty() {
        let path = path.field("access_log_path");
        access_logs.extend(access_log::default_format(cx, &path).map(|format| AccessLog {
            sink: LogSink::File(Arc::from(access_log_path.as_str())),
            format,
            filter: None,
        }));
    }
    // Envoy starts without an admin interface when there is no address.
    let address = required(cx, &path.field("address"), Some(address.as_ref()?), Names::Refused)?;
    Some(Admin {
        address,
        access_logs,
        socket_options: socket_options(cx, &path.field("socket_options"), options),
    })
}
