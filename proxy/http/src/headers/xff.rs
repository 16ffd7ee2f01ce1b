//! `x-forwarded-for`: who the client is, and who passes the request on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::HeaderMap;
use outrider_config::model::{Cidr, InternalAddresses};
use outrider_core::stream::Address;

use super::names::X_FORWARDED_FOR;

/// The client's address that `x-forwarded-for` names, `skip` entries from the end, and whether it stands alone
/// there (only then may it count as internal). Envoy: `xff_num_trusted_hops`.
pub(crate) fn client(headers: &HeaderMap, skip: u32) -> Option<(SocketAddr, bool)> {
    let value = super::joined(headers, &X_FORWARDED_FOR, ",")?;
    let mut list = std::str::from_utf8(&value).ok()?;
    for _ in 0..skip {
        list = list.rsplit_once(',')?.0;
    }
    let (alone, last) = match list.rsplit_once(',') {
        Some((_, last)) => (false, last),
        None => (skip == 0, list),
    };
    Some((parse(last.trim())?, alone))
}

/// An address with or without a port; IPv6 with a port stands in brackets.
fn parse(text: &str) -> Option<SocketAddr> {
    let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
    match bare.parse::<IpAddr>() {
        Ok(ip) => Some(SocketAddr::new(ip, 0)),
        Err(_) => text.parse().ok(),
    }
}

/// Appends `ip` to `x-forwarded-for`.
pub(crate) fn append(headers: &mut HeaderMap, ip: IpAddr, as_mapped: bool) {
    use std::io::Write;

    let ip = match ip {
        IpAddr::V4(v4) if as_mapped => IpAddr::V6(v4.to_ipv6_mapped()),
        other => other,
    };
    let mut text = [0_u8; 48];
    let mut rest = text.as_mut_slice();
    // An IP address is at most 45 characters.
    let _ = write!(rest, "{ip}");
    let len = 48 - rest.len();
    super::append_joined(headers, X_FORWARDED_FOR, ",", text.get(..len).unwrap_or_default());
}

/// Whether `address` counts as internal.
pub(crate) fn is_internal(address: &Address, internal: &InternalAddresses) -> bool {
    match address {
        Address::Pipe(_) => internal.unix_sockets,
        // Without configured ranges nothing is internal (measured on 1.40).
        Address::Ip(ip) => internal.ranges.iter().flatten().any(|range| contains(range, ip.ip())),
    }
}

fn contains(range: &Cidr, ip: IpAddr) -> bool {
    let shift = |bits: u32| bits - u32::from(range.len).min(bits);
    match (range.address, ip.to_canonical()) {
        (IpAddr::V4(net), IpAddr::V4(ip)) => {
            let diff = u32::from(net) ^ u32::from(ip);
            diff.checked_shr(shift(32)).unwrap_or(0) == 0
        }
        (IpAddr::V6(net), IpAddr::V6(ip)) => {
            let diff = u128::from(net) ^ u128::from(ip);
            diff.checked_shr(shift(128)).unwrap_or(0) == 0
        }
        _ => false,
    }
}

/// The machine's own address: what `x-forwarded-for` gets in place of a loopback peer.
/// The loopback address itself when there is no other.
pub(crate) fn local_address() -> IpAddr {
    // Connecting a datagram socket sends nothing: the kernel only chooses the source address.
    let source = || {
        let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
        socket.connect((Ipv4Addr::new(203, 0, 113, 1), 9)).ok()?;
        Some(socket.local_addr().ok()?.ip())
    };
    source().unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(values: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(X_FORWARDED_FOR, http::HeaderValue::from_static(value));
        }
        headers
    }

    #[test]
    fn the_client_is_counted_from_the_end() {
        type Row<'a> = (&'a [&'a str], u32, Option<(&'a str, bool)>);
        let table: &[Row<'_>] = &[
            (&["1.2.3.4"], 0, Some(("1.2.3.4:0", true))),
            (&["1.2.3.4, 5.6.7.8"], 0, Some(("5.6.7.8:0", false))),
            (&["1.2.3.4, 5.6.7.8"], 1, Some(("1.2.3.4:0", false))),
            (&["1.2.3.4", "5.6.7.8"], 1, Some(("1.2.3.4:0", false))),
            (&["1.2.3.4"], 1, None),
            (&["1.2.3.4:80"], 0, Some(("1.2.3.4:80", true))),
            (&["::1"], 0, Some(("[::1]:0", true))),
            (&["[::1]:7"], 0, Some(("[::1]:7", true))),
            (&["unknown"], 0, None),
            (&[], 0, None),
        ];
        for (values, skip, want) in table {
            let got = client(&headers(values), *skip).map(|(ip, alone)| (ip.to_string(), alone));
            assert_eq!(got, want.map(|(ip, alone)| (ip.to_owned(), alone)), "{values:?} {skip}");
        }
    }

    #[test]
    fn prefixes_contain_what_they_should() {
        let range = |address: &str, len| Cidr { address: address.parse().unwrap(), len };
        let yes = |range: Cidr, ip: &str| contains(&range, ip.parse().unwrap());
        assert!(yes(range("10.0.0.0", 8), "10.9.8.7"));
        assert!(yes(range("10.0.0.0", 8), "::ffff:10.9.8.7"));
        assert!(!yes(range("10.0.0.0", 8), "11.0.0.0"));
        assert!(yes(range("0.0.0.0", 0), "1.1.1.1"));
        assert!(yes(range("::1", 128), "::1"));
        assert!(!yes(range("::1", 128), "::2"));
        assert!(!yes(range("::", 0), "1.1.1.1"));
    }

    #[test]
    fn a_mapped_address_is_appended_when_asked_for() {
        let mut map = headers(&["9.9.9.9"]);
        append(&mut map, "1.2.3.4".parse().unwrap(), false);
        append(&mut map, "1.2.3.4".parse().unwrap(), true);
        assert_eq!(map["x-forwarded-for"], "9.9.9.9,1.2.3.4,::ffff:1.2.3.4");
    }
}
