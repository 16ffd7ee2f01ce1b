//! Names to slots, and the shards that the slots live in.

use std::cell::Cell;
use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};

use super::histogram::{Buckets, HistogramShard};
use super::scope::Scope;

const CHUNK: usize = 512;
const CHUNKS: usize = 2048;

/// What a stat is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Only grows.
    Counter,
    /// Goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
    /// Text, such as a version.
    TextReadout,
}

/// A stat's slot: the index of its cell in every shard. 0 is nobody's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct StatId(pub(super) u32);

/// What a reader gets of one stat.
#[derive(Debug, Clone)]
pub enum Value {
    /// A counter's or gauge's sum over the shards.
    Number(u64),
    /// A histogram's merged buckets.
    Histogram(Buckets),
    /// A text readout's text.
    Text(Arc<str>),
}

/// One stat as read.
#[derive(Debug, Clone)]
pub struct Sample {
    /// The whole name.
    pub name: Arc<str>,
    /// Counter, gauge or histogram.
    pub kind: Kind,
    /// Its value now.
    pub value: Value,
}

/// All stats of the process. Cloning gives another handle to the same.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    names: Mutex<Names>,
    filter: OnceLock<NameFilter>,
    texts: Mutex<BTreeMap<Arc<str>, Arc<str>>>,
    sources: Mutex<Vec<Source>>,
    shared: Mutex<HashMap<Box<str>, Weak<AtomicU64>>>,
}

/// Adds stats that are kept elsewhere to what a reader gets.
pub type Source = Box<dyn Fn(&mut Vec<Sample>) + Send + Sync>;

/// Says which names may exist.
pub type NameFilter = Box<dyn Fn(&str) -> bool + Send + Sync>;

/// The slot of stats that may not exist: beyond every shard, so that writing it does nothing.
const REJECTED: StatId = StatId(u32::MAX);

#[derive(Default)]
struct Names {
    ids: HashMap<(Arc<str>, Kind), StatId>,
    list: Vec<(Arc<str>, Kind, StatId)>,
}

// Slots are the process's: shards belong to threads, and threads outlive registries in tests.
static SHARDS: Mutex<Vec<&'static Shard>> = Mutex::new(Vec::new());
static NEXT: AtomicU64 = AtomicU64::new(1);

/// A run of slots that exists from the first use of one of them on.
type Chunk<T> = OnceLock<Box<[T; CHUNK]>>;

struct Shard {
    cells: Box<[Chunk<AtomicU64>]>,
    histograms: Box<[Chunk<OnceLock<Box<HistogramShard>>>]>,
}

thread_local! {
    static MINE: Cell<Option<&'static Shard>> = const { Cell::new(None) };
}

#[inline]
fn mine() -> &'static Shard {
    match MINE.with(Cell::get) {
        Some(shard) => shard,
        None => enter(),
    }
}

/// Makes this thread's shard. Out of line: inlined, the shard on its stack would make every increment probe it.
#[cold]
#[inline(never)]
fn enter() -> &'static Shard {
    // Threads that count are the workers and the control thread: a fixed few, which
    // live as long as the process. Their shards are read after they end.
    let shard: &'static Shard = Box::leak(Shard::boxed());
    SHARDS.lock().unwrap_or_else(PoisonError::into_inner).push(shard);
    MINE.set(Some(shard));
    shard
}

/// Cells that hold 0, out of line for the same reason.
#[cold]
#[inline(never)]
fn new_chunk() -> Box<[AtomicU64; CHUNK]> {
    Box::new([const { AtomicU64::new(0) }; CHUNK])
}

/// Places for histograms, of which none is made yet.
#[cold]
#[inline(never)]
fn new_histograms() -> Box<[OnceLock<Box<HistogramShard>>; CHUNK]> {
    Box::new([const { OnceLock::new() }; CHUNK])
}

impl Shard {
    fn boxed() -> Box<Self> {
        // The tables are built on the heap: threads may have small stacks.
        Box::new(Self {
            cells: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
            histograms: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
        })
    }

    fn cell(&self, id: StatId) -> Option<&AtomicU64> {
        let chunk = self.cells.get(id.0 as usize / CHUNK)?;
        Some(&chunk.get_or_init(new_chunk)[id.0 as usize % CHUNK])
    }

