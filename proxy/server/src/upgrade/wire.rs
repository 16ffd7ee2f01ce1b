//! What two processes say to one another while one takes over from the other.
//!
//! A socket pair that keeps messages apart (`SOCK_SEQPACKET`): each message is JSON, with at most one open file beside it. The
//! two may be of different versions, so a message that is not known is passed over, and [`PROTOCOL`] changes when that will not do.

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::Duration;

use rustix::io::{Errno, retry_on_intr};
use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::{Deserialize, Serialize};

/// The version of this conversation.
pub(crate) const PROTOCOL: u32 = 1;

/// No message is longer, bytes: one that a socket takes as a whole with the kernel's default buffers.
pub(crate) const LONGEST: usize = 64 << 10;

/// What is said. It may hold a key, so there is no `Debug`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Message {
    /// The old one: who it is, before all else.
    Hello(Hello),
    /// The old one: a listening socket comes with this.
    Socket(String),
    /// The old one: its standard error comes with this, for the time after the take-over.
    Stderr,
    /// The old one: what its identity agent has.
    Identity { key: String, chain: String },
    /// The old one: the roots that its identity agent serves.
    Roots(String),
    /// The old one: that was all; begin.
    Begin,
    /// The new one: it could serve now.
    Ready,
    /// The old one: add these to what is counted.
    Counters(Vec<(String, u64)>),
    /// The old one: take over. From here on it does not end the new one any more, unless that never serves.
    Go,
    /// The new one: it lets clients in.
    Serving,
    /// The old one: an idle connection to an upstream comes with this.
    Idle(String),
    /// The old one: so many connections are still open there.
    Connections(u64),
    /// The new one: finish soon, as a third process takes over from it.
    Finish,
}

/// Who the old process is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// [`PROTOCOL`]
    pub(crate) protocol: u32,
    /// Its process.
    pub(crate) pid: u32,
    /// How many processes took over before the new one, that one included.
    pub(crate) epoch: u64,
    /// Its workers: as many sockets there are for each address.
    pub(crate) workers: usize,
    /// `POST /healthcheck/fail` is in force.
    #[serde(default)]
    pub(crate) health_check_failed: bool,
    /// What was set by `POST /runtime_modify`.
    #[serde(default)]
    pub(crate) runtime: Vec<(String, String)>,
}

/// Why the two do not understand one another.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WireError {
    /// The other one has ended.
    #[error("the other process is gone")]
    Gone,
    /// The other one said nothing, or did not listen, for as long as it had.
    #[error("the other process took too long")]
    Slow,
    /// Something that is not said in this conversation.
    #[error("the other process said something else than what is expected here")]
    Unexpected,
    /// A message is longer than [`LONGEST`].
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    /// A message cannot be written as JSON.
    #[error("a message cannot be written: {0}")]
    Json(#[from] serde_json::Error),
    /// The kernel's word.
    #[error("the socket between the two processes: {0}")]
    Socket(Errno),
}

impl From<Errno> for WireError {
    fn from(errno: Errno) -> Self {
        match errno {
            Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN => Self::Gone,
            Errno::AGAIN => Self::Slow,
            other => Self::Socket(other),
        }
    }
}

/// One end of the conversation.
#[derive(Debug)]
pub(crate) struct Link(OwnedFd);

impl Link {
    /// Our end, and the other's.
    pub(crate) fn pair() -> Result<(Self, OwnedFd), WireError> {
        let (ours, theirs) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
        Ok((Self(ours), theirs))
    }

