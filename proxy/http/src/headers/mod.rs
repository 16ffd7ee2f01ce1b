//! Header policy: what the connection manager does to the heads of requests and responses.
//!
//! Follows Envoy's documented behaviour ("HTTP header manipulation" and the fields of HttpConnectionManager), with
//! details measured on Envoy 1.40. A head is looked through once; only what is there is then touched.

mod check;
pub(crate) mod host;
pub(crate) mod path;
pub(crate) mod request;
pub(crate) mod request_id;
pub(crate) mod response;
mod trust;
pub(crate) mod xfcc;
pub(crate) mod xff;

use http::{HeaderMap, HeaderName, HeaderValue};

/// Names that have no constant in the `http` crate.
pub(crate) mod names {
    use http::HeaderName;

    pub(crate) const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
    pub(crate) const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
    pub(crate) const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");
    pub(crate) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
    pub(crate) const X_FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
    pub(crate) const X_FORWARDED_PORT: HeaderName = HeaderName::from_static("x-forwarded-port");
    pub(crate) const X_FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
    pub(crate) const X_FORWARDED_CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
    pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
    pub(crate) const X_ENVOY_INTERNAL: HeaderName = HeaderName::from_static("x-envoy-internal");
    pub(crate) const X_ENVOY_EXTERNAL_ADDRESS: HeaderName =
        HeaderName::from_static("x-envoy-external-address");
    pub(crate) const SERVICE_CLUSTER: HeaderName =
        HeaderName::from_static("x-envoy-downstream-service-cluster");
    pub(crate) const SERVICE_NODE: HeaderName = HeaderName::from_static("x-envoy-downstream-service-node");
    pub(crate) const X_ENVOY_FORCE_TRACE: HeaderName = HeaderName::from_static("x-envoy-force-trace");
    pub(crate) const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
    pub(crate) const GRPC_MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
}

/// Which of the headers that the policy knows are in a head: one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Seen(u32);

macro_rules! seen {
    ($($bit:literal $name:ident $text:literal;)*) => {
        impl Seen {
            $(pub(crate) const $name: Self = Self(1 << $bit);)*

            #[inline]
            fn of(name: &[u8]) -> Self {
                $(const $name: &[u8] = $text.as_bytes();)*
                match name {
                    $($name => Self::$name,)*
                    _ if name.starts_with(b"x-envoy-") => Self::ENVOY,
                    _ => Self(0),
                }
            }
        }
    };
}

seen! {
    0 TE "te";
    1 VIA "via";
    2 HOST "host";
    3 DATE "date";
    4 EXPECT "expect";
    5 SERVER "server";
    6 UPGRADE "upgrade";
    7 CONNECTION "connection";
    8 KEEP_ALIVE "keep-alive";
    9 CONTENT_TYPE "content-type";
    10 REQUEST_ID "x-request-id";
    11 CONTENT_LENGTH "content-length";
    12 XFF "x-forwarded-for";
    13 PROXY_CONNECTION "proxy-connection";
    14 XFPORT "x-forwarded-port";
    15 TRANSFER_ENCODING "transfer-encoding";
    16 XFP "x-forwarded-proto";
    17 XFCC "x-forwarded-client-cert";
    18 COOKIE "cookie";
}

impl Seen {
    /// Any `x-envoy-` header.
    pub(crate) const ENVOY: Self = Self(1 << 31);

    /// What is in `headers`.
    #[inline]
    pub(crate) fn scan(headers: &HeaderMap) -> Self {
        headers.keys().fold(Self(0), |seen, name| Self(seen.0 | Self::of(name.as_str().as_bytes()).0))
    }

    /// Whether any of `other` is here.
    #[inline]
    pub(crate) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Removes `name` if `seen` says that it is there.
#[inline]
pub(crate) fn remove_if(headers: &mut HeaderMap, seen: Seen, bit: Seen, name: &HeaderName) {
    if seen.has(bit) {
        headers.remove(name);
    }
}

/// The values of `name` joined by `separator`; `None` when there is none. One value costs nothing.
pub(crate) fn joined<'a>(
    headers: &'a HeaderMap,
    name: &HeaderName,
    separator: &str,
) -> Option<std::borrow::Cow<'a, [u8]>> {
    let mut values = headers.get_all(name).iter();
    let first = values.next()?;
    let Some(second) = values.next() else { return Some(first.as_bytes().into()) };
    let mut all = first.as_bytes().to_vec();
    for value in std::iter::once(second).chain(values) {
        all.extend_from_slice(separator.as_bytes());
        all.extend_from_slice(value.as_bytes());
    }
    Some(all.into())
}

/// Appends `text` to the value of `name` behind `separator`, or sets it; several values become one.
pub(crate) fn append_joined(headers: &mut HeaderMap, name: HeaderName, separator: &str, text: &[u8]) {
    let value = match joined(headers, &name, separator) {
        None => HeaderValue::from_bytes(text),
        Some(old) if old.is_empty() => HeaderValue::from_bytes(text),
        Some(old) => HeaderValue::from_bytes(&[&old, separator.as_bytes(), text].concat()),
    };
    // Both halves were header values, or come from the validated configuration.
    if let Ok(value) = value {
        headers.insert(name, value);
    }
}

/// `via`: the entry of a proxy named `via` at the end of the list.
pub(crate) fn append_via(headers: &mut HeaderMap, via: &str) {
    append_joined(headers, http::header::VIA, ", ", via.as_bytes());
}

/// Whether the comma-separated list `value` has `token`, regardless of ASCII case.
pub(crate) fn has_token(value: &[u8], token: &str) -> bool {
    tokens(value).any(|part| part.eq_ignore_ascii_case(token.as_bytes()))
}

/// The parts of a comma-separated list without the space around them.
pub(crate) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_scanned_into_bits() {
        let mut headers = HeaderMap::new();
        headers.insert("x-envoy-retry-on", HeaderValue::from_static("5xx"));
        headers.insert("x-other", HeaderValue::from_static("1"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        let seen = Seen::scan(&headers);
        assert!(seen.has(Seen::ENVOY) && seen.has(Seen::TE));
        assert!(!seen.has(Seen::CONNECTION) && !seen.has(Seen::XFF));
    }

    #[test]
    fn via_is_appended_to_the_list() {
        let mut headers = HeaderMap::new();
        append_via(&mut headers, "a");
        append_via(&mut headers, "b");
        assert_eq!(headers["via"], "a, b");
    }
}
