//! The configurations of the proxies, made from one description so that all do the same work.

pub(crate) mod envoy;
pub(crate) mod filters;
pub(crate) mod haproxy;

use self::filters::Filter;
use crate::certs::Certs;

/// What one listener does with what it accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shape {
    /// HTTP/1.1 or prior-knowledge h2 in (Envoy and Outrider tell by the preface), HTTP/1.1 out.
    /// The flag says what the clients of this scenario speak: HAProxy must be told.
    ToHttp1 {
        /// Clients speak h2 with prior knowledge.
        h2_down: bool,
    },
    /// h2 with prior knowledge in, h2 with prior knowledge out.
    ToHttp2,
    /// Plain HTTP/1.1 in, h2 over mutual TLS out: a sidecar's outbound half.
    MeshOutbound,
    /// h2 over mutual TLS in, plain HTTP/1.1 out: a sidecar's inbound half.
    MeshInbound,
    /// HTTP/1.1 over mutual TLS in, answered by the proxy itself: as little as can be besides the handshake.
    Handshake {
        /// The server's key is one of RSA.
        rsa: bool,
    },
    /// HTTP/1.1 in, a filter, HTTP/1.1 out; or the same without the filter, to be compared with it. Not for HAProxy.
    Guarded {
        /// Clients come by mutual TLS; every certificate of the CA is taken.
        tls: bool,
        /// The filter before the router.
        filter: Option<Filter>,
    },
    /// Bytes in, bytes out.
    Tcp {
        /// Much of them: HAProxy is told to splice, which it does not do by itself.
        bulk: bool,
    },
}

/// One listener and the one upstream behind it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Edge {
    /// Port to listen on (loopback).
    pub(crate) listen: u16,
    /// Port of the upstream (loopback).
    pub(crate) upstream: u16,
    /// What happens in between.
    pub(crate) shape: Shape,
}

/// All that one proxy process is told.
#[derive(Debug, Clone)]
pub(crate) struct Plan<'a> {
    /// Port of the admin interface (Envoy and Outrider).
    pub(crate) admin: u16,
    /// The listeners.
    pub(crate) edges: Vec<Edge>,
    /// Further clusters to which nothing routes.
    pub(crate) extra_clusters: usize,
    /// Certificates of the shapes that speak TLS, and the key set.
    pub(crate) certs: &'a Certs,
}
