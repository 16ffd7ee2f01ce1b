//! What all workers share of a listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::{ArcSwap, ArcSwapOption};
use outrider_config::model::{self, DynamicSecret, FindSecret};
use outrider_core::stats::{Counter, Registry, Scope, StatSlot};
use outrider_core::stream::Origin;
use outrider_telemetry::access_log::{AccessLogger, LogFiles};

use super::chains::ChainTree;
use super::filters::Filters;
use super::{GlobalConnections, ListenerError};
use crate::tls::{ServerTls, TlsError};

outrider_core::stat_struct! {
    /// `listener.<address>.`
    pub(super) struct ListenerStats {
        counters {
            downstream_cx_total, downstream_cx_destroy, downstream_cx_overflow, downstream_cx_overload_reject,
            downstream_cx_transport_socket_connect_timeout, downstream_global_cx_overflow,
            downstream_pre_cx_timeout, downstream_listener_filter_error,
            downstream_listener_filter_remote_close, no_filter_chain_match,
        }
        gauges { downstream_cx_active, downstream_pre_cx_active }
        histograms { downstream_cx_length_ms }
    }
}

outrider_core::stat_struct! {
    /// `listener.<address>.outrider.`
    pub(super) struct OwnStats {
        counters { known_silent }
        gauges {}
        histograms {}
    }
}

/// A listener's compiled form: match tree, TLS contexts, stats, connection counts. Shared by all workers.
#[derive(Debug)]
pub struct ListenerShared {
    pub(super) config: Arc<model::Listener>,
    pub(super) tree: ChainTree,
    /// In the configuration's order; the default chain last.
    pub(super) chains: Vec<ChainShared>,
    pub(super) default_chain: Option<usize>,
    pub(super) filters: Filters,
    pub(super) stats: ListenerStats,
    pub(super) own_stats: OwnStats,
    pub(super) logger: AccessLogger,
    /// Shared with what the listener was before an update.
    pub(super) active: Arc<AtomicU64>,
    pub(super) global: GlobalConnections,
}

/// The place of a TLS context: who holds on to it sees the context in force.
pub type TlsSlot = Arc<ArcSwap<ServerTls>>;

/// A filter chain with its TLS context.
#[derive(Debug)]
pub(super) struct ChainShared {
    pub config: Arc<model::FilterChain>,
    /// Shared with what an update puts in its place.
    pub tls: Option<TlsSlot>,
    /// The context that is to take its place in the slot once the listener is in force.
    next_tls: ArcSwapOption<ServerTls>,
    pub origin: Arc<Origin>,
}

impl ListenerShared {
    /// Compiles `config`; reads certificates and opens log files. `earlier` is what an update replaces: its TLS
    /// contexts, with their session tickets, stay where nothing about them changed. `secrets` finds those that are not
    /// in the configuration. Control thread.
    ///
    /// # Errors
    /// What the configuration names cannot be read or does not fit together.
    pub fn build(
        config: Arc<model::Listener>,
        registry: &Registry,
        logs: &LogFiles,
        global: &GlobalConnections,
        secrets: FindSecret<'_>,
        earlier: Option<&Self>,
    ) -> Result<Arc<Self>, ListenerError> {
        let scope = registry.scope(format!("listener.{}.", config.stat_prefix));
        let mut tree = ChainTree::default();
        for (index, chain) in config.filter_chains.iter().enumerate() {
            tree.insert(&chain.matches, index).map_err(|first| ListenerError::DuplicateMatch {
                listener: config.name.clone(),
                first: config.filter_chains.get(first).map_or_else(|| "".into(), |c| c.name.clone()),
                second: chain.name.clone(),
            })?;
        }
        let heirs = earlier.map_or_else(Vec::new, |earlier| model::successions(&earlier.config, &config));
        let build = |(index, chain)| {
            let before = heirs.iter().position(|heir| *heir == Some(index));
            let before = before.and_then(|before| earlier?.chains.get(before));
            build_chain(&config, chain, &scope, secrets, before)
        };
        let chains: Vec<_> = config.chains().enumerate().map(build).collect::<Result<_, _>>()?;
        let logger = AccessLogger::new(&config.access_logs, logs)
            .map_err(|source| ListenerError::Log { listener: config.name.clone(), source })?;
        Ok(Arc::new(Self {
            default_chain: config.default_filter_chain.is_some().then(|| chains.len().saturating_sub(1)),
            filters: Filters::new(&config, registry),
            own_stats: OwnStats::new(scope.child("outrider.")),
            stats: ListenerStats::new(scope),
            active: earlier.map_or_else(Arc::default, |earlier| earlier.active.clone()),
            global: global.clone(),
            config,
            tree,
            chains,
            logger,
        }))
    }

    /// The configuration it was built from.
    pub fn config(&self) -> &Arc<model::Listener> {
        &self.config
    }

