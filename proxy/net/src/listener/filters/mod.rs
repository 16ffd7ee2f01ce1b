//! Listener filters: what is learnt of a connection before its filter chain is chosen.
//!
//! Inspectors peek: the bytes stay in the socket for whoever comes next. Only a PROXY header is taken out.

pub(super) mod client_hello;
mod http;
mod original_dst;
pub(super) mod proxy_protocol;

use std::cell::RefCell;
use std::io;
use std::sync::Arc;

use outrider_config::model::{self, ListenerFilter, ListenerFilterKind, ListenerFilterMatch};
use outrider_core::stats::Registry;
use outrider_core::stream::{Address, SourceAddress};
use rustix::net::RecvFlags;
use tokio::io::Interest;
use tokio::time::Instant;

use super::accepted::Accepted;
use super::silent::{GRACE, Silent};

/// As much as is ever peeked at: Envoy's limit of a ClientHello.
pub(super) const PEEK_MAX: usize = 64 * 1024;

thread_local! {
    // One for all connections of a worker: nothing is kept in it between two polls.
    static SCRATCH: RefCell<Box<[u8]>> = RefCell::new(vec![0; PEEK_MAX].into());
}

/// What listener filters learnt.
#[derive(Debug)]
pub(super) struct Inspected {
    /// Where the client wanted to go.
    pub local: Address,
    /// Whether a filter put that in place of the socket's own address.
    pub restored: bool,
    /// What upstream connections show as their source.
    pub source: Option<SourceAddress>,
    /// Who the client is.
    pub remote: Address,
    /// Its first bytes were not enough, and it sent no more in time.
    pub timed_out: bool,
    /// `tls`, or empty for what nobody looked at.
    pub transport: &'static str,
    /// The server name, lower case.
    pub server_name: Option<Arc<str>>,
    /// The application protocols that the client offers or speaks.
    pub protocols: Vec<Arc<str>>,
}

/// Why a filter ended a connection.
#[derive(Debug)]
pub(super) enum FilterEnd {
    /// The peer closed it, or the socket failed.
    Closed,
    /// Its first bytes are not what they must be.
    Refused,
    /// It was silent before, and is again. The connection goes on.
    Silent,
}

impl From<io::Error> for FilterEnd {
    fn from(_: io::Error) -> Self {
        Self::Closed
    }
}

outrider_core::stat_struct! {
    /// `tls_inspector.`
    pub(super) struct TlsInspectorStats {
        counters {
            tls_found, tls_not_found, alpn_found, alpn_not_found, sni_found, sni_not_found,
            client_hello_too_large, connection_closed, read_error,
        }
        gauges {}
        histograms { bytes_processed }
    }
}

outrider_core::stat_struct! {
    /// `http_inspector.`
    pub(super) struct HttpInspectorStats {
        counters { http10_found, http11_found, http2_found, http_not_found, read_error }
        gauges {}
        histograms {}
    }
}

outrider_core::stat_struct! {
    /// `proxy_proto.`
    pub(super) struct ProxyProtocolStats {
        counters { not_found_allowed, not_found_disallowed }
        gauges {}
        histograms {}
    }
}

outrider_core::stat_struct! {
    /// `proxy_proto.versions.v1.` and `v2.`
    pub(super) struct ProxyVersionStats {
        counters { found, disallowed, error }
        gauges {}
        histograms {}
    }
}

outrider_core::stat_struct! {
    /// The one that Envoy keeps without a prefix.
    pub(super) struct LegacyProxyStats {
        counters { downstream_cx_proxy_proto_error }
        gauges {}
        histograms {}
    }
}

/// A listener's filters with their stats.
#[derive(Debug)]
pub(super) struct Filters {
    list: Vec<(ListenerFilter, FilterStats)>,
    /// The listener's own ports.
    ports: Vec<u16>,
}

#[derive(Debug)]
enum FilterStats {
    Tls(TlsInspectorStats),
    Http(HttpInspectorStats),
    None,
    Proxy(ProxyProtocolStats, [ProxyVersionStats; 2], LegacyProxyStats),
}

