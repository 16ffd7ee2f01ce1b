//! `original_dst`: where the client wanted to go before iptables redirected it.

use outrider_core::stream::Address;
use socket2::SockRef;

use super::{Accepted, Inspected};

/// Puts the original destination in place of the local address, where the kernel knows one that differs.
pub(super) fn restore(socket: &Accepted, seen: &mut Inspected) {
    let (Accepted::Tcp(stream), Some(local)) = (socket, seen.local.ip()) else { return };
    let socket = SockRef::from(stream);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    if let Some(original) = original.ok().and_then(|address| address.as_socket()) {
        if original != local {
            seen.local = Address::Ip(original);
            seen.restored = true;
        }
        return;
    }
    // With TPROXY nothing was rewritten: the socket's own address is the one that was asked for.
    let transparent = if local.is_ipv4() { socket.ip_transparent_v4() } else { socket.ip_transparent_v6() };
    seen.restored |= transparent.unwrap_or(false);
}
