//! Keys of tokens are fetched on the control thread, for as long as the filter is there that wants them.

use std::sync::Arc;

use outrider_upstream::WorkerClusters;

use super::lock;
use crate::control::Control;

/// Begins to fetch what listeners ask for.
pub(super) fn start(control: &Arc<Control>) {
    let Some(mut sources) = lock(&control.later.key_sources).take() else { return };
    let clusters = WorkerClusters::new(control.clusters.clone());
    tokio::task::spawn_local(async move {
        while let Some(source) = sources.recv().await {
            tokio::task::spawn_local(source.run(clusters.clone()));
        }
    });
}
