//! A socket that was just accepted.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use tokio::io::{Interest, Ready};
use tokio::net::{TcpStream, UnixStream};

use crate::io::IoStream;

/// An accepted socket, before anything was read from it.
#[derive(Debug)]
pub(super) enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Accepted {
    pub(super) async fn ready(&self, interest: Interest) -> io::Result<Ready> {
        match self {
            Self::Tcp(stream) => stream.ready(interest).await,
            Self::Unix(stream) => stream.ready(interest).await,
        }
    }

    pub(super) fn try_io<T>(&self, interest: Interest, f: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        match self {
            Self::Tcp(stream) => stream.try_io(interest, f),
            Self::Unix(stream) => stream.try_io(interest, f),
        }
    }

    /// The same, with what waits in it to be noticed anew: filters that looked and wanted more have told the runtime that there is
    /// nothing to read.
    pub(super) fn again(self) -> io::Result<Self> {
        Ok(match self {
            Self::Tcp(stream) => Self::Tcp(TcpStream::from_std(stream.into_std()?)?),
            Self::Unix(stream) => Self::Unix(UnixStream::from_std(stream.into_std()?)?),
        })
    }

    pub(super) fn into_stream(self) -> IoStream {
        match self {
            // The listening socket has TCP_NODELAY, and accepted ones inherit it.
            Self::Tcp(stream) => IoStream::from_prepared_tcp(stream),
            Self::Unix(stream) => IoStream::from_unix(stream),
        }
    }
}

impl AsFd for Accepted {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        }
    }
}
