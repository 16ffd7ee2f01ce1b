//! The bootstrap as a whole.

use std::sync::Arc;
use std::time::Duration;

use super::{
    AccessLog, ApiConfigSource, Cluster, ClusterDefaults, DynamicResources, IdentityAgent, Listener, Runtime,
    RuntimeInteger, RuntimeLayer, Secret, SocketAddress, SocketOption,
};

/// What a bootstrap file says.
#[derive(Debug, Clone, Default)]
pub struct Bootstrap {
    /// Who we are.
    pub node: Node,
    /// The admin interface; `None` for none.
    pub admin: Option<Admin>,
    /// Static listeners, in the file's order.
    pub listeners: Vec<Arc<Listener>>,
    /// Static clusters, in the file's order.
    pub clusters: Vec<Arc<Cluster>>,
    /// Static secrets.
    pub secrets: Vec<Arc<Secret>>,
    /// Where the rest comes from.
    pub dynamic: DynamicResources,
    /// Where load is reported to (`cluster_manager.load_stats_config`).
    pub load_reports: Option<Arc<ApiConfigSource>>,
    /// The identity agent, when this process is one.
    pub identity: Option<IdentityAgent>,
    /// What it says for clusters, static or not.
    pub cluster_defaults: Arc<ClusterDefaults>,
    /// The runtime; holds what the static and disk layers say until the server fills it.
    pub runtime: Runtime,
    /// The layers that the runtime is made of, the last one on top.
    pub runtime_layers: Vec<RuntimeLayer>,
    /// How stats are named and kept.
    pub stats: StatsConfig,
    /// Prefix of all header names that Envoy calls `x-envoy-`; empty for `x-envoy`.
    pub header_prefix: String,
    /// Limit of all downstream connections: the overload manager's, or the runtime's
    /// (`overload.global_downstream_max_connections`).
    pub max_downstream_connections: RuntimeInteger,
}

/// `core.v3.Node`, the parts that we read ourselves.
#[derive(Debug, Clone, Default)]
pub struct Node {
    /// `--service-node` or `node.id`.
    pub id: String,
    /// `--service-cluster` or `node.cluster`.
    pub cluster: String,
    /// `locality.region`
    pub region: String,
    /// `--service-zone` or `locality.zone`.
    pub zone: String,
    /// `locality.sub_zone`
    pub sub_zone: String,
    /// `metadata` as JSON text.
    pub metadata_json: String,
    /// The whole `core.v3.Node` as a control plane is sent it, encoded.
    pub wire: Arc<[u8]>,
}

/// The admin interface.
#[derive(Debug, Clone)]
pub struct Admin {
    /// Where it listens.
    pub address: SocketAddress,
    /// Its own access logs.
    pub access_logs: Vec<AccessLog>,
    /// Options of its listening socket.
    pub socket_options: Vec<SocketOption>,
}

/// `stats_config` and what belongs to it.
#[derive(Debug, Clone)]
pub struct StatsConfig {
    /// Tags by regular expression, in order, before the default ones.
    pub tags: Vec<StatsTag>,
    /// Whether Envoy's default tags are extracted too.
    pub use_default_tags: bool,
    /// Which stats exist.
    pub matcher: StatsMatcher,
    /// Histogram buckets by name.
    pub buckets: Vec<HistogramBuckets>,
    /// How often stats would be flushed to sinks.
    pub flush_interval: Duration,
}

impl Default for StatsConfig {
    fn default() -> Self {
        Self {
            tags: Vec::new(),
            use_default_tags: true,
            matcher: StatsMatcher::All,
            buckets: Vec::new(),
            flush_interval: Duration::from_secs(5),
        }
    }
}

/// A tag and where its value comes from.
#[derive(Debug, Clone)]
pub struct StatsTag {
    /// The tag's name.
    pub name: String,
    /// The value's source.
    pub value: StatsTagValue,
}

/// Where a tag's value comes from.
#[derive(Debug, Clone)]
pub enum StatsTagValue {
    /// The expression's second group if it has one, else the first; the first group is cut out of the name.
    Regex(regex::Regex),
    /// Always this.
    Fixed(String),
}

/// Which stats exist.
#[derive(Debug, Clone)]
pub enum StatsMatcher {
    /// All.
    All,
    /// None.
    None,
    /// Only those that match one of these.
    Include(Vec<outrider_core::matcher::StringMatcher>),
    /// All but those that match one of these.
    Exclude(Vec<outrider_core::matcher::StringMatcher>),
}

/// The buckets of the histograms whose name matches.
#[derive(Debug, Clone)]
pub struct HistogramBuckets {
    /// Which histograms.
    pub matcher: outrider_core::matcher::StringMatcher,
    /// Upper bounds, ascending.
    pub bounds: Vec<f64>,
}
