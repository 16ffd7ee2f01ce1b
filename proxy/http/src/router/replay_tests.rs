use std::convert::Infallible;
use std::task::Waker;

use http::HeaderValue;
use proptest::prelude::*;

use super::*;

/// Gives its pieces, with a wait before each where told to.
#[derive(Debug)]
struct Pieces {
    left: VecDeque<(bool, Bytes)>,
    trailers: Option<HeaderMap>,
}

impl Pieces {
    fn new(pieces: &[&'static str]) -> Self {
        let left = pieces.iter().map(|piece| (false, Bytes::from_static(piece.as_bytes()))).collect();
        Self { left, trailers: None }
    }
}

impl Body for Pieces {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.left.front_mut() {
            Some((wait @ true, _)) => {
                *wait = false;
                Poll::Pending
            }
            Some(_) => Poll::Ready(self.left.pop_front().map(|(_, piece)| Ok(Frame::data(piece)))),
            None => Poll::Ready(self.trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.left.is_empty() && self.trailers.is_none()
    }
}

/// Reads until the end, an error, or a wait. Returns the bytes, whether trailers came, and how it stopped.
fn read(body: &mut (impl Body<Data = Bytes, Error = BodyError> + Unpin)) -> (Vec<u8>, bool, &'static str) {
    let mut cx = Context::from_waker(Waker::noop());
    let (mut bytes, mut trailers) = (Vec::new(), false);
    loop {
        match Pin::new(&mut *body).poll_frame(&mut cx) {
            Poll::Pending => return (bytes, trailers, "pending"),
            Poll::Ready(None) => return (bytes, trailers, "end"),
            Poll::Ready(Some(Err(_))) => return (bytes, trailers, "error"),
            Poll::Ready(Some(Ok(frame))) => match frame.into_data() {
                Ok(data) => bytes.extend_from_slice(&data),
                Err(_) => trailers = true,
            },
        }
    }
}

fn all(bytes: &str, trailers: bool) -> (Vec<u8>, bool, &'static str) {
    (bytes.as_bytes().to_vec(), trailers, "end")
}

#[test]
fn every_try_gets_the_whole_body_and_old_ones_get_nothing_more() {
    let mut pieces = Pieces::new(&["ab", "cd"]);
    pieces.left[1].0 = true;
    pieces.trailers = Some(HeaderMap::from_iter([(http::header::ETAG, HeaderValue::from_static("x"))]));
    let replay = Replay::new(pieces, true, 100);
    let mut first = replay.reader();
    assert_eq!(read(&mut first), (b"ab".to_vec(), false, "pending"));
    let mut second = replay.reader();
    assert_eq!(read(&mut first).2, "error");
    assert_eq!(read(&mut second), all("abcd", true));
    assert!(second.is_end_stream());
    assert_eq!(read(&mut replay.reader()), all("abcd", true));
}

#[test]
fn over_the_limit_the_body_flows_on_but_is_not_kept() {
    let replay = Replay::new(Pieces::new(&["abc", "def"]), true, 4);
    assert_eq!(read(&mut replay.reader()), all("abcdef", false));
    assert!(replay.take_abandoned());
    assert!(!replay.take_abandoned());
}

#[test]
fn mirrors_hear_all_of_it_or_break_off() {
    let replay = Replay::new(Pieces::new(&["abc", "def"]), false, 100);
    let mut mirror = replay.tap();
    assert_eq!(read(&mut mirror).2, "pending");
    assert_eq!(read(&mut replay.reader()), all("abcdef", false));
    assert_eq!(read(&mut mirror), all("abcdef", false));

    let slow = Replay::new(Pieces::new(&["abc", "def"]), false, 4);
    let mut mirror = slow.tap();
    assert_eq!(read(&mut slow.reader()), all("abcdef", false), "the request does not wait");
    assert_eq!(read(&mut mirror).2, "error");

    let gone = Replay::new(Pieces::new(&["abc"]), false, 100);
    let mut mirror = gone.tap();
    drop(gone);
    assert_eq!(read(&mut mirror).2, "error");
}

#[test]
fn a_body_without_bytes_is_at_its_end() {
    let replay = Replay::new(Pieces::new(&[]), true, 100);
    let mirror = replay.tap();
    assert!(replay.reader().is_end_stream());
    assert!(mirror.is_end_stream());
}

proptest! {
    #[test]
    fn any_split_and_any_number_of_tries_give_the_same_bytes(
        pieces in prop::collection::vec((any::<bool>(), "[a-z]{1,5}"), 0..8),
        stops in prop::collection::vec(0_usize..9, 0..4),
    ) {
        let whole: String = pieces.iter().map(|(_, piece)| piece.as_str()).collect();
        let left = pieces.into_iter().map(|(wait, piece)| (wait, Bytes::from(piece))).collect();
        let replay = Replay::new(Pieces { left, trailers: None }, true, 1_000);
        let mut cx = Context::from_waker(Waker::noop());
        for stop in stops {
            let mut reader = replay.reader();
            for _ in 0..stop {
                let _ = Pin::new(&mut reader).poll_frame(&mut cx);
            }
        }
        let mut reader = replay.reader();
        let mut bytes = Vec::new();
        loop {
            let (more, _, how) = read(&mut reader);
            bytes.extend(more);
            if how == "end" {
                break;
            }
            prop_assert_eq!(how, "pending");
        }
        prop_assert_eq!(bytes, whole.into_bytes());
    }
}
