//! Draining: how connections learn that they should finish.

use std::cell::OnceCell;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use outrider_core::ConnInfo;
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
pub struct DrainController {
    phase: watch::Sender<DrainPhase>,
    reason: Arc<OnceLock<&'static str>>,
}

impl DrainController {
    /// A controller whose watchers serve.
    #[expect(clippy::new_without_default, reason = "a controller is made on purpose")]
    pub fn new() -> Self {
        Self { phase: watch::Sender::new(DrainPhase::Serving), reason: Arc::default() }
    }

    /// A watcher.
    pub fn watch(&self) -> DrainWatch {
        DrainWatch { phase: self.phase.subscribe(), reason: self.reason.clone(), elsewhere: None }
    }

    /// [`start`](Self::start) for a reason, by which the connections that end from now on are counted.
    pub fn start_because(&self, reason: &'static str, duration: Duration, gradual: bool) {
        // The first reason counts.
        let _ = self.reason.set(reason);
        self.start(duration, gradual);
    }

    /// Tells it from other controllers, for as long as it or one of its watches lives.
    pub(crate) fn id(&self) -> *const () {
        Arc::as_ptr(&self.reason).cast()
    }

    /// Wakes all watchers: some of them are to follow another controller.
    pub fn poke(&self) {
        self.phase.send_modify(|_| {});
    }

