//! Listeners by name: started, updated and removed here, on the control thread; the workers are told.
//!
//! An update keeps the listener's sockets, their accept queues and the connections; only connections of a chain that
//! is gone, or that lets in others than before, are asked to finish.

pub mod built;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use outrider_config::model;
use outrider_core::stat_struct;
use outrider_core::stats::Registry;
use outrider_http::Change;
use outrider_net::drain::DrainController;
use outrider_net::listener::{
    Inherited, Lent, Narrowed, NarrowedEntry, NarrowedSlot, Sockets, WorkerSockets,
};
use outrider_upstream::Idle;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

pub use built::{Builder, BuiltChain, BuiltFilter, BuiltListener};
use built::{lost_names, other_gates};

stat_struct! {
    /// `listener_manager.`
    pub(crate) struct ListenerManagerStats {
        counters { listener_added, listener_modified, listener_removed, listener_in_place_updated, listener_create_success,
                   listener_create_failure, listener_stopped }
        gauges { total_listeners_active, total_listeners_warming, total_listeners_draining, workers_started,
                 total_filter_chains_draining }
        histograms {}
    }
}

/// What a worker is told.
#[derive(Debug)]
pub(crate) enum Command {
    /// Accept on these sockets, for a listener that is new or has other addresses than before.
    Listen(Arc<BuiltListener>, WorkerSockets),
    /// A listener changed behind its sockets.
    Replace(Arc<BuiltListener>),
    /// Stop accepting for the listener of this name.
    Remove(Arc<str>),
    /// TLS contexts, or filters, decide otherwise than before who gets in: look at the connections that are.
    Judge(Arc<Narrowed>),
    /// Routes changed, and policies with them perhaps: look at the requests that run.
    Review(Change),
    /// Give duplicates of all listening sockets, for the process after this one.
    Lend(UnboundedSender<std::io::Result<Vec<Lent>>>),
    /// Give idle connections to upstreams away, to the process after this one.
    LendIdle(UnboundedSender<Vec<Idle>>),
}

/// A listener in force.
#[derive(Debug, Clone)]
pub struct Active {
    /// The listener.
    pub listener: Arc<BuiltListener>,
    /// The addresses it listens on: a port 0 of the configuration is the port that the kernel chose.
    pub bound: Vec<model::SocketAddress>,
}

/// Connections that finish, of a listener that was removed or updated.
#[derive(Debug)]
struct Retired {
    listener: Arc<BuiltListener>,
    drains: Vec<DrainController>,
    what: What,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum What {
    Listener,
    Chains,
    /// Single connections of chains that stay.
    Connections,
}

/// Over so many moments the ends of refused connections are spread.
const MOMENTS: u32 = 16;

/// All listeners.
#[derive(Debug)]
pub struct Listeners {
    builder: Builder,
    pub(crate) stats: ListenerManagerStats,
    /// The sockets of the process before this one.
    pub(crate) inherited: Inherited,
    /// No port is opened any more.
    closed: AtomicBool,
    inner: Mutex<Inner>,
    drain_time: Duration,
    gradual: bool,
}

#[derive(Debug, Default)]
struct Inner {
    active: Vec<Active>,
    retired: Vec<Arc<Retired>>,
    workers: Vec<UnboundedSender<Command>>,
}

impl Listeners {
    /// No listeners. Connections of chains that go have `drain_time` to finish, and are asked over all that time where
    /// `gradual`, at once where not.
    pub fn new(builder: Builder, registry: &Registry, drain_time: Duration, gradual: bool) -> Self {
        let stats = ListenerManagerStats::new(registry.scope("listener_manager."));
        let inherited = Inherited::default();
        let (inner, closed) = (Mutex::default(), AtomicBool::new(false));
        Self { builder, stats, inherited, closed, inner, drain_time, gradual }
    }

    /// Builds a listener without opening a port; against the one of its name that is in force, if there is one.
    ///
    /// # Errors
    /// What it names cannot be read or does not fit together.
    pub fn build(&self, config: &Arc<model::Listener>) -> anyhow::Result<Arc<BuiltListener>> {
        let earlier = self.find(&config.name);
        self.builder.build(config, earlier.as_ref().map(|active| &*active.listener))
    }

