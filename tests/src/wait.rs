//! Waiting for a condition, with a deadline and a message that says what was awaited.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a condition may take before a test gives up, unless it says otherwise.
pub const LIMIT: Duration = Duration::from_secs(30);

/// The pause between two looks at a condition.
const STEP: Duration = Duration::from_millis(5);

/// Probes until `probe` yields a value.
///
/// # Errors
/// When `limit` passes first; the message names `what`.
pub async fn until<T>(
    what: &str,
    limit: Duration,
    mut probe: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let end = Instant::now() + limit;
    loop {
        if let Some(found) = probe().await? {
            return Ok(found);
        }
        if Instant::now() >= end {
            bail!("waited {limit:?} in vain for {what}");
        }
        tokio::time::sleep(STEP).await;
    }
}

/// Awaits `future` for at most `limit`.
///
/// # Errors
/// When `limit` passes first (the message names `what`), or with the future's own error.
pub async fn within<T>(what: &str, limit: Duration, future: impl Future<Output = Result<T>>) -> Result<T> {
    match tokio::time::timeout(limit, future).await {
        Ok(done) => done,
        Err(_) => bail!("waited {limit:?} in vain for {what}"),
    }
}
