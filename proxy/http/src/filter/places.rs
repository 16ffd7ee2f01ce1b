//! Where requests carry what proves who sends them: headers, query parameters and cookies.

use std::borrow::Cow;

use http::header::{AUTHORIZATION, COOKIE};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};

/// The first value of a header. Several of `authorization` are one to Envoy, so nobody can hide one behind another.
pub(super) fn header<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let first = values.next()?;
    if *name != AUTHORIZATION || values.next().is_none() {
        return Some(Cow::Borrowed(first));
    }
    let values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
    let values: Vec<&[u8]> = values.filter(|value| !value.is_empty()).collect();
    Some(Cow::Owned(values.join(&b',')))
}

/// The path with its query.
pub(super) fn path(parts: &Parts) -> &str {
    parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str)
}

/// The first value of a query parameter, decoded.
pub(super) fn parameter<'a>(path: &'a str, name: &str) -> Option<Cow<'a, [u8]>> {
    let (_, query) = path.split_once('?')?;
    let query = query.split('#').next()?;
    query.split('&').find_map(|pair| {
        let (known, value) = pair.split_once('=').unwrap_or((pair, ""));
        (*decoded(known) == *name.as_bytes()).then(|| decoded(value))
    })
}

/// `text` with its percent codes decoded; odd ones stay.
pub(super) fn decoded(text: &str) -> Cow<'_, [u8]> {
    let bytes = text.as_bytes();
    if !bytes.contains(&b'%') {
        return Cow::Borrowed(bytes);
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    while let Some((byte, more)) = rest.split_first() {
        let code = more.get(..2).filter(|code| *byte == b'%' && code.iter().all(u8::is_ascii_hexdigit));
        let code = code.and_then(|code| u8::from_str_radix(std::str::from_utf8(code).ok()?, 16).ok());
        out.push(code.unwrap_or(*byte));
        rest = if code.is_some() { more.get(2..).unwrap_or_default() } else { more };
    }
    Cow::Owned(out)
}

/// The value of the first cookie of that name, without its quotes.
pub(super) fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    cookies(headers).find_map(|(known, value)| (*known == *name.as_bytes()).then_some(value))
}

/// Takes the cookies of that name out. The others are written anew in one header, without their quotes, and what is no
/// cookie goes, even if none has the name (Envoy: `removeCookieValue`).
pub(super) fn remove_cookie(headers: &mut HeaderMap, name: &str) {
    if !headers.contains_key(COOKIE) {
        return;
    }
    let mut left = Vec::new();
    for (known, value) in cookies(headers).filter(|(known, _)| **known != *name.as_bytes()) {
        if !left.is_empty() {
            left.extend_from_slice(b"; ");
        }
        left.extend_from_slice(known);
        left.push(b'=');
        left.extend_from_slice(value);
    }
    headers.remove(COOKIE);
    // What stood in a header before can stand in one again.
    if !left.is_empty()
        && let Ok(left) = HeaderValue::from_maybe_shared(bytes::Bytes::from(left))
    {
        headers.insert(COOKIE, left);
    }
}

/// All cookies, with their names, without their quotes.
pub(super) fn cookies(headers: &HeaderMap) -> impl Iterator<Item = (&[u8], &[u8])> {
    let all = headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    all.filter_map(|cookie| {
        let equals = cookie.iter().position(|byte| *byte == b'=')?;
        let (name, value) = (cookie.get(..equals)?.trim_ascii(), cookie.get(equals + 1..)?.trim_ascii());
        let bare = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
        Some((name, bare.unwrap_or(value)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_decoded_and_odd_codes_stay() {
        let of = |path: &str| parameter(path, "t").map(|text| String::from_utf8_lossy(&text).into_owned());
        assert_eq!(of("/x?a=1&t=a%2eb&t=2").as_deref(), Some("a.b"));
        assert_eq!(of("/x?%74=1#f").as_deref(), Some("1"));
        assert_eq!(of("/x?t=%zz%+1%2").as_deref(), Some("%zz%+1%2"));
        assert_eq!(of("/x"), None);
    }

    #[test]
    fn one_cookie_goes_and_the_others_stay() {
        let mut headers = HeaderMap::new();
        headers.append(COOKIE, HeaderValue::from_static("a=1;k=x; b=\"2\";c"));
        headers.append(COOKIE, HeaderValue::from_static("k=y"));
        assert_eq!(cookie(&headers, "k"), Some(&b"x"[..]));
        assert_eq!(cookie(&headers, "b"), Some(&b"2"[..]));
        let mut all = headers.clone();
        remove_cookie(&mut all, "none");
        assert_eq!(all.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; k=x; b=2; k=y"]);
        remove_cookie(&mut headers, "k");
        assert_eq!(headers.get_all(COOKIE).iter().collect::<Vec<_>>(), ["a=1; b=2"]);
        remove_cookie(&mut headers, "a");
        remove_cookie(&mut headers, "b");
        assert!(!headers.contains_key(COOKIE));
    }

    #[test]
    fn several_values_of_authorization_are_one() {
        let mut headers = HeaderMap::new();
        headers.append(AUTHORIZATION, HeaderValue::from_static("a"));
        headers.append("x-key", HeaderValue::from_static("a"));
        let of = |headers: &HeaderMap, name: HeaderName| header(headers, &name).map(Cow::into_owned);
        assert_eq!(of(&headers, AUTHORIZATION), Some(b"a".to_vec()));
        headers.append(AUTHORIZATION, HeaderValue::from_static(""));
        headers.append(AUTHORIZATION, HeaderValue::from_static("b"));
        headers.append("x-key", HeaderValue::from_static("b"));
        assert_eq!(of(&headers, AUTHORIZATION), Some(b"a,b".to_vec()));
        assert_eq!(of(&headers, HeaderName::from_static("x-key")), Some(b"a".to_vec()));
        assert_eq!(of(&headers, HeaderName::from_static("x-none")), None);
    }
}
