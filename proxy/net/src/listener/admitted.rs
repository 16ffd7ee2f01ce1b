//! The TLS sessions that a worker let in, for the day on which a context decides otherwise.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;

use outrider_config::model::FilterChainMatch;
use outrider_core::stream::TlsInfo;

use super::ListenerShared;
use super::shared::TlsSlot;
use super::worker::WorkerListeners;
use crate::drain::{DrainController, Elsewhere};

/// How long the judge has its turn: the worker's requests come between. In sessions that are looked at; one whose like was
/// not seen yet counts for [`SIGNATURE`], the some hundred microseconds that its certificate costs.
const TURN: usize = 256;
const SIGNATURE: usize = 32;
/// The registry is swept when it has doubled, but not below this.
const SWEEP: usize = 64;

/// TLS contexts of a listener that decide otherwise than before who gets in, and what is to become of the connections
/// that they would not let in.
#[derive(Debug)]
pub struct Narrowed {
    /// The listener, by whose stats they are counted.
    pub listener: Arc<ListenerShared>,
    /// The contexts.
    pub slots: Vec<NarrowedSlot>,
    /// The drains of the listener's chains: poked when a connection leaves them.
    pub chains: Vec<DrainController>,
    /// The drains that refused connections are given, in turn: over them, their ends are spread.
    pub drains: Vec<DrainController>,
}

/// One of them.
#[derive(Debug, Clone)]
pub struct NarrowedSlot {
    /// Where the context is.
    pub slot: TlsSlot,
    /// The match of its chain, where that has lost server names.
    pub matches: Option<FilterChainMatch>,
}

impl From<TlsSlot> for NarrowedSlot {
    fn from(slot: TlsSlot) -> Self {
        Self { slot, matches: None }
    }
}

/// Open TLS connections of a worker. What has closed is swept out now and then.
#[derive(Debug, Default)]
pub(super) struct Admitted(RefCell<Vec<Session>>);

/// A connection; nothing of it is kept alive.
#[derive(Debug, Clone)]
struct Session {
    slot: TlsSlot,
    tls: Weak<TlsInfo>,
    elsewhere: Weak<Elsewhere>,
}

impl Admitted {
    /// Remembers a connection that the context in `slot` let in.
    pub(super) fn add(&self, slot: &TlsSlot, tls: &Rc<TlsInfo>, elsewhere: &Rc<Elsewhere>) {
        let mut sessions = self.0.borrow_mut();
        if sessions.len() >= SWEEP && sessions.len() == sessions.capacity() {
            sessions.retain(|session| session.elsewhere.strong_count() > 0);
            let room = sessions.len().max(SWEEP);
            sessions.shrink_to(2 * room);
            sessions.reserve(room);
        }
        let (tls, elsewhere) = (Rc::downgrade(tls), Rc::downgrade(elsewhere));
        sessions.push(Session { slot: slot.clone(), tls, elsewhere });
    }

    fn of(&self, slots: &[NarrowedSlot]) -> Vec<Session> {
        let sessions = self.0.borrow();
        let is = |session: &&Session| slots.iter().any(|one| Arc::ptr_eq(&one.slot, &session.slot));
        sessions.iter().filter(is).cloned().collect()
    }
}

impl WorkerListeners {
    /// Looks at the open connections of contexts that changed: those that would not be let in any more are given a
    /// drain of their own. Goes on in the background.
    pub fn judge(&self, narrowed: Arc<Narrowed>) {
        let sessions = self.admitted.of(&narrowed.slots);
        if !sessions.is_empty() {
            tokio::task::spawn_local(judge(sessions, narrowed));
        }
    }
}

/// What a client showed: those who showed the same are judged the same.
type Shown = (*const (), Option<String>, Arc<[Box<[u8]>]>, &'static str, &'static str);

async fn judge(sessions: Vec<Session>, narrowed: Arc<Narrowed>) {
    let mut verdicts: HashMap<Shown, Result<(), &'static str>> = HashMap::new();
    let (mut cost, mut refused, mut waiting) = (0, 0, false);
    for Session { slot, tls, elsewhere } in sessions {
        let (Some(tls), Some(elsewhere)) = (tls.upgrade(), elsewhere.upgrade()) else { continue };
        let context = slot.load_full();
        let leaf = tls.peer.as_ref().map(|leaf| leaf.sha256.clone());
        let shown = (Arc::as_ptr(&context).cast(), leaf, tls.peer_chain.clone(), tls.version, tls.cipher);
        let mut verdict = *verdicts.entry(shown).or_insert_with(|| {
            cost += SIGNATURE;
            context.admits(&tls)
        });
        let of_slot = narrowed.slots.iter().filter(|one| Arc::ptr_eq(&one.slot, &slot));
        let sni = tls.sni.as_deref().unwrap_or_default().to_ascii_lowercase();
        if of_slot.filter_map(|one| one.matches.as_ref()).any(|matches| !matches.takes_name(&sni)) {
            verdict = verdict.and(Err("server_name"));
        }
        if let Err(reason) = verdict
            && let Some(drain) = narrowed.drains.get(refused % narrowed.drains.len().max(1))
            && elsewhere.follow(drain)
        {
            narrowed.listener.closed_by_update(reason);
            refused += 1;
            waiting = true;
        }
        cost += 1;
        if cost >= TURN {
            cost = 0;
            if std::mem::take(&mut waiting) {
                narrowed.chains.iter().for_each(DrainController::poke);
            }
            tokio::task::yield_now().await;
        }
    }
    if waiting {
        narrowed.chains.iter().for_each(DrainController::poke);
    }
    if refused > 0 {
        tracing::info!(
            listener = &*narrowed.listener.config().name,
            refused,
            "connections are closed that the new TLS settings would not let in"
        );
    }
}