    /// Opens the ports of `built` for the workers to come: used before they run.
    ///
    /// # Errors
    /// A port is in use or may not be opened; nothing stays open then.
    pub(crate) fn bind_first(
        &self,
        built: &[Arc<BuiltListener>],
        workers: usize,
    ) -> anyhow::Result<Vec<Vec<WorkerSockets>>> {
        let sockets = built
            .iter()
            .map(|listener| Ok(Sockets::bind(&listener.shared, workers, &self.inherited)?))
            .collect::<anyhow::Result<Vec<_>>>()?;
        let mut inner = self.lock();
        for (listener, sockets) in built.iter().zip(&sockets) {
            inner.active.push(Active { listener: listener.clone(), bound: addresses(listener, sockets) });
        }
        drop(inner);
        self.count();
        Ok(sockets)
    }

    /// Takes the workers, which run now.
    pub(crate) fn set_workers(&self, workers: Vec<UnboundedSender<Command>>) {
        self.lock().workers = workers;
    }

    /// Hands `sockets`, from [`bind_first`](Self::bind_first), to the workers.
    pub(crate) fn start(&self, built: &[Arc<BuiltListener>], sockets: Vec<Vec<WorkerSockets>>) {
        let workers = self.lock().workers.clone();
        for (listener, sockets) in built.iter().zip(sockets) {
            self.stats.listener_added().inc();
            self.stats.listener_create_success().add(sockets.len() as u64);
            for (worker, sockets) in workers.iter().zip(sockets) {
                let _ = worker.send(Command::Listen(listener.clone(), sockets));
            }
        }
    }

    /// Takes the addresses of `built`, which is new, while it waits for what else it needs: a port in use is known before
    /// the control plane is told that all is well. `None` where it takes another's place.
    ///
    /// # Errors
    /// A port is in use or may not be opened.
    pub(crate) fn reserve(&self, built: &BuiltListener) -> anyhow::Result<Option<Vec<WorkerSockets>>> {
        if self.find(built.name()).is_some() || self.closed.load(Relaxed) {
            return Ok(None);
        }
        let workers = self.lock().workers.len();
        let opened = Sockets::open(&built.shared, workers, &self.inherited);
        Ok(Some(opened.inspect_err(|_| self.stats.listener_create_failure().inc())?))
    }

    /// Puts `built` in force: a new listener, or in the place of the one of its name. `reserved` is what
    /// [`reserve`](Self::reserve) gave, if it was asked.
    ///
    /// # Errors
    /// A port is in use or may not be opened: what was in force stays so.
    pub(crate) fn put(
        &self,
        built: Arc<BuiltListener>,
        reserved: Option<Vec<WorkerSockets>>,
    ) -> anyhow::Result<()> {
        let earlier = self.find(built.name());
        let keeps = earlier
            .as_ref()
            .is_some_and(|earlier| same_sockets(earlier.listener.shared.config(), built.shared.config()));
        let mut inner = self.lock();
        if let (true, Some(earlier)) = (keeps, &earlier) {
            for worker in &inner.workers {
                let _ = worker.send(Command::Replace(built.clone()));
            }
            let now = Active { listener: built.clone(), bound: earlier.bound.clone() };
            inner.set(now);
            self.stats.listener_in_place_updated().inc();
        } else {
            let bound = match reserved {
                // The process ends, or another one has taken over: it is for that to listen.
                _ if self.closed.load(Relaxed) => Ok(Sockets::none(inner.workers.len())),
                Some(sockets) => Sockets::listen(&built.shared, &sockets).map(|()| sockets),
                None => Sockets::bind(&built.shared, inner.workers.len(), &self.inherited),
            };
            let sockets = bound.inspect_err(|_| self.stats.listener_create_failure().inc())?;
            inner.set(Active { listener: built.clone(), bound: addresses(&built, &sockets) });
            self.stats.listener_create_success().add(sockets.len() as u64);
            for (worker, sockets) in inner.workers.iter().zip(sockets) {
                let _ = worker.send(Command::Listen(built.clone(), sockets));
            }
        }
        drop(inner);
        let narrowed = built.shared.activate();
        built.activate_gates();
        match earlier {
            Some(earlier) => {
                self.stats.listener_modified().inc();
                let mut drains = Vec::new();
                let mut narrowed: Vec<_> = narrowed.into_iter().map(NarrowedSlot::from).collect();
                let mut entries = Vec::new();
                for (chain, heir) in earlier.listener.chains.iter().zip(earlier.listener.heirs(&built)) {
                    match heir {
                        Ok(heir) => {
                            narrowed.extend(lost_names(chain, &built, heir));
                            entries.extend(other_gates(chain, &built, heir));
                        }
                        Err(reason) => {
                            chain.drain.start_because(reason, self.drain_time, self.gradual);
                            drains.push(chain.drain.clone());
                        }
                    }
                }
                self.refuse(&built, narrowed, entries);
                self.retire(earlier.listener.clone(), drains, What::Chains);
            }
            None => self.stats.listener_added().inc(),
        }
        self.count();
        Ok(())
    }

