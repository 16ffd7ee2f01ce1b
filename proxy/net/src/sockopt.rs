//! Socket options as the configuration gives them: any level and name.

use std::io;
use std::os::fd::AsRawFd;

use outrider_config::model::{SocketOption, SocketOptionState, SocketOptionValue, TcpKeepalive};
use socket2::SockRef;

/// Sets the options of `options` that belong to `state`.
///
/// # Errors
/// The kernel refused one.
pub fn apply(socket: &SockRef<'_>, options: &[SocketOption], state: SocketOptionState) -> io::Result<()> {
    for option in options.iter().filter(|option| option.state == state) {
        match &option.value {
            SocketOptionValue::Int(value) => set(socket, option.level, option.name, &value.to_ne_bytes())?,
            SocketOptionValue::Bytes(bytes) => set(socket, option.level, option.name, bytes)?,
        }
    }
    Ok(())
}

/// Turns keepalive on and sets what `keepalive` gives (seconds); the kernel's values stay for the rest.
///
/// # Errors
/// The kernel refused one.
pub fn apply_keepalive(socket: &SockRef<'_>, keepalive: &TcpKeepalive) -> io::Result<()> {
    socket.set_keepalive(true)?;
    let options = [
        (libc::TCP_KEEPCNT, keepalive.probes),
        (libc::TCP_KEEPIDLE, keepalive.time),
        (libc::TCP_KEEPINTVL, keepalive.interval),
    ];
    for (name, value) in options {
        if let Some(value) = value {
            set(socket, libc::IPPROTO_TCP, name, &value.to_ne_bytes())?;
        }
    }
    Ok(())
}

/// The kernel is to choose the port of a socket that is bound to an address alone when it knows where it goes, and not at once
/// (`IP_BIND_ADDRESS_NO_PORT`, of IPv6 as well).
///
/// # Errors
/// The kernel refused it.
pub fn set_late_port(socket: &SockRef<'_>) -> io::Result<()> {
    set(socket, libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT, &1_i32.to_ne_bytes())
}

/// `setsockopt(level, name, value)`: for options that no safe crate names.
///
/// # Errors
/// The kernel refused it.
pub fn set(socket: &SockRef<'_>, level: i32, name: i32, value: &[u8]) -> io::Result<()> {
    let len = libc::socklen_t::try_from(value.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    #[expect(unsafe_code, reason = "setsockopt with a level and name that are known at run time only")]
    // SAFETY: the pointer and the length are those of a live slice, and the kernel only reads it.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_set_in_their_state_alone_and_refusals_are_errors() {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let option = |name, value| SocketOption {
            level: libc::SOL_SOCKET,
            name,
            value,
            state: SocketOptionState::Prebind,
        };
        let options = [option(libc::SO_RCVBUF, SocketOptionValue::Int(100_000))];
        let before = socket.recv_buffer_size().expect("a size");
        apply(&SockRef::from(&socket), &options, SocketOptionState::Listening).expect("nothing to set");
        assert_eq!(socket.recv_buffer_size().expect("a size"), before);
        apply(&SockRef::from(&socket), &options, SocketOptionState::Prebind).expect("a buffer size");
        assert_eq!(socket.recv_buffer_size().expect("a size"), 200_000);
        let bad = [option(9999, SocketOptionValue::Bytes(vec![1]))];
        assert!(apply(&SockRef::from(&socket), &bad, SocketOptionState::Prebind).is_err());
    }

    #[test]
    fn keepalive_sets_what_is_given() {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).expect("a socket");
        let keepalive = TcpKeepalive { probes: Some(3), time: Some(33), interval: None };
        apply_keepalive(&SockRef::from(&socket), &keepalive).expect("keepalive");
        assert!(socket.keepalive().expect("a flag"));
        assert_eq!(socket.tcp_keepalive_time().expect("a time").as_secs(), 33);
        assert_eq!(socket.tcp_keepalive_retries().expect("a count"), 3);
    }
}