    fn read(&self, id: StatId) -> u64 {
        let chunk = self.cells.get(id.0 as usize / CHUNK).and_then(OnceLock::get);
        chunk.map_or(0, |chunk| chunk[id.0 as usize % CHUNK].load(Relaxed))
    }

    fn histogram(&self, id: StatId) -> Option<&HistogramShard> {
        let chunk = self.histograms.get(id.0 as usize / CHUNK)?;
        let chunk = chunk.get_or_init(new_histograms);
        Some(chunk[id.0 as usize % CHUNK].get_or_init(Box::default))
    }

    fn read_histogram(&self, id: StatId) -> Option<&HistogramShard> {
        let chunk = self.histograms.get(id.0 as usize / CHUNK)?.get()?;
        chunk[id.0 as usize % CHUNK].get().map(|shard| &**shard)
    }
}

impl StatId {
    pub(super) fn add(self, n: u64) {
        if let Some(cell) = mine().cell(self) {
            // Only this thread writes the cell: no locked instruction is needed.
            cell.store(cell.load(Relaxed).wrapping_add(n), Relaxed);
        }
    }

    pub(super) fn set(self, value: u64) {
        let others: u64 = shards().iter().fold(0, |sum, s| sum.wrapping_add(s.read(self)));
        let own = mine().cell(self).map_or(0, |cell| cell.load(Relaxed));
        if let Some(cell) = mine().cell(self) {
            cell.store(value.wrapping_sub(others.wrapping_sub(own)), Relaxed);
        }
    }

    pub(super) fn record(self, value: u64) {
        if let Some(histogram) = mine().histogram(self) {
            histogram.record(value);
        }
    }

    fn total(self) -> u64 {
        shards().iter().fold(0, |sum, shard| sum.wrapping_add(shard.read(self)))
    }

    fn merged(self) -> Buckets {
        let mut buckets = Buckets::default();
        for shard in shards() {
            if let Some(histogram) = shard.read_histogram(self) {
                histogram.merge_into(&mut buckets);
            }
        }
        buckets
    }
}

fn shards() -> Vec<&'static Shard> {
    SHARDS.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

impl Registry {
    /// An empty registry.
    #[expect(clippy::new_without_default, reason = "a registry is made once, on purpose")]
    pub fn new() -> Self {
        Self(Arc::new(Inner {
            names: Mutex::default(),
            filter: OnceLock::new(),
            texts: Mutex::default(),
            sources: Mutex::default(),
            shared: Mutex::default(),
        }))
    }

    /// The scope whose stats' names begin with `prefix` (with its final dot).
    pub fn scope(&self, prefix: impl Into<Arc<str>>) -> Scope {
        Scope::new(self.clone(), prefix.into())
    }

    /// Stats whose name `filter` rejects never exist (`stats_matcher`). Set once, before the first use.
    pub fn set_filter(&self, filter: NameFilter) {
        let _ = self.0.filter.set(filter);
    }

