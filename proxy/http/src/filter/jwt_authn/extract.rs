//! Tokens in requests.

use http::HeaderValue;
use http::header::AUTHORIZATION;
use http::request::Parts;
use memchr::memmem;
use outrider_config::model::{JwtLocation, JwtPlace};
use smallvec::SmallVec;

use crate::filter::header_mutation::Query;
use crate::filter::places::{cookie, parameter, path};
use crate::router::set_path;

/// A token as it was found.
#[derive(Debug)]
pub(super) struct Found<'a> {
    text: Text,
    /// Where.
    pub(super) location: &'a JwtLocation,
}

#[derive(Debug)]
enum Text {
    /// The value of a header from some byte on. It is the same memory as the header's.
    Header(HeaderValue, usize),
    Own(Box<[u8]>),
}

impl Found<'_> {
    /// The token.
    pub(super) fn text(&self) -> &[u8] {
        match &self.text {
            Text::Header(value, begin) => value.as_bytes().get(*begin..).unwrap_or_default(),
            Text::Own(text) => text,
        }
    }

    /// Takes it out of the request. Those in cookies stay, as in Envoy.
    pub(super) fn remove(&self, parts: &mut Parts) {
        match &self.location.place {
            JwtPlace::Header { name, .. } => drop(parts.headers.remove(name)),
            JwtPlace::Query(name) => {
                let path = path(parts);
                let mut query = Query::parse(path);
                query.remove(name);
                let path = query.path(path);
                set_path(parts, path);
            }
            JwtPlace::Cookie(_) => {}
        }
    }
}

/// The tokens of a request, in the order in which they are looked for.
pub(super) fn tokens<'a>(parts: &Parts, locations: &'a [JwtLocation]) -> SmallVec<[Found<'a>; 2]> {
    let mut found = SmallVec::new();
    for location in locations {
        match &location.place {
            JwtPlace::Header { name, prefix } => {
                let prefix = prefix.as_bytes();
                let several = parts.headers.get_all(name).iter().nth(1).is_some();
                if several && *name == AUTHORIZATION {
                    // To Envoy several of them are one.
                    let values: Vec<&[u8]> =
                        parts.headers.get_all(name).iter().map(HeaderValue::as_bytes).collect();
                    let value = values.join(&b',');
                    let text = begin(&value, prefix).and_then(|begin| value.get(begin..));
                    found.extend(text.map(|text| Found { text: Text::Own(text.into()), location }));
                    continue;
                }
                let values = parts.headers.get_all(name).iter();
                found.extend(values.filter_map(|value| {
                    let text = Text::Header(value.clone(), begin(value.as_bytes(), prefix)?);
                    Some(Found { text, location })
                }));
            }
            JwtPlace::Query(name) => {
                let text = parameter(path(parts), name).map(|text| Text::Own(text.into()));
                found.extend(text.map(|text| Found { text, location }));
            }
            JwtPlace::Cookie(name) => {
                let text = cookie(&parts.headers, name).map(|text| Text::Own(text.into()));
                found.extend(text.map(|text| Found { text, location }));
            }
        }
    }
    found
}

/// Where a token begins in a header's value: behind the prefix, wherever that is, at the first character that can be one of a
/// token's; the whole value when there is none (Envoy: `extractJWT`). `None` without the prefix.
fn begin(value: &[u8], prefix: &[u8]) -> Option<usize> {
    if prefix.is_empty() {
        return Some(0);
    }
    let behind = memmem::find(value, prefix)? + prefix.len();
    let of_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"-_.".contains(byte);
    let first = value.get(behind..)?.iter().position(of_token);
    Some(first.map_or(0, |first| behind + first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_begins_behind_its_prefix() {
        let at = |value: &str, prefix: &str| begin(value.as_bytes(), prefix.as_bytes());
        assert_eq!(at("Bearer a.b.c", "Bearer "), Some(7));
        assert_eq!(at("x Bearer   a.b.c", "Bearer "), Some(11));
        assert_eq!(at("Bearer ", "Bearer "), Some(0));
        assert_eq!(at("Basic a", "Bearer "), None);
        assert_eq!(at("a.b.c", ""), Some(0));
    }
}
