//! A listener with all that its chains need, built on the control thread.

use std::sync::Arc;

use arc_swap::ArcSwapOption;
use outrider_config::model;
use outrider_core::stats::Registry;
use outrider_http::HcmShared;
use outrider_http::fetch::Fetcher;
use outrider_http::on_demand::Asker;
use outrider_http::routing::{RoutePlace, RouteSlot, Scope, ScopeSlot, ScopeTable};
use outrider_net::drain::DrainController;
use outrider_net::listener::{GlobalConnections, ListenerShared, NarrowedEntry, NarrowedSlot};
use outrider_tcp::{GateSlot, Gates, TcpProxyShared};
use outrider_telemetry::access_log::LogFiles;
use outrider_upstream::ClusterManager;
use tokio::sync::mpsc;

use crate::dynamic::{RouteTables, ScopesKey, Secrets};

/// A listener and the filters of its chains.
#[derive(Debug)]
pub struct BuiltListener {
    /// The listener itself.
    pub shared: Arc<ListenerShared>,
    /// Its chains in the configuration's order, the default chain last.
    pub chains: Vec<BuiltChain>,
}

/// A filter chain: what it does, and its connections' drain.
#[derive(Debug, Clone)]
pub struct BuiltChain {
    /// As configured.
    pub config: Arc<model::FilterChain>,
    /// The place of the network filters in front of the last. A chain that takes the place of another takes this over too:
    /// what the other accepts meanwhile is judged by the new ones.
    pub gates: GateSlot,
    /// Those that are to be in it once the listener is in force; `None` where there are none.
    pub next_gates: Option<Arc<Gates>>,
    /// Its last network filter.
    pub filter: BuiltFilter,
    /// Tells its connections to finish. A chain that takes the place of another takes this over too.
    pub drain: DrainController,
}

/// A network filter, built.
#[derive(Debug, Clone)]
pub enum BuiltFilter {
    /// The connection manager.
    Http(Arc<HcmShared>),
    /// tcp_proxy.
    Tcp(Arc<TcpProxyShared>),
    /// None: nothing came for it, and connections are closed.
    Missing,
}

/// What listeners are built with.
#[derive(Debug)]
pub struct Builder {
    /// Clusters.
    pub clusters: ClusterManager,
    /// Stats.
    pub registry: Registry,
    /// Access log files.
    pub log_files: LogFiles,
    /// The process's connections.
    pub global: GlobalConnections,
    /// Route tables that come from elsewhere.
    pub routes: RouteTables,
    /// What this process calls itself.
    pub node: model::Node,
    /// Secrets that come from elsewhere.
    pub secrets: Secrets,
    /// How requests ask for what comes on demand.
    pub asker: Asker,
    /// Takes what filters want fetched to what fetches it.
    pub fetchers: mpsc::UnboundedSender<Fetcher>,
}

impl Builder {
    /// Builds `config`. Of `earlier`, which it is to replace, it keeps every chain that did not change, with its
    /// filter, and the drain of every chain that lets the same connections in.
    ///
    /// # Errors
    /// A certificate, a file or a value that only building can judge is bad.
    pub fn build(
        &self,
        config: &Arc<model::Listener>,
        earlier: Option<&BuiltListener>,
    ) -> anyhow::Result<Arc<BuiltListener>> {
        let heirs = earlier.map(|earlier| model::successions(earlier.shared.config(), config));
        let heirs = heirs.unwrap_or_default();
        let mut config = (**config).clone();
        let mut chains = Vec::new();
        let prefix = config.stat_prefix.clone();
        let all = config.filter_chains.iter_mut().chain(&mut config.default_filter_chain);
        for (index, chain) in all.enumerate() {
            let built = match earlier.and_then(|earlier| earlier.unchanged(chain)) {
                Some(known) => {
                    *chain = known.config.clone();
                    known.clone()
                }
                None => {
                    let before = heirs.iter().position(|heir| *heir == Some(index));
                    let before = before.and_then(|before| earlier?.chains.get(before));
                    let next_gates = self.gates(&chain.gates);
                    BuiltChain {
                        gates: match before {
                            Some(before) => before.gates.clone(),
                            None => GateSlot::new(ArcSwapOption::new(next_gates.clone())),
                        },
                        next_gates,
                        filter: self.filter(&chain.filter, &prefix)?,
                        drain: before.map_or_else(DrainController::new, |known| known.drain.clone()),
                        config: chain.clone(),
                    }
                }
            };
            chains.push(built);
        }
        let earlier = earlier.map(|earlier| &*earlier.shared);
        let secrets = |wanted: &model::DynamicSecret| self.secrets.find(wanted);
        let shared = ListenerShared::build(
            Arc::new(config),
            &self.registry,
            &self.log_files,
            &self.global,
            &secrets,
            earlier,
        )?;
        Ok(Arc::new(BuiltListener { shared, chains }))
    }