    /// Gives the text readout `name` its text. Takes a lock: not for every request.
    pub fn set_text(&self, name: &str, text: &str) {
        if self.0.filter.get().is_none_or(|passes| passes(name)) {
            self.0.texts.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into(), text.into());
        }
    }

    /// Stats that `source` gives are read with all others; `stats_matcher` holds for them too.
    pub fn add_source(&self, source: Source) {
        self.0.sources.lock().unwrap_or_else(PoisonError::into_inner).push(source);
    }

    /// A number that all who ask for `name` share, for as long as one of them holds it; 0 at first. It is no stat: it is
    /// for limits on what a gauge counts, which outlive the one configuration or the other. Takes a lock.
    pub fn shared_number(&self, name: &str) -> Arc<AtomicU64> {
        let mut shared = self.0.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = shared.get(name).and_then(Weak::upgrade) {
            return number;
        }
        shared.retain(|_, number| number.strong_count() > 0);
        let number = Arc::default();
        shared.insert(name.into(), Arc::downgrade(&number));
        number
    }

    /// What is kept elsewhere.
    fn others(&self) -> Vec<Sample> {
        let mut samples = Vec::new();
        for source in &*self.0.sources.lock().unwrap_or_else(PoisonError::into_inner) {
            source(&mut samples);
        }
        if let Some(passes) = self.0.filter.get() {
            samples.retain(|sample| passes(&sample.name));
        }
        let texts = self.0.texts.lock().unwrap_or_else(PoisonError::into_inner);
        samples.extend(texts.iter().map(|(name, text)| Sample {
            name: name.clone(),
            kind: Kind::TextReadout,
            value: Value::Text(text.clone()),
        }));
        samples
    }

    /// The slot of `name`, made if this is its first use. Takes the lock: not for every request.
    pub fn intern(&self, name: &str, kind: Kind) -> StatId {
        if self.0.filter.get().is_some_and(|passes| !passes(name)) {
            return REJECTED;
        }
        let mut names = self.0.names.lock().unwrap_or_else(PoisonError::into_inner);
        let name: Arc<str> = name.into();
        if let Some(id) = names.ids.get(&(name.clone(), kind)) {
            return *id;
        }
        let id = StatId(u32::try_from(NEXT.fetch_add(1, Relaxed)).unwrap_or(0));
        names.ids.insert((name.clone(), kind), id);
        names.list.push((name, kind, id));
        id
    }

    /// The value of the counter `name` that this registry keeps; 0 before its first use. Takes the lock.
    pub fn counter(&self, name: &str) -> u64 {
        let names = self.0.names.lock().unwrap_or_else(PoisonError::into_inner);
        let id = names.ids.get(&(name.into(), Kind::Counter)).copied();
        drop(names);
        id.map_or(0, StatId::total)
    }

    /// The value of the counter or gauge `name`; `None` before its first use.
    pub fn value(&self, name: &str) -> Option<u64> {
        let names = self.0.names.lock().unwrap_or_else(PoisonError::into_inner);
        let own = [Kind::Counter, Kind::Gauge]
            .iter()
            .find_map(|kind| names.ids.get(&(name.into(), *kind)).copied().map(StatId::total));
        drop(names);
        own.or_else(|| {
            let other = self.others().into_iter().find(|sample| *sample.name == *name)?;
            match other.value {
                Value::Number(value) => Some(value),
                Value::Histogram(_) | Value::Text(_) => None,
            }
        })
    }

    /// Every counter that this registry keeps itself, with its value: what another process can go on counting from.
    pub fn counters(&self) -> Vec<(Arc<str>, u64)> {
        let list = self.0.names.lock().unwrap_or_else(PoisonError::into_inner).list.clone();
        let counters = list.into_iter().filter(|(_, kind, _)| *kind == Kind::Counter);
        counters.map(|(name, _, id)| (name, id.total())).collect()
    }

    /// Adds to the counter `name`, which is made if this is its first use. Takes the lock: not for every request.
    pub fn add(&self, name: &str, n: u64) {
        if n != 0 {
            self.intern(name, Kind::Counter).add(n);
        }
    }

    /// Every stat that has been used, with its value, in order of first use.
    pub fn samples(&self) -> Vec<Sample> {
        let list = self.0.names.lock().unwrap_or_else(PoisonError::into_inner).list.clone();
        let read = |(name, kind, id): (Arc<str>, Kind, StatId)| {
            let value = match kind {
                Kind::Histogram => Value::Histogram(id.merged()),
                _ => Value::Number(id.total()),
            };
            Sample { name, kind, value }
        };
        list.into_iter().map(read).chain(self.others()).collect()
    }

    /// Sets every counter back to 0 (`POST /reset_counters`). Increments that race with it may survive.
    pub fn reset_counters(&self) {
        let list = self.0.names.lock().unwrap_or_else(PoisonError::into_inner).list.clone();
        for (_, kind, id) in list {
            if kind == Kind::Counter {
                id.reset();
            }
        }
    }
}

impl StatId {
    fn reset(self) {
        for shard in shards() {
            if let Some(cell) = shard.cells.get(self.0 as usize / CHUNK).and_then(OnceLock::get) {
                cell[self.0 as usize % CHUNK].store(0, Relaxed);
            }
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}
