//! What is on the wire: every frame that a packet socket sees in a network namespace.

use std::collections::HashSet;
use std::io::{ErrorKind, Read as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use socket2::{Domain, Protocol, Socket, Type};

use super::network::Space;

/// Frames of all protocols (`ETH_P_ALL`).
const ALL: u16 = 3;
/// As long as nothing came for, nothing is on its way.
const QUIET: Duration = Duration::from_millis(200);
/// More bytes than this are not kept.
const MOST: usize = 16 << 20;
/// The longest frame.
const FRAME: usize = 64 << 10;

/// A socket that listens in.
#[derive(Debug)]
pub(super) struct Tap {
    end: Arc<AtomicBool>,
    thread: JoinHandle<std::io::Result<HashSet<Vec<u8>>>>,
}

impl Tap {
    /// Listens in on all that passes a namespace.
    pub(super) fn start(space: &Space) -> anyhow::Result<Self> {
        let socket = space.within(|| {
            let protocol = Protocol::from(i32::from(ALL.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol)).context("a packet socket")?;
            socket.set_read_timeout(Some(QUIET))?;
            Ok(socket)
        })?;
        let end = Arc::new(AtomicBool::new(false));
        let told = Arc::clone(&end);
        let thread = std::thread::spawn(move || listen(socket, &told));
        Ok(Self { end, thread })
    }

    /// What passed until now. A frame that passes several interfaces of the namespace is there once.
    pub(super) fn finish(self) -> anyhow::Result<Frames> {
        self.end.store(true, Relaxed);
        let frames = self.thread.join().map_err(|_| anyhow!("a thread of the demo fell"))?;
        Ok(Frames(frames.context("listening in")?))
    }
}

fn listen(mut socket: Socket, end: &AtomicBool) -> std::io::Result<HashSet<Vec<u8>>> {
    let (mut frames, mut size) = (HashSet::new(), 0);
    let mut frame = vec![0; FRAME];
    loop {
        match socket.read(&mut frame) {
            Ok(length) if size < MOST => {
                size += length;
                frames.insert(frame.get(..length).unwrap_or_default().to_vec());
            }
            Ok(_) => return Ok(frames),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                if end.load(Relaxed) {
                    return Ok(frames);
                }
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// What passed.
#[derive(Debug)]
pub(super) struct Frames(HashSet<Vec<u8>>);

impl Frames {
    /// In how many of them some text is to be read.
    pub(super) fn with(&self, text: &str) -> usize {
        let holds = |frame: &&Vec<u8>| frame.windows(text.len()).any(|it| it == text.as_bytes());
        self.0.iter().filter(holds).count()
    }

    /// The number of segments with data to or from a TCP port, and the bytes of data in them.
    pub(super) fn of_port(&self, port: u16) -> (usize, usize) {
        let data: Vec<usize> = self.0.iter().filter_map(|frame| data(frame, port)).map(<[u8]>::len).collect();
        (data.len(), data.iter().sum())
    }
}

/// The data of a TCP segment to or from a port, in a frame of Ethernet with IPv4.
fn data(frame: &[u8], port: u16) -> Option<&[u8]> {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    if word(12)? != 0x0800 || *frame.get(23)? != 6 {
        return None;
    }
    let tcp = 14 + usize::from(*frame.get(14)? & 15) * 4;
    if word(tcp)? != port && word(tcp + 2)? != port {
        return None;
    }
    let begin = tcp + usize::from(*frame.get(tcp + 12)? >> 4) * 4;
    // Short frames are filled up.
    frame.get(begin..14 + usize::from(word(16)?)).filter(|data| !data.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(from: u16, to: u16, text: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        frame.extend([0x08, 0x00, 0x45, 0]);
        frame.extend(u16::try_from(40 + text.len()).unwrap().to_be_bytes());
        frame.extend([0, 0, 0, 0, 64, 6, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
        frame.extend([from.to_be_bytes(), to.to_be_bytes()].concat());
        frame.extend([0, 0, 0, 0, 0, 0, 0, 0, 0x50, 0, 0, 0, 0, 0, 0, 0]);
        frame.extend(text);
        frame.extend([0; 6]);
        frame
    }

    #[test]
    fn data_is_found_behind_its_headers() {
        assert_eq!(data(&frame(1, 8080, b"hello"), 8080), Some(b"hello".as_slice()));
        assert_eq!(data(&frame(8080, 1, b"hello"), 8080), Some(b"hello".as_slice()));
        assert_eq!(data(&frame(1, 80, b"hello"), 8080), None);
        assert_eq!(data(&frame(1, 8080, b""), 8080), None, "filling is no data");
        for end in 0..40 {
            assert_eq!(data(frame(1, 8080, b"hello").get(..end).unwrap(), 8080), None);
        }
    }

    #[test]
    fn a_text_is_looked_for_in_each_frame() {
        let frames = Frames([frame(1, 8080, b"a secret"), frame(1, 8080, b"other")].into());
        assert_eq!((frames.with("secret"), frames.with("absent")), (1, 0));
        assert_eq!(frames.of_port(8080), (2, 13));
    }
}
