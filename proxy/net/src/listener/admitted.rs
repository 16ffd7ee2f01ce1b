//! The connections that a worker let in, for the day on which a TLS context, or the filters in front of a chain's last,
//! decide otherwise.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::{Rc, Weak};
use std::sync::Arc;

use outrider_config::model::FilterChainMatch;
use outrider_core::stream::TlsInfo;

use super::ListenerShared;
use super::shared::TlsSlot;
use super::worker::WorkerListeners;
use crate::drain::{DrainController, Elsewhere};
use crate::handler::Entry;

/// How long the judge has its turn: the worker's requests come between. In connections that are looked at; a session whose
/// like was not seen yet counts for [`SIGNATURE`], the some hundred microseconds that its certificate costs, and one that
/// policies are asked about for [`POLICIES`].
const TURN: usize = 256;
const SIGNATURE: usize = 32;
const POLICIES: usize = 8;
/// The registry is swept when it has doubled, or when half of what is in it has closed, but not below this.
const SWEEP: usize = 64;

/// What of a listener decides otherwise than before who gets in, and what is to become of the connections that it would
/// not let in.
#[derive(Debug)]
pub struct Narrowed {
    /// The listener, by whose stats they are counted.
    pub listener: Arc<ListenerShared>,
    /// The TLS contexts.
    pub slots: Vec<NarrowedSlot>,
    /// The chains whose filters in front of the last are others.
    pub entries: Vec<NarrowedEntry>,
    /// The drains of the listener's chains: poked when a connection leaves them.
    pub chains: Vec<DrainController>,
    /// The drains that refused connections are given, in turn: over them, their ends are spread.
    pub drains: Vec<DrainController>,
}

/// One of the contexts.
#[derive(Debug, Clone)]
pub struct NarrowedSlot {
    /// Where the context is.
    pub slot: TlsSlot,
    /// The match of its chain, where that has lost server names.
    pub matches: Option<FilterChainMatch>,
}

/// One of the chains.
#[derive(Debug, Clone)]
pub struct NarrowedEntry {
    /// The drain of the chain: those that have it are its connections.
    pub chain: DrainController,
    /// What decides now.
    pub entry: Arc<dyn Entry>,
}

impl From<TlsSlot> for NarrowedSlot {
    fn from(slot: TlsSlot) -> Self {
        Self { slot, matches: None }
    }
}

/// Open connections of a worker. What has closed is swept out now and then.
#[derive(Debug, Default)]
pub(super) struct Admitted {
    sessions: RefCell<Vec<Session>>,
    /// How many have closed since the last sweep.
    left: Cell<usize>,
}

/// A connection; nothing of it is kept alive.
#[derive(Debug, Clone)]
struct Session {
    /// The place of the context that let it in, on TLS.
    slot: Option<TlsSlot>,
    elsewhere: Weak<Elsewhere>,
}

impl Admitted {
    /// Remembers a connection, which the context in `slot` let in if there is one.
    pub(super) fn add(&self, slot: Option<&TlsSlot>, elsewhere: &Rc<Elsewhere>) {
        let mut sessions = self.sessions.borrow_mut();
        if sessions.len() >= SWEEP && sessions.len() == sessions.capacity() {
            self.sweep(&mut sessions);
            let room = sessions.len().max(SWEEP);
            sessions.reserve(room);
        }
        sessions.push(Session { slot: slot.cloned(), elsewhere: Rc::downgrade(elsewhere) });
    }

    /// A connection has closed.
    pub(super) fn left(&self) {
        let left = self.left.get() + 1;
        self.left.set(left);
        let mut sessions = self.sessions.borrow_mut();
        if left >= SWEEP && 2 * left >= sessions.len() {
            self.sweep(&mut sessions);
        }
    }

    fn sweep(&self, sessions: &mut Vec<Session>) {
        self.left.set(0);
        sessions.retain(|session| session.elsewhere.strong_count() > 0);
        let room = sessions.len().max(SWEEP);
        sessions.shrink_to(2 * room);
    }

