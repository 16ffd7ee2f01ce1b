//! `original_dst`: where the client wanted to go before the kernel redirected it.

use outrider_core::stream::Address;
use socket2::SockRef;

use super::{Accepted, Inspected};

/// Puts the original destination in place of the local address, where the kernel knows one that differs. `own`: the ports of
/// the listener, which nobody wanted to go to.
pub(super) fn restore(socket: &Accepted, seen: &mut Inspected, own: &[u16]) {
    let (Accepted::Tcp(stream), Some(local)) = (socket, seen.local.ip()) else { return };
    let socket = SockRef::from(stream);
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    let original = original.ok().and_then(|address| address.as_socket());
    if let Some(original) = original.filter(|original| *original != local) {
        seen.local = Address::Ip(original);
        seen.restored = true;
    } else if !own.contains(&local.port()) {
        // With TPROXY nothing was rewritten: the socket's own address is the one that was asked for, whether the kernel tracks
        // the connection (and says the same) or not. At the listener's own port it was not redirected at all: who went
        // there would go round in circles.
        let transparent =
            if local.is_ipv4() { socket.ip_transparent_v4() } else { socket.ip_transparent_v6() };
        seen.restored |= transparent.unwrap_or(false);
    }
}
