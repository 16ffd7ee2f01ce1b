//! `proxy_protocol`: the PROXY protocol, versions 1 and 2 (haproxy.org, "The PROXY protocol").

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use outrider_config::model::ProxyProtocol;
use outrider_core::stream::Address;

use super::{
    Accepted, FilterEnd, Inspected, LegacyProxyStats, ProxyProtocolStats, ProxyVersionStats, consume, peek,
};

const V1: &[u8] = b"PROXY ";
const V1_MAX: usize = 108;
const V2: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";

/// What a connection begins with.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::listener) enum Begin {
    /// No PROXY header.
    Absent,
    /// A broken header of this version.
    Broken(u8),
    /// A header.
    Header {
        /// 1 or 2.
        version: u8,
        /// Its length in bytes, with what we pass over (TLVs).
        len: usize,
        /// Source and destination; `None` when the socket's own addresses count (UNKNOWN, LOCAL).
        addresses: Option<(SocketAddr, SocketAddr)>,
    },
}

pub(super) async fn read(
    config: &ProxyProtocol,
    socket: &Accepted,
    seen: &mut Inspected,
    stats: &ProxyProtocolStats,
    versions: &[ProxyVersionStats; 2],
    legacy: &LegacyProxyStats,
) -> Result<(), FilterEnd> {
    let stats_of = |version: u8| if version == 1 { &versions[0] } else { &versions[1] };
    let begin = peek(socket, parse).await?;
    let good = match &begin {
        Begin::Absent => config.allow_without,
        Begin::Broken(_) => false,
        Begin::Header { version, .. } => !config.disallowed_versions.contains(version),
    };
    if !good {
        legacy.downstream_cx_proxy_proto_error().inc();
    }
    match begin {
        Begin::Absent if config.allow_without => {
            stats.not_found_allowed().inc();
            Ok(())
        }
        Begin::Absent => {
            stats.not_found_disallowed().inc();
            Err(FilterEnd::Refused)
        }
        Begin::Broken(version) => {
            stats_of(version).error().inc();
            Err(FilterEnd::Refused)
        }
        Begin::Header { version, .. } if !good => {
            stats_of(version).disallowed().inc();
            Err(FilterEnd::Refused)
        }
        Begin::Header { version, len, addresses } => {
            consume(socket, len).await?;
            stats_of(version).found().inc();
            if let Some((source, destination)) = addresses {
                seen.remote = Address::Ip(source);
                let destination = Address::Ip(destination);
                if seen.local != destination {
                    seen.local = destination;
                    seen.restored = true;
                }
            }
            Ok(())
        }
    }
}

/// `None`: more bytes are needed.
pub(in crate::listener) fn parse(data: &[u8]) -> Option<Begin> {
    if data.starts_with(V1) {
        return parse_v1(data);
    }
    if data.starts_with(V2) {
        return parse_v2(data);
    }
    let undecided = V1.starts_with(data) || V2.starts_with(data);
    if undecided { None } else { Some(Begin::Absent) }
}

fn parse_v1(data: &[u8]) -> Option<Begin> {
    let Some(end) = data.windows(2).take(V1_MAX).position(|pair| pair == b"\r\n") else {
        return (data.len() >= V1_MAX).then_some(Begin::Broken(1));
    };
    Some(read_v1(data.get(..end)?).map_or(Begin::Broken(1), |addresses| Begin::Header {
        version: 1,
        len: end + 2,
        addresses,
    }))
}

fn read_v1(line: &[u8]) -> Option<Option<(SocketAddr, SocketAddr)>> {
    let words: Vec<&str> = std::str::from_utf8(line).ok()?.split(' ').collect();
    let pair = match words.get(1..)? {
        ["UNKNOWN", ..] => return Some(None),
        ["TCP4", source, destination, source_port, port] => {
            let v4 = |text: &str| text.parse::<Ipv4Addr>().ok().map(IpAddr::V4);
            (endpoint(v4(source)?, source_port)?, endpoint(v4(destination)?, port)?)
        }
        ["TCP6", source, destination, source_port, port] => {
            let v6 = |text: &str| text.parse::<Ipv6Addr>().ok().map(IpAddr::V6);
            (endpoint(v6(source)?, source_port)?, endpoint(v6(destination)?, port)?)
        }
        _ => return None,
    };
    Some(Some(pair))
}

fn endpoint(ip: IpAddr, port: &str) -> Option<SocketAddr> {
    let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    Some(SocketAddr::new(ip, digits.then(|| port.parse().ok())??))
}

