//! `endpoint_stale_after`: endpoints that the control plane does not renew in time are forgotten.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use outrider_config::model::Endpoints;
use tokio::time::Instant;

use super::controller::Controller;
use super::streams::StreamId;

/// Endpoints with a time to live, and when it is over. Few have one.
#[derive(Default)]
pub(super) struct Stale(HashMap<(StreamId, Arc<str>), Instant>);

impl Stale {
    /// When the next of them is over.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.values().min().copied()
    }

    /// Endpoints came that live for `time`, or for as long as no others come.
    pub(super) fn renew(&mut self, key: &(StreamId, Arc<str>), time: Option<Duration>) {
        match time.and_then(|time| Instant::now().checked_add(time)) {
            Some(over) => _ = self.0.insert(key.clone(), over),
            None => _ = self.0.remove(key),
        }
    }

    fn take_due(&mut self) -> Option<(StreamId, Arc<str>)> {
        let now = Instant::now();
        let key = self.0.iter().find(|(_, over)| **over <= now)?.0.clone();
        self.0.remove(&key);
        Some(key)
    }
}

impl Controller {
    /// Counts that `endpoints` came with a time to live, on the clusters that use them.
    pub(super) fn live(&mut self, key: &(StreamId, Arc<str>), endpoints: &Endpoints) {
        let time = endpoints.policy.stale_after;
        self.stale.renew(key, time);
        if time.is_some() {
            self.clusters.each_user(key, |cluster| cluster.stats().assignment_timeout_received().inc());
        }
    }

    /// Takes endpoints away whose time is over: their clusters have none until others come.
    pub(super) fn forget_stale(&mut self) {
        while let Some(key) = self.stale.take_due() {
            tracing::warn!(name = &*key.1, "endpoints were not renewed within endpoint_stale_after");
            self.clusters.each_user(&key, |cluster| cluster.stats().assignment_stale().inc());
            self.lose_endpoints(key.0, &key.1);
        }
    }
}
