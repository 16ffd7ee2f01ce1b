//! What is in lists and maps.

use std::borrow::Cow;

use http::HeaderMap;
use http::header::HOST;

use super::fault::{Fault, Fuel};
use super::value::{Kind, Value, equal};
use crate::matcher::{HeadView, HeaderRef};

/// The value of a map's `key`; `None` for none.
pub(super) fn get<'a>(map: &Value<'a>, key: &Value<'_>, fuel: &Fuel) -> Result<Option<Value<'a>>, Fault> {
    if !matches!(key.kind(), Kind::Bool | Kind::Int | Kind::Uint | Kind::Double | Kind::Text) {
        return Err(Fault::NoOverload);
    }
    let name = if let Value::Text(name) = key { Some(&**name) } else { None };
    Ok(match map {
        Value::Map(entries) => {
            for (known, value) in &**entries {
                if equal(known, key, fuel)? {
                    return Ok(Some(value.clone()));
                }
            }
            None
        }
        Value::Headers(Some(head)) => {
            name.and_then(HeaderRef::parse).and_then(|name| header(head, &name)).map(Value::Text)
        }
        Value::Headers(None) => None,
        Value::Namespaces(metadata) => {
            name.and_then(|name| (*metadata)?.namespaces.get(name)).map(Value::Struct)
        }
        Value::Struct(members) => name.and_then(|name| members.get(name)).map(Value::of),
        _ => return Err(Fault::NoOverload),
    })
}

/// What is at `index`: of a list by its place, of a map by its key.
pub(super) fn at<'a>(of: &Value<'a>, index: &Value<'_>, fuel: &Fuel) -> Result<Value<'a>, Fault> {
    if of.elements().is_none() {
        return get(of, index, fuel)?.ok_or(Fault::NoSuchKey);
    }
    let place = match index {
        Value::Int(place) => usize::try_from(*place).ok(),
        Value::Uint(place) => usize::try_from(*place).ok(),
        Value::Double(place) if place.fract() == 0.0 && (0.0..1e15).contains(place) => Some(*place as usize),
        _ => return Err(Fault::NoOverload),
    };
    place.and_then(|place| of.element(place)).ok_or(Fault::NoSuchKey)
}

/// Whether `one` is an element of a list or a key of a map.
pub(super) fn contains(of: &Value<'_>, one: &Value<'_>, fuel: &Fuel) -> Result<bool, Fault> {
    let Some(len) = of.elements() else { return Ok(get(of, one, fuel)?.is_some()) };
    for i in 0..len {
        let Some(element) = of.element(i) else { break };
        if equal(&element, one, fuel)? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How much is in a text, a list or a map.
pub(super) fn size(value: &Value<'_>, fuel: &Fuel) -> Result<usize, Fault> {
    if let Some(len) = value.elements() {
        return Ok(len);
    }
    Ok(match value {
        Value::Text(text) => {
            fuel.burn(text.len() / 16)?;
            text.chars().count()
        }
        Value::Bytes(bytes) => bytes.len(),
        Value::Map(entries) => entries.len(),
        Value::Headers(head) => head.as_ref().map_or(0, headers),
        Value::Namespaces(metadata) => metadata.map_or(0, |metadata| metadata.namespaces.len()),
        Value::Struct(members) => members.len(),
        _ => return Err(Fault::NoOverload),
    })
}

/// Whether two maps have the same keys with the same values.
pub(super) fn same(a: &Value<'_>, b: &Value<'_>, fuel: &Fuel) -> Result<bool, Fault> {
    if size(a, fuel)? != size(b, fuel)? {
        return Ok(false);
    }
    let has = |key: &Value<'_>, value: &Value<'_>| match get(b, key, fuel)? {
        Some(other) => equal(value, &other, fuel),
        None => Ok(false),
    };
    match a {
        Value::Map(entries) => all(entries.iter(), |(key, value)| has(key, value)),
        Value::Struct(members) => {
            all(members.iter(), |(key, value)| has(&Value::Text(Cow::Borrowed(key)), &Value::of(value)))
        }
        Value::Namespaces(Some(metadata)) => all(metadata.namespaces.iter(), |(key, members)| {
            has(&Value::Text(Cow::Borrowed(key)), &Value::Struct(members))
        }),
        Value::Headers(Some(head)) => all(head.headers.keys(), |name| {
            let value = header(head, &HeaderRef::Name(name.clone())).map(Value::Text);
            has(&Value::Text(Cow::Borrowed(name.as_str())), &value.unwrap_or(Value::Null))
        }),
        _ => Ok(true),
    }
}

/// Whether all hold, up to the first that does not.
fn all<T>(
    items: impl Iterator<Item = T>,
    mut holds: impl FnMut(T) -> Result<bool, Fault>,
) -> Result<bool, Fault> {
    for item in items {
        if !holds(item)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The value of a header, of several joined by commas; `None` for none.
pub(super) fn header<'a>(head: &HeadView<'a>, name: &HeaderRef) -> Option<Cow<'a, str>> {
    let pseudo = |text: &'a str| Some(text).filter(|text| !text.is_empty()).map(Cow::Borrowed);
    match name {
        HeaderRef::Method => pseudo(head.method),
        HeaderRef::Authority => pseudo(head.authority),
        HeaderRef::Path => pseudo(head.path),
        HeaderRef::Scheme => pseudo(head.scheme),
        HeaderRef::Status => pseudo(head.status),
        HeaderRef::Protocol => pseudo(head.protocol),
        HeaderRef::Name(name) => joined(head.headers, name.as_str()),
    }
}

fn joined<'a>(headers: &'a HeaderMap, name: &str) -> Option<Cow<'a, str>> {
    let mut values = headers.get_all(name).iter();
    let mut all = String::from_utf8_lossy(values.next()?.as_bytes());
    for value in values {
        let all = all.to_mut();
        all.push(',');
        all.push_str(&String::from_utf8_lossy(value.as_bytes()));
    }
    Some(all)
}

/// How many there are, pseudo headers among them.
fn headers(head: &HeadView<'_>) -> usize {
    let pseudo = [head.method, head.path, head.scheme, head.status, head.protocol];
    // `host` is here what `:authority` is to Envoy.
    let authority = !head.authority.is_empty() && !head.headers.contains_key(HOST);
    head.headers.len() + pseudo.iter().filter(|text| !text.is_empty()).count() + usize::from(authority)
}
