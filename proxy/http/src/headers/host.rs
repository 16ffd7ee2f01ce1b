//! The authority: whether it may be one, and what is cut off it.

use outrider_config::model::StripPort;

/// Whether every byte may stand in an authority (RFC 3986, without its grammar).
pub(crate) fn is_valid(host: &[u8]) -> bool {
    host.iter().all(|byte| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+,;=:@[]".contains(byte))
}

/// `host` without its port and without its trailing dot, as far as asked for; `None` when nothing is to be cut.
pub(crate) fn stripped(
    host: &str,
    ports: StripPort,
    local_port: u16,
    dot: bool,
    connect: bool,
) -> Option<String> {
    let (mut name, mut port) = split_port(host);
    if let Some(text) = port {
        let cut = match ports {
            StripPort::No => false,
            StripPort::Any => true,
            // A CONNECT's port is part of what is asked for: only `Any` takes it.
            StripPort::Matching => !connect && text.parse() == Ok(local_port),
        };
        if cut {
            port = None;
        }
    }
    if dot {
        name = name.strip_suffix('.').unwrap_or(name);
    }
    let result = port.map_or_else(|| name.to_owned(), |port| format!("{name}:{port}"));
    (result != host).then_some(result)
}

/// Host and port; a colon inside brackets belongs to the host.
fn split_port(host: &str) -> (&str, Option<&str>) {
    let after = host.rfind(']').map_or(0, |end| end + 1);
    let colon = host.get(after..).and_then(|tail| tail.rfind(':')).map(|at| at + after);
    let Some((name, port)) = colon.and_then(|at| Some((host.get(..at)?, host.get(at + 1..)?))) else {
        return (host, None);
    };
    if port.is_empty() || !port.bytes().all(|byte| byte.is_ascii_digit()) {
        (host, None)
    } else {
        (name, Some(port))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_dots_are_cut_as_asked() {
        let table = [
            ("a:80", StripPort::Any, false, Some("a")),
            ("a:80", StripPort::No, false, None),
            ("a:80", StripPort::Matching, false, Some("a")),
            ("a:81", StripPort::Matching, false, None),
            ("[::1]:80", StripPort::Any, false, Some("[::1]")),
            ("[::1]", StripPort::Any, false, None),
            ("a.:80", StripPort::No, true, Some("a:80")),
            ("a.", StripPort::Any, true, Some("a")),
            ("a:x", StripPort::Any, false, None),
            ("", StripPort::Any, true, None),
        ];
        for (host, ports, dot, want) in table {
            assert_eq!(stripped(host, ports, 80, dot, false).as_deref(), want, "{host} {ports:?}");
        }
        assert_eq!(stripped("a:80", StripPort::Matching, 80, false, true), None);
    }

    #[test]
    fn an_authority_has_no_space_and_no_slash() {
        assert!(is_valid(b"a.b:80") && is_valid(b"[::1]:8") && is_valid(b"") && is_valid(b"a_b"));
        assert!(!is_valid(b"a b") && !is_valid(b"a/b") && !is_valid(b"\xff"));
    }
}
