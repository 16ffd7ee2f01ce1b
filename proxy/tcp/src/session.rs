//! One client's session, from its first moment to its log entry.

use std::future::Future;
use std::io;
use std::pin::pin;
use std::rc::Rc;

use outrider_core::ResponseFlags;
use outrider_core::format::FormatContext;
use outrider_core::stream::StreamInfo;
use outrider_net::handler::{Downstream, SessionSlot};
use outrider_upstream::TcpLease;
use tokio::time::Instant;

use crate::connect::connect;
use crate::proxy::TcpProxyWorker;
use crate::relay::{End, Relay};

/// Serves one client. The upstream is connected to at once, for protocols in which the server speaks first.
pub(crate) async fn serve(worker: Rc<TcpProxyWorker>, downstream: Downstream) {
    let _busy = outrider_core::load::busy();
    let shared = &worker.shared;
    shared.stats.downstream_cx_total().inc();
    let end = shared.config.max_duration.map(|most| Instant::now() + most);
    let Downstream { stream, info: conn, drain, session, buffer_limit, metadata } = downstream;
    let is_logged = !shared.logger.is_empty() || session.is_some();
    let mut log = is_logged.then(|| Box::new(StreamInfo::new(conn.clone(), None)));
    if let Some(log) = &mut log {
        log.dynamic = metadata;
    }
    // Boxed, so that its memory is gone while the session lives.
    let lease = Box::pin(connect(&worker, &conn, log.as_deref_mut())).await;
    let Some(TcpLease { stream: upstream, guard }) = lease else {
        drop(stream);
        finish(&worker, log, session);
        return;
    };
    if shared.config.log_on_connected
        && let Some(log) = &log
    {
        write_log(&worker, log, "TcpUpstreamConnected");
    }
    let limits = (guard.buffer_limit(), buffer_limit);
    let mut relay = Relay::new(stream, upstream, limits, shared.config.idle_timeout, end, drain);
    let stats = &shared.stats;
    let run = relay.run(|received, sent| {
        stats.downstream_cx_rx_bytes_total().add(received);
        stats.downstream_cx_tx_bytes_total().add(sent);
        guard.sent(received);
        guard.received(sent);
    });
    let end = match (&log, shared.config.log_interval) {
        (Some(log), Some(interval)) => run_with_periodic_log(run, interval, &worker, log).await,
        _ => run.await,
    };
    match &end {
        End::Finished => guard.ended_by_peer(),
        End::Upstream(error) => {
            guard.ended_by_peer();
            // The client learns of an abortive end as such.
            if is_reset(error) {
                relay.downstream.reset_on_close();
            }
        }
        End::Downstream(error) => {
            if is_reset(error) {
                relay.upstream.reset_on_close();
            }
        }
        End::Idle => stats.idle_timeout().inc(),
        End::TooLong => stats.max_downstream_connection_duration().inc(),
        End::Terminated => {}
    }
    let paused = u64::from(relay.to_upstream.paused);
    stats.downstream_flow_control_paused_reading_total().add(paused);
    stats.downstream_flow_control_resumed_reading_total().add(paused);
    if relay.to_downstream.paused > 0 {
        guard.paused(relay.to_downstream.paused.into());
    }
    let (received, sent) = (relay.to_upstream.bytes, relay.to_downstream.bytes);
    // Streams close before their place among the connections is free.
    drop(relay);
    drop(guard);
    if let Some(log) = &mut log {
        log.bytes_received = received;
        log.bytes_sent = sent;
        log.upstream_bytes_sent = received;
        log.upstream_bytes_received = sent;
        log.flags.insert(match &end {
            End::TooLong => ResponseFlags::DURATION_TIMEOUT,
            End::Upstream(error) if is_reset(error) => ResponseFlags::UPSTREAM_REMOTE_RESET,
            _ => ResponseFlags::NONE,
        });
    }
    finish(&worker, log, session);
}

async fn run_with_periodic_log(
    run: impl Future<Output = End>,
    interval: std::time::Duration,
    worker: &TcpProxyWorker,
    log: &StreamInfo,
) -> End {
    let mut run = pin!(run);
    let mut ticks = tokio::time::interval_at(Instant::now() + interval, interval);
    std::future::poll_fn(|cx| {
        while ticks.poll_tick(cx).is_ready() {
            write_log(worker, log, "TcpPeriodic");
        }
        run.as_mut().poll(cx)
    })
    .await
}

/// A broken pipe is none: the other side's last bytes may still be on their way, and a reset would drop them.
fn is_reset(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::ConnectionReset
}

fn finish(worker: &TcpProxyWorker, log: Option<Box<StreamInfo>>, session: Option<SessionSlot>) {
    if let Some(mut log) = log {
        log.duration = Some(log.start.elapsed());
        write_log(worker, &log, "TcpConnectionEnd");
        if let Some(session) = session {
            session.replace(Some(log));
        }
    }
}

pub(crate) fn write_log(worker: &TcpProxyWorker, info: &StreamInfo, log_type: &'static str) {
    worker.shared.logger.log(&FormatContext {
        info,
        request: None,
        response: None,
        trailers: None,
        local_reply_body: "",
        log_type,
    });
}
