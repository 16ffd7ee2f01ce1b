//! Clusters, endpoints, load balancing, circuit breakers, connection pools.
//!
//! The control side ([`ClusterManager`], [`ClusterSlot`], [`ClusterShared`]) is `Send + Sync`: it knows
//! the clusters, finds their hosts and publishes them. The worker side ([`WorkerClusters`],
//! [`WorkerCluster`]) is `!Send`: it picks hosts and owns the connections to them.

mod active;
pub mod body;
pub mod breaker;
pub mod cluster;
mod discovery;
pub mod error;
pub mod host;
pub mod incoming;
pub mod lb;
pub mod manager;
mod membership;
pub mod outlier;
mod parked;
pub mod pool;
pub mod priority;
pub mod snapshot;
pub mod stats;
pub mod worker;

pub use body::{BodyError, Outbound, UpstreamBody};
pub use breaker::{Overflow, RetryPermit};
pub use cluster::{ClusterShared, ClusterSlot};
pub use error::{ClusterError, PickError, PoolError, PoolErrorKind, SendError, SendErrorKind};
pub use host::{Host, HostSet, HostState};
pub use incoming::{Incoming, IncomingError};
pub use manager::ClusterManager;
pub use outlier::Event;
pub use parked::{Idle, close_parked, park};
pub use pool::{Lease, LeaseGuard, PendingTunnel, TcpLease, Tunnel};
pub use stats::ClusterStats;
pub use worker::{AcquireContext, PickContext, WorkerCluster, WorkerClusters};
