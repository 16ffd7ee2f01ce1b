//! Bringing a request into the form of a protocol.

use http::header::{CONNECTION, HOST, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderName, HeaderValue, Method, Uri, Version};

/// HTTP/1.1: a path and a `host` header; an absolute target when `absolute`.
pub(super) fn for_http1(request: &mut Parts, absolute: bool, tls: bool) {
    request.version = Version::HTTP_11;
    if request.method == Method::CONNECT {
        return;
    }
    let Some(authority) = request.uri.authority() else {
        if absolute {
            make_absolute(request, tls);
        }
        return;
    };
    if !request.headers.contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers.insert(HOST, host);
    }
    if !absolute {
        let path = request.uri.path_and_query().cloned();
        request.uri = Uri::from(path.unwrap_or_else(|| PathAndQuery::from_static("/")));
    }
}

/// HTTP/2: an absolute target, from which the pseudo headers come, and no connection headers.
pub(super) fn for_http2(request: &mut Parts, tls: bool) {
    request.version = Version::HTTP_2;
    // One walk costs less than five look-ups, and there is rarely anything to remove.
    if request.headers.keys().any(is_of_connection) {
        for name in [CONNECTION, UPGRADE, TRANSFER_ENCODING] {
            request.headers.remove(name);
        }
        for name in [HeaderName::from_static("keep-alive"), HeaderName::from_static("proxy-connection")] {
            request.headers.remove(name);
        }
    }
    let tunnel =
        request.method == Method::CONNECT && request.extensions.get::<hyper::ext::Protocol>().is_none();
    // A tunnel's target is an authority and nothing else.
    if request.uri.authority().is_none() && !tunnel {
        make_absolute(request, tls);
    }
    if request.uri.authority().is_some() {
        request.headers.remove(HOST);
    }
}

fn is_of_connection(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "connection" | "upgrade" | "transfer-encoding" | "keep-alive" | "proxy-connection"
    )
}

fn make_absolute(request: &mut Parts, tls: bool) {
    let Some(host) = request.headers.get(HOST) else { return };
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return };
    let mut parts = std::mem::take(&mut request.uri).into_parts();
    if parts.scheme.is_none() {
        parts.scheme = Some(if tls { Scheme::HTTPS } else { Scheme::HTTP });
    }
    parts.authority = Some(authority);
    if parts.path_and_query.is_none() {
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
    }
    if let Ok(uri) = Uri::from_parts(parts) {
        request.uri = uri;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, host: Option<&str>) -> Parts {
        let mut builder = http::Request::builder().uri(uri);
        if let Some(host) = host {
            builder = builder.header(HOST, host);
        }
        builder.body(()).unwrap().into_parts().0
    }

    #[test]
    fn http1_gets_a_path_and_a_host() {
        let mut r = request("https://a.example:81/x?y=1", None);
        for_http1(&mut r, false, false);
        assert_eq!(r.uri, "/x?y=1");
        assert_eq!(r.headers[HOST], "a.example:81");
    }

    #[test]
    fn http2_gets_an_authority_in_place_of_the_host() {
        let mut r = request("/x?y=1", Some("a.example"));
        r.headers.insert(CONNECTION, HeaderValue::from_static("keep-alive"));
        for_http2(&mut r, true);
        assert_eq!(r.uri, "https://a.example/x?y=1");
        assert!(r.headers.is_empty());
    }

    #[test]
    fn a_request_that_was_prepared_for_one_protocol_can_go_by_the_other() {
        let mut r = request("/x", Some("a.example"));
        for_http2(&mut r, false);
        for_http1(&mut r, false, false);
        assert_eq!(r.uri, "/x");
        assert_eq!(r.headers[HOST], "a.example");
    }
}
