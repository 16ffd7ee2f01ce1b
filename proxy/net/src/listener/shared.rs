//! What all workers share of a listener.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use arc_swap::ArcSwap;
use outrider_config::model::{self, DynamicSecret, FindSecret};
use outrider_core::stats::{Registry, Scope};
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
    pub(super) logger: AccessLogger,
    /// Shared with what the listener was before an update.
    pub(super) active: Arc<AtomicU64>,
    pub(super) global: GlobalConnections,
}

/// A filter chain with its TLS context.
#[derive(Debug)]
pub(super) struct ChainShared {
    pub config: Arc<model::FilterChain>,
    /// Shared with what an update put in its place, as long as the context is the same.
    pub tls: Option<Arc<ArcSwap<ServerTls>>>,
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
        let chains = config.filter_chains.iter().chain(&config.default_filter_chain);
        let chains: Vec<_> = chains
            .map(|chain| build_chain(&config, chain, &scope, secrets, earlier))
            .collect::<Result<_, _>>()?;
        let logger = AccessLogger::new(&config.access_logs, logs)
            .map_err(|source| ListenerError::Log { listener: config.name.clone(), source })?;
        Ok(Arc::new(Self {
            default_chain: config.default_filter_chain.is_some().then(|| chains.len().saturating_sub(1)),
            filters: Filters::new(&config.listener_filters, registry),
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

    /// Builds the TLS contexts anew that `changed` is part of: handshakes from now on use it, connections stay.
    ///
    /// # Errors
    /// A context cannot be built with it; the one in force stays.
    pub fn renew_tls(&self, changed: &DynamicSecret, secrets: FindSecret<'_>) -> Result<(), ListenerError> {
        for chain in &self.chains {
            let (Some(config), Some(tls)) = (&chain.config.tls, &chain.tls) else { continue };
            if config.dynamic_secrets().iter().any(|secret| ***secret == *changed) {
                let built = config
                    .resolve(secrets)
                    .map_err(TlsError::from)
                    .and_then(|tls| ServerTls::build(&tls, self.stats.scope()));
                tls.store(built.map_err(|source| ListenerError::Tls {
                    listener: self.config.name.clone(),
                    chain: chain.config.name.clone(),
                    source,
                })?);
            }
        }
        Ok(())
    }

    /// Connections open now, over all workers, those still in listener filters with them.
    pub fn active(&self) -> u64 {
        self.active.load(Relaxed)
    }
}

fn build_chain(
    listener: &model::Listener,
    chain: &Arc<model::FilterChain>,
    scope: &Scope,
    secrets: FindSecret<'_>,
    earlier: Option<&ListenerShared>,
) -> Result<ChainShared, ListenerError> {
    let origin = Arc::new(Origin {
        listener: listener.name.clone(),
        listener_metadata: listener.metadata.clone(),
        chain_metadata: chain.metadata.clone(),
    });
    let known = earlier
        .and_then(|earlier| earlier.chains.iter().find(|known| known.config.entry_hash == chain.entry_hash));
    if let Some(known) = known {
        return Ok(ChainShared { config: chain.clone(), tls: known.tls.clone(), origin });
    }
    // A context that waits for secrets is an error here: its chain cannot serve before they have come.
    let build = |tls: &Arc<model::DownstreamTls>| ServerTls::build(&tls.resolve(secrets)?, scope);
    let tls = chain.tls.as_ref().map(build).transpose();
    let tls = tls.map_err(|source| ListenerError::Tls {
        listener: listener.name.clone(),
        chain: chain.name.clone(),
        source,
    })?;
    Ok(ChainShared { config: chain.clone(), tls: tls.map(|tls| Arc::new(ArcSwap::new(tls))), origin })
}