    /// Has the workers look for connections of `listener` that its contexts in `slots`, or the filters of `entries`, would
    /// not let in any more: they are closed, over the drain time.
    fn refuse(&self, listener: &Arc<BuiltListener>, slots: Vec<NarrowedSlot>, entries: Vec<NarrowedEntry>) {
        if slots.is_empty() && entries.is_empty() {
            return;
        }
        let moment = |moment| {
            let drain = DrainController::new();
            drain.start(self.drain_time * moment / MOMENTS, self.gradual);
            drain
        };
        let drains: Vec<_> = (1..=MOMENTS).map(moment).collect();
        let narrowed = Arc::new(Narrowed {
            listener: listener.shared.clone(),
            slots,
            entries,
            chains: listener.chains.iter().map(|chain| chain.drain.clone()).collect(),
            drains: drains.clone(),
        });
        for drain in drains {
            self.retire(listener.clone(), vec![drain], What::Connections);
        }
        for worker in &self.lock().workers {
            let _ = worker.send(Command::Judge(narrowed.clone()));
        }
    }

    /// Has the workers look for requests that run on routes of `change` and that policies would refuse by now.
    pub(crate) fn review(&self, change: &Change) {
        let inner = self.lock();
        let retired = inner.retired.iter().map(|retired| &retired.listener);
        let mut listeners = inner.active.iter().map(|active| &active.listener).chain(retired);
        if listeners.any(|listener| listener.has_policies()) {
            for worker in &inner.workers {
                let _ = worker.send(Command::Review(change.clone()));
            }
        }
    }

    /// Removes the listener of `name`: it accepts no more, and its connections are asked to finish.
    pub fn remove(&self, name: &str) -> bool {
        let Some(earlier) = self.find(name) else { return false };
        let mut inner = self.lock();
        for worker in &inner.workers {
            let _ = worker.send(Command::Remove(earlier.listener.name().clone()));
        }
        inner.active.retain(|active| **active.listener.name() != *name);
        drop(inner);
        self.stats.listener_removed().inc();
        let drains: Vec<_> = earlier.listener.chains.iter().map(|chain| chain.drain.clone()).collect();
        for drain in &drains {
            drain.start_because("listener_removed", self.drain_time, self.gradual);
        }
        self.retire(earlier.listener, drains, What::Listener);
        self.count();
        true
    }

    /// Tells all listeners of a secret that changed; what cannot be built with it keeps what it has, and is logged.
    pub fn renew_tls(&self, changed: &model::DynamicSecret) {
        let secrets = |wanted: &model::DynamicSecret| self.builder.secrets.find(wanted);
        for active in self.active() {
            let (narrowed, errors) = active.listener.shared.renew_tls(changed, &secrets);
            let narrowed = narrowed.into_iter().map(NarrowedSlot::from).collect();
            self.refuse(&active.listener, narrowed, Vec::new());
            for error in errors {
                tracing::error!(secret = &*changed.name, "the certificate in force stays: {error}");
            }
        }
    }

    /// Opens no port any more: what comes from now on listens nowhere.
    pub(crate) fn close(&self) {
        self.closed.store(true, Relaxed);
    }

    /// Has each worker give duplicates of its sockets: one message from each.
    pub(crate) fn lend(&self) -> (usize, UnboundedReceiver<std::io::Result<Vec<Lent>>>) {
        let (give, given) = unbounded_channel();
        let inner = self.lock();
        for worker in &inner.workers {
            let _ = worker.send(Command::Lend(give.clone()));
        }
        (inner.workers.len(), given)
    }

    /// Has each worker give its idle connections to upstreams away: one message from each.
    pub(crate) fn lend_idle(&self) -> (usize, UnboundedReceiver<Vec<Idle>>) {
        let (give, given) = unbounded_channel();
        let inner = self.lock();
        for worker in &inner.workers {
            let _ = worker.send(Command::LendIdle(give.clone()));
        }
        (inner.workers.len(), given)
    }

    /// The listeners in force, in the order in which they came.
    pub fn active(&self) -> Vec<Active> {
        self.lock().active.clone()
    }

