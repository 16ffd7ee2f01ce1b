//! A worker: one thread, one local runtime, its own accept loops, pools and log buffers.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context as _;
use outrider_config::model;
use outrider_http::{Change, HcmWorker};
use outrider_net::drain::{DrainController, DrainWatch};
use outrider_net::handler::{ConnectionHandler, HandlerFactory};
use outrider_net::listener::{Lent, WorkerListener, WorkerListeners};
use outrider_tcp::{GatedWorker, TcpProxyWorker};
use outrider_telemetry::access_log;
use outrider_upstream::WorkerClusters;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

use crate::control::{Control, StopListening};
use crate::listeners::{BuiltChain, BuiltFilter, BuiltListener, Command};

/// How often a worker looks whether memory is to be given back.
const LOOK_AT_MEMORY: Duration = Duration::from_secs(3);

/// A worker that runs.
#[derive(Debug)]
pub(crate) struct Worker {
    thread: std::thread::JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Worker {
    /// Starts worker `number`; the second value is how it is told what to listen on.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub(crate) fn start(
        control: &Arc<Control>,
        number: usize,
    ) -> anyhow::Result<(Self, UnboundedSender<Command>)> {
        let (stop, stopped) = watch::channel(false);
        let (commands, told) = unbounded_channel();
        let control = control.clone();
        let thread = std::thread::Builder::new().name(format!("wrk:worker_{number}"));
        let thread = thread.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .event_interval(61)
                .build_local(tokio::runtime::LocalOptions::default());
            match runtime {
                Ok(runtime) => runtime.block_on(run(control, number, told, stopped)),
                Err(error) => tracing::error!(%error, number, "a worker has no runtime and does not serve"),
            }
        });
        let worker = Self { thread: thread.context("a worker thread cannot be started")?, stop };
        Ok((worker, commands))
    }

    /// Ends the worker and all its connections.
    pub(crate) fn stop(self) {
        self.stop.send_replace(true);
        if self.thread.join().is_err() {
            tracing::error!("a worker panicked");
        }
    }
}

async fn run(
    control: Arc<Control>,
    number: usize,
    mut told: UnboundedReceiver<Command>,
    mut stopped: watch::Receiver<bool>,
) {
    let mut listening = Listening {
        clusters: WorkerClusters::new(control.clusters.clone()),
        siblings: WorkerListeners::new(number),
        running: HashMap::new(),
    };
    control.state.workers_running.fetch_add(1, Relaxed);
    let mut stop_listening = control.state.stop_listening.subscribe();
    let mut flush =
        tokio::time::interval(control.options.file_flush_interval.max(std::time::Duration::from_millis(1)));
    let mut admit = control.upgrade.admit();
    let mut look = tokio::time::interval(LOOK_AT_MEMORY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            // Nobody is let in while the process before this one serves: what is to be done waits.
            Some(command) = told.recv(), if *admit.borrow() => listening.obey(command),
            Ok(()) = admit.changed(), if !*admit.borrow() => {}
            _ = look.tick() => if outrider_core::load::crowd_has_left() {
                (control.memory.crowd_left)();
            },
            _ = flush.tick() => access_log::flush_local(),
            Ok(()) = stop_listening.changed() => {
                let stop = *stop_listening.borrow_and_update();
                listening.running.retain(|_, running| !stops(stop, running.built.shared.config().direction));
            }
        }
    }
    access_log::flush_local();
    control.state.workers_running.fetch_sub(1, Relaxed);
}

fn stops(stop: StopListening, direction: model::TrafficDirection) -> bool {
    if direction == model::TrafficDirection::Inbound { stop.inbound } else { stop.others }
}

/// What one worker listens on.
struct Listening {
    clusters: Rc<WorkerClusters>,
    siblings: Rc<WorkerListeners>,
    running: HashMap<Arc<str>, Running>,
}

/// A listener on one worker, with the handlers of its chains in order.
struct Running {
    built: Arc<BuiltListener>,
    handlers: Handlers,
    // Accepts as long as it is there.
    accepting: WorkerListener,
}

type Handlers = Vec<Rc<dyn ConnectionHandler>>;

