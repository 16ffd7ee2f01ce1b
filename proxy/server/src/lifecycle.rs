//! From the start until the process is told to go.

use std::path::PathBuf;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use outrider_config::model;
use outrider_core::stat_struct;
use rustix::process::Signal;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::admin;
use crate::control::Control;
use crate::dynamic::Controller;
use crate::ending;
use crate::expiry;
use crate::keep;
use crate::listeners::Command;
use crate::options::Mode;
use crate::upgrade::new::{Before, TakeOver};
use crate::upgrade::old::{Next, identity_place};
use crate::upgrade::{door, forward};
use crate::worker::Worker;

stat_struct! {
    /// `server.`
    pub(crate) struct ServerStats {
        counters { dropped_stat_flushes, dynamic_unknown_fields, upgrades, upgrades_failed }
        gauges { inert_fields, state, live, uptime, concurrency, total_connections, days_until_first_cert_expiring, memory_allocated,
                 memory_heap_size, memory_physical_size, version, hot_restart_epoch, parent_connections }
        histograms { initialization_time_ms }
    }
}

/// How a process came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// It was told to go.
    Told,
    /// Another process serves, whose binary this is, and needs this one as its parent.
    HandedOver(PathBuf),
}

/// Serves until told to go, or until another process has taken over.
///
/// # Errors
/// A port is in use, or a thread cannot be made: nothing has been started then. Or the process that took over has ended
/// while this one finished what it had begun.
pub async fn serve(control: Arc<Control>) -> anyhow::Result<Ended> {
    let mut signals = Signals::new()?;
    let (server, manager) = (&control.server_stats, &control.listeners.stats);
    server.state().set(3);
    server.concurrency().set(control.workers as u64);
    let mut before = control.upgrade.before();
    if before.is_some() {
        server.hot_restart_epoch().set(control.upgrade.epoch);
    }
    let mut doors = Doors::bind(&control)?;
    let first = std::mem::take(&mut *control.first.lock().unwrap_or_else(PoisonError::into_inner));
    let sockets = control.listeners.bind_first(&first, control.workers)?;
    if before.is_none() {
        // Until this process is ready, the one before it answers.
        doors.open(&control);
    }
    start_agent(&control, before.as_mut())?;
    tokio::task::spawn_local(crate::runtime::watch(control.clone()));
    let clusters = control.clusters.clone();
    tokio::task::spawn_local(async move { clusters.run_discovery().await });
    tokio::select! {
        () = control.clusters.wait_warm() => {}
        lost = lost(&mut before) => return Err(lost),
        () = signals.terminate() => return Ok(Ended::Told),
        () = control.state.quit.notified() => return Ok(Ended::Told),
    }
    if control.options.mode == Mode::InitOnly {
        tracing::info!("initialised; --mode init_only ends here");
        return Ok(Ended::Told);
    }
    let (workers, commands) = start_workers(&control)?;
    manager.total_listeners_warming().set(0);
    control.listeners.set_workers(commands);
    let (controller, mut initialized) = Controller::new(control.clone());
    tokio::task::spawn_local(controller.run());
    doors.until_over(tokio::task::spawn_local(keep::run(control.clone())));
    tokio::select! {
        _ = initialized.wait_for(|done| *done) => {}
        lost = lost(&mut before) => return Err(lost),
        () = signals.terminate() => return Ok(Ended::Told),
        () = control.state.quit.notified() => return Ok(Ended::Told),
    }
    if let Some(before) = &mut before {
        tokio::select! {
            ready = before.ready(&control) => ready?,
            () = signals.terminate() => return Ok(Ended::Told),
        }
        doors.open(&control);
        control.upgrade.let_in();
    }
    control.listeners.start(&first, sockets);
    while control.state.workers_running.load(Relaxed) < control.workers as u64 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    live(&control);
    doors.until_over(tokio::task::spawn_local(expiry::watch(control.clone())));
    let before = before.map(|before| before.serving(control.clone()));
    let over = until_told(&control, &mut signals, &mut doors).await;
    end(&control, &mut signals, (doors, before, over), workers).await
}

/// Waits until the process before this one is gone, which has not handed over yet: its sockets must not stay with somebody who
/// does not serve. For ever where there is none.
async fn lost(before: &mut Option<TakeOver>) -> anyhow::Error {
    match before {
        Some(before) => before.lost().await,
        None => std::future::pending().await,
    }
}

/// All is there: the process is ready.
fn live(control: &Control) {
    let (server, manager) = (&control.server_stats, &control.listeners.stats);
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
}

