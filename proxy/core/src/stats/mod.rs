//! Stat handles: counters, gauges and histograms that cost one store on the worker.
//!
//! A stat's name is interned on its first use and gets a slot; each thread that
//! writes has a shard of its own, so that an increment is a plain load and store of
//! a cell that no other thread writes. A reader sums the shards.
//! Names are Envoy's (`cluster.<name>.upstream_rq_total`).

mod histogram;
mod registry;
mod scope;

pub use histogram::{Buckets, HistogramShard};
pub use registry::{Kind, NameFilter, Registry, Sample, Source, StatId, Value};
pub use scope::{CodeCounters, Scope, StatSlot};

/// Declares a struct of stats under one [`Scope`]: each handle is four bytes until its first use.
///
/// ```
/// outrider_core::stat_struct! {
///     /// What a listener counts.
///     pub struct ListenerStats {
///         counters { downstream_cx_total, downstream_cx_destroy }
///         gauges { downstream_cx_active }
///         histograms { downstream_cx_length_ms }
///     }
/// }
/// let registry = outrider_core::stats::Registry::new();
/// let stats = ListenerStats::new(registry.scope("listener.0.0.0.0_80."));
/// stats.downstream_cx_total().inc();
/// assert_eq!(registry.value("listener.0.0.0.0_80.downstream_cx_total"), Some(1));
/// ```
#[macro_export]
macro_rules! stat_struct {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            counters { $($counter:ident),* $(,)? }
            gauges { $($gauge:ident),* $(,)? }
            histograms { $($histogram:ident),* $(,)? }
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug)]
        $vis struct $name {
            scope: $crate::stats::Scope,
            $($counter: $crate::stats::StatSlot,)*
            $($gauge: $crate::stats::StatSlot,)*
            $($histogram: $crate::stats::StatSlot,)*
        }

        #[allow(dead_code, missing_docs, unreachable_pub, clippy::allow_attributes_without_reason,
                clippy::allow_attributes)]
        impl $name {
            /// The stats under `scope`; none exists before its first use.
            pub fn new(scope: $crate::stats::Scope) -> Self {
                Self {
                    scope,
                    $($counter: $crate::stats::StatSlot::new(),)*
                    $($gauge: $crate::stats::StatSlot::new(),)*
                    $($histogram: $crate::stats::StatSlot::new(),)*
                }
            }

            /// The scope that names these stats.
            pub fn scope(&self) -> &$crate::stats::Scope {
                &self.scope
            }

            $(pub fn $counter(&self) -> $crate::stats::Counter<'_> {
                $crate::stats::Counter::new(&self.scope, &self.$counter, stringify!($counter))
            })*
            $(pub fn $gauge(&self) -> $crate::stats::Gauge<'_> {
                $crate::stats::Gauge::new(&self.scope, &self.$gauge, stringify!($gauge))
            })*
            $(pub fn $histogram(&self) -> $crate::stats::Histogram<'_> {
                $crate::stats::Histogram::new(&self.scope, &self.$histogram, stringify!($histogram))
            })*
        }
    };
}

/// A counter of a [`stat_struct!`], resolved at use.
#[derive(Debug, Clone, Copy)]
pub struct Counter<'a>(scope::Handle<'a>);

impl<'a> Counter<'a> {
    /// The counter `name` of `scope`, whose slot remembers the stat.
    pub fn new(scope: &'a Scope, slot: &'a StatSlot, name: &'static str) -> Self {
        Self(scope::Handle { scope, slot, name })
    }

    /// Adds one.
    pub fn inc(self) {
        self.add(1);
    }

    /// Adds `n`; adding 0 does not create the stat.
    pub fn add(self, n: u64) {
        if n != 0 {
            self.0.id(Kind::Counter).add(n);
        }
    }
}

/// A gauge of a [`stat_struct!`]: a sum of what all threads added and took away.
#[derive(Debug, Clone, Copy)]
pub struct Gauge<'a>(scope::Handle<'a>);

impl<'a> Gauge<'a> {
    /// The gauge `name` of `scope`, whose slot remembers the stat.
    pub fn new(scope: &'a Scope, slot: &'a StatSlot, name: &'static str) -> Self {
        Self(scope::Handle { scope, slot, name })
    }

    /// Adds one.
    pub fn inc(self) {
        self.0.id(Kind::Gauge).add(1);
    }

    /// Takes one away; may be done by another thread than the one that added it.
    pub fn dec(self) {
        self.0.id(Kind::Gauge).add(1_u64.wrapping_neg());
    }

    /// Sets the gauge as a whole. For gauges that one thread alone writes.
    pub fn set(self, value: u64) {
        self.0.id(Kind::Gauge).set(value);
    }
}

/// A histogram of a [`stat_struct!`]. Names that end in `_ms` or `_time` hold milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Histogram<'a>(scope::Handle<'a>);

impl<'a> Histogram<'a> {
    /// The histogram `name` of `scope`, whose slot remembers the stat.
    pub fn new(scope: &'a Scope, slot: &'a StatSlot, name: &'static str) -> Self {
        Self(scope::Handle { scope, slot, name })
    }

    /// Records one value.
    pub fn record(self, value: u64) {
        self.0.id(Kind::Histogram).record(value);
    }
}

#[cfg(test)]
mod tests;
