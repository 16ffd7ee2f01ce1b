//! Runtime layers of RTDS.

use std::collections::HashSet;
use std::sync::Arc;

use outrider_config::model::{RuntimeEntries, RuntimeLayerKind};
use outrider_xds::{Kind, Refusal, Resource};

use super::controller::{Controller, version_of};
use super::stats::SubscriptionStats;
use super::streams::StreamId;

/// The layers that control planes fill.
pub(super) struct RuntimeSubscriptions {
    /// Those that have had no answer yet, and whose time is not over. Nothing else begins before.
    waiting: HashSet<(StreamId, Arc<str>)>,
    stats: SubscriptionStats,
}

impl RuntimeSubscriptions {
    pub(super) fn new(stats: SubscriptionStats) -> Self {
        Self { waiting: HashSet::new(), stats }
    }

    /// Whether every layer has come, or will not in time.
    pub(super) fn is_settled(&self) -> bool {
        self.waiting.is_empty()
    }
}

impl Controller {
    /// Asks for the layers.
    pub(super) fn subscribe_runtime(&mut self) {
        for layer in self.control.model.runtime_layers.clone() {
            let RuntimeLayerKind::Rtds { resource, source } = layer.kind else { continue };
            let Some((stream, handle)) = self.stream(&source, Kind::Runtime) else { continue };
            handle.subscribe(Kind::Runtime, &resource, source.initial_fetch_timeout);
            self.runtime.waiting.insert((stream, resource));
            self.runtime.stats.update_attempt().inc();
        }
    }

    /// Takes a layer.
    pub(super) fn runtime_layer(
        &mut self,
        stream: StreamId,
        resource: &Resource,
    ) -> Result<(), Vec<Refusal>> {
        // The answer has come, good or bad.
        self.runtime.waiting.remove(&(stream, resource.name.clone()));
        let entries = match self.decoder.runtime(resource) {
            Ok(entries) => entries,
            Err(refusals) => {
                self.runtime.stats.answered(&resource.version, false);
                return Err(refusals);
            }
        };
        self.control.runtime.put(&resource.name, &entries);
        self.runtime.stats.answered(&resource.version, true);
        self.control.records.warming(Kind::Runtime, &resource.name, version_of(resource));
        self.control.records.promoted(Kind::Runtime, &resource.name);
        Ok(())
    }

    /// A layer was taken away: it says nothing any more.
    pub(super) fn lose_runtime_layer(&mut self, stream: StreamId, name: &Arc<str>) {
        // That it does not exist is an answer too: the start does not wait for it.
        self.runtime.waiting.remove(&(stream, name.clone()));
        self.control.runtime.put(name, &RuntimeEntries::new());
        self.control.records.removed(Kind::Runtime, name);
    }

    /// A layer is late: the start goes on without it.
    pub(super) fn give_up_runtime_layer(&mut self, stream: StreamId, name: &Arc<str>) {
        self.runtime.waiting.remove(&(stream, name.clone()));
        self.runtime.stats.init_fetch_timeout().inc();
    }
}
