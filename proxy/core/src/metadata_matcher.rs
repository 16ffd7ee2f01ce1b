//! `type.matcher.v3.MetadataMatcher`, compiled.

use crate::matcher::StringMatcher;
use crate::metadata::{Metadata, MetadataValue};

/// Asks for a value of metadata.
#[derive(Debug, Clone)]
pub struct MetadataMatcher {
    /// The namespace (`filter`).
    pub namespace: Box<str>,
    /// The keys that lead to the value; never empty.
    pub path: Box<[Box<str>]>,
    /// What the value must be.
    pub value: ValueMatcher,
    /// Whether the answer is turned round.
    pub invert: bool,
}

/// `type.matcher.v3.ValueMatcher`, compiled.
#[derive(Debug, Clone)]
pub enum ValueMatcher {
    /// It is `null`, which is not the same as missing.
    Null,
    /// It is this number.
    Number(f64),
    /// It is a number in `start..end`.
    Range {
        /// The first number in the range.
        start: f64,
        /// The first number after the range.
        end: f64,
    },
    /// It is a text that matches.
    Text(StringMatcher),
    /// It is this truth value.
    Bool(bool),
    /// It is there (`true`). `false` matches nothing at all, as in Envoy.
    Present(bool),
    /// It is a list of which a member matches.
    ListHas(Box<ValueMatcher>),
    /// One of these matches.
    OneOf(Box<[ValueMatcher]>),
}

impl MetadataMatcher {
    /// Whether `metadata` matches; `None` is metadata without anything in it.
    pub fn matches(&self, metadata: Option<&Metadata>) -> bool {
        let found = metadata.and_then(|metadata| self.find(metadata));
        self.value.matches(found) != self.invert
    }

    /// The value that is asked for.
    pub fn find<'a>(&self, metadata: &'a Metadata) -> Option<&'a MetadataValue> {
        let (first, rest) = self.path.split_first()?;
        let value = metadata.namespaces.get(&*self.namespace)?.get(&**first)?;
        rest.iter().try_fold(value, |value, key| match value {
            MetadataValue::Map(members) => members.get(&**key),
            _ => None,
        })
    }
}

impl ValueMatcher {
    /// Whether `value` matches; `None` is a value that is not there.
    pub fn matches(&self, value: Option<&MetadataValue>) -> bool {
        match (self, value) {
            (Self::Present(wanted), value) => *wanted && value.is_some(),
            (Self::OneOf(any), value) => any.iter().any(|one| one.matches(value)),
            (Self::Null, Some(MetadataValue::Null)) => true,
            #[expect(clippy::float_cmp, reason = "Envoy compares the very number")]
            (Self::Number(wanted), Some(MetadataValue::Number(number))) => number == wanted,
            (Self::Range { start, end }, Some(MetadataValue::Number(number))) => {
                start <= number && number < end
            }
            (Self::Text(matcher), Some(MetadataValue::Text(text))) => matcher.matches(text),
            (Self::Bool(wanted), Some(MetadataValue::Bool(value))) => wanted == value,
            (Self::ListHas(one), Some(MetadataValue::List(values))) => {
                values.iter().any(|value| one.matches(Some(value)))
            }
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn values_match_by_their_kind() {
        let number = MetadataValue::Number(2.0);
        let list = MetadataValue::List(vec![MetadataValue::Null, number.clone()]);
        for (matcher, value, want) in [
            (ValueMatcher::Null, Some(&MetadataValue::Null), true),
            (ValueMatcher::Null, None, false),
            (ValueMatcher::Number(2.0), Some(&number), true),
            (ValueMatcher::Range { start: 1.0, end: 2.0 }, Some(&number), false),
            (ValueMatcher::Range { start: 2.0, end: 3.0 }, Some(&number), true),
            (ValueMatcher::Present(true), Some(&list), true),
            (ValueMatcher::Present(true), None, false),
            (ValueMatcher::Present(false), None, false),
            (ValueMatcher::Bool(false), Some(&number), false),
            (ValueMatcher::ListHas(Box::new(ValueMatcher::Number(2.0))), Some(&list), true),
            (ValueMatcher::ListHas(Box::new(ValueMatcher::Bool(true))), Some(&list), false),
            (
                ValueMatcher::OneOf([ValueMatcher::Null, ValueMatcher::Number(2.0)].into()),
                Some(&number),
                true,
            ),
        ] {
            assert_eq!(matcher.matches(value), want, "{matcher:?} {value:?}");
        }
    }

    #[test]
    fn a_missing_value_matches_what_is_inverted() {
        let members = BTreeMap::from([(
            "a".into(),
            MetadataValue::Map(BTreeMap::from([("b".into(), MetadataValue::Bool(true))])),
        )]);
        let metadata = Metadata { namespaces: BTreeMap::from([("ns".into(), members)]) };
        let asks = |path: &[&str], invert| MetadataMatcher {
            namespace: "ns".into(),
            path: path.iter().map(|key| (*key).into()).collect(),
            value: ValueMatcher::Bool(true),
            invert,
        };
        assert!(asks(&["a", "b"], false).matches(Some(&metadata)));
        assert!(!asks(&["a", "b"], true).matches(Some(&metadata)));
        assert!(!asks(&["a"], false).matches(Some(&metadata)));
        assert!(asks(&["a", "b", "c"], true).matches(Some(&metadata)));
        assert!(asks(&["a"], true).matches(None));
    }
}