    fn scopes(&self, config: &model::ScopedRoutes) -> anyhow::Result<Arc<ScopeSlot>> {
        if let Some(key) = ScopesKey::of(config) {
            return Ok(self.routes.scopes.slot(&key));
        }
        let model::Scopes::Inline(scopes) = &config.scopes else { return Ok(Arc::default()) };
        let mut built: Vec<(Arc<model::Scope>, Scope)> = Vec::new();
        for scope in scopes {
            let model::ScopeRoutes::Inline(table) = &scope.routes else { continue };
            let routes = RouteSlot::fixed(table, &self.clusters, &self.registry)?;
            // Of two with one name the later counts, for its key alone.
            built.retain(|(known, _)| known.name != scope.name);
            built.push((scope.clone(), Scope { name: scope.name.clone(), routes, on_demand: false }));
        }
        let built = built.iter().map(|(scope, made)| (&scope.key[..], made.clone()));
        Ok(Arc::new(ScopeSlot::new(ScopeTable::build(&config.key, built))))
    }

    fn gates(&self, gates: &[model::Gate]) -> Option<Arc<Gates>> {
        (!gates.is_empty()).then(|| Gates::build(gates, &self.registry))
    }

    fn filter(&self, filter: &model::NetworkFilter, stat_prefix: &str) -> anyhow::Result<BuiltFilter> {
        Ok(match filter {
            model::NetworkFilter::Http(config) => {
                let scope = self.registry.scope(format!("listener.{stat_prefix}."));
                let routes = match &config.routes {
                    model::Routes::Inline(routes) => {
                        RouteSlot::fixed(routes, &self.clusters, &self.registry)?.into()
                    }
                    model::Routes::Rds { name, source } => self.routes.slot(source, name).into(),
                    model::Routes::Scoped(scoped) => RoutePlace::Scoped(self.scopes(scoped)?),
                };
                let shared =
                    HcmShared::build(config, &self.registry, &self.log_files, &scope, routes, &self.node)?;
                // It is empty: nobody else has it yet.
                let _ = shared.asker.set(self.asker.clone());
                for fetcher in shared.fetchers() {
                    // Nobody takes them where configuration is only checked.
                    let _ = self.fetchers.send(fetcher);
                }
                shared.secret_slots().for_each(|slot| self.secrets.follow(slot));
                BuiltFilter::Http(shared)
            }
            model::NetworkFilter::Discovered(_) | model::NetworkFilter::Missing => BuiltFilter::Missing,
            model::NetworkFilter::TcpProxy(config) => BuiltFilter::Tcp(TcpProxyShared::build(
                config,
                &self.clusters,
                &self.registry,
                &self.log_files,
            )?),
        })
    }
}

impl BuiltFilter {
    /// Whether it is the very same filter.
    pub(crate) fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Http(one), Self::Http(other)) => Arc::ptr_eq(one, other),
            (Self::Tcp(one), Self::Tcp(other)) => Arc::ptr_eq(one, other),
            (Self::Missing, Self::Missing) => true,
            _ => false,
        }
    }
}

impl BuiltListener {
    /// Its name.
    pub fn name(&self) -> &Arc<str> {
        &self.shared.config().name
    }

    /// Puts the gates of its chains in force: they decide of connections from now on.
    pub(crate) fn activate_gates(&self) {
        for chain in &self.chains {
            chain.gates.store(chain.next_gates.clone());
        }
    }

    /// Whether a connection manager of its chains has filters with policies.
    pub(crate) fn has_policies(&self) -> bool {
        let has =
            |chain: &BuiltChain| matches!(&chain.filter, BuiltFilter::Http(shared) if shared.has_policies());
        self.chains.iter().any(has)
    }

    /// The chain that is `config`.
    pub fn chain(&self, config: &model::FilterChain) -> Option<&BuiltChain> {
        self.chains.iter().find(|chain| std::ptr::eq(&raw const *chain.config, config))
    }

    /// The chain that is the same as `config`, whatever made it.
    fn unchanged(&self, config: &model::FilterChain) -> Option<&BuiltChain> {
        self.chains.iter().find(|chain| chain.config.hash == config.hash && chain.config.name == config.name)
    }

    /// What becomes of each chain's connections when `next` takes the listener's place: the index of the chain of `next`
    /// that takes them over, or why there is none.
    pub(crate) fn heirs(&self, next: &Self) -> Vec<Result<usize, &'static str>> {
        let heirs = model::successions(self.shared.config(), next.shared.config());
        let one = |(heir, chain): (Option<usize>, &BuiltChain)| {
            let mut next = next.chains.iter();
            heir.ok_or_else(|| match next.any(|next| next.config.match_hash == chain.config.match_hash) {
                true => "transport_changed",
                false => "chain_removed",
            })
        };
        heirs.into_iter().zip(&self.chains).map(one).collect()
    }
}

/// The sessions to look at where the chain that takes over has lost server names of the one before.
pub(super) fn lost_names(before: &BuiltChain, next: &BuiltListener, heir: usize) -> Option<NarrowedSlot> {
    let slot = next.shared.tls_slot(heir)?.clone();
    let matches = &next.chains.get(heir)?.config.matches;
    let lost = !matches.takes_names_of(&before.config.matches);
    lost.then(|| NarrowedSlot { slot, matches: Some(matches.clone()) })
}

/// The chain to look at where the one that takes over has other gates than the one before.
pub(super) fn other_gates(before: &BuiltChain, next: &BuiltListener, heir: usize) -> Option<NarrowedEntry> {
    let heir = next.chains.get(heir)?;
    let others = heir.config.gates_hash != before.config.gates_hash;
    let entry = heir.next_gates.clone().filter(|_| others)?;
    Some(NarrowedEntry { chain: before.drain.clone(), entry })
}