    /// The listener in force of this name.
    pub fn find(&self, name: &str) -> Option<Active> {
        self.lock().active.iter().find(|active| **active.listener.name() == *name).cloned()
    }

    /// Connections open of listeners that `which` takes, those of removed listeners with them.
    pub fn connections(&self, which: impl Fn(&model::Listener) -> bool) -> u64 {
        let inner = self.lock();
        // An update shares its count with what it replaced: only removed listeners have one of their own.
        let removed = inner.retired.iter().filter(|retired| retired.what == What::Listener);
        let all = inner.active.iter().map(|active| &active.listener);
        let all = all.chain(removed.map(|retired| &retired.listener));
        all.filter(|listener| which(listener.shared.config())).map(|listener| listener.shared.active()).sum()
    }

    /// Calls `tell` with the drain of every chain whose listener `which` takes, those that finish already with them.
    pub(crate) fn each_drain(
        &self,
        which: impl Fn(&model::Listener) -> bool,
        tell: impl Fn(&DrainController),
    ) {
        let inner = self.lock();
        for active in &inner.active {
            if which(active.listener.shared.config()) {
                active.listener.chains.iter().for_each(|chain| tell(&chain.drain));
            }
        }
        for retired in &inner.retired {
            if which(retired.listener.shared.config()) {
                retired.drains.iter().for_each(&tell);
            }
        }
    }

    /// Has the connections of `drains`, which were started, cut off when their time is over.
    fn retire(&self, listener: Arc<BuiltListener>, drains: Vec<DrainController>, what: What) {
        if !drains.is_empty() {
            self.lock().retired.push(Arc::new(Retired { listener, drains, what }));
        }
    }

    /// Cuts off what was given `drain_time` to finish. Called by the control thread, which keeps the time.
    pub(crate) fn sweep(&self) {
        let over = |drain: &DrainController| drain.is_over();
        let mut inner = self.lock();
        let before = inner.retired.len();
        inner.retired.retain(|retired| {
            let idle = retired.what == What::Listener && retired.listener.shared.active() == 0;
            let done = idle || retired.drains.iter().all(over);
            if done {
                retired.drains.iter().for_each(DrainController::terminate);
            }
            !done
        });
        let changed = inner.retired.len() != before;
        drop(inner);
        if changed {
            self.count();
        }
    }

    fn count(&self) {
        let inner = self.lock();
        let removed = inner.retired.iter().filter(|retired| retired.what == What::Listener).count();
        let chains = inner.retired.iter().filter(|retired| retired.what == What::Chains);
        let chains: usize = chains.map(|retired| retired.drains.len()).sum();
        self.stats.total_listeners_active().set(inner.active.len() as u64);
        self.stats.total_listeners_draining().set(removed as u64);
        self.stats.total_filter_chains_draining().set(chains as u64);
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn set(&mut self, active: Active) {
        match self.active.iter_mut().find(|known| known.listener.name() == active.listener.name()) {
            Some(known) => *known = active,
            None => self.active.push(active),
        }
    }
}

/// Whether sockets that were opened for `a` are as `b` wants them.
fn same_sockets(a: &model::Listener, b: &model::Listener) -> bool {
    let text = |listener: &model::Listener| {
        let model::Listener { addresses, keepalive, socket_options, .. } = listener;
        format!("{addresses:?}{keepalive:?}{socket_options:?}")
    };
    a.bind_to_port == b.bind_to_port
        && a.reuse_port == b.reuse_port
        && a.backlog == b.backlog
        && a.transparent == b.transparent
        && a.freebind == b.freebind
        && a.tcp_fast_open == b.tcp_fast_open
        && text(a) == text(b)
}

/// The addresses that `listener` has now that its sockets are open.
fn addresses(listener: &BuiltListener, sockets: &[WorkerSockets]) -> Vec<model::SocketAddress> {
    let mut bound = sockets.first().map_or(&[][..], WorkerSockets::local_addrs).iter();
    let config = listener.shared.config();
    // Port 0 became a port when it was bound; what is no IP address is as configured.
    let now = |address: &model::ListenerAddress| match (&address.address, config.bind_to_port) {
        (model::SocketAddress::Ip(_), true) => bound.next().copied().map(model::SocketAddress::Ip),
        _ => None,
    };
    let now: Vec<_> = config.addresses.iter().map(now).collect();
    now.into_iter()
        .zip(&config.addresses)
        .map(|(now, given)| now.unwrap_or_else(|| given.address.clone()))
        .collect()
}
