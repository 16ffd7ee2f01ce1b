//! The heads of HTTP/1.1 messages: the request's as it is written, the response's as it is read.

use std::mem::MaybeUninit;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use http_body::Body;

use crate::body::UpstreamBody;

/// Header fields of a response for which there is room on the stack.
const USUAL_FIELDS: usize = 64;

/// How a request's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// There is none.
    None,
    /// So many bytes are to come.
    Length(u64),
    /// Chunks.
    Chunked,
}

/// How a response's body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// So many bytes; 0 for none.
    Length(u64),
    /// Chunks.
    Chunked,
    /// To the connection's end.
    Close,
    /// None: the connection leaves HTTP.
    Upgrade,
}

/// A response's head.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) extent: Extent,
    /// The connection may be used again.
    pub(super) keep_alive: bool,
    /// Its length, bytes.
    pub(super) len: usize,
}

/// What was read is no HTTP/1 response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Malformed;

/// Settles how the body is delimited, and makes the head say so. What the head says of itself is believed.
pub(super) fn frame(parts: &mut Parts, body: &UpstreamBody) -> Framing {
    let headers = &mut parts.headers;
    if body.is_end_stream() {
        headers.remove(TRANSFER_ENCODING);
        if headers.contains_key(CONTENT_LENGTH) && content_length(headers) != Some(0) {
            // A length without its body would make the peer take the next request for it.
            headers.remove(CONTENT_LENGTH);
        }
        return Framing::None;
    }
    if parts.method == Method::CONNECT {
        return Framing::None;
    }
    if headers.contains_key(TRANSFER_ENCODING) {
        headers.remove(CONTENT_LENGTH);
        headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        return Framing::Chunked;
    }
    if let Some(length) = content_length(headers) {
        return Framing::Length(length);
    }
    headers.remove(CONTENT_LENGTH);
    match body.size_hint().exact() {
        Some(length) => {
            headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
            Framing::Length(length)
        }
        None => {
            headers.insert(TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
            Framing::Chunked
        }
    }
}

/// Writes a request's head.
pub(super) fn write(parts: &Parts, title_case: bool, out: &mut Vec<u8>) {
    use std::io::Write;

    out.extend_from_slice(parts.method.as_str().as_bytes());
    out.push(b' ');
    match parts.uri.path_and_query() {
        Some(path) if parts.uri.authority().is_none() => out.extend_from_slice(path.as_str().as_bytes()),
        // Absolute targets, and those of CONNECT. Writing to a vector cannot fail.
        _ => drop(write!(out, "{}", parts.uri)),
    }
    out.extend_from_slice(b" HTTP/1.1\r\n");
    for (name, value) in &parts.headers {
        if title_case {
            write_title_case(name, out);
        } else {
            out.extend_from_slice(name.as_str().as_bytes());
        }
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

fn write_title_case(name: &HeaderName, out: &mut Vec<u8>) {
    let mut first = true;
    for byte in name.as_str().bytes() {
        out.push(if first { byte.to_ascii_uppercase() } else { byte });
        first = byte == b'-';
    }
}

/// Writes trailers behind the last chunk.
pub(super) fn write_trailers(trailers: &HeaderMap, title_case: bool, out: &mut Vec<u8>) {
    for (name, value) in trailers {
        if title_case {
            write_title_case(name, out);
        } else {
            out.extend_from_slice(name.as_str().as_bytes());
        }
        out.extend_from_slice(b": ");
        out.extend_from_slice(value.as_bytes());
        out.extend_from_slice(b"\r\n");
    }
}

/// Finds the response's head at the front of `bytes`: its length, or `None` when more of it is to come. 1xx
/// responses but 101 are looked past: they are for us, and are not passed on.
///
/// # Errors
/// This is no response, or it has more than `most` header fields.
pub(super) fn read(
    bytes: &Bytes,
    request: &Method,
    most: usize,
    mut headers: HeaderMap,
) -> Result<Option<Head>, Malformed> {
    let mut offset = 0;
    loop {
        let mut fields = [const { MaybeUninit::uninit() }; USUAL_FIELDS];
        let mut many = Vec::new();
        let mut response = httparse::Response::new(&mut []);
        let config = httparse::ParserConfig::default();
        let rest = bytes.get(offset..).unwrap_or_default();
        let mut parsed = config.parse_response_with_uninit_headers(&mut response, rest, &mut fields);
        if parsed == Err(httparse::Error::TooManyHeaders) && most > USUAL_FIELDS {
            many.resize(most, MaybeUninit::uninit());
            response = httparse::Response::new(&mut []);
            parsed = config.parse_response_with_uninit_headers(&mut response, rest, &mut many);
        }
        let length = match parsed {
            Ok(httparse::Status::Complete(length)) => length,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(_) => return Err(Malformed),
        };
        if response.headers.len() > most {
            return Err(Malformed);
        }
        offset += length;
        let status = response.code.and_then(|code| StatusCode::from_u16(code).ok()).ok_or(Malformed)?;
        if status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS {
            continue;
        }
        let http_11 = response.version == Some(1);
        headers.reserve(response.headers.len());
        let mut said = Said { closes: false, keeps: http_11, coding: None, length: None };
        for field in response.headers.iter() {
            let name = HeaderName::from_bytes(field.name.as_bytes()).map_err(|_| Malformed)?;
            let value =
                HeaderValue::from_maybe_shared(bytes.slice_ref(field.value)).map_err(|_| Malformed)?;
            said.note(&name, field.value);
            headers.append(name, value);
        }
        let extent = said.extent(status, request, http_11)?;
        let stays = extent != Extent::Close && extent != Extent::Upgrade;
        let keep_alive = stays && said.keeps && !said.closes;
        return Ok(Some(Head { status, headers, extent, keep_alive, len: offset }));
    }
}

/// What a response's fields say of the message and of the connection.
struct Said {
    closes: bool,
    keeps: bool,
    /// There is a Transfer-Encoding, and whether `chunked` is the last.
    coding: Option<bool>,
    /// There is a Content-Length, and what it says if it is one.
    length: Option<Option<u64>>,
}

impl Said {
    fn note(&mut self, name: &HeaderName, value: &[u8]) {
        if *name == CONTENT_LENGTH {
            self.length = Some(match self.length {
                None => length_of(value),
                Some(earlier) => length_of(value).filter(|length| earlier == Some(*length)),
            });
        } else if *name == TRANSFER_ENCODING {
            let last = value.rsplit(|byte| *byte == b',').next().unwrap_or_default();
            self.coding = Some(last.trim_ascii().eq_ignore_ascii_case(b"chunked"));
        } else if *name == CONNECTION {
            for token in value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
                self.closes |= token.eq_ignore_ascii_case(b"close");
                self.keeps |= token.eq_ignore_ascii_case(b"keep-alive");
            }
        }
    }

    /// How the response's body is delimited (RFC 9112, section 6.3).
    fn extent(&self, status: StatusCode, request: &Method, http_11: bool) -> Result<Extent, Malformed> {
        match status.as_u16() {
            101 => return Ok(Extent::Upgrade),
            204 | 304 => return Ok(Extent::Length(0)),
            _ if *request == Method::HEAD => return Ok(Extent::Length(0)),
            200..=299 if *request == Method::CONNECT => return Ok(Extent::Upgrade),
            _ => {}
        }
        match (self.coding, self.length) {
            (Some(_), _) if !http_11 => Err(Malformed),
            (Some(true), _) => Ok(Extent::Chunked),
            (Some(false), _) | (None, None) => Ok(Extent::Close),
            (None, Some(length)) => {
                length.filter(|length| *length < u64::MAX - 2).map(Extent::Length).ok_or(Malformed)
            }
        }
    }
}

/// The one length that all values of Content-Length agree on.
fn content_length(headers: &HeaderMap) -> Option<u64> {
    let mut values = headers.get_all(CONTENT_LENGTH).iter();
    let length = length_of(values.next()?.as_bytes())?;
    values.all(|value| length_of(value.as_bytes()) == Some(length)).then_some(length)
}

/// The one number of a list of equal ones.
fn length_of(value: &[u8]) -> Option<u64> {
    let mut length = None;
    for part in value.split(|byte| *byte == b',') {
        let part = part.trim_ascii();
        // A sign is no digit.
        if part.is_empty() || !part.iter().all(u8::is_ascii_digit) {
            return None;
        }
        let number = std::str::from_utf8(part).ok()?.parse().ok()?;
        if length.replace(number).is_some_and(|earlier| earlier != number) {
            return None;
        }
    }
    length
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str, method: &Method) -> Result<Option<Head>, Malformed> {
        read(&Bytes::copy_from_slice(text.as_bytes()), method, 100, HeaderMap::new())
    }

    fn extent_of(text: &str, method: &Method) -> Result<Extent, Malformed> {
        head(text, method).map(|head| head.unwrap().extent)
    }

    #[test]
    fn a_bodys_extent_follows_from_head_and_request() {
        let get = &Method::GET;
        let ok = |rest: &str| format!("HTTP/1.1 200 OK\r\n{rest}\r\n");
        assert_eq!(extent_of(&ok("Content-Length: 5\r\n"), get), Ok(Extent::Length(5)));
        assert_eq!(extent_of(&ok("Content-Length: 5, 5\r\n"), get), Ok(Extent::Length(5)));
        assert_eq!(extent_of(&ok("Content-Length: 5\r\nContent-Length: 6\r\n"), get), Err(Malformed));
        assert_eq!(extent_of(&ok("Content-Length: +5\r\n"), get), Err(Malformed));
        assert_eq!(extent_of(&ok("Transfer-Encoding: gzip, chunked\r\n"), get), Ok(Extent::Chunked));
        assert_eq!(extent_of(&ok("Transfer-Encoding: gzip\r\n"), get), Ok(Extent::Close));
        assert_eq!(extent_of(&ok(""), get), Ok(Extent::Close));
        assert_eq!(extent_of(&ok("Content-Length: 5\r\n"), &Method::HEAD), Ok(Extent::Length(0)));
        assert_eq!(extent_of(&ok(""), &Method::CONNECT), Ok(Extent::Upgrade));
        assert_eq!(extent_of("HTTP/1.1 304 X\r\nContent-Length: 5\r\n\r\n", get), Ok(Extent::Length(0)));
        assert_eq!(extent_of("HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", get), Err(Malformed));
    }

    #[test]
    fn informational_responses_are_looked_past() {
        let text = "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Hints\r\nlink: x\r\n\r\nHTTP/1.1 204 None\r\na: b\r\n\r\nrest";
        let head = head(text, &Method::GET).unwrap().unwrap();
        assert_eq!((head.status.as_u16(), head.headers.len(), head.len), (204, 1, text.len() - 4));
        assert!(
            super::read(&Bytes::from_static(b"HTTP/1.1 100 C\r\n\r\n"), &Method::GET, 100, HeaderMap::new())
                .unwrap()
                .is_none()
        );
    }

    #[test]
    fn a_connection_ends_where_either_says_so() {
        let keeps = |text: &str| head(text, &Method::GET).unwrap().unwrap().keep_alive;
        assert!(keeps("HTTP/1.1 204 X\r\n\r\n"));
        assert!(!keeps("HTTP/1.1 204 X\r\nConnection: x, Close\r\n\r\n"));
        assert!(!keeps("HTTP/1.0 204 X\r\n\r\n"));
        assert!(keeps("HTTP/1.0 204 X\r\nConnection: keep-alive\r\n\r\n"));
        assert!(!keeps("HTTP/1.1 200 X\r\n\r\n"), "a body to the end");
    }

    #[test]
    fn fields_are_counted() {
        let text = |n: usize| format!("HTTP/1.1 204 X\r\n{}\r\n", "a: b\r\n".repeat(n));
        assert!(head(&text(100), &Method::GET).unwrap().is_some());
        assert!(head(&text(101), &Method::GET).is_err());
    }

    #[test]
    fn a_length_without_a_body_is_not_sent() {
        for (length, kept) in [("5", false), ("0", true), ("0, 1", false)] {
            let request = http::Request::builder().header("content-length", length).body(()).unwrap();
            let (mut parts, ()) = request.into_parts();
            assert_eq!(frame(&mut parts, &UpstreamBody::Empty), Framing::None);
            assert_eq!(parts.headers.contains_key("content-length"), kept, "{length}");
        }
    }

    #[test]
    fn a_request_is_written_as_it_is() {
        let request =
            http::Request::builder().method("POST").uri("/a?b").header("x-a-b", "c").body(()).unwrap();
        let (parts, ()) = request.into_parts();
        let (mut plain, mut title) = (Vec::new(), Vec::new());
        write(&parts, false, &mut plain);
        write(&parts, true, &mut title);
        assert_eq!(plain, b"POST /a?b HTTP/1.1\r\nx-a-b: c\r\n\r\n");
        assert_eq!(title, b"POST /a?b HTTP/1.1\r\nX-A-B: c\r\n\r\n");
    }

    proptest! {
        #[test]
        fn anything_is_read_without_panic(text in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = read(&Bytes::from(text), &Method::GET, 100, HeaderMap::new());
        }
    }
}
