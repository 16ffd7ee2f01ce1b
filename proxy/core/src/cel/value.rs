//! Values of expressions, and how they compare.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::fault::{Fault, Fuel};
use super::lookup;
use crate::matcher::HeadView;
use crate::metadata::{Metadata, MetadataValue};

/// A value. What is of the request is borrowed from it.
#[derive(Debug, Clone)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Cow<'a, str>),
    Bytes(Cow<'a, [u8]>),
    /// Nanoseconds.
    Duration(i128),
    /// Nanoseconds since the epoch.
    Timestamp(i128),
    List(Arc<[Value<'a>]>),
    /// Few, so that they are looked through. The keys differ.
    Map(Arc<[(Value<'a>, Value<'a>)]>),
    Type(Kind),
    /// Headers or trailers; `None` where there are none.
    Headers(Option<HeadView<'a>>),
    /// `core.v3.Metadata`; `None` for an empty one.
    Metadata(Option<&'a Metadata>),
    /// Its `filter_metadata`.
    Namespaces(Option<&'a Metadata>),
    /// A structure of metadata.
    Struct(&'a BTreeMap<Arc<str>, MetadataValue>),
    /// A list of metadata.
    Items(&'a [MetadataValue]),
}

/// A type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Null,
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Bytes,
    Duration,
    Timestamp,
    List,
    Map,
    Type,
    Metadata,
}

impl Kind {
    /// The type that expressions call `name`.
    pub(super) fn of_name(name: &str) -> Option<Self> {
        Some(match name {
            "null_type" => Self::Null,
            "bool" => Self::Bool,
            "int" => Self::Int,
            "uint" => Self::Uint,
            "double" => Self::Double,
            "string" => Self::Text,
            "bytes" => Self::Bytes,
            "list" => Self::List,
            "map" => Self::Map,
            "type" => Self::Type,
            _ => return None,
        })
    }
}

impl<'a> Value<'a> {
    /// A value that borrows texts from this one instead of copying them.
    pub(super) fn borrowed(&'a self) -> Self {
        match self {
            Self::Text(text) => Self::Text(Cow::Borrowed(text)),
            Self::Bytes(bytes) => Self::Bytes(Cow::Borrowed(bytes)),
            other => other.clone(),
        }
    }

    /// A value that borrows nothing; `None` for what is of a request.
    pub(super) fn owned(self) -> Option<Value<'static>> {
        Some(match self {
            Self::Null => Value::Null,
            Self::Bool(value) => Value::Bool(value),
            Self::Int(value) => Value::Int(value),
            Self::Uint(value) => Value::Uint(value),
            Self::Double(value) => Value::Double(value),
            Self::Text(text) => Value::Text(Cow::Owned(text.into_owned())),
            Self::Bytes(bytes) => Value::Bytes(Cow::Owned(bytes.into_owned())),
            Self::Duration(nanos) => Value::Duration(nanos),
            Self::Timestamp(nanos) => Value::Timestamp(nanos),
            Self::Type(kind) => Value::Type(kind),
            Self::List(list) => {
                Value::List(list.iter().cloned().map(Self::owned).collect::<Option<Arc<[_]>>>()?)
            }
            Self::Map(entries) => {
                let entries = entries.iter().cloned();
                let entries = entries.map(|(key, value)| Some((key.owned()?, value.owned()?)));
                Value::Map(entries.collect::<Option<Arc<[_]>>>()?)
            }
            Self::Headers(_) | Self::Metadata(_) | Self::Namespaces(_) | Self::Struct(_) | Self::Items(_) => {
                return None;
            }
        })
    }

    /// A value of metadata.
    pub(super) fn of(value: &'a MetadataValue) -> Self {
        match value {
            MetadataValue::Null => Self::Null,
            MetadataValue::Bool(value) => Self::Bool(*value),
            MetadataValue::Number(value) => Self::Double(*value),
            MetadataValue::Text(text) => Self::Text(Cow::Borrowed(text)),
            MetadataValue::List(list) => Self::Items(list),
            MetadataValue::Map(map) => Self::Struct(map),
        }
    }

    pub(super) const fn kind(&self) -> Kind {
        match self {
            Self::Null => Kind::Null,
            Self::Bool(_) => Kind::Bool,
            Self::Int(_) => Kind::Int,
            Self::Uint(_) => Kind::Uint,
            Self::Double(_) => Kind::Double,
            Self::Text(_) => Kind::Text,
            Self::Bytes(_) => Kind::Bytes,
            Self::Duration(_) => Kind::Duration,
            Self::Timestamp(_) => Kind::Timestamp,
            Self::List(_) | Self::Items(_) => Kind::List,
            Self::Map(_) | Self::Headers(_) | Self::Namespaces(_) | Self::Struct(_) => Kind::Map,
            Self::Type(_) => Kind::Type,
            Self::Metadata(_) => Kind::Metadata,
        }
    }

    /// How many elements a list has; `None` for what is no list.
    pub(super) fn elements(&self) -> Option<usize> {
        match self {
            Self::List(list) => Some(list.len()),
            Self::Items(items) => Some(items.len()),
            _ => None,
        }
    }

    /// An element of a list.
    pub(super) fn element(&self, i: usize) -> Option<Self> {
        match self {
            Self::List(list) => list.get(i).cloned(),
            Self::Items(items) => items.get(i).map(Self::of),
            _ => None,
        }
    }
}

/// Whether both are the same; values of different types are not, but for numbers.
pub(super) fn equal(a: &Value<'_>, b: &Value<'_>, fuel: &Fuel) -> Result<bool, Fault> {
    fuel.burn(1)?;
    if let Some(order) = numbers(a, b) {
        return Ok(order == Some(Ordering::Equal));
    }
    if let (Some(len), Some(other)) = (a.elements(), b.elements()) {
        return lists(a, b, len, other, fuel);
    }
    Ok(match (a, b) {
        (Value::Null, Value::Null) => true,
        (Value::Bool(a), Value::Bool(b)) => a == b,
        (Value::Text(a), Value::Text(b)) => a == b,
        (Value::Bytes(a), Value::Bytes(b)) => a == b,
        (Value::Duration(a), Value::Duration(b)) | (Value::Timestamp(a), Value::Timestamp(b)) => a == b,
        (Value::Type(a), Value::Type(b)) => a == b,
        (Value::Metadata(a), Value::Metadata(b)) => {
            let empty = Metadata::default();
            a.unwrap_or(&empty) == b.unwrap_or(&empty)
        }
        _ if a.kind() == Kind::Map && b.kind() == Kind::Map => return lookup::same(a, b, fuel),
        _ => false,
    })
}

fn lists(a: &Value<'_>, b: &Value<'_>, len: usize, other: usize, fuel: &Fuel) -> Result<bool, Fault> {
    if len != other {
        return Ok(false);
    }
    for i in 0..len {
        let (Some(a), Some(b)) = (a.element(i), b.element(i)) else { return Ok(false) };
        if !equal(&a, &b, fuel)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// How they are ordered; the inner `None` for a double that is no number.
pub(super) fn order(a: &Value<'_>, b: &Value<'_>) -> Result<Option<Ordering>, Fault> {
    if let Some(order) = numbers(a, b) {
        return Ok(order);
    }
    Ok(Some(match (a, b) {
        (Value::Bool(a), Value::Bool(b)) => a.cmp(b),
        (Value::Text(a), Value::Text(b)) => a.cmp(b),
        (Value::Bytes(a), Value::Bytes(b)) => a.cmp(b),
        (Value::Duration(a), Value::Duration(b)) | (Value::Timestamp(a), Value::Timestamp(b)) => a.cmp(b),
        _ => return Err(Fault::NoOverload),
    }))
}

/// How two numbers of any type are ordered; the outer `None` for what is no number.
#[expect(clippy::option_option, reason = "no numbers, not comparable, an order")]
fn numbers(a: &Value<'_>, b: &Value<'_>) -> Option<Option<Ordering>> {
    let double = |value: &Value<'_>| match value {
        Value::Int(value) => Some(*value as f64),
        Value::Uint(value) => Some(*value as f64),
        Value::Double(value) => Some(*value),
        _ => None,
    };
    let whole = |value: &Value<'_>| match value {
        Value::Int(value) => Some(i128::from(*value)),
        Value::Uint(value) => Some(i128::from(*value)),
        _ => None,
    };
    if let (Some(a), Some(b)) = (whole(a), whole(b)) {
        return Some(Some(a.cmp(&b)));
    }
    Some(double(a)?.partial_cmp(&double(b)?))
}
