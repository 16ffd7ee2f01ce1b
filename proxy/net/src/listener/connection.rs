//! From an accepted socket to its network filter.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell, RefCell};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Instant, SystemTime};

use outrider_core::ResponseFlags;
use outrider_core::format::FormatContext;
use outrider_core::stream::{Address, ConnInfo, StreamInfo, TlsInfo};

use super::accepted::Accepted;
use super::chains::MatchInput;
use super::filters::{FilterEnd, Inspected, has_bytes};
use super::limits;
use super::shared::ChainShared;
use super::worker::LocalListener;
use crate::drain::DrainWatch;
use crate::handler::{ConnectionHandler, Downstream, SessionSlot};
use crate::io::IoStream;
use crate::tls::ServerTls;

static NEXT_ID: AtomicU64 = AtomicU64::new(1);

/// A place among a listener's connections; given back on drop.
struct Place {
    listener: Rc<LocalListener>,
    counts_globally: bool,
}

/// A connection that waits for its listener filters, for the gauge.
struct Waiting<'a>(&'a LocalListener);

/// A connection that has its filter chain: counted, and logged when it ends.
struct Open {
    place: Place,
    accepted: Instant,
    /// The index of its filter chain.
    chain: u32,
    /// Only where somebody logs.
    info: Option<Rc<ConnInfo>>,
    session: Option<SessionSlot>,
}

/// Who has connected, when and where.
struct Facts {
    accepted: Instant,
    direct_local: Address,
    direct_remote: Address,
    seen: Inspected,
}

/// A connection and the index of its filter chain.
struct Chosen {
    open: Open,
    socket: Accepted,
    facts: Facts,
    chain: usize,
}

/// All that a connection's task needs for the rest of its life.
struct Ready {
    handler: Rc<dyn ConnectionHandler>,
    downstream: Downstream,
    open: Open,
}

/// Takes an accepted socket in, or turns it away at a limit. Spawns its task.
pub(super) fn admit(listener: &Rc<LocalListener>, socket: Accepted, local: Address, remote: Address) {
    let Some(place) = Place::take(listener) else { return };
    let facts = Facts {
        accepted: Instant::now(),
        seen: Inspected {
            timed_out: false,
            local: local.clone(),
            restored: false,
            source: None,
            remote: remote.clone(),
            transport: "",
            server_name: None,
            protocols: Vec::new(),
        },
        direct_local: local,
        direct_remote: remote,
    };
    if !listener.shared.filters.is_empty() {
        // What the stages need is boxed, and gone when the handler begins: an idle connection keeps none of it.
        tokio::task::spawn_local(serve(Box::pin(prepare(place, socket, facts))));
        return;
    }
    // Nothing to wait for: no task is begun for what only has to be closed.
    let Some(chosen) = choose(place, socket, facts) else { return };
    match chosen.tls() {
        Some(tls) => {
            tokio::task::spawn_local(serve(Box::pin(chosen.secure(tls))));
        }
        None => {
            let Ready { handler, downstream, open } = chosen.plain();
            tokio::task::spawn_local(async move {
                handler.handle(downstream).await;
                drop(open);
            });
        }
    }
}

async fn serve(stage: Pin<Box<impl Future<Output = Option<Ready>>>>) {
    let Some(Ready { handler, downstream, open }) = stage.await else { return };
    handler.handle(downstream).await;
    drop(open);
}

/// Listener filters, hand-over, chain, TLS. `None`: the connection has ended.
async fn prepare(mut place: Place, mut socket: Accepted, mut facts: Facts) -> Option<Ready> {
    inspect(&place.listener, &socket, &mut facts.seen).await?;
    let config = &place.listener.shared.config;
    if config.use_original_dst && facts.seen.restored {
        let next = place.listener.siblings.find(&facts.seen.local);
        if let Some(next) = next.filter(|next| !Rc::ptr_eq(next, &place.listener)) {
            place = place.hand_over(next)?;
            // It is handed over once only; the other listener's filters run as if it had accepted it.
            inspect(&place.listener, &socket, &mut facts.seen).await?;
        }
    }
    if facts.seen.timed_out && has_bytes(&socket) {
        socket = socket.again().ok()?;
    }
    let chosen = choose(place, socket, facts)?;
    match chosen.tls() {
        Some(tls) => chosen.secure(tls).await,
        None => Some(chosen.plain()),
    }
}

