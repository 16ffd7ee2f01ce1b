//! What filters want fetched (keys of tokens, tokens) is fetched on the control thread, for as long as the filter is there.

use std::sync::Arc;

use outrider_upstream::WorkerClusters;

use super::lock;
use crate::control::Control;

/// Begins to fetch what listeners ask for.
pub(super) fn start(control: &Arc<Control>) {
    let Some(mut fetchers) = lock(&control.later.fetchers).take() else { return };
    let clusters = WorkerClusters::new(control.clusters.clone());
    tokio::task::spawn_local(async move {
        while let Some(fetcher) = fetchers.recv().await {
            tokio::task::spawn_local(fetcher.run(clusters.clone()));
        }
    });
}