    /// The place of the TLS context of its chain of this index; the default chain is the last.
    pub fn tls_slot(&self, chain: usize) -> Option<&TlsSlot> {
        self.chains.get(chain)?.tls.as_ref()
    }

    /// The TLS contexts in force.
    pub fn tls_contexts(&self) -> impl Iterator<Item = Arc<ServerTls>> {
        self.chains.iter().filter_map(|chain| Some(chain.tls.as_ref()?.load_full()))
    }

    /// Puts the TLS contexts in force that it was built with: handshakes from now on use them. The slots of those that
    /// decide otherwise than before who gets in.
    pub fn activate(&self) -> Vec<TlsSlot> {
        let mut narrowed = Vec::new();
        for chain in &self.chains {
            if let (Some(next), Some(tls)) = (chain.next_tls.swap(None), &chain.tls) {
                store(tls, next, &mut narrowed);
            }
        }
        narrowed
    }

    /// Builds the TLS contexts anew that `changed` is part of: handshakes from now on use it. Returns as
    /// [`activate`](Self::activate), and what could not be built: there the context in force stays, and the other chains
    /// are renewed all the same.
    pub fn renew_tls(
        &self,
        changed: &DynamicSecret,
        secrets: FindSecret<'_>,
    ) -> (Vec<TlsSlot>, Vec<ListenerError>) {
        let (mut narrowed, mut errors) = (Vec::new(), Vec::new());
        for chain in &self.chains {
            let (Some(config), Some(tls)) = (&chain.config.tls, &chain.tls) else { continue };
            if config.dynamic_secrets().iter().any(|secret| ***secret == *changed) {
                let built = match server_tls(config, secrets, self.stats.scope()) {
                    Ok(built) => built,
                    Err(source) => {
                        errors.push(ListenerError::Tls {
                            listener: self.config.name.clone(),
                            chain: chain.config.name.clone(),
                            source,
                        });
                        continue;
                    }
                };
                if chain.next_tls.load().is_some() {
                    chain.next_tls.store(Some(built));
                } else {
                    store(tls, built, &mut narrowed);
                }
            }
        }
        (narrowed, errors)
    }

    /// The stats of its own that count what an update closes, `outrider.closed_by_update.`.
    pub(super) fn closed_by_update(&self, reason: &'static str) {
        let (scope, slot) = (self.stats.scope().child("outrider.closed_by_update."), StatSlot::new());
        Counter::new(&scope, &slot, reason).inc();
    }

    /// Connections open now, over all workers, those still in listener filters with them.
    pub fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }
}

/// Puts `next` in force; its slot joins `narrowed` where it decides otherwise than the context before.
fn store(tls: &TlsSlot, next: Arc<ServerTls>, narrowed: &mut Vec<TlsSlot>) {
    let before = tls.swap(next.clone());
    if !next.admits_like(&before) {
        narrowed.push(tls.clone());
    }
}

fn build_chain(
    listener: &model::Listener,
    chain: &Arc<model::FilterChain>,
    scope: &Scope,
    secrets: FindSecret<'_>,
    before: Option<&ChainShared>,
) -> Result<ChainShared, ListenerError> {
    let origin = Arc::new(Origin {
        listener: listener.name.clone(),
        listener_metadata: listener.metadata.clone(),
        chain_metadata: chain.metadata.clone(),
    });
    if let Some(known) = before.filter(|before| before.config.entry_hash == chain.entry_hash) {
        let (tls, next_tls) = (known.tls.clone(), ArcSwapOption::from(known.next_tls.load_full()));
        return Ok(ChainShared { config: chain.clone(), tls, next_tls, origin });
    }
    // A context that waits for secrets is an error here: its chain cannot serve before they have come.
    let tls = chain.tls.as_ref().map(|tls| server_tls(tls, secrets, scope)).transpose();
    let tls = tls.map_err(|source| ListenerError::Tls {
        listener: listener.name.clone(),
        chain: chain.name.clone(),
        source,
    })?;
    let (tls, next_tls) = match (tls, before.and_then(|before| before.tls.clone())) {
        (Some(next), Some(slot)) => (Some(slot), Some(next)),
        (tls, _) => (tls.map(|tls| Arc::new(ArcSwap::new(tls))), None),
    };
    Ok(ChainShared { config: chain.clone(), tls, next_tls: ArcSwapOption::from(next_tls), origin })
}

fn server_tls(
    config: &Arc<model::DownstreamTls>,
    secrets: FindSecret<'_>,
    scope: &Scope,
) -> Result<Arc<ServerTls>, TlsError> {
    let built = ServerTls::build(&config.resolve(secrets)?, scope)?;
    if !config.dynamic_secrets().is_empty() {
        let scope = scope.child("server_ssl_socket_factory.");
        Counter::new(&scope, &StatSlot::new(), "ssl_context_update_by_sds").inc();
    }
    Ok(built)
}
