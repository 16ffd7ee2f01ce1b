//! Draining: how connections learn that they should finish.

use std::time::{Duration, Instant};

use outrider_core::rng::Rng;
use tokio::sync::watch;

/// Where a listener (or the whole process) is in its life.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum DrainPhase {
    /// It serves.
    Serving,
    /// It finishes what runs and asks clients to go elsewhere.
    Draining {
        /// Since when.
        started: Instant,
        /// For how long.
        duration: Duration,
        /// The process is about to end: connections that do nothing are closed at once.
        ending: bool,
        /// Ask a growing share of clients (`--drain-strategy gradual`) instead of all at once.
        gradual: bool,
    },
    /// What still runs is cut off.
    Terminated,
}

/// The side that says so.
#[derive(Debug, Clone)]
pub struct DrainController(watch::Sender<DrainPhase>);

impl DrainController {
    /// A controller whose watchers serve.
    #[expect(clippy::new_without_default, reason = "a controller is made on purpose")]
    pub fn new() -> Self {
        Self(watch::Sender::new(DrainPhase::Serving))
    }

    /// A watcher.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch(self.0.subscribe())
    }

    /// Begins to drain. Does nothing when it drains already.
    pub fn start(&self, duration: Duration, gradual: bool) {
        self.0.send_if_modified(|phase| {
            let serving = *phase == DrainPhase::Serving;
            if serving {
                *phase = DrainPhase::Draining { started: Instant::now(), duration, ending: false, gradual };
            }
            serving
        });
    }

    /// Drains because the process is about to end, whatever was begun before: all clients are asked to go at once, and
    /// connections that do nothing are closed.
    pub fn end(&self, duration: Duration) {
        self.0.send_replace(DrainPhase::Draining {
            started: Instant::now(),
            duration,
            ending: true,
            gradual: false,
        });
    }

    /// Whether the time that was given to finish has passed.
    pub fn is_over(&self) -> bool {
        match *self.0.borrow() {
            DrainPhase::Serving => false,
            DrainPhase::Draining { started, duration, .. } => started.elapsed() >= duration,
            DrainPhase::Terminated => true,
        }
    }

    /// Cuts off what still runs.
    pub fn terminate(&self) {
        self.0.send_replace(DrainPhase::Terminated);
    }
}

/// The side that listens; one for each connection.
#[derive(Debug, Clone)]
pub struct DrainWatch(watch::Receiver<DrainPhase>);

impl DrainWatch {
    /// The phase now.
    pub fn phase(&self) -> DrainPhase {
        *self.0.borrow()
    }

    /// Whether the phase has changed since [`changed`](Self::changed) last returned on this very handle:
    /// an atomic load, for loops that cannot afford to poll that future each time.
    pub fn has_changed(&self) -> bool {
        self.0.has_changed().unwrap_or(false)
    }

    /// Waits until what still runs is to be cut off.
    pub async fn terminated(mut self) {
        while self.phase() != DrainPhase::Terminated {
            self.changed().await;
        }
    }

    /// Waits for the next change of phase. For ever, once the controller is gone.
    pub async fn changed(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether a connection that has just finished something should be closed now: always when draining
    /// at once, with a probability that grows to 1 over the drain time when gradual (as Envoy does).
    pub fn should_close(&self, rng: &impl Rng) -> bool {
        match self.phase() {
            DrainPhase::Serving => false,
            DrainPhase::Terminated | DrainPhase::Draining { gradual: false, .. } => true,
            DrainPhase::Draining { started, duration, gradual: true, .. } => {
                let elapsed = started.elapsed();
                elapsed >= duration || rng.below(duration.as_millis() as u64) < elapsed.as_millis() as u64
            }
        }
    }
}
