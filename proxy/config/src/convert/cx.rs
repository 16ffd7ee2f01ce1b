//! What a conversion carries along: the problems found so far, the ledger, and what the bootstrap says of
//! runtime and secrets.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::sync::Arc;

use outrider_core::rng::{self, Rng};
use outrider_proto::{Path, Problem};

use crate::model::{
    Bootstrap, ClusterDefaults, ConfigSourceKind, Discovery, DiskLayer, Runtime, RuntimeEntries, Secret,
};

/// What became of the fields that are not simply honoured. Anyone can read it (`outrider check`, `/compat`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Fields that are accepted and change nothing, by path, with the reason why that is honest.
    pub inert: Vec<(String, String)>,
    /// Fields and values that are not supported, by path, with what to do about it.
    pub refused: Vec<(String, String)>,
    /// Fields of a dynamic resource that Envoy's API does not have, by path and number.
    pub unknown: Vec<String>,
}

/// What the command line and the bootstrap say beside the message that is converted.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// `--service-node`; empty when not given.
    pub service_node: String,
    /// `--service-cluster`; empty when not given.
    pub service_cluster: String,
    /// `--service-zone`; empty when not given.
    pub service_zone: String,
    /// The runtime that keys are followed in, for single resources; `super::bootstrap` makes its own.
    pub runtime: Runtime,
    /// Reads a disk layer of the bootstrap's runtime; without it there is none.
    pub disk_layers: Option<ReadDiskLayer>,
    /// Secrets that may be referred to by name, for single resources.
    pub secrets: Arc<Vec<Arc<Secret>>>,
    /// Whether the bootstrap has an aggregated stream, for single resources.
    pub ads: bool,
    /// Whether that stream speaks delta.
    pub ads_delta: bool,
    /// The clusters that a control plane may be reached by, for single resources; `None`: that is not known.
    pub primary_clusters: Option<Arc<HashSet<String>>>,
    /// The clusters that routes may name, for single resources; `None`: that is not known, and not checked.
    pub clusters: Option<KnownClusters>,
    /// What the bootstrap says for clusters, for single resources.
    pub cluster_defaults: Arc<ClusterDefaults>,
    /// What becomes of unknown fields in single resources.
    pub unknown_fields: UnknownFields,
}

impl Options {
    /// The options for what a control plane sends to one who was started with `bootstrap`.
    #[must_use]
    pub fn for_resources(&self, bootstrap: &Bootstrap) -> Self {
        let primary = bootstrap.clusters.iter().filter(|cluster| match &cluster.discovery {
            Discovery::Eds { source, .. } => matches!(source.kind, ConfigSourceKind::Path { .. }),
            _ => true,
        });
        Self {
            runtime: bootstrap.runtime.clone(),
            secrets: Arc::new(bootstrap.secrets.clone()),
            ads: bootstrap.dynamic.ads.is_some(),
            ads_delta: bootstrap.dynamic.ads.as_ref().is_some_and(|ads| ads.delta),
            primary_clusters: Some(Arc::new(primary.map(|cluster| cluster.name.to_string()).collect())),
            cluster_defaults: bootstrap.cluster_defaults.clone(),
            ..self.clone()
        }
    }
}

/// What becomes of a field of a dynamic resource that Envoy's API does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum UnknownFields {
    /// It is listed in [`Ledger::unknown`], for a warning and a count.
    #[default]
    Warn,
    /// The resource is refused (`--reject-unknown-dynamic-fields`).
    Reject,
    /// Nothing is said (`--ignore-unknown-dynamic-fields`).
    Ignore,
}

/// Says whether there is a cluster of a name.
#[derive(Clone)]
pub struct KnownClusters(Arc<dyn Fn(&str) -> bool + Send + Sync>);

impl KnownClusters {
    /// By asking `known`.
    pub fn new(known: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        Self(Arc::new(known))
    }

    fn contains(&self, name: &str) -> bool {
        (self.0)(name)
    }
}

impl std::fmt::Debug for KnownClusters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("KnownClusters").finish()
    }
}

/// Reads the keys of a disk layer: conversion itself opens no files.
pub type ReadDiskLayer = fn(&DiskLayer) -> RuntimeEntries;

/// The context of one conversion. Problems are collected, not thrown: the conversion goes on with a
/// stand-in, so that all problems are found in one go, and its result is given only when there are none.
#[derive(Debug, Default)]
pub(crate) struct Cx {
    problems: RefCell<Vec<Problem>>,
    ledger: RefCell<Ledger>,
    /// The runtime.
    pub(crate) runtime: Runtime,
    /// Runtime keys that were read once, while converting.
    runtime_read: RefCell<HashSet<String>>,
    secrets: RefCell<Arc<Vec<Arc<Secret>>>>,
    /// The clusters that routes may name; `None` where that is not known.
    pub(crate) clusters: Option<KnownClusters>,
    /// Whether the route table at hand asks for the check (`validate_clusters`).
    pub(crate) check_clusters: Cell<bool>,
    /// Whether the bootstrap has an aggregated stream.
    pub(crate) has_ads: bool,
    /// Whether that stream speaks delta.
    pub(crate) ads_is_delta: bool,
    /// The clusters that a control plane may be reached by; `None` where that is not known.
    pub(crate) primary_clusters: Option<Arc<HashSet<String>>>,
    /// What the bootstrap says for clusters that say nothing of theirs.
    pub(crate) cluster_defaults: RefCell<Arc<ClusterDefaults>>,
    /// Whether a control plane is named anywhere.
    pub(crate) uses_control_plane: Cell<bool>,
    /// Whether the message is a secret that a control plane sent: its files are watched.
    pub(crate) is_sds: bool,
    /// Whether the message is a resource that a control plane sent.
    pub(crate) is_dynamic: bool,
}

