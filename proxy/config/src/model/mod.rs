//! The validated model: what the rooms behind run on.
//!
//! Plain data, immutable, `Send + Sync`. Matchers and formats are compiled, defaults are filled in,
//! names that refer to other resources are still names: the controller resolves them.

mod access_log;
mod active;
mod bootstrap;
mod cluster;
mod credential_injector;
mod credentials;
mod ext_authz;
mod extension;
mod fault;
mod grpc_stats;
mod hash;
mod hcm;
mod health_check;
mod http_filter;
mod identity;
mod jwt_authn;
mod listener;
mod local_rate_limit;
mod mutation;
mod oauth2_login;
mod outlier;
mod rbac;
mod retry;
mod route;
mod runtime;
mod scope;
mod secrets;
mod succession;
mod tls;
mod xds;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

pub use access_log::*;
pub use active::*;
pub use bootstrap::*;
pub use cluster::*;
pub use credential_injector::*;
pub use credentials::*;
pub use ext_authz::*;
pub use extension::*;
pub use fault::*;
pub use grpc_stats::*;
pub use hash::*;
pub use hcm::*;
pub use health_check::*;
pub use http_filter::*;
pub use identity::*;
pub use jwt_authn::*;
pub use listener::*;
pub use local_rate_limit::*;
pub use mutation::*;
pub use oauth2_login::*;
pub use outlier::*;
pub use outrider_core::metadata::{Metadata, MetadataValue};
pub use rbac::*;
pub use retry::*;
pub use route::*;
pub use runtime::*;
pub use scope::*;
pub use secrets::*;
pub use succession::successions;
pub use tls::*;
pub use xds::*;

/// An address in the configuration.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum SocketAddress {
    /// An IP literal and a port.
    Ip(std::net::SocketAddr),
    /// A name that DNS resolves, and a port. Only in DNS clusters.
    Name {
        /// The name.
        host: Arc<str>,
        /// The port.
        port: u16,
    },
    /// A Unix socket.
    Pipe {
        /// Its path; abstract when it begins with `@`.
        path: Arc<str>,
        /// The file mode it is given when we listen on it; 0 for the umask's.
        mode: u32,
    },
}

impl std::fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Ip(ip) => ip.fmt(f),
            Self::Name { host, port } => write!(f, "{host}:{port}"),
            Self::Pipe { path, .. } => f.write_str(path),
        }
    }
}

/// Bytes that come inline or from a file; files are read by the server, not by the conversion.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DataSource {
    /// Where the bytes are.
    pub kind: DataSourceKind,
    /// The field's path in the configuration, for errors.
    pub field: Arc<str>,
}

/// Where the bytes of a [`DataSource`] are.
#[derive(Clone, PartialEq, Eq, Hash)]
pub enum DataSourceKind {
    /// A file.
    File(Arc<str>),
    /// The bytes themselves.
    Inline(Arc<[u8]>),
    /// The value of an environment variable.
    Environment(Arc<str>),
}

impl std::fmt::Debug for DataSourceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => write!(f, "File({path:?})"),
            // It may be a private key.
            Self::Inline(bytes) => write!(f, "Inline({} bytes)", bytes.len()),
            Self::Environment(name) => write!(f, "Environment({name:?})"),
        }
    }
}

/// An IP prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// The address, already masked.
    pub address: IpAddr,
    /// The prefix length in bits.
    pub len: u8,
}

/// One socket option as the configuration gives it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SocketOption {
    /// `setsockopt`'s level.
    pub level: i32,
    /// `setsockopt`'s name.
    pub name: i32,
    /// The value.
    pub value: SocketOptionValue,
    /// When it is set.
    pub state: SocketOptionState,
}

/// A socket option's value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SocketOptionValue {
    /// An integer, passed as `c_int`.
    Int(i32),
    /// Bytes.
    Bytes(Vec<u8>),
}

/// When a socket option is set.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SocketOptionState {
    /// Before bind.
    Prebind,
    /// After bind, before listen.
    Bound,
    /// After listen.
    Listening,
}

/// TCP keepalive; `None` leaves the kernel's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TcpKeepalive {
    /// Probes before the connection is dead.
    pub probes: Option<u32>,
    /// Seconds of silence before the first probe.
    pub time: Option<u32>,
    /// Seconds between probes.
    pub interval: Option<u32>,
}

/// Exponential back-off.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BackOff {
    /// The first interval.
    pub base: Duration,
    /// The longest interval.
    pub max: Duration,
}
