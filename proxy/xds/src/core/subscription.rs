//! What is subscribed to of one kind, and what is known of each resource.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use super::view::{ErrorState, Status};
use super::{Now, Outstanding, status};
use crate::{Kind, Refusal, Token};

/// The name that stands for all resources.
pub(super) const ALL: &str = "*";

/// One kind on one stream.
#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) kind: Kind,
    /// Subscribed to all resources.
    pub(super) all: bool,
    /// By name: what is asked for, and what the subscription to all brought.
    pub(super) resources: BTreeMap<Arc<str>, Entry>,
    /// State of the world: the last version that was taken whole, empty before; delta: the last one decided, for
    /// display.
    pub(super) version: Arc<str>,
    /// The newest response that was answered on this stream, by its nonce.
    pub(super) nonce: String,
    /// The newest response that was answered.
    pub(super) answered: Token,
    /// Responses of this stream that are not decided. At most as many as the event queue lets through.
    pub(super) in_flight: u32,
    /// Those, and what streams before left undecided: a new stream begins when all is decided, because it begins with
    /// what is in force.
    pub(super) undecided: u32,
    /// A request of this kind was made on this stream.
    pub(super) sent: bool,
    /// A name (or "*") was sent on this stream: from then on an empty list no longer means all.
    pub(super) named: bool,
    /// Delta: names to say in the next request.
    pub(super) added: BTreeSet<Arc<str>>,
    /// Delta: names to take back in the next request.
    pub(super) removed: BTreeSet<Arc<str>>,
    /// What was given up and asked for again without a request in between. The consumer forgot it, and the control
    /// plane sends it again only if it sees the subscription change (delta: a name that is asked for is always sent).
    pub(super) again: BTreeSet<Arc<str>>,
    /// State of the world: what is wanted changed since this stream began, so `version` may stand for a response to
    /// less than that. A control plane that hears it from a new stream would take it for all.
    pub(super) narrow: bool,
    /// How many times in a row the same version was refused again.
    pub(super) repeats: u32,
    /// Its NACK waits for a timer.
    pub(super) holding: bool,
    /// How many times [`super::Core::pause`] was called and not taken back.
    pub(super) paused: u32,
    /// What the last response with a refusal was refused for; cleared by one that is taken whole.
    pub(super) error: Option<ErrorState>,
}

/// One resource.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    /// Asked for by name.
    pub(super) requested: bool,
    /// Came under an alias that was asked for.
    aliased: bool,
    /// Verdicts on responses before this moment say nothing of this entry: it was forgotten in between.
    since: u64,
    /// The response (or removal) that decided last.
    decided: u64,
    /// The accepted version.
    pub(super) version: Option<Arc<str>>,
    pub(super) status: Status,
    /// That version is the present control plane's.
    pub(super) ours: bool,
    /// It is of an earlier life: its version, which is empty, is nobody's.
    adopted: bool,
    /// When the accepted version was accepted.
    pub(super) updated: Option<SystemTime>,
    /// The refused version beside it.
    pub(super) error: Option<Box<ErrorState>>,
}

impl Entry {
    fn new(requested: bool, since: u64) -> Self {
        Self {
            requested,
            aliased: false,
            since,
            decided: 0,
            version: None,
            ours: false,
            adopted: false,
            status: Status::Requested,
            updated: None,
            error: None,
        }
    }
}

impl Entry {
    fn refuse<'a>(&mut self, now: Now, version: &Arc<str>, refusals: impl Iterator<Item = &'a Refusal>) {
        self.status = Status::Nacked;
        let details = status::reasons(refusals);
        self.error = Some(Box::new(ErrorState { version: version.clone(), details, at: now.wall }));
    }
}

