//! What operators read of heads beyond single headers.

use super::FormatContext;
use super::op::{Part, PathSource, ServerName};
use crate::matcher::HeadView;

const ORIGINAL_PATH: &str = "x-envoy-original-path";
const ORIGINAL_HOST: &str = "x-envoy-original-host";

fn put(value: &str, out: &mut Vec<u8>) -> bool {
    out.extend_from_slice(value.as_bytes());
    true
}

fn named<'a>(request: &HeadView<'a>, name: &str) -> Option<&'a str> {
    request.headers.get(name)?.to_str().ok()
}

/// A request header's value.
pub(super) fn header(cx: &FormatContext<'_>, name: &str, out: &mut Vec<u8>) -> bool {
    cx.request.and_then(|request| named(&request, name)).is_some_and(|value| put(value, out))
}

/// `%PATH%`
pub(super) fn path(query: bool, source: PathSource, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
    let Some(request) = &cx.request else { return false };
    let original = || named(request, ORIGINAL_PATH);
    let current = || (!request.path.is_empty()).then_some(request.path);
    let path = match source {
        PathSource::Original => original(),
        PathSource::Current => current(),
        PathSource::OriginalOrCurrent => original().or_else(current),
    };
    path.is_some_and(|path| put(if query { path } else { path.split('?').next().unwrap_or(path) }, out))
}

/// `%QUERY_PARAM(name)%`: the first value of that name, percent-decoded.
pub(super) fn query_param(name: &str, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
    let Some((_, query)) = cx.request.and_then(|request| request.path.split_once('?')) else { return false };
    let mut pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.find(|(key, _)| *key == name).is_some_and(|(_, value)| decoded(value, |_| true, out))
}

/// `%QUERY_PARAMS%`
pub(super) fn query_params(decode: bool, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
    let Some((_, query)) = cx.request.and_then(|request| request.path.split_once('?')) else { return false };
    if decode { decoded(query, is_plain, out) } else { put(query, out) }
}

/// What `%QUERY_PARAMS(DECODED)%` resolves (measured on Envoy 1.40): visible characters, but for those that no query
/// has unescaped.
const fn is_plain(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'{' | b'|' | b'}')
}

/// Appends `text` with those percent escapes resolved that `resolve` says; the others stay as they came.
fn decoded(text: &str, resolve: fn(u8) -> bool, out: &mut Vec<u8>) -> bool {
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let escape =
            (*first == b'%').then(|| tail.split_at_checked(2)).flatten().and_then(|(digits, tail)| {
                let both = digits.iter().all(u8::is_ascii_hexdigit);
                let digits = std::str::from_utf8(digits).ok().filter(|_| both)?;
                Some((u8::from_str_radix(digits, 16).ok().filter(|byte| resolve(*byte))?, tail))
            });
        let (byte, tail) = escape.unwrap_or((*first, tail));
        out.push(byte);
        rest = tail;
    }
    true
}

/// `%REQUESTED_SERVER_NAME%`
pub(super) fn server_name(which: ServerName, cx: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
    let sni = || cx.info.conn.sni.as_deref().filter(|name| !name.is_empty());
    let host = |source| {
        let request = cx.request?;
        let original = || named(&request, ORIGINAL_HOST);
        let current = || (!request.authority.is_empty()).then_some(request.authority);
        match source {
            PathSource::Original => original(),
            PathSource::Current => current(),
            PathSource::OriginalOrCurrent => original().or_else(current),
        }
    };
    let name = match which {
        ServerName::Sni => sni(),
        ServerName::SniFirst(source) => sni().or_else(|| host(source)),
        ServerName::HostFirst(source) => host(source).or_else(sni),
    };
    name.is_some_and(|name| put(name, out))
}

/// The bytes of all names and values, pseudo headers among them.
pub(super) fn head_bytes(part: Part, cx: &FormatContext<'_>) -> u64 {
    match part {
        Part::Request => cx.request.as_ref().map_or(0, request_bytes),
        Part::Response => cx.response.as_ref().map_or(0, response_bytes),
        Part::Trailers => cx.trailers.map_or(0, trailer_bytes),
    }
}

/// The bytes of a request's head.
pub(crate) fn request_bytes(head: &HeadView<'_>) -> u64 {
    // `host` is here what `:authority` is to Envoy.
    let authority = head.headers.get_all(http::header::HOST).iter().count() * (":authority".len() - 4);
    let named = |name: &str, value: &str| if value.is_empty() { 0 } else { name.len() + value.len() };
    let pseudo =
        named(":method", head.method) + named(":path", head.path) + named(":scheme", head.scheme) + authority;
    trailer_bytes(head.headers) + pseudo as u64
}

/// The bytes of a response's head.
pub(crate) fn response_bytes(head: &HeadView<'_>) -> u64 {
    trailer_bytes(head.headers) + (":status".len() + head.status.len()) as u64
}

/// The bytes of trailers.
pub(crate) fn trailer_bytes(trailers: &http::HeaderMap) -> u64 {
    trailers.iter().map(|(name, value)| (name.as_str().len() + value.len()) as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn escapes_are_resolved_and_other_percent_signs_stay() {
        let text = |text: &str| {
            let mut out = Vec::new();
            decoded(text, |_| true, &mut out);
            String::from_utf8(out).expect("text")
        };
        assert_eq!(text("a%2Fb+c%zz%"), "a/b+c%zz%");
        assert_eq!(text("%+1%41%4"), "%+1A%4");
    }
}
