//! Active health checks: hosts are asked whether they are well.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use outrider_core::matcher::StringMatcher;

use super::{AppendAction, RuntimeInteger, SocketAddress};

/// `HealthCheck`
#[derive(Debug, Clone)]
pub struct ActiveCheck {
    /// The longest that an answer may take.
    pub timeout: Duration,
    /// Failed checks in a row that make a host unhealthy.
    pub unhealthy_threshold: u32,
    /// Good ones in a row that make it healthy again.
    pub healthy_threshold: u32,
    /// The time between checks.
    pub intervals: CheckIntervals,
    /// Connections are kept from check to check. Default true.
    pub reuse_connection: bool,
    /// How a host is asked.
    pub probe: Probe,
}

/// The times between two checks of a host.
#[derive(Debug, Clone)]
pub struct CheckIntervals {
    /// Of a healthy host.
    pub healthy: Duration,
    /// Of a healthy host after a check that would change that, if more like it came. Default as `healthy`.
    pub healthy_edge: Duration,
    /// Of an unhealthy host. Default as `healthy`.
    pub unhealthy: Duration,
    /// Of an unhealthy host after a check that would change that. Default as `unhealthy`.
    pub unhealthy_edge: Duration,
    /// Where the cluster never had traffic. Default 60 s.
    pub no_traffic: Duration,
    /// The same of a healthy host. Default as `no_traffic`.
    pub no_traffic_healthy: Duration,
    /// The first check waits for up to this long.
    pub initial_jitter: Duration,
    /// Up to this is added each time.
    pub jitter: Duration,
    /// Up to so many percent of the time are added.
    pub jitter_percent: u32,
    /// None is shorter (`health_check.min_interval`), milliseconds.
    pub min_ms: RuntimeInteger,
    /// None is longer (`health_check.max_interval`), milliseconds.
    pub max_ms: RuntimeInteger,
}

/// How a host is asked.
#[derive(Debug, Clone)]
pub enum Probe {
    /// By an HTTP request.
    Http(Box<HttpProbe>),
    /// By a connection, and bytes on it.
    Tcp(TcpProbe),
    /// By gRPC's health service.
    Grpc(GrpcProbe),
}

/// `HttpHealthCheck`
#[derive(Debug, Clone)]
pub struct HttpProbe {
    /// The authority; empty for the cluster's name. A host's own comes before it.
    pub host: Arc<str>,
    /// The path.
    pub path: Arc<str>,
    /// The method. Default GET.
    pub method: Method,
    /// The request's body; empty for none.
    pub send: Bytes,
    /// What the response's body must hold, in this order.
    pub receive: Vec<Bytes>,
    /// So much of the body is looked at; 0 for all of it. Default 1024.
    pub response_buffer: u64,
    /// Headers that are added.
    pub add: Vec<(HeaderName, HeaderValue, AppendAction)>,
    /// Headers that are removed.
    pub remove: Vec<HeaderName>,
    /// Good statuses. Default 200.
    pub expected: Vec<Range<u16>>,
    /// Statuses that count towards `unhealthy_threshold`; others make the host unhealthy at once.
    pub retriable: Vec<Range<u16>>,
    /// HTTP/2 in place of HTTP/1.1.
    pub http2: bool,
    /// What `x-envoy-upstream-healthchecked-cluster` must say.
    pub service_name: Option<StringMatcher>,
    /// Percent of checks that look at `service_name` (`health_check.verify_cluster`).
    pub verify_cluster: RuntimeInteger,
}

/// `TcpHealthCheck`
#[derive(Debug, Clone)]
pub struct TcpProbe {
    /// What is sent.
    pub send: Bytes,
    /// What must come, in this order; nothing: a connection is enough.
    pub receive: Vec<Bytes>,
}

/// `GrpcHealthCheck`
#[derive(Debug, Clone)]
pub struct GrpcProbe {
    /// The service that is asked for; empty for the server as a whole.
    pub service: String,
    /// The authority; empty for the cluster's name. A host's own comes before it.
    pub authority: Arc<str>,
    /// Headers that are added.
    pub add: Vec<(HeaderName, HeaderValue, AppendAction)>,
}

/// `Endpoint.HealthCheckConfig`
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointCheck {
    /// Where it is checked; `None` for its own address.
    pub address: Option<SocketAddress>,
    /// The port that it is checked at; 0 for its own.
    pub port: u16,
    /// The authority of checks; empty for the check's.
    pub hostname: Arc<str>,
    /// It is not checked.
    pub disabled: bool,
}
