//! Keys of tokens that come from elsewhere: a source for each provider, which requests look at, and what fetches them on
//! the control thread.
//!
//! Requests take no lock: the keys in force are behind an `ArcSwap`. A request that lacks them asks, and waits for the end of
//! the next fetch; however many wait, there is one fetch at a time. Keys that are fetched in the background
//! (`async_fetch`) stay in force until newer ones come, also when they cannot be had; others end with `cache_duration`.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use arc_swap::ArcSwapOption;
use http::Method;
use outrider_config::model::RemoteJwks;
use outrider_core::jwt::{Jwks, JwtError};
use outrider_core::rng::{self, Rng as _};
use outrider_core::stats::Scope;
use outrider_upstream::{UpstreamBody, WorkerClusters};
use tokio::sync::{Notify, watch};

use crate::fetch::{self, FetchError};

/// How long before their end keys are fetched again in the background. Envoy: `RefetchBeforeExpiredSec`.
const EARLY: Duration = Duration::from_secs(5);
/// How much longer than a fetch may take a request waits for it.
const SLACK: Duration = Duration::from_secs(5);

outrider_core::stat_struct! {
    /// `http.<stat_prefix>.jwt_authn.`
    struct FetchStats {
        counters { jwks_fetch_success, jwks_fetch_failed }
        gauges { }
        histograms { }
    }
}

/// A set of keys that is fetched. Cloning gives another handle.
#[derive(Debug, Clone)]
pub struct JwksSource(Arc<Inner>);

/// The handle of a filter: when it goes, nothing is fetched any more.
#[derive(Debug)]
pub(crate) struct JwksHandle(JwksSource);

#[derive(Debug)]
struct Inner {
    config: Arc<RemoteJwks>,
    fetched: ArcSwapOption<Fetched>,
    wanted: Notify,
    /// How many fetches have ended.
    rounds: watch::Sender<u64>,
    gone: AtomicBool,
    stats: FetchStats,
}

#[derive(Debug)]
struct Fetched {
    keys: Jwks,
    /// `None`: until there are newer ones.
    until: Option<Instant>,
    /// The fetch that they are of.
    round: u64,
}

impl JwksHandle {
    /// A source that has nothing yet. `scope` is the filter's.
    pub(crate) fn new(config: Arc<RemoteJwks>, scope: Scope) -> Self {
        Self(JwksSource(Arc::new(Inner {
            config,
            fetched: ArcSwapOption::empty(),
            wanted: Notify::new(),
            rounds: watch::Sender::new(0),
            gone: AtomicBool::new(false),
            stats: FetchStats::new(scope),
        })))
    }

    /// The source.
    pub(crate) const fn source(&self) -> &JwksSource {
        &self.0
    }
}

impl Drop for JwksHandle {
    fn drop(&mut self) {
        self.0.0.gone.store(true, Relaxed);
        self.0.0.wanted.notify_one();
    }
}

impl JwksSource {
    /// What `look` says of the keys that are in force at `now` (`None`: of those that there are, however old); `None` when there
    /// are none.
    pub(crate) fn look<R>(&self, now: Option<Instant>, look: impl FnOnce(&Jwks) -> R) -> Option<R> {
        let fetched = self.0.fetched.load();
        let fetched = fetched.as_deref()?;
        let over = now.zip(fetched.until).is_some_and(|(now, until)| now >= until);
        (!over).then(|| look(&fetched.keys))
    }

    /// Whether there are keys in force at `now`.
    pub(crate) fn is_here(&self, now: Instant) -> bool {
        self.look(Some(now), |_| ()).is_some()
    }

    /// Asks for keys, and waits until a fetch has ended; whether it brought some, or there are some that hold.
    pub(crate) async fn wait(&self) -> bool {
        let mut rounds = self.0.rounds.subscribe();
        let before = *rounds.borrow_and_update();
        self.0.wanted.notify_one();
        let limit = self.0.config.timeout.saturating_add(SLACK);
        // Rare enough for a timer of its own.
        let ended = tokio::time::timeout(limit, rounds.changed()).await;
        let new = || self.0.fetched.load().as_deref().is_some_and(|fetched| fetched.round > before);
        matches!(ended, Ok(Ok(()))) && (new() || self.is_here(Instant::now()))
    }

