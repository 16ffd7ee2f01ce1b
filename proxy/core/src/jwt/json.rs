//! JSON as tokens have it. A name that matters and is given twice is an error: two readers could read two tokens.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::{Deserialize, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

use crate::metadata::MetadataValue;

/// A value, as far as it matters.
#[derive(Debug, Clone, PartialEq, Default)]
pub(super) enum Field<'a> {
    /// It is not there.
    #[default]
    Absent,
    Text(Cow<'a, str>),
    Number(f64),
    /// A list of texts.
    Texts(Vec<Cow<'a, str>>),
    /// Anything else, `null` too.
    Other,
}

/// The values of some names of an object.
pub(super) fn fields<'a, const N: usize>(json: &'a [u8], names: [&'static str; N]) -> Option<[Field<'a>; N]> {
    let text = std::str::from_utf8(json).ok()?;
    let mut reader = serde_json::Deserializer::from_str(text);
    let found = Deserializer::deserialize_map(&mut reader, Fields(names)).ok()?;
    reader.end().ok()?;
    Some(found)
}

/// All of an object.
pub(super) fn object(json: &[u8]) -> Option<BTreeMap<Arc<str>, MetadataValue>> {
    match serde_json::from_slice::<Any>(json).ok()?.0 {
        MetadataValue::Map(members) => Some(members),
        _ => None,
    }
}

struct Fields<const N: usize>([&'static str; N]);

impl<'de, const N: usize> Visitor<'de> for Fields<N> {
    type Value = [Field<'de>; N];

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = std::array::from_fn(|_| Field::Absent);
        while let Some(Name(name)) = map.next_key()? {
            let place = self.0.iter().position(|known| *known == name);
            match place.and_then(|place| found.get_mut(place)) {
                None => drop(map.next_value::<IgnoredAny>()?),
                Some(field @ Field::Absent) => *field = map.next_value()?,
                Some(_) => return Err(A::Error::custom("a name that is given twice")),
            }
        }
        Ok(found)
    }
}

/// A name, borrowed where it has no escapes.
struct Name<'a>(Cow<'a, str>);

impl<'de> Deserialize<'de> for Name<'de> {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        match Field::deserialize(reader)? {
            Field::Text(text) => Ok(Self(text)),
            _ => Err(D::Error::custom("a name that is no text")),
        }
    }
}

impl<'de> Deserialize<'de> for Field<'de> {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        struct One;
        impl<'de> Visitor<'de> for One {
            type Value = Field<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Self::Value, E> {
                Ok(Field::Text(Cow::Borrowed(text)))
            }
            fn visit_str<E>(self, text: &str) -> Result<Self::Value, E> {
                Ok(Field::Text(Cow::Owned(text.to_owned())))
            }
            fn visit_bool<E>(self, _: bool) -> Result<Self::Value, E> {
                Ok(Field::Other)
            }
            fn visit_unit<E>(self) -> Result<Self::Value, E> {
                Ok(Field::Other)
            }
            fn visit_i64<E>(self, number: i64) -> Result<Self::Value, E> {
                Ok(Field::Number(number as f64))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Self::Value, E> {
                Ok(Field::Number(number as f64))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Self::Value, E> {
                Ok(Field::Number(number))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
                let (mut texts, mut all) = (Vec::new(), true);
                while let Some(value) = list.next_element()? {
                    match value {
                        Field::Text(text) => texts.push(text),
                        _ => all = false,
                    }
                }
                Ok(if all { Field::Texts(texts) } else { Field::Other })
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
                Ok(Field::Other)
            }
        }
        reader.deserialize_any(One)
    }
}

/// Any value.
struct Any(MetadataValue);

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(reader: D) -> Result<Self, D::Error> {
        struct Whole;
        impl<'de> Visitor<'de> for Whole {
            type Value = Any;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a value")
            }
            fn visit_str<E>(self, text: &str) -> Result<Any, E> {
                Ok(Any(MetadataValue::Text(text.into())))
            }
            fn visit_bool<E>(self, value: bool) -> Result<Any, E> {
                Ok(Any(MetadataValue::Bool(value)))
            }
            fn visit_unit<E>(self) -> Result<Any, E> {
                Ok(Any(MetadataValue::Null))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Any, E> {
                Ok(Any(MetadataValue::Number(number as f64)))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Any, E> {
                Ok(Any(MetadataValue::Number(number as f64)))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Any, E> {
                Ok(Any(MetadataValue::Number(number)))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Any, A::Error> {
                let mut values = Vec::new();
                while let Some(Any(value)) = list.next_element()? {
                    values.push(value);
                }
                Ok(Any(MetadataValue::List(values)))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Any, A::Error> {
                let mut members = BTreeMap::new();
                while let Some((Name(name), Any(value))) = map.next_entry()? {
                    if members.insert(Arc::from(&*name), value).is_some() {
                        return Err(A::Error::custom("a name that is given twice"));
                    }
                }
                Ok(Any(MetadataValue::Map(members)))
            }
        }
        reader.deserialize_any(Whole)
    }
}
