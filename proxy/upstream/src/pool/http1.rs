//! HTTP/1.1 connections: one request at a time, idle ones last in first out.

use std::rc::Rc;
use std::time::Instant;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use outrider_config::model::HeaderCase;
use tokio::task::AbortHandle;

use super::connect::{Failure, Gone};
use super::io::Counted;
use super::{ConnMeta, Pool};
use crate::body::UpstreamBody;
use crate::error::PoolErrorKind;

/// The longest head of a response, bytes: Envoy's default `max_response_headers_kb`.
pub(super) const MAX_HEAD: usize = 60 * 1024;

/// An HTTP/1.1 connection that nobody else uses. Dropped when idle, it closes gracefully.
pub(super) struct Http1Conn {
    pub(super) sender: http1::SendRequest<UpstreamBody>,
    pub(super) meta: Rc<ConnMeta>,
    pub(super) idle_since: Instant,
    // Nothing was sent on it yet. It takes a request before its task has ever run, and has said so.
    pub(super) fresh: bool,
    task: AbortHandle,
}

impl Http1Conn {
    fn takes_more(&self) -> bool {
        self.fresh || self.sender.is_ready()
    }

    /// Closes at once, whatever runs.
    fn abort(self) {
        self.task.abort();
    }
}

impl Pool {
    pub(super) async fn start_http1(
        self: &Rc<Self>,
        io: Counted,
        meta: ConnMeta,
        gone: Gone,
    ) -> Result<Http1Conn, Failure> {
        let builder = self.http1_builder();
        let failed =
            |error: hyper::Error| Failure { kind: PoolErrorKind::ConnectFailed, details: error.to_string() };
        let (sender, connection) = builder.handshake(TokioIo::new(io)).await.map_err(failed)?;
        let cluster = self.cluster.borrow().clone();
        let task = tokio::task::spawn_local(async move {
            let _gone = gone;
            if let Err(error) = connection.with_upgrades().await {
                if error.is_parse() {
                    cluster.stats().upstream_cx_protocol_error().inc();
                }
                tracing::debug!(cluster = %cluster.config.name, %error, "upstream connection ended");
            }
        });
        let meta = Rc::new(meta);
        Ok(Http1Conn { sender, meta, idle_since: Instant::now(), fresh: true, task: task.abort_handle() })
    }

    fn http1_builder(&self) -> http1::Builder {
        let cluster = self.cluster.borrow();
        let http = &cluster.config.http;
        let mut builder = http1::Builder::new();
        builder.max_header_size(MAX_HEAD);
        // 100 is hyper's own limit, and kept on the stack.
        if http.max_headers_count != 100 {
            builder.max_headers(http.max_headers_count as usize);
        }
        match http.http1.header_case {
            HeaderCase::Lower => {}
            HeaderCase::ProperWords => {
                builder.title_case_headers(true);
            }
            HeaderCase::Preserve => {
                builder.preserve_header_case(true);
            }
        }
        builder
    }

    /// The idle connection that was used last and is alive.
    pub(super) fn take_idle(&self) -> Option<Http1Conn> {
        loop {
            let conn = self.idle.borrow_mut().pop()?;
            // The peer may have closed it since: its task knows, and the sender knows its task.
            if !conn.sender.is_closed() && conn.takes_more() {
                return Some(conn);
            }
        }
    }

    /// Takes a connection back after a request. `finished`: the response was read to its end.
    pub(super) fn release_http1(self: &Rc<Self>, mut conn: Http1Conn, finished: bool) {
        if conn.sender.is_closed() {
            return;
        }
        if conn.takes_more() {
            self.idle_again(conn);
        } else if finished {
            // The codec has a little left to do: its end of the request, the last chunk's trailer.
            let pool = self.clone();
            tokio::task::spawn_local(async move {
                if conn.sender.ready().await.is_ok() {
                    pool.idle_again(conn);
                }
            });
        } else {
            conn.abort();
        }
    }

    fn idle_again(self: &Rc<Self>, mut conn: Http1Conn) {
        if !self.usable(&conn.meta) || (self.draining.get() && self.pending.borrow().is_empty()) {
            return;
        }
        conn.idle_since = Instant::now();
        self.idle.borrow_mut().push(conn);
        if !self.pending.borrow().is_empty() {
            self.serve_pending();
        }
    }
}
