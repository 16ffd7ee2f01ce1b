//! Tokens in requests.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use memchr::memmem;
use outrider_config::model::{JwtLocation, JwtPlace};
use smallvec::SmallVec;

use crate::filter::header_mutation::Query;
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
                let text = parameter(path(parts), name).map(Text::Own);
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

fn path(parts: &Parts) -> &str {
    parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str)
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

/// The first value of a query parameter, decoded.
fn parameter(path: &str, name: &str) -> Option<Box<[u8]>> {
    let (_, query) = path.split_once('?')?;
    let query = query.split('#').next()?;
    query.split('&').find_map(|pair| {
        let (known, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*decoded(known) == *name.as_bytes()).then(|| decoded(value).into())
    })
}

fn decoded(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.contains(&b'%') {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((byte, more)) = rest.split_first() {
        let code = more.get(..2).filter(|_| *byte == b'%');
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        out.push(code.unwrap_or(*byte));
        rest = if code.is_some() { more.get(2..).unwrap_or_default() } else { more };
    }
    Cow::Owned(out)
}

/// The value of the first cookie of that name, without its quotes.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let mut cookies =
        headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    cookies.find_map(|cookie| {
        let equals = cookie.iter().position(|byte| *byte == b'=')?;
        let (known, value) = (cookie.get(..equals)?.trim_ascii(), cookie.get(equals + 1..)?.trim_ascii());
        let bare = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        (*known == *name.as_bytes()).then_some(bare.unwrap_or(value))
    })
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

    #[test]
    fn parameters_are_decoded_and_odd_codes_stay() {
        let of = |path: &str| parameter(path, "t").map(|text| String::from_utf8_lossy(&text).into_owned());
        assert_eq!(of("/x?a=1&t=a%2eb&t=2").as_deref(), Some("a.b"));
        assert_eq!(of("/x?%74=1#f").as_deref(), Some("1"));
        assert_eq!(of("/x?t=%zz%2").as_deref(), Some("%zz%2"));
        assert_eq!(of("/x"), None);
    }
}
