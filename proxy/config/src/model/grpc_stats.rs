//! `envoy.filters.http.grpc_stats`

use std::collections::HashSet;

/// `grpc_stats.v3.FilterConfig`
#[derive(Debug, Clone)]
pub struct GrpcStats {
    /// Keep the number of messages where logs can read it.
    pub emit_filter_state: bool,
    /// Which methods have stats of their own.
    pub methods: GrpcMethods,
    /// Record how long upstreams take.
    pub upstream_stats: bool,
}

/// Which methods have stats of their own; all others share those of their cluster.
#[derive(Debug, Clone)]
pub enum GrpcMethods {
    /// All.
    All {
        /// Dots in the names of services become underscores.
        replace_dots: bool,
    },
    /// Those in this set, each as `service/method`.
    Listed(HashSet<Box<str>>),
}
