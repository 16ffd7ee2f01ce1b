//! Where a redirect points to.

use outrider_config::model::{PathMatch, Redirect, RedirectPath};

use super::matcher::RequestView;
use super::rewrite;

/// The `location` of `redirect` for a request that the path rule `matched` took.
///
/// Built from the request's own scheme, authority and path, each replaced where the configuration says so; the
/// same rules as Envoy's, ports included: an authority loses its port when the redirect sets one, or when the
/// scheme changes and the port was the old scheme's default.
pub(crate) fn location(redirect: &Redirect, matched: &PathMatch, request: &RequestView<'_>) -> String {
    let head = &request.head;
    let scheme = match &redirect.scheme {
        Some(scheme) => scheme,
        None if redirect.https => "https",
        None => head.scheme,
    };
    let host = match &redirect.host {
        Some(host) => host,
        None => kept_host(head.authority, head.scheme, scheme, redirect.port.is_some()),
    };
    let mut out = String::with_capacity(scheme.len() + host.len() + head.path.len() + 16);
    out.push_str(scheme);
    out.push_str("://");
    out.push_str(host);
    if let Some(port) = redirect.port {
        out.push(':');
        out.push_str(&port.to_string());
    }
    push_path(&mut out, redirect, matched, head.path);
    out
}

/// The same for a virtual host that requires TLS.
pub(crate) fn https_location(request: &RequestView<'_>) -> String {
    ["https://", request.head.authority, request.head.path].concat()
}

/// The `location` of a fixed answer with a 3xx or 201 status: the request's own URL.
pub(crate) fn same_location(request: &RequestView<'_>) -> String {
    [request.head.scheme, "://", request.head.authority, request.head.path].concat()
}

/// The request's path as the redirect's prefix or expression rewrites it, if it has one.
pub(crate) fn rewritten_path(redirect: &Redirect, matched: &PathMatch, path: &str) -> Option<String> {
    match &redirect.path {
        Some(RedirectPath::Prefix(prefix)) => rewrite::replace_prefix(prefix, matched, path),
        Some(RedirectPath::Regex(regex)) => Some(rewrite::replace_bare(regex, path)),
        Some(RedirectPath::Whole(_)) | None => None,
    }
}

fn push_path(out: &mut String, redirect: &Redirect, matched: &PathMatch, path: &str) {
    if let Some(RedirectPath::Whole(whole)) = &redirect.path
        && !whole.is_empty()
    {
        out.push_str(whole);
        // A query of its own takes the place of the request's, and is never stripped.
        if !whole.contains('?') && !redirect.strip_query {
            out.push_str(path.find('?').and_then(|query| path.get(query..)).unwrap_or(""));
        }
        return;
    }
    let rewritten = rewritten_path(redirect, matched, path);
    let path = rewritten.as_deref().unwrap_or(path);
    let query = path.find('?').filter(|_| redirect.strip_query);
    out.push_str(query.and_then(|query| path.get(..query)).unwrap_or(path));
}

fn kept_host<'a>(host: &'a str, scheme: &str, new_scheme: &str, port_is_set: bool) -> &'a str {
    let colon = if host.starts_with('[') { host.rfind("]:").map(|at| at + 1) } else { host.rfind(':') };
    let Some((bare, port)) = colon.and_then(|colon| host.split_at_checked(colon)) else { return host };
    let default_port = match scheme {
        "https" => ":443",
        "http" => ":80",
        _ => "",
    };
    let scheme_changes = new_scheme != scheme && port == default_port;
    if port_is_set || scheme_changes { bare } else { host }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};
    use outrider_config::model::RegexRewrite;
    use outrider_core::matcher::HeadView;

    use super::*;

    fn redirect() -> Redirect {
        Redirect {
            status: StatusCode::MOVED_PERMANENTLY,
            https: false,
            scheme: None,
            host: None,
            port: None,
            path: None,
            strip_query: false,
        }
    }

    fn at(redirect: &Redirect, matched: &PathMatch, url: &str) -> String {
        let (scheme, rest) = url.split_once("://").expect("scheme");
        let (authority, path) = rest.split_at(rest.find('/').expect("path"));
        let headers = HeaderMap::new();
        let head = HeadView { authority, path, scheme, method: "GET", ..HeadView::of(&headers) };
        location(redirect, matched, &RequestView { head, tls: None, random: 0 })
    }

    fn prefix(text: &str) -> PathMatch {
        PathMatch::Prefix(text.into())
    }

    #[test]
    fn ports_follow_the_scheme() {
        let https = Redirect { https: true, ..redirect() };
        for (url, want) in [
            ("http://a/x?q=1", "https://a/x?q=1"),
            ("http://a:80/x", "https://a/x"),
            ("http://a:8080/x", "https://a:8080/x"),
            ("https://a:443/x", "https://a:443/x"),
            ("http://[::1]:80/x", "https://[::1]/x"),
            ("http://[::1]/x", "https://[::1]/x"),
        ] {
            assert_eq!(at(&https, &prefix("/"), url), want);
        }
        let port = Redirect { port: Some(8443), ..https };
        assert_eq!(at(&port, &prefix("/"), "http://a:80/x"), "https://a:8443/x");
        assert_eq!(at(&port, &prefix("/"), "http://[::1]:1/x"), "https://[::1]:8443/x");
        let scheme = Redirect { scheme: Some("http".into()), ..redirect() };
        assert_eq!(at(&scheme, &prefix("/"), "https://a:443/x"), "http://a/x");
    }

    #[test]
    fn paths_and_queries() {
        let whole = |path: &str, strip_query| Redirect {
            path: Some(RedirectPath::Whole(path.into())),
            strip_query,
            ..redirect()
        };
        assert_eq!(at(&whole("/new", false), &prefix("/"), "http://a/x?q"), "http://a/new?q");
        assert_eq!(at(&whole("/new", true), &prefix("/"), "http://a/x?q"), "http://a/new");
        assert_eq!(at(&whole("/new?own", true), &prefix("/"), "http://a/x?q"), "http://a/new?own");
        let strip = Redirect { strip_query: true, ..redirect() };
        assert_eq!(at(&strip, &prefix("/"), "http://a/x?q"), "http://a/x");
        let rewrite = Redirect { path: Some(RedirectPath::Prefix("/v2".into())), ..redirect() };
        assert_eq!(at(&rewrite, &prefix("/v1"), "http://a/v1/x?q"), "http://a/v2/x?q");
        let pattern = regex::Regex::new("^/(.)/(.)$").expect("regex");
        let swap = RegexRewrite { pattern, substitution: "/${2}/${1}".into() };
        let swap = Redirect { path: Some(RedirectPath::Regex(swap)), host: Some("b:1".into()), ..redirect() };
        assert_eq!(at(&swap, &prefix("/"), "http://a/x/y?q"), "http://b:1/y/x?q");
    }
}
