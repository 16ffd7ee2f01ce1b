//! The runtime's layers: what each says, and what of it is in force.

mod disk;
mod watch;

use std::sync::{Mutex, MutexGuard, PoisonError};

use outrider_config::convert::runtime_entry;
use outrider_config::model::{DiskLayer, Runtime, RuntimeEntries, RuntimeLayer, RuntimeLayerKind};
use outrider_core::stats::Registry;
use outrider_upstream::ClusterManager;
use serde_json::{Map, Value, json};

pub(crate) use disk::read as read_disk_layer;
pub(crate) use watch::watch;

outrider_core::stat_struct! {
    /// `runtime.`
    struct RuntimeStats {
        counters { deprecated_feature_use, load_error, load_success, override_dir_exists, override_dir_not_exists }
        gauges { admin_overrides_active, deprecated_feature_seen_since_process_start, num_keys, num_layers }
        histograms {}
    }
}

/// The layers. Written on the control thread; what follows a key sees changes at once.
#[derive(Debug)]
pub struct RuntimeLayers {
    layers: Mutex<Vec<Layer>>,
    values: Runtime,
    clusters: ClusterManager,
    stats: RuntimeStats,
}

#[derive(Debug)]
struct Layer {
    config: RuntimeLayer,
    /// Its keys; `None` for files that are not there or cannot be used.
    entries: Option<RuntimeEntries>,
}

impl RuntimeLayers {
    /// The layers of `config`, put in force in `values` and what cannot follow it by itself (the circuit breakers of
    /// `clusters`). Files are read.
    pub(crate) fn new(
        config: &[RuntimeLayer],
        values: Runtime,
        clusters: ClusterManager,
        registry: &Registry,
    ) -> Self {
        let layers = config.iter().map(|config| {
            let entries = match &config.kind {
                RuntimeLayerKind::Static(entries) => entries.clone(),
                _ => RuntimeEntries::new(),
            };
            Layer { config: config.clone(), entries: Some(entries) }
        });
        let layers = Mutex::new(layers.collect());
        let runtime = Self { layers, values, clusters, stats: RuntimeStats::new(registry.scope("runtime.")) };
        runtime.stats.deprecated_feature_seen_since_process_start().set(0);
        runtime.reload();
        runtime
    }

    /// Reads the files anew, and puts what all layers say in force.
    pub(crate) fn reload(&self) {
        let mut layers = self.lock();
        let (mut there, mut errors) = (0, 0);
        for layer in layers.iter_mut() {
            let RuntimeLayerKind::Disk(disk) = &layer.config.kind else { continue };
            layer.entries = match disk::load(disk) {
                Ok(entries) => entries,
                Err(error) => {
                    tracing::error!(
                        layer = &*layer.config.name,
                        "the runtime's files cannot be used: {error:#}"
                    );
                    errors += 1;
                    None
                }
            };
            there += u32::from(layer.entries.is_some());
        }
        self.publish(&layers);
        // As Envoy counts: a second directory overrides the first.
        if there > 1 {
            self.stats.override_dir_exists().inc();
        } else {
            self.stats.override_dir_not_exists().inc();
        }
        if errors == 0 { self.stats.load_success().inc() } else { self.stats.load_error().inc() }
    }

    /// Sets keys of the admin layer; an empty value takes a key away.
    ///
    /// # Errors
    /// There is no admin layer.
    pub(crate) fn modify<'a>(
        &self,
        pairs: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<(), &'static str> {
        let mut layers = self.lock();
        let admin = layers.iter_mut().find(|layer| matches!(layer.config.kind, RuntimeLayerKind::Admin));
        let admin = admin.and_then(|layer| layer.entries.as_mut()).ok_or("No admin layer specified")?;
        for (key, text) in pairs {
            match text {
                "" => admin.remove(key),
                text => admin.insert(key.to_owned(), runtime_entry(text)),
            };
        }
        drop(layers);
        self.reload();
        Ok(())
    }

    /// What the admin layer was told: keys, and the texts that they were given.
    pub(crate) fn admin_entries(&self) -> Vec<(String, String)> {
        let layers = self.lock();
        let admin = layers.iter().find(|layer| matches!(layer.config.kind, RuntimeLayerKind::Admin));
        let entries = admin.and_then(|layer| layer.entries.as_ref()).into_iter().flatten();
        entries.map(|(key, entry)| (key.clone(), entry.text.clone())).collect()
    }

    /// Puts what a control plane says in place of what it said of `resource` before.
    pub(crate) fn put(&self, resource: &str, entries: &RuntimeEntries) {
        for layer in self.lock().iter_mut() {
            if matches!(&layer.config.kind, RuntimeLayerKind::Rtds { resource: own, .. } if **own == *resource)
            {
                layer.entries = Some(entries.clone());
            }
        }
        self.reload();
    }

    /// The directories that layers are read from.
    fn disks(&self) -> Vec<DiskLayer> {
        let layers = self.lock();
        let disks = layers.iter().filter_map(|layer| match &layer.config.kind {
            RuntimeLayerKind::Disk(disk) => Some(disk.clone()),
            _ => None,
        });
        disks.collect()
    }

    /// The answer of `/runtime`: each key with what each layer says of it, and the last word.
    pub(crate) fn dump(&self) -> Value {
        let layers = self.lock();
        let layers: Vec<_> =
            layers.iter().filter_map(|layer| Some((layer, layer.entries.as_ref()?))).collect();
        let mut keys: Map<String, Value> = Map::new();
        for key in layers.iter().flat_map(|(_, entries)| entries.keys()) {
            if keys.contains_key(key) {
                continue;
            }
            let texts: Vec<&str> = layers
                .iter()
                .map(|(_, entries)| entries.get(key).map_or("", |entry| entry.text.as_str()))
                .collect();
            let last = layers.iter().rev().find_map(|(_, entries)| entries.get(key));
            let last = last.map_or("", |entry| entry.text.as_str());
            keys.insert(key.clone(), json!({ "final_value": last, "layer_values": texts }));
        }
        let names: Vec<&str> = layers.iter().map(|(layer, _)| &*layer.config.name).collect();
        json!({ "layers": names, "entries": keys })
    }

    fn publish(&self, layers: &[Layer]) {
        let there: Vec<_> =
            layers.iter().filter_map(|layer| Some((layer, layer.entries.as_ref()?))).collect();
        let all = there.iter().flat_map(|(_, entries)| entries.iter());
        let values: std::collections::BTreeMap<_, _> =
            all.map(|(key, entry)| (key.clone(), entry.value.clone())).collect();
        let overrides = there.iter().any(|(layer, entries)| {
            matches!(layer.config.kind, RuntimeLayerKind::Admin) && !entries.is_empty()
        });
        self.stats.num_keys().set(values.len() as u64);
        self.stats.num_layers().set(there.len() as u64);
        self.stats.admin_overrides_active().set(overrides.into());
        self.values.publish(values);
        self.clusters.runtime_changed();
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Layer>> {
        self.layers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
