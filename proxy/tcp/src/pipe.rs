//! Pipes for splice(2), lent by each worker to those of its directions that have bytes in flight.

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::OwnedFd;

use rustix::pipe::{PipeFlags, SpliceFlags};
use tokio::io::Interest;
use tokio::net::TcpStream;

/// What a pipe holds: as much as one splice can move.
const CAPACITY: usize = 256 * 1024;
/// Pipes kept by a worker; more may be out at a time.
const KEPT: usize = 8;

thread_local! {
    static POOL: RefCell<Vec<(OwnedFd, OwnedFd)>> = const { RefCell::new(Vec::new()) };
    static SPLICED: Cell<u64> = const { Cell::new(0) };
}

/// A pipe on loan.
#[derive(Debug)]
pub(crate) struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
    /// Bytes in it.
    held: usize,
}

impl Pipe {
    /// One of the worker's, or a new one.
    pub(crate) fn take() -> io::Result<Self> {
        if let Some((read, write)) = POOL.with_borrow_mut(Vec::pop) {
            return Ok(Self { read, write, held: 0 });
        }
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Without it a pipe holds 64 KiB; that works too.
        let _ = rustix::pipe::fcntl_setpipe_size(&write, CAPACITY);
        Ok(Self { read, write, held: 0 })
    }

    /// Gives it back. One that still holds bytes is closed instead.
    pub(crate) fn give_back(self) {
        if self.held == 0 {
            POOL.with_borrow_mut(|pool| {
                if pool.len() < KEPT {
                    pool.push((self.read, self.write));
                }
            });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.held == 0
    }

    /// Moves what `from` has into the pipe, `most` bytes at most. Only for an empty pipe: then 'would block' speaks of the socket.
    pub(crate) fn fill(&mut self, from: &TcpStream, most: usize) -> io::Result<usize> {
        let n = from.try_io(Interest::READABLE, || {
            Ok(rustix::pipe::splice(from, None, &self.write, None, CAPACITY.min(most), flags())?)
        })?;
        self.held += n;
        SPLICED.set(SPLICED.get() + n as u64);
        Ok(n)
    }

    /// Moves what is in the pipe to `to`.
    pub(crate) fn drain(&mut self, to: &TcpStream) -> io::Result<usize> {
        let n = to.try_io(Interest::WRITABLE, || {
            Ok(rustix::pipe::splice(&self.read, None, to, None, self.held, flags())?)
        })?;
        self.held = self.held.saturating_sub(n);
        Ok(n)
    }
}

/// Bytes that this thread has moved through pipes.
#[cfg(test)]
pub(crate) fn spliced() -> u64 {
    SPLICED.get()
}

/// Pipes that this thread keeps.
#[cfg(test)]
pub(crate) fn kept() -> usize {
    POOL.with_borrow(Vec::len)
}

fn flags() -> SpliceFlags {
    SpliceFlags::MOVE | SpliceFlags::NONBLOCK
}
