//! The runtime: values that may change while the process runs, by key.
//!
//! Whoever follows a key asks once for its [`RuntimeKey`], when configuration is built. Reading it is one relaxed load:
//! [`Runtime::publish`] writes what a key's value means into the places of the keys that somebody follows.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use arc_swap::ArcSwap;

/// A runtime value.
#[derive(Debug, Clone, PartialEq)]
pub enum RuntimeValue {
    /// A number (whole or not).
    Number(f64),
    /// A truth value.
    Bool(bool),
    /// Text.
    Text(String),
    /// A fraction.
    Fraction {
        /// Numerator.
        numerator: u32,
        /// 100, 10,000 or 1,000,000.
        denominator: u32,
    },
}

impl RuntimeValue {
    /// The value as a whole number: a number's floor, if that is not below 0 (Envoy: `Snapshot::getInteger`).
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the floor is meant, and checked to be one that a u64 holds"
    )]
    pub fn integer(&self) -> Option<u64> {
        match self {
            Self::Number(number) if (0.0..18_446_744_073_709_551_615.0).contains(number) => {
                Some(*number as u64)
            }
            _ => None,
        }
    }

    /// The value as a number, if it is one (`getDouble`).
    pub const fn double(&self) -> Option<f64> {
        match self {
            Self::Number(number) => Some(*number),
            _ => None,
        }
    }

    /// The value as a truth value: one itself, or a whole number, where 0 is false (`getBoolean`).
    pub fn boolean(&self) -> Option<bool> {
        // As Envoy has it: whole is what an `int` can be, but for the largest.
        let ints = f64::from(i32::MIN)..f64::from(i32::MAX);
        match self {
            Self::Bool(value) => Some(*value),
            Self::Number(number) if number.fract() == 0.0 && ints.contains(number) => Some(*number != 0.0),
            _ => None,
        }
    }

    /// The value as a share, if it is one: a fraction, or a number, whose floor is a percentage and all from 100 on
    /// (`featureEnabled` with a default fraction).
    pub fn share(&self) -> Option<(u32, u32)> {
        match self {
            Self::Fraction { numerator, denominator } => Some((*numerator, *denominator)),
            other => {
                let percent = other.integer()?.min(100);
                Some((u32::try_from(percent).unwrap_or(100), 100))
            }
        }
    }
}

/// All values by key.
pub type RuntimeValues = BTreeMap<String, RuntimeValue>;

/// The values in force, and those who follow them. Cloning gives another handle to the same.
#[derive(Debug, Clone, Default)]
pub struct Runtime(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    values: ArcSwap<RuntimeValues>,
    followed: Mutex<HashMap<Box<str>, Weak<Place>>>,
}

impl Runtime {
    /// A runtime that holds `values`.
    pub fn new(values: RuntimeValues) -> Self {
        let runtime = Self::default();
        runtime.publish(values);
        runtime
    }

    /// The place of `key`; `None` for the empty key, which nothing overrides.
    pub fn follow(&self, key: &str) -> Option<RuntimeKey> {
        if key.is_empty() {
            return None;
        }
        let mut followed = self.followed();
        if let Some(place) = followed.get(key).and_then(Weak::upgrade) {
            return Some(RuntimeKey(place));
        }
        let place = Arc::new(Place::default());
        place.store(self.0.values.load().get(key));
        followed.insert(key.into(), Arc::downgrade(&place));
        Some(RuntimeKey(place))
    }

    /// Whether somebody follows `key`.
    pub fn is_followed(&self, key: &str) -> bool {
        self.followed().get(key).is_some_and(|place| place.strong_count() > 0)
    }

    /// The value of `key` now.
    pub fn get(&self, key: &str) -> Option<RuntimeValue> {
        self.0.values.load().get(key).cloned()
    }

    /// All values now.
    pub fn values(&self) -> Arc<RuntimeValues> {
        self.0.values.load_full()
    }

    /// Puts `values` in the place of all there were. Who reads while this runs may see one key's new value beside
    /// another's old one.
    pub fn publish(&self, values: RuntimeValues) {
        // Under the lock, so that a key that is first followed now has one of the two, and then the newer.
        let mut followed = self.followed();
        followed.retain(|key, place| {
            let Some(place) = place.upgrade() else { return false };
            place.store(values.get(&**key));
            true
        });
        self.0.values.store(Arc::new(values));
    }

    fn followed(&self) -> MutexGuard<'_, HashMap<Box<str>, Weak<Place>>> {
        self.0.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A key that is followed. Reading it is a load.
#[derive(Debug, Clone)]
pub struct RuntimeKey(Arc<Place>);

/// What a key's value means to each kind of reader. Each is one word, so that no reader sees half of a change.
#[derive(Debug)]
struct Place {
    /// Numerator above, denominator below; denominator 0 for none.
    share: AtomicU64,
    /// [`NO_INTEGER`] for none.
    integer: AtomicU64,
    /// The bits of a number; [`NO_DOUBLE`] for none.
    double: AtomicU64,
    /// 0, 1; 2 for none.
    boolean: AtomicU64,
}

/// No value that a number in `f64` becomes.
const NO_INTEGER: u64 = u64::MAX;
/// A NaN that no arithmetic makes; numbers of the runtime are finite.
const NO_DOUBLE: u64 = u64::MAX;
const NO_BOOLEAN: u64 = 2;

impl Default for Place {
    fn default() -> Self {
        Self {
            share: AtomicU64::new(0),
            integer: AtomicU64::new(NO_INTEGER),
            double: AtomicU64::new(NO_DOUBLE),
            boolean: AtomicU64::new(NO_BOOLEAN),
        }
    }
}

impl Place {
    fn store(&self, value: Option<&RuntimeValue>) {
        let share = value.and_then(RuntimeValue::share);
        let share =
            share.map_or(0, |(numerator, denominator)| u64::from(numerator) << 32 | u64::from(denominator));
        self.share.store(share, Relaxed);
        self.integer.store(value.and_then(RuntimeValue::integer).unwrap_or(NO_INTEGER), Relaxed);
        let double = value.and_then(RuntimeValue::double).map_or(NO_DOUBLE, f64::to_bits);
        self.double.store(double, Relaxed);
        self.boolean.store(value.and_then(RuntimeValue::boolean).map_or(NO_BOOLEAN, u64::from), Relaxed);
    }
}

impl RuntimeKey {
    /// Its value as a share: numerator and denominator.
    #[inline]
    #[expect(clippy::cast_possible_truncation, reason = "the two halves of a word")]
    pub fn share(&self) -> Option<(u32, u32)> {
        let word = self.0.share.load(Relaxed);
        let (numerator, denominator) = ((word >> 32) as u32, word as u32);
        (denominator != 0).then_some((numerator, denominator))
    }

