//! Limits for requests, by what they are described as. The buckets are as old as the configuration that they stand in.

use std::borrow::Cow;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Instant;

use smallvec::SmallVec;

use crate::token_bucket::{Buckets, Level, Rate};

/// Keys and values that a request is described by.
pub type Described<'a> = SmallVec<[(&'a str, Cow<'a, str>); 4]>;

/// Buckets: one for all requests, and those for requests that are described in some way.
#[derive(Debug)]
pub struct Limits {
    begin: Instant,
    hasher: RandomState,
    default: Option<(Rate, Level)>,
    /// It counts those too that have a bucket of their own.
    always_default: bool,
    descriptors: Box<[Descriptor]>,
}

#[derive(Debug)]
struct Descriptor {
    entries: Entries,
    limit: Limit,
}

/// Keys with their values; `None` for any, each with a bucket of its own.
pub type Entries = Box<[(Box<str>, Option<Box<str>>)]>;

#[derive(Debug)]
enum Limit {
    One(Rate, Level),
    Each(Buckets),
}

/// What a request found in the bucket that it is told of.
#[derive(Debug, Clone, Copy)]
pub struct Found {
    /// How much it holds, and how fast it fills.
    pub rate: Rate,
    /// The tokens that are left.
    pub tokens: f64,
}

impl Limits {
    /// Full buckets. `most_values`: for how many values of a descriptor that leaves values open buckets are kept.
    pub fn new(
        default: Option<Rate>,
        descriptors: Vec<(Entries, Rate)>,
        most_values: usize,
        always_default: bool,
    ) -> Self {
        let descriptor = |(entries, rate): (Entries, Rate)| {
            let limit = if entries.iter().all(|(_, value)| value.is_some()) {
                Limit::One(rate, rate.full(0.0))
            } else {
                Limit::Each(Buckets::new(rate, most_values))
            };
            Descriptor { entries, limit }
        };
        Self {
            begin: Instant::now(),
            hasher: RandomState::new(),
            default: default.map(|rate| (rate, rate.full(0.0))),
            always_default,
            descriptors: descriptors.into_iter().map(descriptor).collect(),
        }
    }

    /// Whether requests are looked at for what they are.
    pub fn has_descriptors(&self) -> bool {
        !self.descriptors.is_empty()
    }

    /// Takes a token from each bucket that is for what is described, the slowest first, until one has none. The first value
    /// is whether all had one; the second, what the client is told of.
    pub fn take(&self, described: &[Described<'_>]) -> (bool, Option<Found>) {
        self.take_at(described, self.begin.elapsed().as_secs_f64())
    }

    fn take_at(&self, described: &[Described<'_>], now: f64) -> (bool, Option<Found>) {
        let mut matched: SmallVec<[(Rate, &Level); 4]> =
            described.iter().filter_map(|described| self.limit(described, now)).collect();
        matched.sort_by(|(a, _), (b, _)| a.per_second.total_cmp(&b.per_second));
        let found = |(rate, level): (Rate, &Level)| Found { rate, tokens: rate.tokens(level, now) };
        if let Some(empty) = matched.iter().find(|(rate, level)| !rate.take(level, now)) {
            return (false, Some(found(*empty)));
        }
        let first = matched.first().copied();
        if (first.is_none() || self.always_default)
            && let Some((rate, level)) = &self.default
        {
            let took = rate.take(level, now);
            let told = if took { first.unwrap_or((*rate, level)) } else { (*rate, level) };
            return (took, Some(found(told)));
        }
        (true, first.map(found))
    }

    /// The bucket for what is described: that of all its values, or else one of a descriptor that leaves values open.
    fn limit(&self, described: &Described<'_>, now: f64) -> Option<(Rate, &Level)> {
        let matched = || self.descriptors.iter().filter(|descriptor| descriptor.matches(described));
        let whole = matched().find_map(|descriptor| match &descriptor.limit {
            Limit::One(rate, level) => Some((*rate, level)),
            Limit::Each(_) => None,
        });
        let open = || {
            matched().find_map(|descriptor| match &descriptor.limit {
                Limit::Each(buckets) => Some((buckets.rate(), buckets.get(self.hash(described), now)?)),
                Limit::One(..) => None,
            })
        };
        whole.or_else(open)
    }

    fn hash(&self, described: &Described<'_>) -> u64 {
        described.iter().fold(0, |hash, (_, value)| self.hasher.hash_one((hash, value)))
    }
}

impl Descriptor {
    fn matches(&self, described: &Described<'_>) -> bool {
        self.entries.len() == described.len()
            && self.entries.iter().zip(described).all(|((key, wanted), (known, value))| {
                **key == **known && wanted.as_ref().is_none_or(|wanted| **wanted == **value)
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn described<'a>(entries: &[(&'a str, &'a str)]) -> Described<'a> {
        entries.iter().map(|(key, value)| (*key, Cow::Borrowed(*value))).collect()
    }

    fn rate(most: f64, per_second: f64) -> Rate {
        Rate { most, per_second }
    }

    #[test]
    fn who_has_a_bucket_of_his_own_leaves_the_others_alone() {
        let one: Entries = [("user".into(), Some("a".into()))].into();
        let any: Entries = [("user".into(), None)].into();
        let limits =
            Limits::new(Some(rate(1.0, 0.1)), vec![(any, rate(2.0, 0.1)), (one, rate(3.0, 0.1))], 8, false);
        let passes = |user: &str| limits.take_at(&[described(&[("user", user)])], 0.0).0;
        assert_eq!([passes("a"), passes("a"), passes("a"), passes("a")], [true, true, true, false]);
        assert_eq!([passes("b"), passes("b"), passes("b")], [true, true, false]);
        assert_eq!([passes("c"), passes("c"), passes("c")], [true, true, false]);
        let nobody = |now| limits.take_at(&[], now).0;
        assert_eq!([nobody(0.0), nobody(0.0), nobody(10.0), nobody(10.0)], [true, false, true, false]);
        assert!(limits.take_at(&[described(&[("user", "b")])], 10.0).0);
    }

    #[test]
    fn of_several_buckets_the_slowest_decides_first() {
        let of = |key: &str| -> Entries { [(Box::from(key), Some("1".into()))].into() };
        let limits = Limits::new(
            Some(rate(9.0, 9.0)),
            vec![(of("fast"), rate(5.0, 5.0)), (of("slow"), rate(1.0, 0.1))],
            1,
            true,
        );
        let both = [described(&[("fast", "1")]), described(&[("slow", "1")])];
        let (passes, found) = limits.take_at(&both, 0.0);
        assert!(passes && found.is_some_and(|found| found.rate.most == 1.0 && found.tokens < 1.0));
        assert!(!limits.take_at(&both, 0.0).0);
        // The refused one took nothing from the fast one.
        let (_, found) = limits.take_at(&both[..1], 0.0);
        assert!(found.is_some_and(|found| (found.tokens - 3.0).abs() < 1e-6), "{found:?}");
    }
}