impl Subscription {
    /// Nothing is subscribed to.
    pub(super) fn new(kind: Kind) -> Self {
        Self {
            kind,
            all: false,
            resources: BTreeMap::new(),
            version: Arc::from(""),
            nonce: String::new(),
            answered: Token(0),
            in_flight: 0,
            undecided: 0,
            sent: false,
            named: false,
            added: BTreeSet::new(),
            removed: BTreeSet::new(),
            again: BTreeSet::new(),
            narrow: false,
            repeats: 0,
            holding: false,
            paused: 0,
            error: None,
        }
    }

    /// What is known of `name`.
    pub(super) fn entry(&self, name: &str) -> Option<&Entry> {
        self.resources.get(name)
    }

    /// Is `name` wanted?
    pub(super) fn wants(&self, name: &str) -> bool {
        self.all || self.resources.get(name).is_some_and(|entry| entry.requested || entry.aliased)
    }

    /// Is there anything to ask for?
    pub(super) fn wants_anything(&self) -> bool {
        self.all || self.resources.values().any(|entry| entry.requested)
    }

    /// Names that are asked for.
    pub(super) fn requested(&self) -> impl Iterator<Item = &Arc<str>> {
        self.resources.iter().filter(|(_, entry)| entry.requested).map(|(name, _)| name)
    }

    /// Asks for `name`; false when that is so already.
    pub(super) fn request(&mut self, name: &str, sequence: u64) -> bool {
        match self.resources.get_mut(name) {
            Some(entry) if entry.requested => return false,
            Some(entry) => entry.requested = true,
            None => {
                self.resources.insert(name.into(), Entry::new(true, sequence));
            }
        }
        self.narrow = true;
        // Removed and added again before anything was sent is an addition: the consumer forgot the resource, and
        // only the control plane can bring it back.
        if self.removed.remove(name) {
            self.again.insert(name.into());
        }
        if self.sent {
            self.added.insert(name.into());
        }
        true
    }

    /// Asks for all; false when that is so already.
    pub(super) fn request_all(&mut self) -> bool {
        if self.all {
            return false;
        }
        self.all = true;
        self.narrow = true;
        if self.removed.remove(ALL) {
            self.again.insert(ALL.into());
        }
        if self.sent {
            self.added.insert(ALL.into());
        }
        true
    }

    /// Gives `name` up; false when it was not asked for.
    pub(super) fn give_up(&mut self, name: &str) -> bool {
        let Some(entry) = self.resources.get_mut(name).filter(|entry| entry.requested) else { return false };
        let came = !matches!(entry.status, Status::Requested | Status::TimedOut | Status::Absent);
        if self.all && came || entry.status == Status::Received {
            // It may be one of all: if it is not, the control plane says that it is gone. Or it is about to be decided,
            // and is forgotten then.
            entry.requested = false;
        } else {
            self.resources.remove(name);
        }
        self.narrow = true;
        self.added.remove(name);
        self.again.remove(name);
        if self.sent {
            self.removed.insert(name.into());
        }
        true
    }

    /// Gives the subscription to all up and forgets what came by it; `None` when there was none.
    pub(super) fn give_up_all(&mut self) -> Option<Vec<Arc<str>>> {
        if !self.all {
            return None;
        }
        self.all = false;
        self.narrow = true;
        self.added.remove(ALL);
        self.again.remove(ALL);
        if self.sent {
            self.removed.insert(ALL.into());
        }
        let dropped: Vec<_> = self
            .resources
            .iter()
            .filter(|(_, entry)| !entry.requested)
            .map(|(name, _)| name.clone())
            .collect();
        self.resources.retain(|_, entry| entry.requested);
        Some(dropped)
    }

    /// The stream is gone, and with it all that was said on it.
    pub(super) fn stream_ended(&mut self) {
        self.nonce.clear();
        self.in_flight = 0;
        self.holding = false;
        self.sent = false;
        self.named = false;
        self.clear_changes();
    }

    /// A request said all that there is to say.
    pub(super) fn clear_changes(&mut self) {
        self.added.clear();
        self.removed.clear();
        self.again.clear();
    }

