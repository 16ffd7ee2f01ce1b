//! A worker: one thread, one local runtime, its own accept loops, pools and log buffers.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use anyhow::Context as _;
use outrider_config::model;
use outrider_http::HcmWorker;
use outrider_net::handler::{ConnectionHandler, HandlerFactory};
use outrider_net::listener::{WorkerListener, WorkerListeners, WorkerSockets};
use outrider_tcp::TcpProxyWorker;
use outrider_telemetry::access_log;
use outrider_upstream::WorkerClusters;
use tokio::sync::watch;

use crate::control::{BuiltFilter, BuiltListener, Control, StopListening};

/// How often a worker looks whether memory is to be given back.
const LOOK_AT_MEMORY: Duration = Duration::from_secs(3);

/// A worker that runs.
#[derive(Debug)]
pub(crate) struct Worker {
    thread: std::thread::JoinHandle<()>,
    stop: watch::Sender<bool>,
}

impl Worker {
    /// Starts worker `number` with its sockets, one set for each listener in order.
    ///
    /// # Errors
    /// The thread or its runtime cannot be made.
    pub(crate) fn start(
        control: &Arc<Control>,
        number: usize,
        sockets: Vec<WorkerSockets>,
    ) -> anyhow::Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let control = control.clone();
        let thread = std::thread::Builder::new().name(format!("wrk:worker_{number}"));
        let thread = thread.spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .event_interval(61)
                .build_local(tokio::runtime::LocalOptions::default());
            match runtime {
                Ok(runtime) => runtime.block_on(run(control, number, sockets, stopped)),
                Err(error) => tracing::error!(%error, number, "a worker has no runtime and does not serve"),
            }
        });
        Ok(Self { thread: thread.context("a worker thread cannot be started")?, stop })
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
    sockets: Vec<WorkerSockets>,
    mut stopped: watch::Receiver<bool>,
) {
    let clusters = WorkerClusters::new(control.clusters.clone());
    let listeners = WorkerListeners::new(number);
    let mut accepting = Vec::new();
    for (built, sockets) in control.listeners.iter().zip(sockets) {
        let factory = Factory { listener: built, clusters: &clusters };
        let running =
            WorkerListener::start(built.shared.clone(), sockets, &factory, &listeners, built.drain.watch());
        accepting.push((built.shared.config().direction, running));
    }
    control.state.workers_running.fetch_add(1, Relaxed);
    let mut stop_listening = control.state.stop_listening.subscribe();
    let mut flush =
        tokio::time::interval(control.options.file_flush_interval.max(std::time::Duration::from_millis(1)));
    let mut look = tokio::time::interval(LOOK_AT_MEMORY);
    look.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            _ = look.tick() => if outrider_core::load::crowd_has_left() {
                (control.memory.crowd_left)();
            },
            _ = flush.tick() => access_log::flush_local(),
            Ok(()) = stop_listening.changed() => {
                let stop = *stop_listening.borrow_and_update();
                accepting.retain(|(direction, _)| !stops(stop, *direction));
            }
        }
    }
    access_log::flush_local();
    control.state.workers_running.fetch_sub(1, Relaxed);
}

fn stops(stop: StopListening, direction: model::TrafficDirection) -> bool {
    if direction == model::TrafficDirection::Inbound { stop.inbound } else { stop.others }
}

/// Makes the handlers of one listener's chains on one worker.
struct Factory<'a> {
    listener: &'a BuiltListener,
    clusters: &'a Rc<WorkerClusters>,
}

impl HandlerFactory for Factory<'_> {
    fn handler(&self, filter: &model::NetworkFilter) -> Rc<dyn ConnectionHandler> {
        let found = self.listener.filters.iter().find_map(|built| match (built, filter) {
            (BuiltFilter::Http(config, shared), model::NetworkFilter::Http(wanted))
                if Arc::ptr_eq(config, wanted) =>
            {
                let handler: Rc<dyn ConnectionHandler> =
                    HcmWorker::new(shared.clone(), self.clusters.clone());
                Some(handler)
            }
            (BuiltFilter::Tcp(config, shared), model::NetworkFilter::TcpProxy(wanted))
                if Arc::ptr_eq(config, wanted) =>
            {
                let handler: Rc<dyn ConnectionHandler> =
                    TcpProxyWorker::new(shared.clone(), self.clusters.clone());
                Some(handler)
            }
            _ => None,
        });
        // Every chain's filter was built with its listener.
        found.unwrap_or_else(|| Rc::new(Refuse))
    }
}

/// Closes every connection: stands where a filter is missing, which building rules out.
struct Refuse;

impl ConnectionHandler for Refuse {
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
