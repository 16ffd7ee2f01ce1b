//! Where calls are counted: beside the stats of their cluster.

use std::sync::Arc;

use outrider_core::stats::{Counter, Scope, StatSlot};

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
    /// Those of all calls of the cluster whose stats are in `cluster`.
    pub(super) fn of_cluster(&self, cluster: &Scope) -> Arc<CallStats> {
        // As many as there are clusters: that is for the configuration to say.
        self.clusters.any(cluster.prefix(), || CallStats::new(cluster.child("grpc.")))
    }

    /// Those of the calls of a method that the configuration names.
    pub(super) fn of_listed(&self, cluster: &Scope, service: &str, method: &str) -> Arc<CallStats> {
        let name = name_of(cluster, service, method);
        self.methods.any(&name, || CallStats::new(cluster.registry().scope(name.as_str())))
    }

    /// Those of the calls of a method that clients name; those of the cluster when they have named too many already.
    pub(super) fn of_method(&self, cluster: &Scope, service: &str, method: &str) -> Arc<CallStats> {
        let name = name_of(cluster, service, method);
        let found = self.methods.get(&name, || CallStats::new(cluster.registry().scope(name.as_str())));
        found.unwrap_or_else(|| self.of_cluster(cluster))
    }
}

fn name_of(cluster: &Scope, service: &str, method: &str) -> String {
    format!("{}grpc.{service}.{method}.", cluster.prefix())
}

#[cfg(test)]
mod tests {
    use outrider_core::stats::Registry;

    use super::*;

    #[test]
    fn calls_count_for_their_cluster_when_clients_have_named_too_many_methods() {
        let (registry, counters) = (Registry::new(), Counters::default());
        let cluster = registry.scope("cluster.a.");
        let value = |name: &str| registry.value(&format!("cluster.a.grpc.{name}"));
        for i in 0..2000 {
            counters.of_method(&cluster, "s", &format!("m{i}")).ended(b"0");
        }
        assert_eq!((value("s.m0.success"), value("s.m1999.success")), (Some(1), None));
        assert_eq!(value("success"), Some(2000 - 1024));
        counters.of_method(&cluster, "s", "m0").ended(b"0");
        assert_eq!(value("s.m0.success"), Some(2));
    }

    #[test]
    fn methods_that_the_configuration_names_all_count() {
        let (registry, counters) = (Registry::new(), Counters::default());
        let cluster = registry.scope("cluster.a.");
        for i in 0..1500 {
            counters.of_listed(&cluster, "s", &format!("m{i}")).ended(b"0");
        }
        assert_eq!(registry.value("cluster.a.grpc.s.m1499.success"), Some(1));
    }
}
