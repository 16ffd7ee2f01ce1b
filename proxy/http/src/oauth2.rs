//! Tokens that requests get, of a server that gives them to clients (RFC 6749, "Client Credentials Grant").
//!
//! A task on the control thread asks for the token when the filter is built, again when half of its time is over, and after a
//! failure again and again. Requests take no lock: the token in force is behind an `ArcSwap`, as the header value that it is.
//! It stays in force while no other can be had, and goes with its end: then there is none.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::{HeaderValue, Method, header};
use outrider_config::model::OAuth2;
use outrider_core::oauth2::{AnswerError, Token, form};
use outrider_core::stats::Scope;
use outrider_upstream::{UpstreamBody, WorkerClusters};
use tokio::sync::Notify;

use crate::fetch::{self, FetchError};
use crate::jwks::until;
use crate::secrets::{SecretSlot, header_value};

/// No token is asked for again sooner than after this, however short its life.
const SOONEST: Duration = Duration::from_secs(1);

outrider_core::stat_struct! {
    /// `http.<stat_prefix>.credential_injector.oauth2.`
    struct TokenStats {
        counters {
            token_requested, token_fetched, token_fetch_failed_on_client_secret,
            token_fetch_failed_on_cluster_not_found, token_fetch_failed_on_stream_reset,
            token_fetch_failed_on_bad_token, token_fetch_failed_on_bad_response_code
        }
        gauges { }
        histograms { }
    }
}

/// A token that is fetched. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct TokenSource(Arc<Inner>);

/// The handle of a filter: when it goes, nothing is fetched any more.
#[derive(Debug)]
pub(crate) struct TokenHandle(TokenSource);

#[derive(Debug)]
struct Inner {
    config: Arc<OAuth2>,
    secret: Arc<SecretSlot>,
    /// Its debug output does not show it: it is sensitive.
    token: ArcSwapOption<HeaderValue>,
    gone: AtomicBool,
    left: Notify,
    stats: TokenStats,
}

/// There is no token.
#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("the client's secret is not there")]
    Secret,
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("the token cannot be in a header")]
    Header,
}

impl TokenHandle {
    /// A source that has nothing yet. `scope` is the filter's.
    pub(crate) fn new(config: Arc<OAuth2>, secret: Arc<SecretSlot>, scope: &Scope) -> Self {
        Self(TokenSource(Arc::new(Inner {
            config,
            secret,
            token: ArcSwapOption::empty(),
            gone: AtomicBool::new(false),
            left: Notify::new(),
            stats: TokenStats::new(scope.child("oauth2.")),
        })))
    }

    /// The source.
    pub(crate) const fn source(&self) -> &TokenSource {
        &self.0
    }

    /// The place of the client's secret.
    pub(crate) fn secret(&self) -> &Arc<SecretSlot> {
        &self.0.0.secret
    }

    /// The header's value; `None` while there is none.
    pub(crate) fn value(&self) -> Option<HeaderValue> {
        self.0.0.token.load().as_deref().cloned()
    }
}

impl Drop for TokenHandle {
    fn drop(&mut self) {
        self.0.0.gone.store(true, Relaxed);
        self.0.0.left.notify_one();
    }
}

impl TokenSource {
    /// Fetches tokens until the filter is gone. Control thread.
    pub async fn run(self, clusters: Rc<WorkerClusters>) {
        let inner = &self.0;
        let mut changes = inner.secret.changes();
        let mut expires = None;
        while !inner.gone.load(Relaxed) {
            // What changes from here on changed after it was read.
            changes.mark_unchanged();
            let next = {
                let mut fetch = pin!(self.fetch(&clusters));
                loop {
                    tokio::select! {
                        fetched = &mut fetch => break self.take(fetched, &mut expires),
                        () = until(expires) => self.expire(&mut expires),
                        () = inner.left.notified() => return,
                    }
                }
            };
            let due = Instant::now().checked_add(next);
            loop {
                tokio::select! {
                    () = until(due) => break,
                    Ok(()) = changes.changed() => break,
                    () = until(expires) => self.expire(&mut expires),
                    () = inner.left.notified() => return,
                }
            }
        }
    }