    /// Fetches keys whenever they are wanted, until the filter is gone. Control thread.
    pub async fn run(self, clusters: Rc<WorkerClusters>) {
        let (inner, config) = (&self.0, &self.0.config);
        let mut due = config.background.map(|_| Instant::now());
        loop {
            let wanted = tokio::select! {
                () = inner.wanted.notified() => true,
                () = until(due) => false,
            };
            if inner.gone.load(Relaxed) {
                return;
            }
            if !(wanted && self.is_here(Instant::now())) {
                let fetched = self.fetch(&clusters).await;
                due = config.background.map(|failed| {
                    let good = config.cache.checked_sub(EARLY).filter(|time| !time.is_zero());
                    Instant::now() + if fetched { good.unwrap_or(config.cache) } else { failed }
                });
            }
            inner.rounds.send_modify(|rounds| *rounds += 1);
        }
    }

    /// One fetch, with its retries; whether there are new keys.
    async fn fetch(&self, clusters: &WorkerClusters) -> bool {
        let (inner, config) = (&self.0, &self.0.config);
        let tried = tokio::time::timeout(config.timeout, again_and_again(config, clusters)).await;
        match tried.unwrap_or(Err(FetchError::Timeout.into())) {
            Ok(keys) => {
                let until = config.background.is_none().then(|| Instant::now() + config.cache);
                let round = *inner.rounds.borrow() + 1;
                inner.fetched.store(Some(Arc::new(Fetched { keys, until, round })));
                inner.stats.jwks_fetch_success().inc();
                true
            }
            Err(error) => {
                tracing::warn!(uri = %config.uri, cluster = %config.cluster, "keys of tokens cannot be had: {error}");
                inner.stats.jwks_fetch_failed().inc();
                false
            }
        }
    }
}

/// Keys cannot be had.
#[derive(Debug, thiserror::Error)]
enum KeysError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("{0}")]
    Keys(JwtError),
}

impl KeysError {
    /// Whether another attempt may do better (Envoy: `5xx,gateway-error,connect-failure,reset`).
    fn may_pass(&self) -> bool {
        match self {
            Self::Fetch(FetchError::Upstream(_) | FetchError::Cut(_) | FetchError::Timeout) => true,
            Self::Fetch(FetchError::Status(status)) => status.is_server_error(),
            Self::Fetch(FetchError::NoCluster | FetchError::TooLarge) | Self::Keys(_) => false,
        }
    }
}

pub(crate) async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due.into()).await,
        None => std::future::pending().await,
    }
}

/// Asks until there is an answer, or another try is of no use.
async fn again_and_again(config: &RemoteJwks, clusters: &WorkerClusters) -> Result<Jwks, KeysError> {
    let once = async || Jwks::parse(&ask(config, clusters).await?).map_err(KeysError::Keys);
    let Some(retries) = config.retries else { return once().await };
    let (mut left, mut limit) = (retries.count, retries.base);
    loop {
        let answer = tokio::time::timeout(retries.most, once()).await;
        match answer.unwrap_or(Err(FetchError::Timeout.into())) {
            Err(error) if left > 0 && error.may_pass() => {
                tracing::debug!(uri = %config.uri, left, "keys of tokens are asked for again: {error}");
            }
            last => return last,
        }
        left -= 1;
        let most = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX).max(1);
        tokio::time::sleep(Duration::from_millis(rng::with(|rng| rng.below(most)))).await;
        limit = limit.saturating_mul(2).min(retries.most);
    }
}

async fn ask(config: &RemoteJwks, clusters: &WorkerClusters) -> Result<Vec<u8>, FetchError> {
    fetch::ask(clusters, (&*config.cluster, &config.uri), Method::GET, [], UpstreamBody::Empty).await
}
