//! Where calls are counted: beside the stats of their cluster.

use std::sync::Arc;

use outrider_core::stats::{Counter, Scope, StatSlot};
use outrider_upstream::WorkerCluster;

use crate::filter::named::Named;

outrider_core::stat_struct! {
    /// `cluster.<name>.grpc.` and `cluster.<name>.grpc.<service>.<method>.`
    pub(super) struct CallCounters {
        counters { success, failure, total, request_message_count, response_message_count }
        gauges { }
        histograms { upstream_rq_time }
    }
}

/// The statuses that gRPC has.
const STATUSES: [&str; 17] =
    ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16"];

/// The stats of a cluster's calls, or of those of one method.
#[derive(Debug)]
pub(super) struct CallStats {
    pub(super) counters: CallCounters,
    by_status: [StatSlot; 17],
}

impl CallStats {
    fn new(scope: Scope) -> Self {
        Self { counters: CallCounters::new(scope), by_status: std::array::from_fn(|_| StatSlot::new()) }
    }

    /// A call ended with `status`.
    pub(super) fn ended(&self, status: &[u8]) {
        let known = STATUSES.iter().zip(&self.by_status).find(|(name, _)| name.as_bytes() == status);
        let scope = self.counters.scope();
        match (known, std::str::from_utf8(status)) {
            (Some((name, slot)), _) => Counter::new(scope, slot, name).inc(),
            // What an upstream makes up must not make stats without end.
            (None, Ok(text)) if text.len() <= 3 && text.bytes().all(|byte| byte.is_ascii_digit()) => {
                // Rare enough to be looked for by name each time.
                Counter::new(&scope.child(text), &StatSlot::new(), "").inc();
            }
            _ => {}
        }
        if status == b"0" {
            self.counters.success().inc();
        } else {
            self.counters.failure().inc();
        }
        self.counters.total().inc();
    }
}

/// The stats of all clusters and methods.
#[derive(Debug, Default)]
pub(super) struct Counters {
    clusters: Named<CallStats>,
    methods: Named<CallStats>,
}

impl Counters {
    /// Those of all calls of `cluster`.
    pub(super) fn of_cluster(&self, cluster: &WorkerCluster) -> Option<Arc<CallStats>> {
        let scope = cluster.shared.stats().scope();
        // As many as there are clusters: that is for the configuration to say.
        Some(self.clusters.any(scope.prefix(), || CallStats::new(scope.child("grpc."))))
    }

    /// Those of a method's calls; `None` when clients have called too many already.
    pub(super) fn of_method(
        &self,
        cluster: &WorkerCluster,
        service: &str,
        method: &str,
    ) -> Option<Arc<CallStats>> {
        let scope = cluster.shared.stats().scope();
        let name = format!("{}grpc.{service}.{method}.", scope.prefix());
        self.methods.get(&name, || CallStats::new(scope.registry().scope(name.as_str())))
    }
}
