//! Where configuration comes from that is not in the bootstrap.

use std::sync::Arc;
use std::time::Duration;

use http::uri::Authority;
use http::{HeaderName, HeaderValue};

use super::{BackOff, DataSource};

/// `dynamic_resources`
#[derive(Debug, Clone, Default)]
pub struct DynamicResources {
    /// Where listeners come from; `None`: only static ones.
    pub lds: Option<ConfigSource>,
    /// Where clusters come from; `None`: only static ones.
    pub cds: Option<ConfigSource>,
    /// The aggregated stream that sources of kind [`ConfigSourceKind::Ads`] share; there whenever one of those is
    /// in the bootstrap.
    pub ads: Option<Arc<ApiConfigSource>>,
}

/// `ConfigSource`: where one resource, or all of a type, come from.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConfigSource {
    /// From where.
    pub kind: ConfigSourceKind,
    /// How long what depends on it waits for the first answer; zero: for ever. Default 15 s.
    pub initial_fetch_timeout: Duration,
}

impl Default for ConfigSource {
    fn default() -> Self {
        Self { kind: ConfigSourceKind::Ads, initial_fetch_timeout: Self::INITIAL_FETCH_TIMEOUT }
    }
}

impl ConfigSource {
    /// The default of `initial_fetch_timeout`.
    pub const INITIAL_FETCH_TIMEOUT: Duration = Duration::from_secs(15);
}

/// Where a [`ConfigSource`] leads.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ConfigSourceKind {
    /// The bootstrap's aggregated stream.
    Ads,
    /// A stream of its own.
    Api(Arc<ApiConfigSource>),
    /// A file that holds a `DiscoveryResponse`.
    Path {
        /// The file.
        path: Arc<str>,
        /// The directory whose moves announce a change; `None` for moves of the file itself.
        watched_directory: Option<Arc<str>>,
    },
}

/// `ApiConfigSource` over gRPC.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ApiConfigSource {
    /// The incremental protocol; otherwise state of the world.
    pub delta: bool,
    /// The aggregated service; otherwise the one of the resources' type.
    pub aggregated: bool,
    /// The control planes: the first that answers is used. Never empty, and only one when not aggregated.
    pub services: Vec<GrpcService>,
    /// Only the first request on a stream says who we are.
    pub set_node_on_first_message_only: bool,
    /// How often requests may be sent; `None` for no limit.
    pub rate_limit: Option<RateLimit>,
}

/// `RateLimitSettings`: a bucket of tokens, one for each request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RateLimit {
    /// The bucket's size. Default 100.
    pub max_tokens: u32,
    /// Time in which one token comes back: 1 / `fill_rate`. Default 100 ms.
    pub refill: Duration,
}

/// `GrpcService`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GrpcService {
    /// Which server.
    pub target: GrpcTarget,
    /// Longest time of a call; `None` for no limit. Streams of a control plane have none in any case.
    pub timeout: Option<Duration>,
    /// Headers of each stream.
    pub initial_metadata: Vec<(HeaderName, HeaderValue)>,
    /// Between tries to make the stream anew. Default 500 ms to 30 s.
    pub back_off: BackOff,
}

impl GrpcService {
    /// The back-off where none is configured.
    pub const BACK_OFF: BackOff = BackOff { base: Duration::from_millis(500), max: Duration::from_secs(30) };
}

/// Which server a [`GrpcService`] is at.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GrpcTarget {
    /// `envoy_grpc`: through a cluster of ours.
    Cluster {
        /// The cluster.
        cluster: Arc<str>,
        /// `:authority`; `None` for the cluster's name.
        authority: Option<Authority>,
        /// Longest message that is taken, bytes; `None` for no limit of its own.
        max_receive_message_length: Option<u32>,
    },
    /// `google_grpc`: a connection of its own.
    Channel(Box<GrpcChannel>),
}

/// `GrpcService.GoogleGrpc`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct GrpcChannel {
    /// Where.
    pub target: ChannelTarget,
    /// TLS; `None` for plain.
    pub tls: Option<ChannelTls>,
    /// `authorization` of each stream (`Bearer ...`), marked sensitive. Only over TLS.
    pub authorization: Option<HeaderValue>,
    /// Prefix of its stats (`grpc.<prefix>.`).
    pub stat_prefix: Arc<str>,
    /// `grpc.default_authority`
    pub authority: Option<Authority>,
    /// `grpc.ssl_target_name_override`: the name that is sent and verified, in place of the target's.
    pub tls_name: Option<Arc<str>>,
    /// `grpc.keepalive_time_ms`; `None` for no PINGs.
    pub keepalive_time: Option<Duration>,
    /// `grpc.keepalive_timeout_ms`. Default 20 s.
    pub keepalive_timeout: Duration,
    /// Longest message that is taken, bytes; `None` for no limit. Default 4 MiB, as in gRPC's library.
    pub max_receive_message_length: Option<u32>,
}

/// The target of a channel.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum ChannelTarget {
    /// A name or IP literal (without brackets), and a port.
    Host {
        /// The name.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
    /// A Unix socket; abstract when the path begins with `@`.
    Unix(Arc<str>),
}

/// `SslCredentials`
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ChannelTls {
    /// PEM roots.
    pub roots: DataSource,
    /// PEM chain and PEM key that we show.
    pub identity: Option<(DataSource, DataSource)>,
}
