//! Work in another network namespace, or as another user, on a thread of its own.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::thread::{
    Gid, LinkNameSpaceType, Uid, move_into_link_name_space, set_thread_gid, set_thread_groups, set_thread_uid,
};

/// Runs it on a thread in the namespace at this path; tools that it starts are there, too.
pub(crate) fn within<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let namespace = File::open(path)?;
    apart(|| {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
        Ok(work())
    })
}

/// Whether the path is the namespace that this process is in.
pub(crate) fn is_own(path: &Path) -> io::Result<bool> {
    let (other, own) = (fs::metadata(path)?, fs::metadata("/proc/self/ns/net")?);
    Ok((other.dev(), other.ino()) == (own.dev(), own.ino()))
}

/// Runs it on a thread that belongs to this user and group, and to no other group.
pub(crate) fn as_user<T: Send>(uid: u32, gid: u32, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let same = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()) == (uid, gid);
    if same {
        return Ok(work());
    }
    apart(|| {
        // The thread ends before it would have to be what it was again.
        set_thread_groups(&[])?;
        set_thread_gid(Gid::from_raw(gid))?;
        set_thread_uid(Uid::from_raw(uid))?;
        Ok(work())
    })
}

fn apart<T: Send>(work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    let outcome = std::thread::scope(|scope| scope.spawn(work).join());
    outcome.unwrap_or_else(|_| Err(io::Error::other("the thread fell")))
}
