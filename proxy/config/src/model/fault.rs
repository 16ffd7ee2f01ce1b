//! `envoy.filters.http.fault`

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use outrider_core::MetadataValue;
use outrider_core::matcher::{HeaderMatcher, RuntimeFraction};

use super::{Runtime, RuntimeInteger, RuntimeKey};

/// `HTTPFault`, of a filter or of a route in its place.
#[derive(Debug, Clone)]
pub struct Fault {
    /// Requests wait.
    pub delay: Option<FaultDelay>,
    /// Requests are answered by the proxy.
    pub abort: Option<FaultAbort>,
    /// Responses' bodies are slowed down.
    pub rate_limit: Option<FaultRateLimit>,
    /// Only requests to this cluster; empty for all.
    pub upstream_cluster: Box<str>,
    /// Only requests with these headers.
    pub headers: Vec<HeaderMatcher>,
    /// Only requests from these (`x-envoy-downstream-service-node`); empty for all.
    pub downstream_nodes: Vec<Box<str>>,
    /// As many requests may have a fault at a time.
    pub max_active: RuntimeInteger,
    /// Count also by `x-envoy-downstream-service-cluster`, and follow its runtime keys.
    pub by_downstream_cluster: bool,
    /// Dynamic metadata of requests that have a fault, in the namespace of the filter's name.
    pub metadata: Option<BTreeMap<Arc<str>, MetadataValue>>,
    /// Where keys are looked up whose names requests bring.
    pub runtime: Runtime,
}

/// `FaultDelay`
#[derive(Debug, Clone)]
pub struct FaultDelay {
    /// Milliseconds; `None`: a header says it.
    pub fixed: Option<u64>,
    /// How many requests.
    pub share: RuntimeFraction,
    /// Milliseconds in place of those.
    pub runtime: Option<RuntimeKey>,
}

/// `FaultAbort`
#[derive(Debug, Clone)]
pub struct FaultAbort {
    /// With what.
    pub status: FaultStatus,
    /// How many requests.
    pub share: RuntimeFraction,
    /// An HTTP status in place of the one given.
    pub http_runtime: Option<RuntimeKey>,
    /// A gRPC status in place of the one given.
    pub grpc_runtime: Option<RuntimeKey>,
    /// The answer's body.
    pub body: Bytes,
}

/// The status of an abort.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultStatus {
    /// This.
    Http(u16),
    /// This, with HTTP's 200.
    Grpc(u32),
    /// What headers say.
    Header,
}

/// `FaultRateLimit`
#[derive(Debug, Clone)]
pub struct FaultRateLimit {
    /// KiB in a second; `None`: a header says it.
    pub fixed: Option<u64>,
    /// How many requests.
    pub share: RuntimeFraction,
}