async fn inspect(listener: &LocalListener, socket: &Accepted, seen: &mut Inspected) -> Option<()> {
    let shared = &listener.shared;
    if shared.filters.is_empty() {
        return Some(());
    }
    let _waiting = Waiting::new(listener);
    let goes_on = shared.config.continue_on_listener_filters_timeout;
    let silent = Some(&listener.siblings.silent).filter(|_| goes_on && shared.filters.only_inspect());
    let run = shared.filters.run(socket, seen, silent);
    let outcome = match shared.config.listener_filters_timeout {
        None => Ok(run.await),
        Some(limit) => tokio::time::timeout(limit, run).await,
    };
    match outcome {
        Ok(Ok(())) => Some(()),
        Ok(Err(FilterEnd::Closed)) => {
            shared.stats.downstream_listener_filter_remote_close().inc();
            None
        }
        Ok(Err(FilterEnd::Refused)) => {
            shared.stats.downstream_listener_filter_error().inc();
            None
        }
        Ok(Err(FilterEnd::Silent)) => {
            shared.own_stats.known_silent().inc();
            Some(())
        }
        Err(_) => {
            shared.stats.downstream_pre_cx_timeout().inc();
            seen.timed_out = true;
            if let Some(silent) = silent.filter(|_| !has_bytes(socket)) {
                silent.borrow_mut().learn(&seen.remote, &seen.local, tokio::time::Instant::now());
            }
            goes_on.then_some(())
        }
    }
}

/// Finds the filter chain. `None`: there is none; the connection is closed, and logged.
fn choose(place: Place, socket: Accepted, facts: Facts) -> Option<Chosen> {
    let shared = &place.listener.shared;
    let seen = &facts.seen;
    let input = MatchInput {
        local: &seen.local,
        remote: &seen.remote,
        direct_remote: &facts.direct_remote,
        server_name: seen.server_name.as_deref().unwrap_or_default(),
        transport: if seen.transport.is_empty() { "raw_buffer" } else { seen.transport },
        protocols: &seen.protocols,
    };
    match shared.tree.find(&input).or(shared.default_chain) {
        Some(chain) => Some(Chosen { open: Open::new(place, facts.accepted, chain), socket, facts, chain }),
        None => {
            shared.stats.no_filter_chain_match().inc();
            if !shared.logger.is_empty() {
                let info = Rc::new(facts.into_info(None, None));
                let details = Cow::Borrowed("filter_chain_not_found");
                let mut info = StreamInfo::new(info, None);
                (info.flags, info.details) = (ResponseFlags::NO_ROUTE_FOUND, details);
                log(&place.listener, info);
            }
            None
        }
    }
}

impl Place {
    fn take(listener: &Rc<LocalListener>) -> Option<Self> {
        let shared = &listener.shared;
        let counts_globally = !shared.config.ignore_global_conn_limit;
        if counts_globally && !shared.global.acquire() {
            shared.stats.downstream_global_cx_overflow().inc();
            return None;
        }
        Self::enter(listener.clone(), counts_globally)
    }

    /// Moves the connection to another listener: from here on it counts there.
    fn hand_over(mut self, next: Rc<LocalListener>) -> Option<Self> {
        let counts_globally = std::mem::take(&mut self.counts_globally);
        Self::enter(next, counts_globally)
    }

    fn enter(listener: Rc<LocalListener>, counts_globally: bool) -> Option<Self> {
        let shared = &listener.shared;
        if !limits::acquire(&shared.active, shared.config.connection_limit.get()) {
            shared.stats.downstream_cx_overflow().inc();
            if counts_globally {
                shared.global.release();
            }
            return None;
        }
        Some(Self { listener, counts_globally })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.listener.shared.active.fetch_sub(1, Relaxed);
        if self.counts_globally {
            self.listener.shared.global.release();
        }
        self.listener.siblings.connection_closed();
    }
}

impl<'a> Waiting<'a> {
    fn new(listener: &'a LocalListener) -> Self {
        listener.shared.stats.downstream_pre_cx_active().inc();
        Self(listener)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.shared.stats.downstream_pre_cx_active().dec();
    }
}

impl Open {
    fn new(place: Place, accepted: Instant, chain: usize) -> Self {
        let (stats, worker) = (&place.listener.shared.stats, &place.listener.worker_stats);
        stats.downstream_cx_total().inc();
        stats.downstream_cx_active().inc();
        worker.downstream_cx_total().inc();
        worker.downstream_cx_active().inc();
        Self { place, accepted, chain: chain as u32, info: None, session: None }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let listener = &self.place.listener;
        let stats = &listener.shared.stats;
        stats.downstream_cx_active().dec();
        stats.downstream_cx_destroy().inc();
        stats.downstream_cx_length_ms().record(self.accepted.elapsed().as_millis() as u64);
        listener.worker_stats.downstream_cx_active().dec();
        listener.siblings.admitted.left();
        if let Some(reason) = listener.drains.get(self.chain as usize).and_then(DrainWatch::reason) {
            listener.shared.closed_by_update(reason);
        }
        if let Some(info) = self.info.take() {
            let session = self.session.take().and_then(|session| session.borrow_mut().take());
            log(listener, session.map_or_else(|| StreamInfo::new(info, None), |session| *session));
        }
    }
}

