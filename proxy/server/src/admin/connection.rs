//! One connection to the admin interface, for as long as something happens on it.

use std::cell::Cell;
use std::convert::Infallible;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Instant;

/// A connection without a request under way is closed when no byte has come or gone for so long; also one that has never
/// said what it speaks. Connections are few, and who asks whether we are ready must get one.
const IDLE: Duration = Duration::from_secs(60);

/// The same for one with a request under way, whose peer may have nothing to say for a while.
const STALLED: Duration = Duration::from_secs(600);

/// Serves `stream` until it ends or nothing happens on it any more.
pub(super) async fn serve<S, B>(stream: S, answer: impl Fn(Request<Incoming>) -> Response<B>)
where
    S: AsyncRead + AsyncWrite + Unpin + 'static,
    B: Body + Unpin + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let activity = Rc::new(Activity { under_way: Cell::new(0), last: Cell::new(Instant::now()) });
    let service = service_fn(|request| {
        let under_way = UnderWay::new(activity.clone());
        let response = answer(request).map(|body| Answer { body, _under_way: under_way });
        async move { Ok::<_, Infallible>(response) }
    });
    let mut server = auto::Builder::new(Local);
    server.http1().timer(TokioTimer::new()).header_read_timeout(IDLE);
    let io = TokioIo::new(Watched { stream, activity: activity.clone() });
    tokio::select! {
        served = server.serve_connection(io, service) => {
            if let Err(error) = served {
                tracing::debug!(%error, "admin connection");
            }
        }
        () = activity.over() => tracing::debug!("admin connection closed: nothing happens on it"),
    }
}

/// What happens on a connection.
struct Activity {
    /// Requests whose answers have not been taken as a whole.
    under_way: Cell<usize>,
    last: Cell<Instant>,
}

impl Activity {
    fn happens(&self) {
        self.last.set(Instant::now());
    }

    /// Waits until nothing has happened for too long.
    async fn over(&self) {
        loop {
            let limit = if self.under_way.get() == 0 { IDLE } else { STALLED };
            let end = self.last.get() + limit;
            if end <= Instant::now() {
                return;
            }
            // A request that ends in the meantime brings the end nearer.
            tokio::time::sleep_until(end.min(Instant::now() + IDLE)).await;
        }
    }
}

/// A request is under way while there is this.
struct UnderWay(Rc<Activity>);

impl UnderWay {
    fn new(activity: Rc<Activity>) -> Self {
        activity.under_way.update(|count| count + 1);
        Self(activity)
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.update(|count| count.saturating_sub(1));
        self.0.happens();
    }
}

/// The body of an answer.
struct Answer<B> {
    body: B,
    _under_way: UnderWay,
}

impl<B: Body + Unpin> Body for Answer<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose bytes are noticed.
struct Watched<S> {
    stream: S,
    activity: Rc<Activity>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if read.is_ready() {
            self.activity.happens();
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if written.is_ready() {
            self.activity.happens();
        }
        written
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Runs what HTTP/2 needs beside its connection on the control thread.
#[derive(Clone, Copy)]
struct Local;

impl<F: Future<Output: 'static> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use http_body_util::{BodyExt as _, Full, combinators::UnsyncBoxBody};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    /// A body that never comes.
    struct Endless;

    impl Body for Endless {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    /// How long a connection lasts whose client says `first` and reads.
    fn lasts(first: &[u8], never_ends: bool) -> (Duration, String) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
        tokio::task::LocalSet::new().block_on(&runtime.unwrap(), async {
            let (mut client, stream) = tokio::io::duplex(1 << 16);
            let begun = Instant::now();
            let read = async {
                client.write_all(first).await.unwrap();
                let mut all = Vec::new();
                client.read_to_end(&mut all).await.unwrap();
                String::from_utf8_lossy(&all).into_owned()
            };
            let answer = |_| {
                let body: UnsyncBoxBody<Bytes, Infallible> = match never_ends {
                    true => Endless.boxed_unsync(),
                    false => Full::new(Bytes::from_static(b"answer")).boxed_unsync(),
                };
                Response::new(body)
            };
            let (said, ()) = tokio::join!(read, serve(stream, answer));
            (begun.elapsed(), said)
        })
    }

    #[test]
    fn who_says_nothing_is_not_waited_for() {
        let soon = IDLE..IDLE + Duration::from_secs(2);
        for first in
            ["", "PRI * HT", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0", "GET / HTTP/1.1\r\nho"]
        {
            let (lasted, _) = lasts(first.as_bytes(), false);
            assert!(soon.contains(&lasted), "{first:?}: {lasted:?}");
        }
        let (lasted, said) = lasts(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", false);
        assert!(said.ends_with("answer") && soon.contains(&lasted), "{lasted:?}: {said}");
    }

    #[test]
    fn a_request_under_way_has_more_time() {
        let (lasted, said) = lasts(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n", true);
        assert!(said.starts_with("HTTP/1.1 200"), "{said}");
        assert!((STALLED..STALLED + IDLE).contains(&lasted), "{lasted:?}");
    }
}