    /// The end that we were born with, as standard input.
    pub(crate) fn of_stdin() -> Result<Self, WireError> {
        let ours = rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3)?;
        Ok(Self(ours))
    }

    /// How long receiving and sending may take from now on; `None`: for ever.
    pub(crate) fn limit(&self, receive: Option<Duration>, send: Option<Duration>) -> Result<(), WireError> {
        // To the kernel no time is no limit.
        let some = |limit: Option<Duration>| limit.map(|limit| limit.max(Duration::from_millis(1)));
        set_socket_timeout(&self.0, Timeout::Recv, some(receive))?;
        set_socket_timeout(&self.0, Timeout::Send, some(send))?;
        Ok(())
    }

    /// Says something, with a file where there is one. Blocks.
    pub(crate) fn send(&self, message: &Message, file: Option<BorrowedFd<'_>>) -> Result<(), WireError> {
        let bytes = serde_json::to_vec(message)?;
        if bytes.len() > LONGEST {
            return Err(WireError::TooLong(bytes.len()));
        }
        let files: Vec<_> = file.into_iter().collect();
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut beside = SendAncillaryBuffer::new(&mut space);
        if !files.is_empty() {
            beside.push(SendAncillaryMessage::ScmRights(&files));
        }
        let text = [IoSlice::new(&bytes)];
        retry_on_intr(|| sendmsg(&self.0, &text, &mut beside, SendFlags::NOSIGNAL))?;
        Ok(())
    }

    /// What is said next, with the file beside it. Blocks. What is not known is passed over.
    pub(crate) fn receive(&self) -> Result<(Message, Option<OwnedFd>), WireError> {
        let mut buffer = vec![0; LONGEST];
        loop {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut beside = RecvAncillaryBuffer::new(&mut space);
            let got = retry_on_intr(|| {
                let mut text = [IoSliceMut::new(&mut buffer)];
                recvmsg(&self.0, &mut text, &mut beside, RecvFlags::CMSG_CLOEXEC)
            })?;
            if got.bytes == 0 {
                return Err(WireError::Gone);
            }
            if got.flags.contains(ReturnFlags::TRUNC) {
                return Err(WireError::TooLong(got.bytes));
            }
            let file = beside.drain().find_map(|one| match one {
                RecvAncillaryMessage::ScmRights(mut files) => files.next(),
                _ => None,
            });
            match serde_json::from_slice(buffer.get(..got.bytes).unwrap_or_default()) {
                Ok(message) => return Ok((message, file)),
                Err(error) => tracing::debug!(%error, "a message of the other process is not known"),
            }
        }
    }
}

/// Counters as messages, none of which is too long.
pub(crate) fn counters(all: impl IntoIterator<Item = (String, u64)>) -> Vec<Message> {
    /// What a number and the signs around it take at most, and what a name's characters may grow to in JSON.
    const NUMBER: usize = 32;
    const GROWS: usize = 6;
    let (mut messages, mut part, mut size) = (Vec::new(), Vec::new(), NUMBER);
    for (name, value) in all {
        let takes = name.len() * GROWS + NUMBER;
        if takes + NUMBER > LONGEST {
            // No stat has a name of ten thousand characters.
            continue;
        }
        if size + takes > LONGEST {
            messages.push(Message::Counters(std::mem::take(&mut part)));
            size = NUMBER;
        }
        size += takes;
        part.push((name, value));
    }
    if !part.is_empty() {
        messages.push(Message::Counters(part));
    }
    messages
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixStream;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_file_comes_with_its_message_and_the_end_is_noticed() {
        let (a, b) = Link::pair().unwrap();
        let b = Link(b);
        let (mut near, far) = UnixStream::pair().unwrap();
        a.send(&Message::Socket("here".into()), Some(far.as_fd())).unwrap();
        a.send(&Message::Begin, None).unwrap();
        drop((a, far));
        let Ok((Message::Socket(place), Some(file))) = b.receive() else { panic!("no socket") };
        assert_eq!(place, "here");
        UnixStream::from(file).write_all(b"x").unwrap();
        let mut got = [0];
        near.read_exact(&mut got).unwrap();
        assert!(matches!(b.receive(), Ok((Message::Begin, None))));
        assert!(matches!(b.receive(), Err(WireError::Gone)));
    }

    #[test]
    fn words_of_another_version_are_passed_over_and_silence_has_a_limit() {
        let (a, b) = Link::pair().unwrap();
        let b = Link(b);
        rustix::io::write(&a.0, br#"{"something_new":[1,2]}"#).unwrap();
        rustix::io::write(&a.0, b"no JSON").unwrap();
        a.send(&Message::Go, None).unwrap();
        assert!(matches!(b.receive(), Ok((Message::Go, None))));
        b.limit(Some(Duration::from_millis(10)), None).unwrap();
        assert!(matches!(b.receive(), Err(WireError::Slow)));
        drop(a);
        assert!(matches!(b.send(&Message::Ready, None), Err(WireError::Gone)));
    }

    proptest! {
        #[test]
        fn counters_fit_into_messages_and_none_is_lost(
            all in proptest::collection::vec(("[a-z\u{1}\"]{0,400}", any::<u64>()), 0..400),
        ) {
            let mut back = Vec::new();
            for message in counters(all.clone()) {
                prop_assert!(serde_json::to_vec(&message).unwrap().len() <= LONGEST);
                let Message::Counters(part) = message else { panic!("something else") };
                prop_assert!(!part.is_empty());
                back.extend(part);
            }
            prop_assert_eq!(back, all);
        }
    }
}
