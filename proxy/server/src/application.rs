//! The application beside this proxy, as the kernel sees it: the TCP sockets of this network namespace that are not ours
//! (sock_diag(7)). Nobody has to tell us that it has ended.

use std::collections::HashSet;
use std::io;
use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use netlink_packet_core::{NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_sock_diag::SockDiagMessage;
use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6, IPPROTO_TCP, TCP_LISTEN};
use netlink_packet_sock_diag::inet::{ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags};
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_SOCK_DIAG;

/// The kernel fills at most so much at a time.
const ANSWER: usize = 32 << 10;

/// What of the application is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Open {
    /// How many sockets, without those of `served`.
    pub(crate) sockets: usize,
    /// How many connections that we made to it: some servers end only when their clients have closed theirs.
    pub(crate) served: usize,
    /// One of them: where it listens, or else its local address and its peer.
    pub(crate) one: (SocketAddr, Option<SocketAddr>),
}

/// The sockets that somebody else than this process holds: those that listen and those of connections, but for the ends of
/// connections that no process holds any more. `None` without any. `relatives` are processes of ours too.
///
/// # Errors
/// The kernel does not say.
pub(crate) fn open(relatives: &[u32]) -> anyhow::Result<Option<Open>> {
    let (_, seen) = by_owner(relatives)?;
    if seen.is_empty() {
        return Ok(None);
    }
    // One of ours that was closed between the two questions looks like somebody else's; it is not there any more.
    let (own, mut theirs) = by_owner(relatives)?;
    theirs.retain(|socket| seen.iter().any(|earlier| earlier.inode == socket.inode));
    let listening: HashSet<u16> =
        own.iter().filter(|socket| socket.state == TCP_LISTEN).map(|socket| ends(socket).0.port()).collect();
    let made: HashSet<_> =
        own.iter().map(ends).filter(|(local, _)| !listening.contains(&local.port())).collect();
    let all = theirs.len();
    let Some(any) = theirs.first().map(ends) else { return Ok(None) };
    theirs.retain(|socket| {
        let (local, peer) = ends(socket);
        !peer.is_some_and(|peer| made.contains(&(peer, Some(local))))
    });
    // What listens says most about who it is.
    let one = theirs.iter().find(|socket| socket.state == TCP_LISTEN).or(theirs.first()).map_or(any, ends);
    Ok(Some(Open { sockets: theirs.len(), served: all - theirs.len(), one }))
}

/// All sockets: ours, and those of others. The kernel is asked first, so that what it names is ours or was.
fn by_owner(relatives: &[u32]) -> anyhow::Result<(Vec<InetResponseHeader>, Vec<InetResponseHeader>)> {
    let mut found = Vec::new();
    for family in [AF_INET, AF_INET6] {
        found.extend(sockets(family).with_context(|| format!("sock_diag, address family {family}"))?);
    }
    let mut inodes = own_sockets("self").context("/proc/self/fd")?;
    for process in relatives {
        // One that has ended has none.
        inodes.extend(own_sockets(&process.to_string()).unwrap_or_default());
    }
    Ok(found.into_iter().partition(|socket| inodes.contains(&u64::from(socket.inode))))
}

fn ends(socket: &InetResponseHeader) -> (SocketAddr, Option<SocketAddr>) {
    let id = &socket.socket_id;
    // An IPv4 peer of an IPv6 socket is the same peer.
    let peer = SocketAddr::new(id.destination_address.to_canonical(), id.destination_port);
    let local = SocketAddr::new(id.source_address.to_canonical(), id.source_port);
    (local, (socket.state != TCP_LISTEN).then_some(peer))
}

/// The inodes of the sockets of a process. They are looked at, as the application may run as the same user.
fn own_sockets(process: &str) -> io::Result<HashSet<u64>> {
    let mut own = HashSet::new();
    for entry in std::fs::read_dir(format!("/proc/{process}/fd"))? {
        // One that was closed meanwhile is nobody's.
        let Ok(target) = std::fs::read_link(entry?.path()) else { continue };
        let name = target.to_string_lossy();
        let inode = name.strip_prefix("socket:[").and_then(|rest| rest.strip_suffix(']'));
        own.extend(inode.and_then(|inode| inode.parse::<u64>().ok()));
    }
    Ok(own)
}

/// All TCP sockets of a family that some process holds.
fn sockets(family: u8) -> anyhow::Result<Vec<InetResponseHeader>> {
    let mut socket = Socket::new(NETLINK_SOCK_DIAG)?;
    socket.bind_auto()?;
    socket.connect(&netlink_sys::SocketAddr::new(0, 0))?;
    // An answer is there as soon as it was asked for: nothing to wait for.
    socket.set_non_blocking(true)?;
    socket.send(&request(family), 0)?;
    let mut found = Vec::new();
    let mut buffer = vec![0; ANSWER];
    loop {
        let length = socket.recv(&mut &mut buffer[..], 0)?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        if rest.is_empty() {
            bail!("an answer without an end");
        }
        while !rest.is_empty() {
            let message = NetlinkMessage::<SockDiagMessage>::deserialize(rest)?;
            // Messages begin at multiples of four.
            let length = (message.header.length as usize).next_multiple_of(4).max(4);
            rest = rest.get(length..).unwrap_or_default();
            match message.payload {
                NetlinkPayload::InnerMessage(SockDiagMessage::InetResponse(socket)) => {
                    // Without an inode it is the kernel's alone.
                    found.extend(Some(socket.header).filter(|socket| socket.inode != 0));
                }
                NetlinkPayload::Done(_) => return Ok(found),
                NetlinkPayload::Error(error) => return Err(error.to_io().into()),
                _ => {}
            }
        }
    }
}

fn request(family: u8) -> Vec<u8> {
    let states = StateFlags::ESTABLISHED
        | StateFlags::SYN_SENT
        | StateFlags::CLOSE_WAIT
        | StateFlags::FIN_WAIT1
        | StateFlags::LISTEN;
    let socket_id = if family == AF_INET6 { SocketId::new_v6() } else { SocketId::new_v4() };
    let request =
        InetRequest { family, protocol: IPPROTO_TCP, extensions: ExtensionFlags::empty(), states, socket_id };
    let mut header = NetlinkHeader::default();
    header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    let mut message = NetlinkMessage::new(header, SockDiagMessage::InetRequest(request).into());
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn a_socket_of_ours_is_seen_and_known_as_ours() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let all = sockets(AF_INET).unwrap();
        let seen = all.iter().find(|socket| ends(socket).0.port() == port).expect("it is listed");
        assert_eq!(ends(seen), (listener.local_addr().unwrap(), None));
        assert!(own_sockets("self").unwrap().contains(&u64::from(seen.inode)));
        let link = std::fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
        assert_eq!(link.to_string_lossy(), format!("socket:[{}]", seen.inode));
    }

    #[test]
    fn one_that_was_closed_is_not_listed() {
        let listener = TcpListener::bind("[::1]:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let listed = || sockets(AF_INET6).unwrap().iter().any(|socket| ends(socket).0.port() == port);
        assert!(listed());
        drop(listener);
        assert!(!listed());
    }
}
