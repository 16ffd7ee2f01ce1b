//! From the start until the process is told to go.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use outrider_config::model;
use outrider_core::stat_struct;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc::UnboundedSender;

use crate::admin;
use crate::control::Control;
use crate::dynamic::Controller;
use crate::ending;
use crate::expiry;
use crate::keep;
use crate::listeners::Command;
use crate::options::Mode;
use crate::worker::Worker;

stat_struct! {
    /// `server.`
    pub(crate) struct ServerStats {
        counters { dropped_stat_flushes, dynamic_unknown_fields }
        gauges { inert_fields, state, live, uptime, concurrency, total_connections, days_until_first_cert_expiring, memory_allocated,
                 memory_heap_size, memory_physical_size, version, hot_restart_epoch, parent_connections }
        histograms { initialization_time_ms }
    }
}

/// Serves until told to go.
///
/// # Errors
/// A port is in use, or a thread cannot be made: nothing has been started then.
pub async fn serve(control: Arc<Control>) -> anyhow::Result<()> {
    let mut signals = Signals::new()?;
    let (server, manager) = (&control.server_stats, &control.listeners.stats);
    server.state().set(3);
    server.concurrency().set(control.workers as u64);
    let admin = admin::bind(&control)?;
    let first = std::mem::take(&mut *control.first.lock().unwrap_or_else(PoisonError::into_inner));
    let sockets = control.listeners.bind_first(&first, control.workers)?;
    if let Some(admin) = admin {
        tokio::task::spawn_local(admin.serve(control.clone()));
    }
    if let Some(agent) = control.model.identity.clone() {
        outrider_identity::Agent::start(agent, control.registry.scope("identity."))
            .context("the identity agent")?;
    }
    tokio::task::spawn_local(crate::runtime::watch(control.clone()));
    let clusters = control.clusters.clone();
    tokio::task::spawn_local(async move { clusters.run_discovery().await });
    tokio::select! {
        () = control.clusters.wait_warm() => {}
        () = signals.terminate() => return Ok(()),
        () = control.state.quit.notified() => return Ok(()),
    }
    if control.options.mode == Mode::InitOnly {
        tracing::info!("initialised; --mode init_only ends here");
        return Ok(());
    }
    let (workers, commands) = start_workers(&control)?;
    manager.total_listeners_warming().set(0);
    control.listeners.set_workers(commands);
    let (controller, mut initialized) = Controller::new(control.clone());
    tokio::task::spawn_local(controller.run());
    tokio::task::spawn_local(keep::run(control.clone()));
    tokio::select! {
        _ = initialized.wait_for(|done| *done) => {}
        () = signals.terminate() => return Ok(()),
        () = control.state.quit.notified() => return Ok(()),
    }
    control.listeners.start(&first, sockets);
    while control.state.workers_running.load(Relaxed) < control.workers as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    manager.workers_started().set(1);
    control.state.live.store(true, Relaxed);
    server.initialization_time_ms().record(control.state.started.elapsed().as_millis() as u64);
    server.state().set(0);
    server.live().set(1);
    tracing::info!(
        "all clusters are ready, {} workers serve {} listeners",
        control.workers,
        control.listeners.active().len()
    );
    (control.memory.started)();
    tokio::task::spawn_local(expiry::watch(control.clone()));
    until_told(&control, &mut signals).await;
    ending::end(&control, &mut signals).await;
    workers.into_iter().for_each(Worker::stop);
    control.log_files.sync();
    tracing::info!("exiting");
    Ok(())
}

fn start_workers(control: &Arc<Control>) -> anyhow::Result<(Vec<Worker>, Vec<UnboundedSender<Command>>)> {
    let mut workers = (Vec::new(), Vec::new());
    for number in 0..control.workers {
        let (worker, commands) = Worker::start(control, number)?;
        workers.0.push(worker);
        workers.1.push(commands);
    }
    Ok(workers)
}

async fn until_told(control: &Control, signals: &mut Signals) {
    let mut sweep = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = sweep.tick() => control.listeners.sweep(),
            told = signals.next() => match told {
                Told::Terminate => return,
                Told::Reopen => {
                    tracing::info!("SIGUSR1: access logs are opened anew");
                    control.log_files.reopen();
                }
            },
            () = control.state.quit.notified() => return,
        }
    }
}

/// Begins to drain the listeners (`inbound_only`: those of inbound traffic).
pub(crate) fn start_drain(control: &Control, inbound_only: bool, gradual: bool) {
    let which =
        |listener: &model::Listener| !inbound_only || listener.direction == model::TrafficDirection::Inbound;
    control.listeners.each_drain(which, |drain| drain.start(control.options.drain_time, gradual));
}

/// The signals that the process takes.
pub(crate) struct Signals {
    term: Signal,
    int: Signal,
    usr1: Signal,
    hup: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("signals cannot be received");
        Ok(Self {
            term: listen(SignalKind::terminate())?,
            int: listen(SignalKind::interrupt())?,
            usr1: listen(SignalKind::user_defined1())?,
            hup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) -> Told {
        loop {
            tokio::select! {
                _ = self.term.recv() => return Told::Terminate,
                _ = self.int.recv() => return Told::Terminate,
                _ = self.usr1.recv() => return Told::Reopen,
                // Envoy ends on SIGHUP; a lost terminal should not end a proxy.
                _ = self.hup.recv() => tracing::info!("SIGHUP is ignored"),
            }
        }
    }

    /// Waits until the process is told to end.
    pub(crate) async fn terminate(&mut self) {
        while self.next().await != Told::Terminate {}
    }
}

/// What a signal asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Told {
    Terminate,
    Reopen,
}

/// Raises the limit of open files to the hard limit: a proxy that runs out of them serves nobody.
pub(crate) fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if limit.current != limit.maximum {
        let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "the limit of open files stays at {:?}", limit.current);
        }
    }
}

/// Brings the gauges up to date that nobody writes as things happen. Before stats are read.
pub(crate) fn refresh_gauges(control: &Control) {
    let server = &control.server_stats;
    let memory = admin::Memory::read();
    let inert = control.ledger.inert.len() + control.records.count_inert();
    server.inert_fields().set(inert as u64);
    server.uptime().set(control.state.started.elapsed().as_secs());
    server.memory_allocated().set(memory.anonymous);
    server.memory_heap_size().set(memory.data);
    server.memory_physical_size().set(memory.resident);
    server.total_connections().set(control.listeners.connections(|_| true));
    expiry::refresh(control);
    server.state().set(match control.state.name() {
        "LIVE" => 0,
        "DRAINING" => 1,
        _ => 3,
    });
}
