//! Generations: each applied change has a number, and the last of them can be looked at.
//!
//! What becomes active in one go is one generation, whatever its kinds. A change is noted where the records learn that
//! a version is in force or gone, so that every kind of resource is covered without a hook of its own.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use outrider_config::model;
use outrider_core::generation;
use outrider_core::stats::Registry;
use outrider_xds::Kind;
use tokio::sync::watch;

use super::controller::lock;

/// How many generations are kept to be looked at.
const KEPT: usize = 50;

/// How many names a generation lists of one kind; the rest is counted.
const NAMES: usize = 100;

outrider_core::stat_struct! {
    /// `server.outrider.`
    struct GenerationStats {
        counters { resources_added, resources_updated, resources_removed }
        gauges { generation }
        histograms { change_ms }
    }
}

/// What happened to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It was not there before.
    Added,
    /// It took the place of another version.
    Updated,
    /// It is gone.
    Removed,
}

impl Action {
    /// In words.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Added => "added",
            Self::Updated => "updated",
            Self::Removed => "removed",
        }
    }
}

/// What takes time on the way of a resource.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Step<'a> {
    /// From the wire to the model.
    Convert(Kind, &'a Arc<str>),
    /// From the model to what runs.
    Build(Kind, &'a Arc<str>),
    /// Making it visible to the workers, of whatever resource.
    Publish,
}

/// How long the steps of a change took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Times {
    /// From the wire to the model, over all resources.
    pub convert: Duration,
    /// From the model to what runs, over all resources.
    pub build: Duration,
    /// What the slowest resource waited: for what it needs, and for those that were taken before it.
    pub warm: Duration,
    /// Making it visible to the workers.
    pub publish: Duration,
    /// From the arrival of the first resource until all were in force.
    pub total: Duration,
}

/// Resources of one kind to which the same happened, from the same source.
#[derive(Debug, Clone)]
pub struct Change {
    /// The kind.
    pub kind: Kind,
    /// What happened.
    pub action: Action,
    /// Where they came from: the control plane (and what it calls itself), a file, the bootstrap. Empty when what was
    /// in force went by itself.
    pub source: Arc<str>,
    /// How many they are.
    pub count: usize,
    /// Names and versions of the first hundred.
    pub resources: Vec<(Arc<str>, Arc<str>)>,
}

/// One applied change.
#[derive(Debug, Clone)]
pub struct Generation {
    /// Its number.
    pub number: u64,
    /// Since when it is in force.
    pub at: SystemTime,
    /// How long it took.
    pub times: Times,
    /// What changed.
    pub changes: Vec<Change>,
}

/// The generations. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct Generations(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stats: GenerationStats,
    state: Mutex<State>,
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct State {
    kept: VecDeque<Arc<Generation>>,
    number: u64,
    /// Where what is being taken comes from.
    source: Arc<str>,
    origin: Option<Arc<str>>,
    /// The resource at work that is no change yet.
    last: Option<(Kind, Arc<str>, Pending)>,
    /// Taken, but not in force.
    pending: HashMap<(Kind, Arc<str>), Pending>,
    /// In force, but not numbered.
    open: Vec<Change>,
    times: Times,
    first: Option<Instant>,
}

#[derive(Debug, Clone)]
struct Pending {
    source: Arc<str>,
    came: Instant,
    convert: Duration,
    build: Duration,
}

impl Pending {
    fn add(&mut self, step: Step<'_>, took: Duration) {
        match step {
            Step::Convert(..) => self.convert += took,
            Step::Build(..) => self.build += took,
            Step::Publish => {}
        }
    }
}

impl Generations {
    /// The first generation: what the bootstrap holds.
    pub(crate) fn new(registry: &Registry, bootstrap: &model::Bootstrap, started: Instant) -> Self {
        let source: Arc<str> = "bootstrap".into();
        let mut state = State { source, first: Some(started), ..State::default() };
        let none: Arc<str> = "".into();
        for cluster in &bootstrap.clusters {
            state.changed(Kind::Cluster, Action::Added, &cluster.name, &none);
        }
        for listener in &bootstrap.listeners {
            state.changed(Kind::Listener, Action::Added, &listener.name, &none);
        }
        let new = Self(Arc::new(Inner {
            stats: GenerationStats::new(registry.scope("server.outrider.")),
            state: Mutex::new(state),
            changes: watch::Sender::default(),
        }));
        new.close();
        new
    }

