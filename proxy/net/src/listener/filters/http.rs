//! `http_inspector`: tells HTTP/1.x and h2c from other bytes.

use super::{Accepted, FilterEnd, HttpInspectorStats, Inspected, PEEK_MAX, peek};

const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The methods that Envoy's parser knows.
const METHODS: &[&str] = &[
    "ACL",
    "BIND",
    "CHECKOUT",
    "CONNECT",
    "COPY",
    "DELETE",
    "GET",
    "HEAD",
    "LINK",
    "LOCK",
    "MERGE",
    "MKACTIVITY",
    "MKCALENDAR",
    "MKCOL",
    "MOVE",
    "MSEARCH",
    "M-SEARCH",
    "NOTIFY",
    "OPTIONS",
    "PATCH",
    "POST",
    "PROPFIND",
    "PROPPATCH",
    "PURGE",
    "PUT",
    "REBIND",
    "REPORT",
    "SEARCH",
    "SOURCE",
    "SUBSCRIBE",
    "TRACE",
    "UNBIND",
    "UNLINK",
    "UNLOCK",
    "UNSUBSCRIBE",
];

/// What the first bytes are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Detected {
    Http10,
    Http11,
    Http2,
    Other,
}

pub(super) async fn inspect(
    socket: &Accepted,
    seen: &mut Inspected,
    stats: &HttpInspectorStats,
) -> Result<(), FilterEnd> {
    if seen.transport == "tls" {
        stats.http_not_found().inc();
        return Ok(());
    }
    let (protocol, counter) = match peek(socket, detect).await {
        Err(error) => {
            stats.read_error().inc();
            return Err(error.into());
        }
        Ok(Detected::Other) => {
            stats.http_not_found().inc();
            return Ok(());
        }
        Ok(Detected::Http10) => ("http/1.0", stats.http10_found()),
        Ok(Detected::Http11) => ("http/1.1", stats.http11_found()),
        Ok(Detected::Http2) => ("h2c", stats.http2_found()),
    };
    counter.inc();
    seen.protocols = vec![protocol.into()];
    Ok(())
}

/// `None`: more bytes are needed. Decides on other protocols as early as it can, since they may wait for us.
fn detect(data: &[u8]) -> Option<Detected> {
    if data.starts_with(H2_PREFACE) {
        return Some(Detected::Http2);
    }
    if H2_PREFACE.starts_with(data) {
        return None;
    }
    // Parsers pass over empty lines before a request.
    let data = data.get(data.iter().position(|b| !b"\r\n".contains(b))?..).unwrap_or_default();
    let Some(space) = data.iter().position(|b| *b == b' ') else {
        let may_become = METHODS.iter().any(|method| method.as_bytes().starts_with(data));
        return if may_become { None } else { Some(Detected::Other) };
    };
    let method = data.get(..space).unwrap_or_default();
    if !METHODS.iter().any(|known| known.as_bytes() == method) {
        return Some(Detected::Other);
    }
    let Some(end) = data.iter().position(|b| b"\r\n".contains(b)) else {
        return if data.len() < PEEK_MAX { None } else { Some(Detected::Other) };
    };
    let line = data.get(..end).unwrap_or_default();
    let version = line.rsplit(|b| *b == b' ').next().unwrap_or_default();
    Some(match version {
        b"HTTP/1.1" => Detected::Http11,
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Detected::Http10
        }
        _ => Detected::Other,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn protocols_are_told_apart() {
        assert_eq!(detect(b"GET / HTTP/1.1\r\n"), Some(Detected::Http11));
        assert_eq!(detect(b"\r\nPOST /x HTTP/1.0\r"), Some(Detected::Http10));
        assert_eq!(detect(H2_PREFACE), Some(Detected::Http2));
        assert_eq!(detect(b"GET / SIP/2.0\r\n"), Some(Detected::Other));
        assert_eq!(detect(b"SSH-2.0-OpenSSH\r\n"), Some(Detected::Other));
        assert_eq!(detect(b"*1\r\n$4\r\nPING\r\n"), Some(Detected::Other));
        assert_eq!(detect(b"\x16\x03"), Some(Detected::Other));
    }

    proptest! {
        #[test]
        fn a_prefix_is_undecided_or_says_the_same(cut in 1_usize..24) {
            for whole in [&b"DELETE /a?b=c HTTP/1.1\r\n"[..], H2_PREFACE, b"PROPFIND / HTTP/1.0\r\n"] {
                let part = detect(&whole[..cut.min(whole.len())]);
                prop_assert!(part.is_none() || part == detect(whole), "{part:?}");
            }
        }

        #[test]
        fn any_bytes_are_decided_without_panic(data in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = detect(&data);
        }
    }
}
