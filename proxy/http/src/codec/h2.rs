//! HTTP/2 on hyper.

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use outrider_core::rng::{self, Rng};
use outrider_net::io::IoStream;

use super::io::CountedIo;
use crate::hcm::conn::{Conn, Ending};
use crate::hcm::serve;
use crate::hcm::timer::Timer;

/// Spawns streams on the worker that the connection runs on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LocalExec;

impl<F: Future + 'static> hyper::rt::Executor<F> for LocalExec {
    fn execute(&self, future: F) {
        // Not wrapped: an async block around it would hold the future twice, 13 kB more for each stream.
        tokio::task::spawn_local(future);
    }
}

/// Serves HTTP/2 on `io` until it ends.
pub(crate) async fn serve(conn: &Rc<Conn>, io: IoStream) -> Option<IoStream> {
    let service = service_fn({
        let conn = conn.clone();
        // Boxed: hyper moves a stream's future about before it runs, and its task is the smaller for it.
        move |request| Box::pin(serve::request(conn.clone(), request))
    });
    let mut builder = conn.hcm.h2.clone();
    keep_alive(&mut builder, conn);
    let mut http = builder.serve_connection(TokioIo::new(CountedIo::new(io, conn.clone())), service);
    let mut timer = Timer::new();
    let mut told = false;
    let mut terminated = std::pin::pin!(conn.drain.clone().terminated());
    let mut drain = conn.drain.clone();
    let mut watched = false;
    let ended: Result<hyper::Result<()>, Ending> = poll_fn(|cx| {
        conn.register(cx);
        loop {
            if let Poll::Ready(result) = Pin::new(&mut http).poll(cx) {
                return Poll::Ready(Ok(result));
            }
            let changed = drain.take_change();
            let look = !std::mem::replace(&mut watched, true) || changed;
            if changed && !told {
                conn.want(std::time::Instant::now());
            }
            if look && terminated.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Err(Ending::Terminated));
            }
            if let Poll::Ready(ending) = timer.poll(cx, conn, |now| conn.tick(now)) {
                return Poll::Ready(Err(ending));
            }
            if told || !conn.draining.get() {
                return Poll::Pending;
            }
            told = true;
            Pin::new(&mut http).graceful_shutdown();
        }
    })
    .await;
    conn.gone.set(true);
    conn.h1.cut_off.set(conn.active() > 0);
    match &ended {
        Ok(Ok(())) => conn.local_close.set(conn.draining.get()),
        Ok(Err(error)) => {
            if !error.is_closed() && std::error::Error::source(error).is_some_and(is_protocol_error) {
                conn.local_close.set(true);
                conn.hcm.shared.stats.downstream_cx_protocol_error().inc();
            }
        }
        Err(_) => conn.local_close.set(true),
    }
    None
}

/// Pings at an interval of the connection's own, so that those of many connections do not come together.
fn keep_alive(builder: &mut http2::Builder<LocalExec>, conn: &Conn) {
    let Some(keepalive) = conn.hcm.shared.config.http2.keepalive else { return };
    let Some(interval) = keepalive.interval else { return };
    let jitter = keepalive.interval_jitter_percent.clamp(0.0, 100.0) / 100.0;
    let share = rng::with(|rng| rng.below(1 << 20)) as f64 / f64::from(1 << 20);
    let interval = interval + Duration::from_secs_f64(interval.as_secs_f64() * jitter * share);
    builder.keep_alive_interval(interval).keep_alive_timeout(keepalive.timeout);
}

fn is_protocol_error(error: &(dyn std::error::Error + 'static)) -> bool {
    error
        .downcast_ref::<h2::Error>()
        .is_some_and(|error| error.is_library() || error.is_go_away() && !error.is_remote())
}
