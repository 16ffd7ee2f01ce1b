//! The scenarios: their names, the load that each gets and the figure that it is about.

use std::collections::BTreeMap;

use crate::config::filters::{By, Filter};
use crate::drivers::Driver;
use crate::proxies::Kind;

/// Figures of one scenario on one proxy in one round, by key (see [`Figure`] and README.md).
pub(crate) type Metrics = BTreeMap<&'static str, f64>;

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scenario {
    /// HTTP/1.1 keep-alive to HTTP/1.1.
    H1,
    /// h2 to HTTP/1.1.
    H2,
    /// h2 to h2.
    H2ToH2,
    /// gRPC unary, h2 to h2.
    Grpc,
    /// Plain HTTP/1.1 -> mTLS h2 -> plain HTTP/1.1 through two instances.
    Mesh,
    /// 64-byte round trips.
    TcpSmall,
    /// A stream of bytes from the upstream to the client.
    TcpBulk,
    /// Full handshakes of mutual TLS 1.3, one request each; the server has an ECDSA P-256 key.
    TlsHandshake,
    /// The same where the server has an RSA key of 2,048 bits.
    TlsHandshakeRsa,
    /// A thousand policies that each let one client in, by its SPIFFE id.
    RbacIds,
    /// A thousand policies that each let everybody in to one path.
    RbacPaths,
    /// A thousand policies that each let in who sends one value of a header.
    RbacHeaders,
    /// Tokens that are signed by ES256.
    Jwt,
    /// The same with `jwt_cache_config`.
    JwtCache,
    /// Connections that idle.
    IdleConns,
    /// Memory right after start.
    IdleRss,
    /// Start with many clusters.
    Clusters,
}

/// The figure by which a scenario compares proxies; less is better in all of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    /// Key in [`Metrics`].
    pub(crate) key: &'static str,
    /// Its unit.
    pub(crate) unit: &'static str,
}

impl Scenario {
    /// All, in the order in which they run and are printed.
    pub(crate) const ALL: [Scenario; 17] = [
        Scenario::H1,
        Scenario::H2,
        Scenario::H2ToH2,
        Scenario::Grpc,
        Scenario::Mesh,
        Scenario::TcpSmall,
        Scenario::TcpBulk,
        Scenario::TlsHandshake,
        Scenario::TlsHandshakeRsa,
        Scenario::RbacIds,
        Scenario::RbacPaths,
        Scenario::RbacHeaders,
        Scenario::Jwt,
        Scenario::JwtCache,
        Scenario::IdleConns,
        Scenario::IdleRss,
        Scenario::Clusters,
    ];

    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scenario::H1 => "h1",
            Scenario::H2 => "h2",
            Scenario::H2ToH2 => "h2-h2",
            Scenario::Grpc => "grpc",
            Scenario::Mesh => "mesh",
            Scenario::TcpSmall => "tcp-small",
            Scenario::TcpBulk => "tcp-bulk",
            Scenario::TlsHandshake => "tls-handshake",
            Scenario::TlsHandshakeRsa => "tls-handshake-rsa",
            Scenario::RbacIds => "rbac-ids",
            Scenario::RbacPaths => "rbac-paths",
            Scenario::RbacHeaders => "rbac-headers",
            Scenario::Jwt => "jwt",
            Scenario::JwtCache => "jwt-cache",
            Scenario::IdleConns => "idle-conns",
            Scenario::IdleRss => "idle-rss",
            Scenario::Clusters => "clusters",
        }
    }

    /// What it is, in a few words.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Scenario::H1 => "HTTP/1.1",
            Scenario::H2 => "h2 -> HTTP/1.1",
            Scenario::H2ToH2 => "h2 -> h2",
            Scenario::Grpc => "gRPC unary",
            Scenario::Mesh => "mesh, both hops",
            Scenario::TcpSmall => "TCP 64 B round trip",
            Scenario::TcpBulk => "TCP bulk",
            Scenario::TlsHandshake => "mutual TLS 1.3 handshake",
            Scenario::TlsHandshakeRsa => "TLS handshake, RSA key",
            Scenario::RbacIds => "RBAC, 1,000 SPIFFE ids",
            Scenario::RbacPaths => "RBAC, 1,000 paths",
            Scenario::RbacHeaders => "RBAC, 1,000 headers",
            Scenario::Jwt => "JWT, ES256",
            Scenario::JwtCache => "JWT, ES256, token cache",
            Scenario::IdleConns => "2,000 idle connections",
            Scenario::IdleRss => "idle after start",
            Scenario::Clusters => "start, 5,000 clusters",
        }
    }

    /// The reverse of [`Scenario::name`].
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scenario| scenario.name() == name)
    }

    /// The figure to compare.
    pub(crate) fn figure(self) -> Figure {
        match self {
            Scenario::TcpBulk => Figure { key: "cpu_ms_per_gb", unit: "ms CPU/GB" },
            Scenario::IdleConns => Figure { key: "kb_per_conn", unit: "kB/connection" },
            Scenario::IdleRss => Figure { key: "rss_mb", unit: "MB RSS" },
            Scenario::Clusters => Figure { key: "ready_ms", unit: "ms to ready" },
            Scenario::TlsHandshake | Scenario::TlsHandshakeRsa => {
                Figure { key: "cpu_us_per_request", unit: "us CPU/handshake" }
            }
            _ if self.filter().is_some() => Figure { key: "cpu_us_added", unit: "us CPU added" },
            _ => Figure { key: "cpu_us_per_request", unit: "us CPU/request" },
        }
    }

    /// The filter whose cost is measured, where the scenario is about one: the same load with it and without it.
    pub(crate) fn filter(self) -> Option<Filter> {
        match self {
            Scenario::RbacIds => Some(Filter::Rbac(By::Ids)),
            Scenario::RbacPaths => Some(Filter::Rbac(By::Paths)),
            Scenario::RbacHeaders => Some(Filter::Rbac(By::Headers)),
            Scenario::Jwt => Some(Filter::Jwt { cache: false }),
            Scenario::JwtCache => Some(Filter::Jwt { cache: true }),
            _ => None,
        }
    }

    /// Whether the proxy has what the scenario is about: HAProxy has neither filter.
    pub(crate) fn runs_on(self, kind: Kind) -> bool {
        self.filter().is_none() || kind != Kind::Haproxy
    }

    /// The load generator, where the scenario is one of load.
    pub(crate) fn driver(self) -> Option<Driver> {
        match self {
            Scenario::H1
            | Scenario::Mesh
            | Scenario::RbacPaths
            | Scenario::RbacHeaders
            | Scenario::Jwt
            | Scenario::JwtCache => Some(Driver::Wrk),
            Scenario::TlsHandshake | Scenario::TlsHandshakeRsa => Some(Driver::Tls { keep: false }),
            Scenario::RbacIds => Some(Driver::Tls { keep: true }),
            Scenario::H2 | Scenario::H2ToH2 => Some(Driver::H2load),
            Scenario::Grpc => Some(Driver::GrpcH2load),
            Scenario::TcpSmall => Some(Driver::Ping),
            Scenario::TcpBulk => Some(Driver::Pull),
            Scenario::IdleConns | Scenario::IdleRss | Scenario::Clusters => None,
        }
    }
}