    /// What is taken from now on comes from `source`; `origin` is what the stream is called on disk.
    pub(crate) fn taking(&self, source: Arc<str>, origin: Option<Arc<str>>) {
        let mut state = lock(&self.0.state);
        (state.source, state.origin) = (source, origin);
    }

    /// Turns with each generation.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.0.changes.subscribe()
    }

    /// Does `work` and books the time it takes.
    pub(crate) fn time<T>(&self, step: Step<'_>, work: impl FnOnce() -> T) -> T {
        let begin = Instant::now();
        let result = work();
        let took = begin.elapsed();
        let mut state = lock(&self.0.state);
        match step {
            Step::Publish => state.times.publish += took,
            Step::Convert(kind, name) | Step::Build(kind, name) => state.book(kind, name, step, took, begin),
        }
        result
    }

    /// A version came that will be in force once it is warm. Returns the origin of what is taken.
    pub(super) fn came(&self, kind: Kind, name: &Arc<str>) -> Option<Arc<str>> {
        let mut state = lock(&self.0.state);
        let last = state.last.take().filter(|(of, known, _)| *of == kind && known == name);
        let pending = last.map_or_else(|| state.begin(Instant::now()), |(_, _, pending)| pending);
        state.pending.insert((kind, name.clone()), pending);
        state.origin.clone()
    }

    /// A version that came will not be in force.
    pub(super) fn given_up(&self, kind: Kind, name: &Arc<str>) {
        lock(&self.0.state).pending.remove(&(kind, name.clone()));
    }

    /// Something is in force, or gone.
    pub(super) fn changed(&self, kind: Kind, action: Action, name: &Arc<str>, version: &Arc<str>) {
        lock(&self.0.state).changed(kind, action, name, version);
    }

    /// All that changed since the last call is one generation; nothing is none.
    pub(crate) fn close(&self) {
        let mut state = lock(&self.0.state);
        let Some(generation) = state.close() else { return };
        generation::set(generation.number);
        drop(state);
        self.0.changes.send_replace(generation.number);
        let stats = &self.0.stats;
        stats.generation().set(generation.number);
        let count = |action| {
            let of = generation.changes.iter().filter(|change| change.action == action);
            of.map(|change| change.count as u64).sum()
        };
        stats.resources_added().add(count(Action::Added));
        stats.resources_updated().add(count(Action::Updated));
        stats.resources_removed().add(count(Action::Removed));
        if generation.number > generation::FIRST {
            let total = u64::try_from(generation.times.total.as_millis());
            stats.change_ms().record(total.unwrap_or(u64::MAX));
            tracing::debug!(generation = generation.number, took = ?generation.times.total, "in force");
        }
    }

    /// The last generations, the newest first.
    pub fn list(&self) -> Vec<Arc<Generation>> {
        lock(&self.0.state).kept.iter().rev().cloned().collect()
    }
}

impl State {
    fn begin(&self, came: Instant) -> Pending {
        Pending { source: self.source.clone(), came, convert: Duration::ZERO, build: Duration::ZERO }
    }

    fn book(&mut self, kind: Kind, name: &Arc<str>, step: Step<'_>, took: Duration, begin: Instant) {
        let key = (kind, name.clone());
        if let (Step::Build(..), Some(pending)) = (step, self.pending.get_mut(&key)) {
            pending.add(step, took);
            return;
        }
        match &mut self.last {
            Some((of, known, pending)) if *of == kind && known == name => pending.add(step, took),
            last => {
                let mut pending = Pending {
                    source: self.source.clone(),
                    came: begin,
                    convert: Duration::ZERO,
                    build: Duration::ZERO,
                };
                pending.add(step, took);
                *last = Some((kind, key.1, pending));
            }
        }
    }