impl Cx {
    /// An empty context.
    pub(crate) fn new(options: &Options) -> Self {
        Self {
            runtime: options.runtime.clone(),
            secrets: RefCell::new(options.secrets.clone()),
            has_ads: options.ads,
            ads_is_delta: options.ads_delta,
            primary_clusters: options.primary_clusters.clone(),
            clusters: options.clusters.clone(),
            cluster_defaults: RefCell::new(options.cluster_defaults.clone()),
            ..Self::default()
        }
    }

    /// Notes that what is at `path` is wrong.
    pub(crate) fn error(&self, path: &Path<'_>, message: impl Into<String>) {
        self.error_at(path.to_string(), message.into());
    }

    fn error_at(&self, path: String, message: String) {
        self.problems.borrow_mut().push(Problem { path, line: None, source: String::new(), message });
    }

    /// Notes that what is at `path` is right and not supported: a problem, and an entry in the ledger.
    pub(crate) fn refuse(&self, path: &Path<'_>, why: impl Into<String>) {
        self.refuse_at(path.to_string(), why);
    }

    /// [`Cx::refuse`] for a path that is text already.
    pub(crate) fn refuse_at(&self, path: String, why: impl Into<String>) {
        let why = why.into();
        self.ledger.borrow_mut().refused.push((path.clone(), why.clone()));
        self.error_at(path, why);
    }

    /// Notes that what is at `path` is accepted and changes nothing.
    pub(crate) fn inert(&self, path: &Path<'_>, why: impl Into<String>) {
        self.inert_at(path.to_string(), why);
    }

    /// [`Cx::inert`] for a path that is text already.
    pub(crate) fn inert_at(&self, path: String, why: impl Into<String>) {
        self.ledger.borrow_mut().inert.push((path, why.into()));
    }

    /// Whether a draw among a hundred is within the runtime's number for `key` now, 0 for none (Envoy:
    /// `featureEnabled` with a number): for settings that a change of the runtime leaves as they are.
    pub(crate) fn drawn_now(&self, key: &str) -> bool {
        self.runtime_read.borrow_mut().insert(key.to_owned());
        let percent = self.runtime.get(key).and_then(|value| value.integer()).unwrap_or(0);
        percent >= 100 || (percent > 0 && rng::with(|rng| rng.below(100)) < percent)
    }

    /// The runtime's whole number for `key` now.
    pub(crate) fn runtime_number(&self, key: &str) -> Option<u64> {
        self.runtime_read.borrow_mut().insert(key.to_owned());
        self.runtime.get(key).and_then(|value| value.integer())
    }

    /// Whether a setting follows the runtime's `key`, or looked at it.
    pub(crate) fn runtime_was_read(&self, key: &str) -> bool {
        self.runtime.is_followed(key) || self.runtime_read.borrow().contains(key)
    }

    /// Checks that the cluster that `path` names exists. Envoy leaves the clusters of tcp_proxy unchecked, since they
    /// may come later.
    pub(crate) fn cluster_reference(&self, path: &Path<'_>, name: &str) {
        let Some(clusters) = &self.clusters else { return };
        if self.check_clusters.get() && !clusters.contains(name) {
            let place = if self.is_dynamic { "" } else { " in static_resources.clusters" };
            self.error(path, format!("there is no cluster named {name:?}{place}"));
        }
    }

    /// The secret named `name` for which `pick` gives something.
    pub(crate) fn secret<T>(&self, name: &str, pick: impl Fn(&Secret) -> Option<T>) -> Option<T> {
        self.secrets.borrow().iter().filter(|secret| &*secret.name == name).find_map(|secret| pick(secret))
    }

    /// Makes a secret known by its name.
    pub(crate) fn add_secret(&self, secret: Arc<Secret>) {
        Arc::make_mut(&mut self.secrets.borrow_mut()).push(secret);
    }

    /// Whether anything was wrong so far.
    pub(crate) fn has_problems(&self) -> bool {
        !self.problems.borrow().is_empty()
    }

    /// The result: `value` if nothing was wrong.
    pub(crate) fn finish<T>(self, value: T) -> (Result<T, Vec<Problem>>, Ledger) {
        let problems = self.problems.into_inner();
        let result = if problems.is_empty() { Ok(value) } else { Err(problems) };
        (result, self.ledger.into_inner())
    }
}

/// The reason of a field that simply has not been built.
pub(crate) const UNSUPPORTED: &str = "not supported by this version of Outrider; remove the field";

/// Refuses each of the fields that is set. The fields are bindings made by destructuring their message.
macro_rules! refuse {
    ($cx:expr, $path:expr, $why:expr; $($field:ident),+ $(,)?) => {$(
        if outrider_proto::IsSet::is_set($field) {
            $cx.refuse(&$path.field($crate::convert::cx::field_name(stringify!($field))), $why);
        }
    )+};
}

/// Records each of the fields that is set as inert, with the reason.
macro_rules! inert {
    ($cx:expr, $path:expr, $why:expr; $($field:ident),+ $(,)?) => {$(
        if outrider_proto::IsSet::is_set($field) {
            $cx.inert(&$path.field($crate::convert::cx::field_name(stringify!($field))), $why);
        }
    )+};
}

pub(crate) use {inert, refuse};

/// The proto name of a field from its Rust name.
pub(crate) const fn field_name(rust: &'static str) -> &'static str {
    match rust.as_bytes() {
        [b'r', b'#', ..] => rust.split_at(2).1,
        _ => rust,
    }
}
