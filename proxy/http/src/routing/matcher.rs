//! Whether a route takes a request.

use http::HeaderMap;
use http::header::CONTENT_TYPE;
use outrider_config::model::{PathMatch, RouteMatch, TlsContextMatch};
use outrider_core::matcher::{HeadView, RuntimeFraction};
use outrider_core::stream::TlsInfo;

/// What routing sees of a request.
#[derive(Debug, Clone, Copy)]
pub struct RequestView<'a> {
    /// The head. `path` is empty when the request has none (CONNECT in HTTP/1.1).
    pub head: HeadView<'a>,
    /// The downstream TLS session.
    pub tls: Option<&'a TlsInfo>,
    /// The stream's random number: fractions and weights all decide by this one (as Envoy's stream id does).
    pub random: u64,
}

impl<'a> RequestView<'a> {
    /// The path without query and fragment.
    pub fn bare_path(&self) -> &'a str {
        bare_path(self.head.path)
    }

    /// The query without `?` and fragment; empty when there is none.
    pub fn query(&self) -> &'a str {
        let path = self.head.path;
        let path = path.split_once('#').map_or(path, |(path, _)| path);
        path.split_once('?').map_or("", |(_, query)| query)
    }
}

/// `path` without query and fragment.
pub(crate) fn bare_path(path: &str) -> &str {
    path.find(['?', '#']).and_then(|end| path.get(..end)).unwrap_or(path)
}

/// Whether the route takes the request; `path` is the bare path as it is to be compared.
pub(crate) fn matches(rules: &RouteMatch, request: &RequestView<'_>, path: &str) -> bool {
    path_matches(rules, request, path)
        && rules.fraction.as_ref().is_none_or(|fraction| in_fraction(fraction, request.random))
        && (!rules.grpc || is_grpc(request.head.headers))
        && rules.headers.iter().all(|header| header.matches(&request.head))
        && (rules.query.is_empty() || query_matches(rules, request.query()))
        && rules.tls.is_none_or(|tls| tls_matches(tls, request.tls))
}

fn path_matches(rules: &RouteMatch, request: &RequestView<'_>, path: &str) -> bool {
    let is_connect = request.head.method == "CONNECT";
    if request.head.path.is_empty() {
        return is_connect && matches!(rules.path, PathMatch::Connect);
    }
    let sensitive = rules.case_sensitive;
    match &rules.path {
        PathMatch::Prefix(prefix) => starts_with(path, prefix, sensitive),
        PathMatch::Exact(want) => {
            if sensitive {
                path == &**want
            } else {
                path.eq_ignore_ascii_case(want)
            }
        }
        PathMatch::SeparatedPrefix(prefix) => {
            starts_with(path, prefix, sensitive)
                && matches!(path.as_bytes().get(prefix.len()), None | Some(b'/'))
        }
        PathMatch::Regex(regex) => regex.is_match(path),
        PathMatch::Connect => is_connect,
    }
}

fn starts_with(path: &str, prefix: &str, case_sensitive: bool) -> bool {
    if case_sensitive {
        return path.starts_with(prefix);
    }
    let head = path.as_bytes().get(..prefix.len());
    head.is_some_and(|head| head.eq_ignore_ascii_case(prefix.as_bytes()))
}

/// Whether a request with this random number is in the share.
pub(crate) fn in_fraction(fraction: &RuntimeFraction, random: u64) -> bool {
    fraction.has(random)
}

fn query_matches(rules: &RouteMatch, query: &str) -> bool {
    rules.query.iter().all(|parameter| parameter.matches(query))
}

fn tls_matches(rules: TlsContextMatch, tls: Option<&TlsInfo>) -> bool {
    // A certificate that was shown was verified: the handshake fails otherwise.
    let peer = tls.is_some_and(|tls| tls.peer.is_some());
    rules.presented.is_none_or(|want| want == peer) && rules.validated.is_none_or(|want| want == peer)
}

/// Whether the content type is gRPC's: `application/grpc`, alone or followed by `+`.
pub(crate) fn is_grpc(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(CONTENT_TYPE) else { return false };
    let rest = value.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| rest.first().is_none_or(|byte| *byte == b'+'))
}