impl Listening {
    fn obey(&mut self, command: Command) {
        match command {
            Command::Listen(built, sockets) => {
                let handlers = self.handlers(&built);
                let factory = Factory { built: &built, handlers: &handlers };
                let accepting =
                    WorkerListener::start(built.shared.clone(), sockets, &factory, &self.siblings);
                // What had the name before accepts no more.
                let before =
                    self.running.insert(built.name().clone(), Running { built, handlers, accepting });
                if before.is_some() {
                    outrider_http::review(&Change::Managers);
                }
            }
            Command::Replace(built) => {
                let handlers = self.handlers(&built);
                let Some(running) = self.running.get_mut(built.name()) else { return };
                running
                    .accepting
                    .replace(built.shared.clone(), &Factory { built: &built, handlers: &handlers });
                (running.built, running.handlers) = (built, handlers);
                // Policies that came with it are for the requests that run, too.
                outrider_http::review(&Change::Managers);
            }
            Command::Remove(name) => drop(self.running.remove(&name)),
            Command::Judge(narrowed) => self.siblings.judge(narrowed),
            Command::Review(change) => outrider_http::review(&change),
            Command::Lend(to) => _ = to.send(self.lend()),
            Command::LendIdle(to) => _ = to.send(self.clusters.lend_idle()),
        }
    }

    /// Duplicates of the sockets that this worker accepts on.
    fn lend(&self) -> std::io::Result<Vec<Lent>> {
        let mut all = Vec::new();
        for running in self.running.values() {
            all.extend(running.accepting.lend()?);
        }
        Ok(all)
    }

    /// The handlers of the chains of `built`: those of unchanged chains stay, others tell what was there before who
    /// takes over.
    fn handlers(&self, built: &BuiltListener) -> Handlers {
        let before = self.running.get(built.name());
        let mut handlers = Handlers::new();
        for chain in &built.chains {
            let known = before.and_then(|before| before.handler_of(chain));
            handlers.push(known.unwrap_or_else(|| handler(chain, &self.clusters)));
        }
        if let Some(before) = before {
            for (handler, heir) in before.handlers.iter().zip(before.built.heirs(built)) {
                if let Some(next) = heir.ok().and_then(|heir| handlers.get(heir))
                    && !Rc::ptr_eq(next, handler)
                {
                    handler.succeeded_by(next);
                }
            }
        }
        handlers
    }
}

impl Running {
    /// The handler of a chain that is the same as `wanted`, the place of its gates with it.
    fn handler_of(&self, wanted: &BuiltChain) -> Option<Rc<dyn ConnectionHandler>> {
        let mut chains = self.built.chains.iter().zip(&self.handlers);
        let same =
            |chain: &BuiltChain| Arc::ptr_eq(&chain.gates, &wanted.gates) && chain.filter.is(&wanted.filter);
        chains.find_map(|(chain, handler)| same(chain).then(|| handler.clone()))
    }
}

fn handler(chain: &BuiltChain, clusters: &Rc<WorkerClusters>) -> Rc<dyn ConnectionHandler> {
    let last: Rc<dyn ConnectionHandler> = match &chain.filter {
        BuiltFilter::Http(shared) => HcmWorker::new(shared.clone(), clusters.clone()),
        BuiltFilter::Tcp(shared) => TcpProxyWorker::new(shared.clone(), clusters.clone()),
        BuiltFilter::Missing => Rc::new(Refuse),
    };
    GatedWorker::new(chain.gates.clone(), last)
}

/// Gives a listener's chains their handlers on one worker.
struct Factory<'a> {
    built: &'a BuiltListener,
    handlers: &'a Handlers,
}

impl HandlerFactory for Factory<'_> {
    fn handler(&self, chain: &model::FilterChain) -> Rc<dyn ConnectionHandler> {
        let mut chains = self.built.chains.iter().zip(self.handlers);
        let found = chains.find(|(built, _)| std::ptr::eq(&raw const *built.config, chain));
        // Every chain's filter was built with its listener.
        found.map_or_else(|| -> Rc<dyn ConnectionHandler> { Rc::new(Refuse) }, |(_, handler)| handler.clone())
    }

    fn drain(&self, chain: &model::FilterChain) -> DrainWatch {
        self.built.chain(chain).map_or_else(|| DrainController::new().watch(), |built| built.drain.watch())
    }
}

/// Closes every connection: stands where a filter is missing, which building rules out.
struct Refuse;

impl ConnectionHandler for Refuse {
    fn as_any(self: Rc<Self>) -> Rc<dyn std::any::Any> {
        self
    }

    fn handle(
        self: Rc<Self>,
        downstream: outrider_net::handler::Downstream,
    ) -> outrider_net::handler::LocalFuture<()> {
        Box::pin(async move {
            tracing::error!("a filter chain has no filter: the connection is closed");
            drop(downstream);
        })
    }
}