    /// Begins to drain. Does nothing when it drains already.
    pub fn start(&self, duration: Duration, gradual: bool) {
        self.phase.send_if_modified(|phase| {
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
        self.phase.send_replace(DrainPhase::Draining {
            started: Instant::now(),
            duration,
            ending: true,
            gradual: false,
        });
    }

    /// Whether the time that was given to finish has passed.
    pub fn is_over(&self) -> bool {
        match *self.phase.borrow() {
            DrainPhase::Serving => false,
            DrainPhase::Draining { started, duration, .. } => started.elapsed() >= duration,
            DrainPhase::Terminated => true,
        }
    }

    /// Cuts off what still runs.
    pub fn terminate(&self) {
        self.phase.send_replace(DrainPhase::Terminated);
    }
}

/// The side that listens; one for each connection.
#[derive(Debug, Clone)]
pub struct DrainWatch {
    phase: watch::Receiver<DrainPhase>,
    reason: Arc<OnceLock<&'static str>>,
    /// Present where the connection may be told to follow another controller.
    elsewhere: Option<Rc<Elsewhere>>,
}

/// The way to have one connection drained by itself: its watches follow another controller than those of its chain.
#[derive(Debug)]
pub(crate) struct Elsewhere {
    phase: OnceCell<watch::Receiver<DrainPhase>>,
    /// The chain's.
    reason: Arc<OnceLock<&'static str>>,
    conn: Rc<ConnInfo>,
}

impl Elsewhere {
    /// The connection.
    pub(crate) fn conn(&self) -> &Rc<ConnInfo> {
        &self.conn
    }

    /// The [`id`](DrainController::id) of its chain's controller.
    pub(crate) fn chain(&self) -> *const () {
        Arc::as_ptr(&self.reason).cast()
    }

    /// From the next [`DrainController::poke`] of their own on, the watches follow `controller`. False when they
    /// follow another one already.
    pub(crate) fn follow(&self, controller: &DrainController) -> bool {
        self.phase.set(controller.phase.subscribe()).is_ok()
    }
}

impl DrainWatch {
    /// A watch of the same, for `conn`, that can be told to follow another controller.
    pub(crate) fn movable(&self, conn: Rc<ConnInfo>) -> (Self, Rc<Elsewhere>) {
        let elsewhere = Rc::new(Elsewhere { phase: OnceCell::new(), reason: self.reason.clone(), conn });
        (Self { elsewhere: Some(elsewhere.clone()), ..self.clone() }, elsewhere)
    }

    /// The phase now.
    pub fn phase(&self) -> DrainPhase {
        let elsewhere = self.elsewhere.as_ref().and_then(|elsewhere| elsewhere.phase.get());
        *elsewhere.unwrap_or(&self.phase).borrow()
    }

    /// Why it drains, where that was said.
    pub fn reason(&self) -> Option<&'static str> {
        self.reason.get().copied()
    }

    /// Whether the phase has changed since this was last asked of this very handle: an atomic load, for loops that
    /// cannot afford to poll [`changed`](Self::changed) each time.
    pub fn take_change(&mut self) -> bool {
        match self.phase.has_changed() {
            Ok(false) => false,
            Ok(true) => {
                self.phase.mark_unchanged();
                self.move_on();
                true
            }
            // What was said last may not have been heard.
            Err(_) => self.phase() == DrainPhase::Terminated,
        }
    }

    /// Takes up the other controller, if there is one now.
    fn move_on(&mut self) {
        let elsewhere = self.elsewhere.as_ref().and_then(|elsewhere| elsewhere.phase.get());
        if let Some(phase) = elsewhere.cloned() {
            self.phase = phase;
            self.elsewhere = None;
        }
    }

    /// Waits until what still runs is to be cut off.
    pub async fn terminated(mut self) {
        while self.phase() != DrainPhase::Terminated {
            self.changed().await;
        }
    }

    /// Waits for the next change of phase. For ever, once the controller is gone.
    pub async fn changed(&mut self) {
        if self.phase.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
        self.move_on();
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

#[cfg(test)]
mod tests {
    use outrider_core::stream::Address;

    use super::*;

    const LONG: Duration = Duration::from_secs(600);

    fn conn() -> Rc<ConnInfo> {
        let address = Address::Pipe("".into());
        Rc::new(ConnInfo {
            id: 1,
            remote: address.clone(),
            direct_remote: address.clone(),
            local: address.clone(),
            direct_local: address,
            local_restored: false,
            source: None,
            sni: None,
            tls: None,
            filter_chain: "".into(),
            origin: Arc::default(),
            handshake: None,
            accepted: Instant::now(),
            termination_details: OnceCell::new(),
            reset: Default::default(),
            transport_failure: OnceCell::new(),
        })
    }

    #[tokio::test]
    async fn one_watch_follows_another_controller_and_its_neighbour_does_not() {
        let (chain, other) = (DrainController::new(), DrainController::new());
        let neighbour = chain.watch();
        let (watch, elsewhere) = chain.watch().movable(conn());
        assert!(elsewhere.chain() == chain.id() && elsewhere.chain() != other.id());
        let mut asked = watch.clone();
        assert!(!asked.take_change());
        other.start(LONG, false);
        let moved = async {
            assert!(elsewhere.follow(&other) && !elsewhere.follow(&chain));
            chain.poke();
            tokio::task::yield_now().await;
            assert!(asked.take_change() && !asked.take_change());
            assert!(matches!(asked.phase(), DrainPhase::Draining { .. }));
            assert_eq!(neighbour.phase(), DrainPhase::Serving);
            other.terminate();
        };
        let ((), ()) = tokio::join!(watch.terminated(), moved);
        assert!(asked.take_change());
        assert_eq!((asked.phase(), neighbour.phase()), (DrainPhase::Terminated, DrainPhase::Serving));
    }

    #[test]
    fn a_change_is_told_once_and_the_end_always() {
        let chain = DrainController::new();
        let mut watch = chain.watch();
        chain.start_because("a_reason", LONG, true);
        chain.start_because("another", LONG, true);
        assert!(watch.take_change() && !watch.take_change());
        assert_eq!(watch.reason(), Some("a_reason"));
        chain.terminate();
        drop(chain);
        assert!(watch.take_change() && watch.take_change());
        let mut left = DrainController::new().watch();
        assert!(!left.take_change(), "who is gone has nothing to say");
    }
}