    /// Its value as a whole number.
    #[inline]
    pub fn integer(&self) -> Option<u64> {
        Some(self.0.integer.load(Relaxed)).filter(|value| *value != NO_INTEGER)
    }

    /// Its value as a number.
    #[inline]
    pub fn double(&self) -> Option<f64> {
        Some(self.0.double.load(Relaxed)).filter(|bits| *bits != NO_DOUBLE).map(f64::from_bits)
    }

    /// Its value as a truth value.
    #[inline]
    pub fn boolean(&self) -> Option<bool> {
        match self.0.boolean.load(Relaxed) {
            0 => Some(false),
            1 => Some(true),
            _ => None,
        }
    }
}

impl PartialEq for RuntimeKey {
    /// Whether it is the same key of the same runtime.
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Eq for RuntimeKey {}

/// A setting of type `T` that a runtime key may override.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Overridable<T> {
    /// Without the runtime's word.
    pub default: T,
    /// The key whose value takes its place.
    pub key: Option<RuntimeKey>,
}

/// `RuntimeUInt32`, and limits that the runtime sets.
pub type RuntimeInteger = Overridable<u64>;
/// `RuntimeDouble`
pub type RuntimeDouble = Overridable<f64>;
/// `RuntimeFeatureFlag`
pub type RuntimeFlag = Overridable<bool>;

impl<T> Overridable<T> {
    /// A setting that nothing overrides.
    pub const fn fixed(default: T) -> Self {
        Self { default, key: None }
    }
}

impl Overridable<u64> {
    /// Its value now.
    #[inline]
    pub fn get(&self) -> u64 {
        self.key.as_ref().and_then(RuntimeKey::integer).unwrap_or(self.default)
    }
}

impl Overridable<f64> {
    /// Its value now.
    #[inline]
    pub fn get(&self) -> f64 {
        self.key.as_ref().and_then(RuntimeKey::double).unwrap_or(self.default)
    }
}

impl Overridable<bool> {
    /// Its value now.
    #[inline]
    pub fn get(&self) -> bool {
        self.key.as_ref().and_then(RuntimeKey::boolean).unwrap_or(self.default)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn values(pairs: &[(&str, RuntimeValue)]) -> RuntimeValues {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect()
    }

    #[test]
    fn what_follows_a_key_sees_each_change_of_it() {
        let runtime = Runtime::new(values(&[("a", RuntimeValue::Number(30.0))]));
        let (a, b) = (runtime.follow("a").unwrap(), runtime.follow("b").unwrap());
        assert_eq!((a.share(), a.integer(), b.share()), (Some((30, 100)), Some(30), None));
        runtime.publish(values(&[("b", RuntimeValue::Fraction { numerator: 0, denominator: 10_000 })]));
        assert_eq!((a.share(), a.integer(), a.double()), (None, None, None));
        assert_eq!((b.share(), b.integer()), (Some((0, 10_000)), None));
        assert_eq!(runtime.follow("b").unwrap(), b);
        assert!(runtime.follow("").is_none(), "nothing overrides what has no key");
    }

    #[test]
    fn a_key_that_nobody_follows_any_more_is_forgotten() {
        let runtime = Runtime::default();
        drop(runtime.follow("a"));
        assert!(!runtime.is_followed("a"));
        runtime.publish(RuntimeValues::new());
        assert_eq!(runtime.followed().len(), 0);
    }

    #[test]
    fn a_value_means_only_what_its_kind_allows() {
        let of = |value: RuntimeValue| (value.share(), value.integer(), value.double(), value.boolean());
        assert_eq!(of(RuntimeValue::Bool(true)), (None, None, None, Some(true)));
        assert_eq!(of(RuntimeValue::Number(2.5)), (Some((2, 100)), Some(2), Some(2.5), None));
        assert_eq!(of(RuntimeValue::Number(0.5)), (Some((0, 100)), Some(0), Some(0.5), None));
        assert_eq!(of(RuntimeValue::Number(0.0)), (Some((0, 100)), Some(0), Some(0.0), Some(false)));
        assert_eq!(of(RuntimeValue::Number(-1.0)), (None, None, Some(-1.0), Some(true)));
        assert_eq!(of(RuntimeValue::Number(250.0)), (Some((100, 100)), Some(250), Some(250.0), Some(true)));
        assert_eq!(of(RuntimeValue::Number(1e20)), (None, None, Some(1e20), None));
        assert_eq!(of(RuntimeValue::Text("x".to_owned())), (None, None, None, None));
    }
}