    fn of(&self, narrowed: &Narrowed) -> Vec<Session> {
        let slots: HashSet<_> = narrowed.slots.iter().map(|one| Arc::as_ptr(&one.slot)).collect();
        let chains: HashSet<_> = narrowed.entries.iter().map(|one| one.chain.id()).collect();
        let is = |session: &&Session| {
            session.slot.as_ref().is_some_and(|slot| slots.contains(&Arc::as_ptr(slot)))
                || !chains.is_empty()
                    && session.elsewhere.upgrade().is_some_and(|open| chains.contains(&open.chain()))
        };
        self.sessions.borrow().iter().filter(is).cloned().collect()
    }
}

impl WorkerListeners {
    /// Looks at the open connections of what changed: those that would not be let in any more are given a drain of their
    /// own. Goes on in the background.
    pub fn judge(&self, narrowed: Arc<Narrowed>) {
        let sessions = self.admitted.of(&narrowed);
        if !sessions.is_empty() {
            tokio::task::spawn_local(judge(sessions, narrowed));
        }
    }
}

/// What a client showed: those who showed the same are judged the same.
type Shown = (*const (), Option<String>, Arc<[Box<[u8]>]>, &'static str, &'static str);

/// What was found out so far, and what the turn cost.
#[derive(Default)]
struct Judge {
    verdicts: HashMap<Shown, Result<(), &'static str>>,
    cost: usize,
}

async fn judge(sessions: Vec<Session>, narrowed: Arc<Narrowed>) {
    let mut judge = Judge::default();
    let (mut refused, mut waiting) = (0, false);
    for Session { slot, elsewhere } in sessions {
        let Some(elsewhere) = elsewhere.upgrade() else { continue };
        let conn = elsewhere.conn();
        let tls = conn.tls.as_ref().zip(slot.as_ref());
        let mut verdict = tls.map_or(Ok(()), |(tls, slot)| judge.session(slot, tls, &narrowed));
        if let Some(one) = narrowed.entries.iter().find(|one| one.chain.id() == elsewhere.chain()) {
            judge.cost += POLICIES;
            verdict = verdict.and_then(|()| one.entry.admits(conn));
        }
        if let Err(reason) = verdict
            && let Some(drain) = narrowed.drains.get(refused % narrowed.drains.len().max(1))
            && elsewhere.follow(drain)
        {
            narrowed.listener.closed_by_update(reason);
            refused += 1;
            waiting = true;
        }
        judge.cost += 1;
        if judge.cost >= TURN {
            judge.cost = 0;
            if std::mem::take(&mut waiting) {
                narrowed.chains.iter().for_each(DrainController::poke);
            }
            drop(elsewhere);
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
            "connections are closed that the new settings would not let in"
        );
    }
}

impl Judge {
    /// Whether the context in `slot`, where it is one of those that changed, would let the session in, and its chain.
    fn session(&mut self, slot: &TlsSlot, tls: &TlsInfo, narrowed: &Narrowed) -> Result<(), &'static str> {
        let mut of_slot = narrowed.slots.iter().filter(|one| Arc::ptr_eq(&one.slot, slot)).peekable();
        if of_slot.peek().is_none() {
            return Ok(());
        }
        let context = slot.load_full();
        let leaf = tls.peer.as_ref().map(|leaf| leaf.sha256.clone());
        let shown = (Arc::as_ptr(&context).cast(), leaf, tls.peer_chain.clone(), tls.version, tls.cipher);
        let cost = &mut self.cost;
        let verdict = *self.verdicts.entry(shown).or_insert_with(|| {
            *cost += SIGNATURE;
            context.admits(tls)
        });
        let sni = tls.sni.as_deref().unwrap_or_default().to_ascii_lowercase();
        if of_slot.filter_map(|one| one.matches.as_ref()).any(|matches| !matches.takes_name(&sni)) {
            return verdict.and(Err("server_name"));
        }
        verdict
    }
}
