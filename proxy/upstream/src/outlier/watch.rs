//! The task that keeps a cluster's outliers, on the control thread.

use std::sync::Weak;
use std::sync::atomic::Ordering::Relaxed;

use outrider_core::rng;
use tokio::time::Instant;

use crate::cluster::ClusterShared;
use crate::manager::ClusterManager;

/// Sweeps each interval and judges what workers notice, until the cluster is gone.
pub(crate) async fn watch(cluster: Weak<ClusterShared>, manager: ClusterManager) {
    let Some(detector) = cluster.upgrade().and_then(|cluster| cluster.outlier.clone()) else { return };
    let mut next = Instant::now() + detector.interval();
    loop {
        let sweep = tokio::select! {
            () = tokio::time::sleep_until(next) => true,
            () = detector.woken() => false,
        };
        let Some(cluster) = cluster.upgrade().filter(|cluster| !cluster.retired.load(Relaxed)) else {
            return;
        };
        let hosts: Vec<_> = cluster.hosts.load().iter().cloned().collect();
        let now = Instant::now();
        let changed = rng::with(|rng| {
            if sweep {
                detector.sweep(&hosts, now.into_std(), rng)
            } else {
                detector.judge(&hosts, now.into_std(), rng)
            }
        });
        if sweep {
            next = now + detector.interval();
        }
        if changed {
            cluster.renew_health();
            manager.changed(&cluster);
        }
    }
}