fn parse_v2(data: &[u8]) -> Option<Begin> {
    let [command, family, high, low] = *data.get(12..16)?.first_chunk::<4>()?;
    let len = usize::from(high) << 8 | usize::from(low);
    if command >> 4 != 2 {
        return Some(Begin::Broken(2));
    }
    // The addresses alone are needed; consume() waits for the TLVs behind them.
    let addresses = match (command & 0xf, family) {
        (0, _) => None,
        (1, 0x11 | 0x12) if len >= 12 => {
            let body = data.get(16..28)?;
            let ip = |i: usize| Some(IpAddr::from(*body.get(i..)?.first_chunk::<4>()?));
            let port = |i: usize| Some(u16::from_be_bytes(*body.get(i..)?.first_chunk::<2>()?));
            Some((SocketAddr::new(ip(0)?, port(8)?), SocketAddr::new(ip(4)?, port(10)?)))
        }
        (1, 0x21 | 0x22) if len >= 36 => {
            let body = data.get(16..52)?;
            let ip = |i: usize| Some(IpAddr::from(*body.get(i..)?.first_chunk::<16>()?));
            let port = |i: usize| Some(u16::from_be_bytes(*body.get(i..)?.first_chunk::<2>()?));
            Some((SocketAddr::new(ip(0)?, port(32)?), SocketAddr::new(ip(16)?, port(34)?)))
        }
        // Envoy refuses unspecified and Unix addresses on behalf of somebody.
        _ => return Some(Begin::Broken(2)),
    };
    Some(Begin::Header { version: 2, len: 16 + len, addresses })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(version: u8, len: usize, addresses: Option<(&str, &str)>) -> Option<Begin> {
        let parse = |text: &str| text.parse().expect("an address");
        Some(Begin::Header { version, len, addresses: addresses.map(|(a, b)| (parse(a), parse(b))) })
    }

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        [&V2[..], &[command, family], &(body.len() as u16).to_be_bytes(), body].concat()
    }

    #[test]
    fn version_1_lines_are_read() {
        let line = b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\nGET /";
        assert_eq!(parse(line), header(1, 33, Some(("1.2.3.4:9", "5.6.7.8:10"))));
        let line = b"PROXY TCP6 1::2 3::4 5 6\r\n";
        assert_eq!(parse(line), header(1, 26, Some(("[1::2]:5", "[3::4]:6"))));
        assert_eq!(parse(b"PROXY UNKNOWN what ever\r\n"), header(1, 25, None));
        for broken in ["PROXY TCP4 1.2.3.4 5.6.7.8 9\r\n", "PROXY TCP4 1::2 5.6.7.8 9 1\r\n", "PROXY X\r\n"] {
            assert_eq!(parse(broken.as_bytes()), Some(Begin::Broken(1)), "{broken}");
        }
        assert_eq!(parse(&[b"PROXY ", &[b'x'; 200][..]].concat()), Some(Begin::Broken(1)));
        assert_eq!(parse(b"GET / HTTP/1.1"), Some(Begin::Absent));
    }

    #[test]
    fn version_2_headers_are_read_and_their_tlvs_passed_over() {
        let body = [1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 0, 10, /* a TLV */ 4, 0, 1, 0];
        assert_eq!(parse(&v2(0x21, 0x11, &body)), header(2, 32, Some(("1.2.3.4:9", "5.6.7.8:10"))));
        assert_eq!(parse(&v2(0x20, 0, &[])), header(2, 16, None));
        assert_eq!(parse(&v2(0x21, 0x11, &[1])), Some(Begin::Broken(2)));
        assert_eq!(parse(&v2(0x21, 0x00, &[])), Some(Begin::Broken(2)));
        assert_eq!(parse(&v2(0x31, 0x11, &body)), Some(Begin::Broken(2)));
    }

    proptest! {
        #[test]
        fn a_cut_header_waits(cut in 1_usize..28) {
            let body = [1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 0, 10];
            let line = b"PROXY TCP4 1.2.3.4 5.6.7.8 9 10\r\n";
            prop_assert_eq!(parse(&v2(0x21, 0x11, &body)[..cut.min(27)]), None);
            prop_assert_eq!(parse(&line[..cut]), None);
        }

        #[test]
        fn any_bytes_after_a_signature_are_decided_without_panic(
            data in proptest::collection::vec(any::<u8>(), 0..64),
        ) {
            let _ = parse(&[V1, &data].concat());
            let _ = parse(&[V2, &data[..]].concat());
        }
    }
}