impl Facts {
    fn into_info(self, chain: Option<&ChainShared>, tls: Option<Rc<TlsInfo>>) -> ConnInfo {
        ConnInfo {
            id: NEXT_ID.fetch_add(1, Relaxed),
            remote: self.seen.remote,
            direct_remote: self.direct_remote,
            local: self.seen.local,
            direct_local: self.direct_local,
            local_restored: self.seen.restored,
            source: self.seen.source,
            sni: tls.as_ref().and_then(|tls| tls.sni.clone()).or(self.seen.server_name),
            tls,
            filter_chain: chain.map_or_else(Arc::default, |chain| chain.config.name.clone()),
            origin: chain.map(|chain| chain.origin.clone()).unwrap_or_default(),
            reset: Cell::new(false),
            handshake: None,
            accepted: self.accepted,
            termination_details: OnceCell::new(),
            transport_failure: OnceCell::new(),
        }
    }
}

impl Chosen {
    fn tls(&self) -> Option<Arc<ServerTls>> {
        Some(self.open.place.listener.shared.chains.get(self.chain)?.tls.as_ref()?.load_full())
    }

    fn plain(self) -> Ready {
        let stream = self.socket.into_stream();
        ready(self.open, stream, self.facts, self.chain, None)
    }

    /// Does the TLS handshake first. `None`: it failed, and the connection has ended.
    async fn secure(mut self, tls: Arc<ServerTls>) -> Option<Ready> {
        let listener = self.open.place.listener.clone();
        let chain = listener.shared.chains.get(self.chain)?;
        let handshake = tls.accept(self.socket.into_stream());
        let outcome = match chain.config.transport_connect_timeout {
            None => handshake.await,
            Some(limit) => match tokio::time::timeout(limit, handshake).await {
                Ok(outcome) => outcome,
                Err(_) => {
                    listener.shared.stats.downstream_cx_transport_socket_connect_timeout().inc();
                    return None;
                }
            },
        };
        match outcome {
            Ok((stream, info)) => {
                // The context may have changed meanwhile: then nobody else looks at this connection.
                let now = chain.tls.as_ref()?.load();
                if !Arc::ptr_eq(&now, &tls)
                    && let Err(reason) = now.admits(&info)
                {
                    listener.shared.closed_by_update(reason);
                    return None;
                }
                Some(ready(self.open, stream, self.facts, self.chain, Some(Rc::new(info))))
            }
            Err(error) => {
                tracing::debug!(listener = &*listener.shared.config.name, %error, "TLS handshake failed");
                if !listener.shared.logger.is_empty() {
                    let info = self.facts.into_info(Some(chain), None);
                    let _ = info.transport_failure.set(error.to_string().into());
                    self.open.info = Some(Rc::new(info));
                }
                None
            }
        }
    }
}

fn ready(mut open: Open, stream: IoStream, facts: Facts, chain: usize, tls: Option<Rc<TlsInfo>>) -> Ready {
    let listener = &open.place.listener;
    let shared = &listener.shared;
    // The index comes from this listener's own tree, and handlers and drains lie beside its chains.
    let handler = listener.handlers[chain].clone();
    let handshake = tls.is_some().then(|| facts.accepted.elapsed());
    let info = Rc::new(ConnInfo { handshake, ..facts.into_info(Some(&shared.chains[chain]), tls) });
    let (drain, elsewhere) = listener.drains[chain].movable(info.clone());
    let slot = info.tls.as_ref().and(shared.chains[chain].tls.as_ref());
    listener.siblings.admitted.add(slot, &elsewhere);
    let downstream = Downstream {
        stream,
        info: info.clone(),
        drain,
        buffer_limit: shared.config.per_connection_buffer_limit,
        session: (!shared.logger.is_empty()).then(|| Rc::new(RefCell::new(None))),
        metadata: None,
    };
    if downstream.session.is_some() {
        open.info = Some(info);
        open.session = downstream.session.clone();
    }
    Ready { handler, downstream, open }
}

/// Writes the listener's log entry. Where the connection was one session, `info` is that session's.
fn log(listener: &LocalListener, mut info: StreamInfo) {
    let duration = info.conn.accepted.elapsed();
    info.start = info.conn.accepted;
    info.start_time = SystemTime::now().checked_sub(duration).unwrap_or(info.start_time);
    info.duration = Some(duration);
    listener.shared.logger.log(&FormatContext {
        info: &info,
        request: None,
        response: None,
        trailers: None,
        local_reply_body: "",
        log_type: "NotSet",
    });
}
