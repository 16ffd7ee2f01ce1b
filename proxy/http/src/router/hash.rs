//! What a request is hashed by, for clusters that draw their hosts by a hash.

use std::fmt::Write as _;

use http::header::COOKIE;
use http::request::Parts;
use http::{HeaderMap, HeaderValue};
use outrider_config::model::{Forward, HashPolicy, HashSource, RegexRewrite};
use outrider_core::matcher::{HeadView, HeaderRef};
use outrider_upstream::WorkerCluster;
use outrider_upstream::lb::hash::{ip_hash, xx_hash};

use crate::stream::Stream;

/// A request's hash.
#[derive(Debug, Default)]
pub(crate) struct RequestHash {
    /// `None` when there is nothing to hash: the host is drawn at random.
    pub(crate) value: Option<u64>,
    /// What the client gets by `Set-Cookie`, so that it comes back with it.
    pub(crate) cookies: Vec<HeaderValue>,
}

impl RequestHash {
    /// The hash of a request to `cluster`, by the cluster's own policies, or else by the route's. Nothing is hashed where
    /// it would not be read.
    #[inline]
    pub(crate) fn of(stream: &Stream, route: &Forward, cluster: &WorkerCluster, parts: &Parts) -> Self {
        let config = &cluster.shared.config;
        if !config.lb.is_hashed() {
            return Self::default();
        }
        let own = &config.hash_policy;
        let mut hash = Self::default();
        hash.add(if own.is_empty() { &route.hash_policy } else { own }, stream, parts);
        hash
    }

    fn add(&mut self, policies: &[HashPolicy], stream: &Stream, parts: &Parts) {
        for HashPolicy { source, terminal } in policies {
            if let Some(new) = self.one(source, stream, parts) {
                // The same thing twice must not come to nothing.
                self.value = Some(self.value.map_or(0, |old| old.rotate_left(1)) ^ new);
            }
            if *terminal && self.value.is_some() {
                return;
            }
        }
    }

    fn one(&mut self, source: &HashSource, stream: &Stream, parts: &Parts) -> Option<u64> {
        match source {
            HashSource::Header { name, rewrite } => {
                let view = stream.view(&parts.method, &parts.uri, &parts.headers);
                header(&view, name, rewrite.as_ref())
            }
            HashSource::Cookie { name, attributes } => {
                if let Some(value) = cookie(&parts.headers, name).filter(|value| !value.is_empty()) {
                    return Some(xx_hash(value, 0));
                }
                // Without a time to live none is made up.
                let attributes = attributes.as_deref()?;
                let value = made_up(stream);
                let text = [name, "=\"", &value, "\"", attributes].concat();
                self.cookies.extend(HeaderValue::from_str(&text).ok());
                Some(xx_hash(value.as_bytes(), 0))
            }
            HashSource::SourceIp => Some(ip_hash(stream.info.borrow().remote().ip()?.ip())),
            HashSource::Query(name) => Some(xx_hash(query(parts.uri.query()?, name)?.as_bytes(), 0)),
        }
    }
}

/// The values of a header, in order whatever theirs is.
fn header(view: &HeadView<'_>, name: &HeaderRef, rewrite: Option<&RegexRewrite>) -> Option<u64> {
    if let (HeaderRef::Name(name), None) = (name, rewrite) {
        let mut values = view.headers.get_all(name).iter();
        let first = values.next()?;
        if values.next().is_none() {
            return Some(xx_hash(first.as_bytes(), 0));
        }
    }
    let mut values = Vec::new();
    view.each(name, |value| {
        values.push(match rewrite {
            Some(rewrite) => rewrite.pattern.replace_all(value, &*rewrite.substitution).into_owned(),
            None => value.to_owned(),
        });
    });
    values.sort_unstable();
    let hash = values.iter().fold(0, |hash, value| xx_hash(value.as_bytes(), hash));
    (!values.is_empty()).then_some(hash)
}

/// The value of the first cookie of that name, without its quotes.
fn cookie<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    let cookies =
        headers.get_all(COOKIE).iter().flat_map(|value| value.as_bytes().split(|byte| *byte == b';'));
    let mut found = cookies.filter_map(|cookie| {
        let equals = cookie.iter().position(|byte| *byte == b'=')?;
        let (key, value) = cookie.split_at_checked(equals)?;
        (key.trim_ascii_start() == name.as_bytes()).then(|| value.get(1..)).flatten()
    });
    let value = found.next()?;
    Some(value.strip_prefix(b"\"").and_then(|value| value.strip_suffix(b"\"")).unwrap_or(value))
}

/// The first value of a query parameter, as it stands.
fn query<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut parameters = query.split('&').map(|one| one.split_once('=').unwrap_or((one, "")));
    parameters.find(|(key, _)| *key == name).map(|(_, value)| value)
}

/// The cookie of a client that has none: the same for all requests of its connection.
fn made_up(stream: &Stream) -> String {
    let conn = &stream.conn.info;
    let mut addresses = String::new();
    // Writing to a string cannot fail.
    let _ = write!(addresses, "{}{}", conn.remote, conn.local);
    format!("{:016x}", xx_hash(addresses.as_bytes(), 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(cookies: &[&'static str]) -> HeaderMap {
        cookies.iter().map(|value| (COOKIE, HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn cookies_are_found_in_any_header_and_lose_their_quotes() {
        let map = headers(&["a=1; b; c=\"x y\"", "d=4;a=2"]);
        let value = |name| cookie(&map, name).map(|value| String::from_utf8_lossy(value).into_owned());
        assert_eq!(value("a").as_deref(), Some("1"));
        assert_eq!(value("b"), None);
        assert_eq!(value("c").as_deref(), Some("x y"));
        assert_eq!(value("d").as_deref(), Some("4"));
        assert_eq!(cookie(&headers(&["a=\""]), "a"), Some(&b"\""[..]));
    }

    #[test]
    fn the_first_parameter_counts_and_nothing_is_decoded() {
        assert_eq!(query("x=1&y=%20&x=2&z", "x"), Some("1"));
        assert_eq!(query("x=1&y=%20&x=2&z", "y"), Some("%20"));
        assert_eq!(query("x=1&y=%20&x=2&z", "z"), Some(""));
        assert_eq!(query("x=1", "w"), None);
    }

    #[test]
    fn the_order_of_a_headers_values_does_not_matter() {
        let name = || http::HeaderName::from_static("x");
        let map = |values: [&'static str; 2]| -> HeaderMap {
            values.into_iter().map(|value| (name(), HeaderValue::from_static(value))).collect()
        };
        let hash = |map: &HeaderMap| header(&HeadView::of(map), &HeaderRef::Name(name()), None);
        assert_eq!(hash(&map(["a", "b"])), hash(&map(["b", "a"])));
        assert_ne!(hash(&map(["a", "b"])), hash(&map(["a", "a"])));
        assert_eq!(hash(&HeaderMap::new()), None);
    }
}