impl Filters {
    pub(super) fn new(listener: &model::Listener, registry: &Registry) -> Self {
        let stats = |filter: &ListenerFilter| match &filter.kind {
            ListenerFilterKind::TlsInspector => {
                FilterStats::Tls(TlsInspectorStats::new(registry.scope("tls_inspector.")))
            }
            ListenerFilterKind::HttpInspector => {
                FilterStats::Http(HttpInspectorStats::new(registry.scope("http_inspector.")))
            }
            ListenerFilterKind::OriginalDst
            | ListenerFilterKind::OriginalSrc { .. }
            | ListenerFilterKind::Discovered(_)
            | ListenerFilterKind::Missing => FilterStats::None,
            ListenerFilterKind::ProxyProtocol(config) => {
                let dot = if config.stat_prefix.is_empty() { "" } else { "." };
                let prefix = format!("proxy_proto.{}{dot}", config.stat_prefix);
                let version =
                    |v: &str| ProxyVersionStats::new(registry.scope(format!("{prefix}versions.{v}.")));
                FilterStats::Proxy(
                    ProxyProtocolStats::new(registry.scope(prefix.as_str())),
                    [version("v1"), version("v2")],
                    LegacyProxyStats::new(registry.scope("")),
                )
            }
        };
        let port = |address: &model::ListenerAddress| match &address.address {
            model::SocketAddress::Ip(ip) => Some(ip.port()),
            _ => None,
        };
        Self {
            list: listener.listener_filters.iter().map(|filter| (filter.clone(), stats(filter))).collect(),
            ports: listener.addresses.iter().filter_map(port).collect(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Whether all that they may wait for is what the client says by itself, and none of them decides who the client is.
    pub(super) fn only_inspect(&self) -> bool {
        use ListenerFilterKind as Kind;
        let only = |kind: &Kind| {
            let addresses = matches!(kind, Kind::OriginalDst | Kind::OriginalSrc { .. });
            addresses || matches!(kind, Kind::TlsInspector | Kind::HttpInspector)
        };
        self.list.iter().all(|(filter, _)| only(&filter.kind))
    }

    /// Runs the filters in order; what they learn is in `seen`, also when this future is dropped half-way. `silent` is
    /// asked before the first inspector waits.
    pub(super) async fn run(
        &self,
        socket: &Accepted,
        seen: &mut Inspected,
        mut silent: Option<&RefCell<Silent>>,
    ) -> Result<(), FilterEnd> {
        for (filter, stats) in &self.list {
            if filter.disabled.as_ref().is_some_and(|predicate| matches(predicate, seen)) {
                continue;
            }
            if matches!(filter.kind, ListenerFilterKind::TlsInspector | ListenerFilterKind::HttpInspector)
                && let Some(silent) = silent.take()
            {
                first_bytes(socket, seen, silent).await?;
            }
            match (&filter.kind, stats) {
                (ListenerFilterKind::TlsInspector, FilterStats::Tls(stats)) => {
                    client_hello::inspect(socket, seen, stats).await?;
                }
                (ListenerFilterKind::HttpInspector, FilterStats::Http(stats)) => {
                    http::inspect(socket, seen, stats).await?;
                }
                (ListenerFilterKind::OriginalDst, _) => original_dst::restore(socket, seen, &self.ports),
                (ListenerFilterKind::OriginalSrc { mark }, _) => {
                    // A client on a Unix socket has no address to show.
                    let source =
                        |client: std::net::SocketAddr| SourceAddress { ip: client.ip(), mark: *mark };
                    seen.source = seen.remote.ip().map(source);
                }
                // Without what it should do nobody is let in (Envoy: "extension config missing").
                (ListenerFilterKind::Discovered(_) | ListenerFilterKind::Missing, _) => {
                    return Err(FilterEnd::Closed);
                }
                (ListenerFilterKind::ProxyProtocol(config), FilterStats::Proxy(stats, versions, legacy)) => {
                    proxy_protocol::read(config, socket, seen, stats, versions, legacy).await?;
                }
                _ => {}
            }
        }
        Ok(())
    }
}

fn matches(predicate: &ListenerFilterMatch, seen: &Inspected) -> bool {
    match predicate {
        ListenerFilterMatch::Any => true,
        ListenerFilterMatch::Or(all) => all.iter().any(|one| matches(one, seen)),
        ListenerFilterMatch::And(all) => all.iter().all(|one| matches(one, seen)),
        ListenerFilterMatch::Not(one) => !matches(one, seen),
        ListenerFilterMatch::DestinationPort { start, end } => {
            seen.local.ip().is_some_and(|local| *start <= local.port() && u32::from(local.port()) < *end)
        }
    }
}

/// Waits a little for a client that was silent before; an error if it is again.
async fn first_bytes(socket: &Accepted, seen: &Inspected, silent: &RefCell<Silent>) -> Result<(), FilterEnd> {
    if !silent.borrow().knows(&seen.remote, &seen.local, Instant::now()) {
        return Ok(());
    }
    match tokio::time::timeout(GRACE, peek(socket, |bytes| (!bytes.is_empty()).then_some(()))).await {
        Err(_) => return Err(FilterEnd::Silent),
        Ok(Ok(())) => silent.borrow_mut().forget(&seen.remote, &seen.local),
        // Who only closes has said nothing; the inspectors see it, too.
        Ok(Err(_)) => {}
    }
    Ok(())
}

/// Whether something waits to be read.
pub(super) fn has_bytes(socket: &Accepted) -> bool {
    let mut byte = [0_u8; 1];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    rustix::net::recv(socket, byte.as_mut_slice(), flags).is_ok_and(|(_, n)| n > 0)
}

/// Peeks at what has arrived until `look` has seen enough. `look` gets the bytes and says `None` for 'more, please'.
///
/// Waiting does not spin: a peek that is not enough counts as 'would block', so that only further bytes
/// (a new edge) wake the task.
async fn peek<T>(socket: &Accepted, mut look: impl FnMut(&[u8]) -> Option<T>) -> io::Result<T> {
    loop {
        let ready = socket.ready(Interest::READABLE).await?;
        let outcome = socket.try_io(Interest::READABLE, || {
            SCRATCH.with_borrow_mut(|scratch| {
                let (_, n) = rustix::net::recv(socket, &mut **scratch, RecvFlags::PEEK)?;
                if n == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
                look(scratch.get(..n).unwrap_or_default()).ok_or(io::ErrorKind::WouldBlock.into())
            })
        });
        match outcome {
            // The peer has sent all it will, and it was not enough.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && ready.is_read_closed() => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            other => return other,
        }
    }
}

/// Takes `n` bytes that were peeked at out of the socket.
async fn consume(socket: &Accepted, mut n: usize) -> io::Result<()> {
    while n > 0 {
        socket.ready(Interest::READABLE).await?;
        let taken = socket.try_io(Interest::READABLE, || {
            SCRATCH.with_borrow_mut(|scratch| {
                let want = scratch.len().min(n);
                let part = scratch.get_mut(..want).unwrap_or_default();
                Ok(rustix::net::recv(socket, part, RecvFlags::empty())?.1)
            })
        });
        match taken {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(taken) => n = n.saturating_sub(taken),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