/// Starts the identity agent, where there is one to be: it goes on with what that of the process before has.
fn start_agent(control: &Control, before: Option<&mut TakeOver>) -> anyhow::Result<()> {
    let Some(agent) = control.model.identity.clone() else { return Ok(()) };
    let mut legacy = before.map(TakeOver::identity).unwrap_or_default();
    legacy.socket = control.listeners.inherited.take(&identity_place(&agent.socket), 1).pop_front();
    let agent = outrider_identity::Agent::start(agent, control.registry.scope("identity."), legacy);
    control.upgrade.set_agent(agent.context("the identity agent")?);
    Ok(())
}

/// Ends the process in the way that was asked for.
async fn end(
    control: &Control,
    signals: &mut Signals,
    (mut doors, before, over): (Doors, Option<Before>, Over),
    workers: Vec<Worker>,
) -> anyhow::Result<Ended> {
    let Over::HandedOver(mut next, closing) = over else {
        ending::end(control, signals).await;
        workers.into_iter().for_each(Worker::stop);
        control.log_files.sync();
        if let Ok((next, _)) = doors.next.try_recv() {
            // Another process took over in the very moment in which this one was told to go.
            forward(Signal::TERM);
            next.leave(&control.registry);
            return Ok(Ended::HandedOver(next.binary().to_owned()));
        }
        tracing::info!("exiting");
        return Ok(Ended::Told);
    };
    // What two processes must not do at a time is for the next one from here on.
    doors.close();
    control.upgrade.let_go();
    drop(closing);
    if let Some(before) = &before {
        before.finish();
    }
    let well = ending::hand_over(control, signals, &mut next).await;
    workers.into_iter().for_each(Worker::stop);
    control.log_files.sync();
    next.leave(&control.registry);
    well?;
    tracing::info!("all that was begun here is finished; process {} serves", next.pid());
    // Whoever has a process before it has a parent that stays.
    Ok(match before {
        Some(_) => Ended::Told,
        None => Ended::HandedOver(next.binary().to_owned()),
    })
}

/// What serves others than clients of listeners, and what only one process may do at a time.
struct Doors {
    admin: Option<admin::AdminServer>,
    upgrade: Option<tokio::net::UnixListener>,
    tasks: Vec<JoinHandle<()>>,
    done: UnboundedSender<door::Handed>,
    next: UnboundedReceiver<door::Handed>,
}

impl Doors {
    fn bind(control: &Control) -> anyhow::Result<Self> {
        let (done, next) = unbounded_channel();
        Ok(Self {
            admin: admin::bind(control)?,
            upgrade: door::bind(control)?,
            tasks: Vec::new(),
            done,
            next,
        })
    }

    fn open(&mut self, control: &Arc<Control>) {
        if let Some(admin) = self.admin.take() {
            self.tasks.push(tokio::task::spawn_local(admin.serve(control.clone())));
        }
        if let Some(listener) = self.upgrade.take() {
            let serve = door::serve(listener, control.clone(), self.done.clone());
            self.tasks.push(tokio::task::spawn_local(serve));
        }
    }

    /// Has `task` end when another process takes over.
    fn until_over(&mut self, task: JoinHandle<()>) {
        self.tasks.push(task);
    }

    fn close(self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

/// Why a process serves no more.
enum Over {
    Told,
    HandedOver(Next, oneshot::Sender<()>),
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

async fn until_told(control: &Control, signals: &mut Signals, doors: &mut Doors) -> Over {
    let mut sweep = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            _ = sweep.tick() => control.listeners.sweep(),
            told = signals.next() => match told {
                Told::Terminate => return Over::Told,
                Told::Reopen => reopen_logs(control),
            },
            () = control.state.quit.notified() => return Over::Told,
            Some((next, closing)) = doors.next.recv() => return Over::HandedOver(next, closing),
        }
    }
}

/// Opens access logs anew.
pub(crate) fn reopen_logs(control: &Control) {
    tracing::info!("SIGUSR1: access logs are opened anew");
    control.log_files.reopen();
}

/// Begins to drain the listeners (`inbound_only`: those of inbound traffic).
pub(crate) fn start_drain(control: &Control, inbound_only: bool, gradual: bool) {
    let which =
        |listener: &model::Listener| !inbound_only || listener.direction == model::TrafficDirection::Inbound;
    control.listeners.each_drain(which, |drain| drain.start(control.options.drain_time, gradual));
}

/// The signals that the process takes.
pub(crate) struct Signals {
    term: unix::Signal,
    int: unix::Signal,
    usr1: unix::Signal,
    hup: unix::Signal,
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

    /// What the process is told next.
    pub(crate) async fn next(&mut self) -> Told {
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
pub(crate) enum Told {
    /// To end.
    Terminate,
    /// To open access logs anew.
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