    /// One fetch: the header's value, and how long it is good.
    async fn fetch(&self, clusters: &WorkerClusters) -> Result<(HeaderValue, Duration), TokenError> {
        let (config, stats) = (&self.0.config, &self.0.stats);
        let secret = self.0.secret.text().ok_or(TokenError::Secret)?;
        if clusters.by_name(&config.cluster).is_some() {
            stats.token_requested().inc();
        }
        let body = Bytes::from(question(config, &secret));
        let headers = [
            (header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded")),
            (header::ACCEPT, HeaderValue::from_static("application/json")),
            (header::CONTENT_LENGTH, HeaderValue::from(body.len())),
        ];
        let place = (&*config.cluster, &config.uri);
        let answer = fetch::ask(clusters, place, Method::POST, headers, UpstreamBody::Full(body));
        let answer = if config.timeout.is_zero() {
            answer.await?
        } else {
            tokio::time::timeout(config.timeout, answer).await.unwrap_or(Err(FetchError::Timeout))?
        };
        let Token { text, lifetime } = Token::parse(&answer)?;
        let value = header_value("Bearer ", text.as_bytes()).ok_or(TokenError::Header)?;
        Ok((value, lifetime))
    }

    /// Takes what a fetch brought; how long it is until the next one.
    fn take(
        &self,
        fetched: Result<(HeaderValue, Duration), TokenError>,
        expires: &mut Option<Instant>,
    ) -> Duration {
        let (config, stats) = (&self.0.config, &self.0.stats);
        match fetched {
            Ok((value, lifetime)) => {
                stats.token_fetched().inc();
                self.0.token.store(Some(Arc::new(value)));
                // A life that no clock can tell the end of has none.
                *expires = Instant::now().checked_add(lifetime);
                (lifetime / 2).max(SOONEST)
            }
            Err(error) => {
                tracing::warn!(uri = %config.uri, cluster = %config.cluster, "no token: {error}");
                let counter = match error {
                    TokenError::Secret => stats.token_fetch_failed_on_client_secret(),
                    TokenError::Fetch(FetchError::NoCluster) => {
                        stats.token_fetch_failed_on_cluster_not_found()
                    }
                    TokenError::Fetch(FetchError::Cut(_) | FetchError::TooLarge) => {
                        stats.token_fetch_failed_on_stream_reset()
                    }
                    // Where no host answers Envoy answers itself.
                    TokenError::Fetch(
                        FetchError::Upstream(_) | FetchError::Timeout | FetchError::Status(_),
                    ) => stats.token_fetch_failed_on_bad_response_code(),
                    TokenError::Answer(_) | TokenError::Header => stats.token_fetch_failed_on_bad_token(),
                };
                counter.inc();
                config.retry_interval
            }
        }
    }

    /// The token in force is over.
    fn expire(&self, expires: &mut Option<Instant>) {
        tracing::warn!(cluster = %self.0.config.cluster, "the token is over, and there is no other");
        self.0.token.store(None);
        *expires = None;
    }
}

/// What the server is asked, in Envoy's order.
fn question(config: &OAuth2, secret: &[u8]) -> String {
    let scopes = config.scopes.join(" ");
    let mut pairs: Vec<(&str, &[u8])> = vec![
        ("grant_type", &b"client_credentials"[..]),
        ("client_id", config.client_id.as_bytes()),
        ("client_secret", secret),
    ];
    if !scopes.is_empty() {
        pairs.push(("scope", scopes.as_bytes()));
    }
    pairs.extend(config.params.iter().map(|(name, value)| (&**name, value.as_bytes())));
    form(pairs)
}

#[cfg(test)]
mod tests {
    use outrider_config::model::{DataSource, DataSourceKind, SecretRef};
    use outrider_core::stats::Registry;

    use super::*;

    fn secret(text: &str) -> SecretRef<DataSource> {
        let kind = DataSourceKind::Inline(Arc::from(text.as_bytes()));
        SecretRef::Static(DataSource { kind, field: Arc::from("secret") })
    }

    fn config() -> OAuth2 {
        OAuth2 {
            uri: "http://auth.test/token".parse().expect("a URI"),
            cluster: Arc::from("auth"),
            timeout: Duration::from_secs(1),
            client_id: "me:a b".into(),
            secret: secret("hush"),
            scopes: ["a b", "c&d"].into_iter().map(Box::from).collect(),
            params: [("au d", "x=y"), ("q", "")]
                .into_iter()
                .map(|(name, value)| (Box::from(name), Box::from(value)))
                .collect(),
            retry_interval: Duration::from_secs(7),
        }
    }

    #[test]
    fn the_question_is_as_envoy_asks_it() {
        assert_eq!(
            question(&config(), b"hush"),
            "grant_type=client_credentials&client_id=me%3Aa%20b&client_secret=hush&scope=a%20b%20c%26d&au%20d=x%3Dy&q="
        );
        let plain = OAuth2 { scopes: Box::default(), params: Box::default(), ..config() };
        assert_eq!(
            question(&plain, b"hush"),
            "grant_type=client_credentials&client_id=me%3Aa%20b&client_secret=hush"
        );
    }

    #[test]
    fn a_token_outlives_failures_and_ends_with_its_time() {
        let registry = Registry::new();
        let slot = SecretSlot::new(&secret("hush"), None).expect("it is here");
        let handle = TokenHandle::new(Arc::new(config()), slot, &registry.scope("f."));
        let (source, mut expires) = (handle.source().clone(), None);
        assert!(handle.value().is_none());
        let value = HeaderValue::from_static("Bearer tok");
        let next = source.take(Ok((value, Duration::from_secs(100))), &mut expires);
        assert_eq!((next, expires.is_some()), (Duration::from_secs(50), true));
        let next = source.take(Err(FetchError::Timeout.into()), &mut expires);
        assert_eq!((next, expires.is_some()), (Duration::from_secs(7), true));
        assert_eq!(handle.value().expect("it is still there"), "Bearer tok");
        let short = HeaderValue::from_static("Bearer short");
        assert_eq!(source.take(Ok((short, Duration::ZERO)), &mut expires), SOONEST, "no busy loop");
        source.expire(&mut expires);
        assert!(handle.value().is_none() && expires.is_none());
        for error in [TokenError::Secret, FetchError::NoCluster.into(), AnswerError::Json.into()] {
            source.take(Err(error), &mut expires);
        }
        for (name, count) in [
            ("token_fetched", 2),
            ("token_fetch_failed_on_bad_response_code", 1),
            ("token_fetch_failed_on_client_secret", 1),
            ("token_fetch_failed_on_cluster_not_found", 1),
            ("token_fetch_failed_on_bad_token", 1),
        ] {
            assert_eq!(registry.value(&format!("f.oauth2.{name}")), Some(count), "{name}");
        }
    }
}
