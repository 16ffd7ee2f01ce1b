//! How long the server may take until an answer begins, whatever is asked.
//!
//! A connection that leads nowhere (a peer that lost its power, a firewall that forgot it) fails nothing by itself. Single requests
//! are limited by who asks; the watcher's lists and the beginnings of its watches are not, so the client itself has a limit.
//! A watch is an answer that begins at once and goes on: it is not cut off.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tower_layer::Layer;
use tower_service::Service;

/// How long an answer may take to begin. The server gives up a request after a minute by itself (`--request-timeout`).
pub(super) const BEGIN: Duration = Duration::from_secs(65);

/// Limits a client: so long an answer may take to begin.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limit(pub(super) Duration);

impl<S> Layer<S> for Limit {
    type Service = Limited<S>;

    fn layer(&self, inner: S) -> Limited<S> {
        Limited { inner, begin: self.0 }
    }
}

/// A client whose answers must begin in time.
#[derive(Clone, Debug)]
pub(super) struct Limited<S> {
    inner: S,
    begin: Duration,
}

type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl<S, R> Service<R> for Limited<S>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let answer = self.inner.call(request);
        let begin = self.begin;
        Box::pin(async move {
            match tokio::time::timeout(begin, answer).await {
                Ok(answer) => answer.map_err(Into::into),
                Err(_) => Err(format!("no answer within {begin:?}").into()),
            }
        })
    }
}
