//! Asking a host once.

use std::sync::Arc;

use http::header::{HOST, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::{Method, Request, Response, Uri};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use outrider_config::model::{ActiveCheck, AppendAction, Probe, SocketAddress};
use outrider_core::stream::Address;
use outrider_net::io::IoStream;
use outrider_net::tls::AlpnDefault;

use super::{Checks, Finding, grpc, http as http_check, tcp};
use crate::body::UpstreamBody;
use crate::cluster::ClusterShared;
use crate::host::Host;
use crate::pool::{LocalExec, open_at};

/// What checks call themselves.
const AGENT: HeaderValue = HeaderValue::from_static("Envoy/HC");

/// What is kept of a host's checks from one to the next.
#[derive(Default)]
pub(super) enum Kept {
    #[default]
    Nothing,
    Http(Sender),
    Tcp(IoStream),
}

/// A connection that takes requests.
pub(super) enum Sender {
    Http1(http1::SendRequest<UpstreamBody>),
    Http2(http2::SendRequest<UpstreamBody>),
}

/// A request of a check, in no protocol's form yet.
pub(super) struct Ask {
    pub(super) method: Method,
    pub(super) authority: Arc<str>,
    pub(super) path: Arc<str>,
    pub(super) headers: HeaderMap,
    pub(super) body: UpstreamBody,
}

/// Asks `host` once. The caller keeps to the time.
pub(super) async fn ask(cluster: &ClusterShared, checks: &Checks, host: &Host, kept: &mut Kept) -> Finding {
    match &checks.config.probe {
        Probe::Http(probe) => http_check::ask(cluster, checks, probe, host, kept).await,
        Probe::Grpc(probe) => grpc::ask(cluster, checks, probe, host, kept).await,
        Probe::Tcp(probe) => tcp::ask(cluster, checks, probe, host, kept).await,
    }
}

/// The authority of a check: the host's own, the check's, the cluster's name.
pub(super) fn authority(cluster: &ClusterShared, host: &Host, given: &Arc<str>) -> Arc<str> {
    let own = host.check.as_ref().map(|check| &check.hostname).filter(|name| !name.is_empty());
    own.or(Some(given).filter(|name| !name.is_empty())).unwrap_or(&cluster.config.name).clone()
}

/// Sends a request of a check on the connection that was kept, or on a new one, and waits for the response's head.
pub(super) async fn exchange(
    cluster: &ClusterShared,
    host: &Host,
    http2: bool,
    kept: &mut Kept,
    ask: Ask,
) -> Option<(Response<Incoming>, Sender)> {
    let mut sender = match std::mem::take(kept) {
        Kept::Http(sender) if sender.is_open() => sender,
        _ => connect(cluster, host, http2).await?,
    };
    let secure = cluster.tls_for(host).is_some();
    let response = sender.send(ask, secure).await?;
    Some((response, sender))
}

impl Sender {
    fn is_open(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_ready(),
            Self::Http2(sender) => sender.is_ready() && !sender.is_closed(),
        }
    }

    async fn send(&mut self, ask: Ask, secure: bool) -> Option<Response<Incoming>> {
        let Ask { method, authority, path, headers, body } = ask;
        let http2 = matches!(self, Self::Http2(_));
        let uri = if http2 {
            let scheme = if secure { "https" } else { "http" };
            Uri::builder().scheme(scheme).authority(&*authority).path_and_query(&*path).build()
        } else {
            Uri::builder().path_and_query(&*path).build()
        };
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = uri.ok()?;
        let all = request.headers_mut();
        if !http2 {
            all.insert(HOST, HeaderValue::from_str(&authority).ok()?);
        }
        all.extend(headers);
        match self {
            Self::Http1(sender) => sender.send_request(request).await.ok(),
            Self::Http2(sender) => sender.send_request(request).await.ok(),
        }
    }
}

/// Where `host` is checked.
fn address(host: &Host) -> Address {
    let Some(check) = &host.check else { return host.address.clone() };
    let address = match &check.address {
        Some(SocketAddress::Ip(ip)) => Address::Ip(*ip),
        Some(SocketAddress::Pipe { path, .. }) => Address::Pipe(path.clone()),
        _ => host.address.clone(),
    };
    match address {
        Address::Ip(mut ip) if check.port != 0 => {
            ip.set_port(check.port);
            Address::Ip(ip)
        }
        other => other,
    }
}

/// A connection to where `host` is checked, TLS done where the cluster has it. As in Envoy nothing is offered by ALPN that
/// the TLS context does not name.
pub(super) async fn open(cluster: &ClusterShared, host: &Host) -> Option<IoStream> {
    let opened = open_at(cluster, host, &address(host), AlpnDefault::None).await;
    opened.ok()
}

async fn connect(cluster: &ClusterShared, host: &Host, http2: bool) -> Option<Sender> {
    let io = TokioIo::new(open(cluster, host).await?);
    if http2 {
        let (sender, connection) = http2::handshake(LocalExec, io).await.ok()?;
        tokio::task::spawn_local(connection);
        return Some(Sender::Http2(sender));
    }
    let (sender, connection) = http1::handshake(io).await.ok()?;
    tokio::task::spawn_local(connection);
    Some(Sender::Http1(sender))
}

/// The headers of a check: what it calls itself, and what is to be added.
pub(super) fn headers(add: &[(HeaderName, HeaderValue, AppendAction)]) -> HeaderMap {
    let mut headers = HeaderMap::with_capacity(add.len() + 1);
    headers.insert(USER_AGENT, AGENT);
    for (name, value, action) in add {
        match action {
            AppendAction::AppendIfExistsOrAdd => _ = headers.append(name, value.clone()),
            AppendAction::AddIfAbsent => _ = headers.entry(name).or_insert_with(|| value.clone()),
            AppendAction::OverwriteIfExistsOrAdd => _ = headers.insert(name, value.clone()),
            AppendAction::OverwriteIfExists => {
                if headers.contains_key(name) {
                    headers.insert(name, value.clone());
                }
            }
        }
    }
    headers
}

/// What is kept for the next check.
pub(super) fn keep(config: &ActiveCheck, kept: &mut Kept, next: impl FnOnce() -> Kept) {
    *kept = if config.reuse_connection { next() } else { Kept::Nothing };
}

/// Whether `text` holds each of `parts`, one behind the other, with anything between.
pub(super) fn holds(text: &[u8], parts: &[bytes::Bytes]) -> bool {
    Search::new(parts).go_on(text)
}

/// A search for texts, one behind the other, in what comes bit by bit: nothing is looked at again.
pub(super) struct Search<'a> {
    /// Those that were not found yet.
    parts: &'a [bytes::Bytes],
    /// Where the first of them begins at the earliest.
    from: usize,
}

impl<'a> Search<'a> {
    /// The search for `parts`.
    pub(super) const fn new(parts: &'a [bytes::Bytes]) -> Self {
        Self { parts, from: 0 }
    }

    /// Goes on in `text`, which is all that has come so far. Whether all were found.
    pub(super) fn go_on(&mut self, text: &[u8]) -> bool {
        while let Some((part, others)) = self.parts.split_first() {
            let rest = text.get(self.from..).unwrap_or_default();
            let found = if part.is_empty() {
                Some(0)
            } else {
                rest.windows(part.len()).position(|window| window == part)
            };
            let Some(at) = found else {
                // Its beginning may be there.
                self.from = self.from.max((text.len() + 1).saturating_sub(part.len()));
                return false;
            };
            self.from += at + part.len();
            self.parts = others;
        }
        true
    }
}