    fn changed(&mut self, kind: Kind, action: Action, name: &Arc<str>, version: &Arc<str>) {
        let pending = self.pending.remove(&(kind, name.clone()));
        let source = pending.as_ref().map_or(&self.source, |pending| &pending.source).clone();
        if let Some(Pending { came, convert, build, .. }) = pending {
            self.times.convert += convert;
            self.times.build += build;
            let waited = came.elapsed().saturating_sub(convert + build);
            self.times.warm = self.times.warm.max(waited);
            self.first = Some(self.first.map_or(came, |first| first.min(came)));
        }
        let same =
            |change: &&mut Change| change.kind == kind && change.action == action && change.source == source;
        let entry = (name.clone(), version.clone());
        match self.open.iter_mut().find(same) {
            Some(change) => {
                change.count += 1;
                if change.resources.len() < NAMES {
                    change.resources.push(entry);
                }
            }
            None => self.open.push(Change { kind, action, source, count: 1, resources: vec![entry] }),
        }
    }

    fn close(&mut self) -> Option<Arc<Generation>> {
        let mut times = std::mem::take(&mut self.times);
        self.source = Arc::default();
        self.last = None;
        let first = self.first.take();
        if self.open.is_empty() {
            return None;
        }
        times.total = first.map_or(times.publish, |first| first.elapsed());
        if self.pending.is_empty() {
            // What a large update needed is given back.
            self.pending = HashMap::new();
        }
        self.number += 1;
        let changes = std::mem::take(&mut self.open);
        let generation = Arc::new(Generation { number: self.number, at: SystemTime::now(), times, changes });
        if self.kept.len() == KEPT {
            self.kept.pop_front();
        }
        self.kept.push_back(generation.clone());
        Some(generation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generations() -> Generations {
        let state = State { number: generation::FIRST, ..State::default() };
        let stats = GenerationStats::new(Registry::new().scope("server.outrider."));
        Generations(Arc::new(Inner { stats, state: Mutex::new(state), changes: watch::Sender::default() }))
    }

    #[test]
    fn what_becomes_active_in_one_go_is_one_generation_with_the_time_of_each_step() {
        let all = generations();
        let (a, b, version): (Arc<str>, Arc<str>, Arc<str>) = ("a".into(), "b".into(), "7".into());
        all.taking("plane".into(), None);
        let wait = || {
            let begin = Instant::now();
            while begin.elapsed() < Duration::from_millis(2) {}
        };
        all.time(Step::Convert(Kind::Cluster, &a), wait);
        all.came(Kind::Cluster, &a);
        all.time(Step::Build(Kind::Cluster, &a), wait);
        all.close();
        assert!(all.list().is_empty(), "nothing is in force yet");
        all.taking("other".into(), None);
        all.time(Step::Convert(Kind::Route, &b), || ());
        all.came(Kind::Route, &b);
        all.changed(Kind::Route, Action::Added, &b, &version);
        all.time(Step::Publish, wait);
        all.changed(Kind::Cluster, Action::Updated, &a, &version);
        all.close();
        let list = all.list();
        let [only] = &list[..] else { panic!("{list:?}") };
        assert_eq!(only.number, 2);
        let changes: Vec<_> =
            only.changes.iter().map(|change| (change.kind, change.action, &*change.source)).collect();
        assert_eq!(
            changes,
            [(Kind::Route, Action::Added, "other"), (Kind::Cluster, Action::Updated, "plane")]
        );
        let Times { convert, build, publish, total, .. } = only.times;
        let least = Duration::from_millis(2);
        assert!(convert >= least && build >= least && publish >= least, "{:?}", only.times);
        assert!(total >= convert + build + publish, "{:?}", only.times);
    }

    #[test]
    fn the_last_fifty_are_kept_and_names_are_limited() {
        let all = generations();
        let version: Arc<str> = "1".into();
        for round in 0..60 {
            for name in 0..150 {
                let name: Arc<str> = format!("{round}-{name}").into();
                all.changed(Kind::Endpoint, Action::Added, &name, &version);
            }
            all.close();
        }
        let list = all.list();
        assert_eq!((list.len(), list[0].number, list[49].number), (50, 61, 12));
        assert_eq!((list[0].changes[0].count, list[0].changes[0].resources.len()), (150, NAMES));
    }
}
