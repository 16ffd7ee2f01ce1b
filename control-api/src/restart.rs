//! Tasks that must not end by a fault of ours: a panic in one is told, and it starts anew.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::time::Duration;

use futures_util::FutureExt as _;

/// Does work until it ends by itself. When it panics, `what` is logged as the work that failed, and after a pause it begins anew.
pub(crate) async fn restarted<T, F: Future<Output = T>>(
    what: &str,
    pause: Duration,
    mut work: impl FnMut() -> F,
) -> T {
    loop {
        if let Ok(done) = AssertUnwindSafe(work()).catch_unwind().await {
            return done;
        }
        // What the fault is was told by the panic itself, on stderr.
        tracing::error!(
            "{what} failed, which is a fault of this control plane; what was known stays in force, it starts anew in {pause:?}"
        );
        tokio::time::sleep(pause).await;
    }
}