    /// The versions are another control plane's: shown, but no longer sent.
    pub(super) fn other_server(&mut self) {
        self.version = Arc::from("");
        for entry in self.resources.values_mut() {
            // What was adopted is in no control plane's version.
            entry.ours = entry.adopted;
        }
    }

    /// A response brings `name`, which is wanted.
    pub(super) fn received(&mut self, name: &Arc<str>, token: Token) {
        let aliased = !self.all;
        let new = || Entry { aliased, ..Entry::new(false, token.0) };
        let entry = self.resources.entry(name.clone()).or_insert_with(new);
        entry.status = Status::Received;
    }

    /// The consumer has `name`, in a version that is not this control plane's.
    pub(super) fn adopt(&mut self, name: &Arc<str>, sequence: u64) {
        let entry = self.resources.entry(name.clone()).or_insert_with(|| Entry::new(false, sequence));
        entry.status = Status::Acked;
        // No control plane calls a version so: whatever it has is news.
        entry.version = Some(Arc::from(""));
        (entry.ours, entry.adopted) = (true, true);
        entry.decided = sequence;
    }

    /// `name` does not exist, as of the moment `sequence`. True when the consumer may have it, or waits for it.
    pub(super) fn gone(&mut self, name: &str, sequence: u64) -> bool {
        let Some(entry) = self.resources.get_mut(name) else { return false };
        if entry.requested {
            *entry = Entry { status: Status::Absent, decided: sequence, ..Entry::new(true, entry.since) };
        } else {
            self.resources.remove(name);
        }
        true
    }

    /// `name` did not come in time.
    pub(super) fn timed_out(&mut self, name: &str) {
        if let Some(entry) = self.resources.get_mut(name)
            && entry.status == Status::Requested
        {
            entry.status = Status::TimedOut;
        }
    }

    /// Books the verdict on a response. `ours`: it is the present control plane's. True when no newer response was
    /// decided before.
    pub(super) fn decide(
        &mut self,
        now: Now,
        token: Token,
        update: &Outstanding,
        refused: &[Refusal],
        ours: bool,
    ) -> bool {
        let mut bad: HashMap<&str, Vec<&Refusal>> = HashMap::new();
        for refusal in refused {
            bad.entry(&refusal.name).or_default().push(refusal);
        }
        for decided in &update.resources {
            let Some(entry) = self.resources.get_mut(&decided.entry) else { continue };
            if entry.since > token.0 || entry.decided > token.0 {
                continue;
            }
            entry.decided = token.0;
            if let Some(refusals) = bad.get(&*decided.resource) {
                entry.refuse(now, &decided.version, refusals.iter().copied());
            } else {
                entry.status = Status::Acked;
                entry.version = Some(decided.version.clone());
                entry.ours = ours && decided.entry == decided.resource;
                entry.adopted = false;
                entry.updated = Some(now.wall);
                entry.error = None;
            }
            if !self.wants(&decided.entry) {
                // Given up while it was being decided.
                self.resources.remove(&decided.entry);
            }
        }
        for refusal in &update.refused {
            // Refused before the consumer saw it: nothing of that name is in the list above, or only its first copy.
            if let Some(entry) = self.resources.get_mut(&*refusal.name)
                && entry.decided < token.0
                && entry.since <= token.0
            {
                entry.decided = token.0;
                entry.refuse(now, &update.version, [refusal].into_iter());
            }
        }
        if token < self.answered {
            return false;
        }
        self.answered = token;
        if refused.is_empty() && update.refused.is_empty() {
            self.error = None;
            self.repeats = 0;
            if ours {
                self.version = update.version.clone();
            }
        } else {
            let all: Vec<_> = update.refused.iter().chain(refused).cloned().collect();
            let details = status::message(self.kind, &all);
            let again = self.error.as_ref().is_some_and(|error| error.version == update.version);
            self.repeats = if again { self.repeats.saturating_add(1) } else { 0 };
            self.error = Some(ErrorState { version: update.version.clone(), details, at: now.wall });
        }
        true
    }
}
