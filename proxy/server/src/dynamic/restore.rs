//! A start without a control plane: what an earlier life kept on disk takes its place.
//!
//! Nothing is read while a control plane may still answer. It counts as gone when the first round of connections to it
//! failed, or when it has said nothing for its `initial_fetch_timeout`. From then on, what is asked of it and was kept is
//! taken as if it had sent it: decoded, built and warmed as ever. Its own answer, when it comes, replaces all of that as
//! any update does: what it repeats is no change, what it leaves out goes.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrider_config::model::ConfigSource;
use outrider_xds::{Kind, Resource, Token, Update};
use tokio::time::Instant;

use super::controller::{Controller, Stage};
use super::streams::StreamId;
use crate::keep::{self, Item, Kept};

/// What can be restored, and what has been.
#[derive(Default)]
pub(super) struct Restore {
    dir: Option<PathBuf>,
    from: BTreeMap<StreamId, From>,
    /// What was kept and nobody asked for yet; `None` before it is read.
    left: Option<Vec<Item>>,
    kept_at: Option<SystemTime>,
    /// The lists of all clusters and of all listeners that have come, from disk or not.
    lists: HashSet<Kind>,
    /// Of which of these lists a control plane's answer had something good, or was empty.
    accepted: HashSet<Kind>,
    /// A first configuration of the control planes was complete.
    complete: bool,
    /// What is in force from disk, and not a control plane's again.
    standing: HashSet<(StreamId, Kind)>,
}

/// What is known of the other end of a stream.
#[derive(Debug, Clone, Copy)]
enum From {
    /// It has said nothing; at this moment it is given up.
    Silent(Option<Instant>),
    /// It is given up: what was kept is used.
    Disk,
    /// It has answered.
    ControlPlane,
}

impl Restore {
    pub(super) fn new(dir: Option<PathBuf>) -> Self {
        Self { dir, ..Self::default() }
    }

    /// Whether anything was taken from disk.
    pub(super) fn is_used(&self) -> bool {
        self.from.values().any(|from| matches!(from, From::Disk))
    }

    /// A first list is asked for on `stream`, whose fetch times out after `timeout`, or never.
    pub(super) fn asked(&mut self, stream: StreamId, timeout: Duration) {
        // What may wait for ever where there is nothing else need not where there is.
        let patience = if timeout.is_zero() { ConfigSource::INITIAL_FETCH_TIMEOUT } else { timeout };
        let until = self.dir.as_ref().map(|_| Instant::now() + patience);
        self.from.entry(stream).or_insert(From::Silent(until));
    }

    /// When the next control plane is given up.
    pub(super) fn next(&self) -> Option<Instant> {
        let silent = |from: &From| if let From::Silent(until) = from { *until } else { None };
        self.from.values().filter_map(silent).min()
    }

    fn late(&self) -> Vec<StreamId> {
        let now = Instant::now();
        let late = |from: &From| matches!(from, From::Silent(Some(until)) if *until <= now);
        self.from.iter().filter(|(_, from)| late(from)).map(|(stream, _)| *stream).collect()
    }
}

impl Controller {
    /// An update begins: says where it comes from, and notes that its control plane lives.
    pub(super) fn begin_update(&mut self, stream: StreamId, update: &Update) {
        let generations = self.control.records.generations();
        let origin = self.streams.origin(stream);
        if matches!(update.kind, Kind::Cluster | Kind::Listener) {
            self.restore.lists.insert(update.kind);
        }
        if update.token == Token::NONE {
            let dir = self.restore.dir.as_deref();
            generations.taking(dir.map(keep::label).unwrap_or_default(), origin);
            return;
        }
        generations.taking(self.streams.source(stream, &update.control_plane), origin);
        let before = self.restore.from.insert(stream, From::ControlPlane);
        if matches!(before, Some(From::Disk)) {
            tracing::info!(stream, "the control plane answers again");
        }
        if self.restore.standing.remove(&(stream, update.kind)) && self.restore.standing.is_empty() {
            self.control.keep.set_restored(None);
            tracing::info!("what was kept on disk is no longer in force: the control plane's is");
        }
    }

    /// A control plane's answer of all clusters or of all listeners is taken, and not all of it was refused.
    pub(super) fn list_accepted(&mut self, kind: Kind, token: Token) {
        if token != Token::NONE {
            self.restore.accepted.insert(kind);
        }
    }

    /// A connection to the control plane of `stream` failed, `attempt` in a row. All of its services have had their turn
    /// when each was tried once.
    pub(super) fn not_reached(&mut self, stream: StreamId, attempt: u32) {
        if attempt > 0 && self.streams.tried_all(stream, attempt) {
            self.fall_back(stream);
        }
    }

    /// Uses what was kept for `stream`, unless its control plane has answered since the start.
    pub(super) fn fall_back(&mut self, stream: StreamId) {
        // What a file holds is not kept.
        let Some(origin) = self.streams.origin(stream) else { return };
        let silent = !matches!(self.restore.from.get(&stream), Some(From::Disk | From::ControlPlane));
        let Some(dir) = self.restore.dir.clone().filter(|_| silent) else { return };
        if self.restore.left.is_none() {
            self.restore.left = Some(self.read_kept(&dir));
        }
        let count = self.restore.left.iter().flatten().filter(|item| *item.origin == *origin).count();
        if count == 0 {
            // Nothing to fall back on: the wait goes on.
            self.restore.from.insert(stream, From::Silent(None));
            return;
        }
        tracing::warn!(
            stream,
            "the control plane does not answer: {count} resources that were kept in {} take its place",
            dir.display()
        );
        self.restore.from.insert(stream, From::Disk);
    }

    fn read_kept(&mut self, dir: &std::path::Path) -> Vec<Item> {
        match keep::read(dir, &keep::Node::new(&self.control.model.node)) {
            Ok(Some(Kept { at, items, .. })) => {
                self.restore.kept_at = SystemTime::UNIX_EPOCH.checked_add(Duration::from_millis(at));
                items
            }
            Ok(None) => Vec::new(),
            Err(fault) => {
                self.control.keep.stats.state_rejected().inc();
                let aside = match keep::set_aside(dir) {
                    Ok(path) => format!("it is now {}", path.display()),
                    Err(error) => format!("and cannot be moved away: {error}"),
                };
                tracing::error!("the state in {} is not used: {fault}; {aside}", dir.display());
                Vec::new()
            }
        }
    }

    /// Takes in what was kept and is asked for now. Returns whether there was any: then more may be asked for.
    pub(super) fn restore_more(&mut self) -> bool {
        for stream in self.restore.late() {
            self.fall_back(stream);
        }
        self.check_whole();
        let given_up = self.restore.from.iter().filter(|(_, from)| matches!(from, From::Disk));
        let given_up: Vec<StreamId> = given_up.map(|(stream, _)| *stream).collect();
        let mut any = false;
        for stream in given_up {
            for kind in Kind::ALL {
                any |= self.restore_kind(stream, kind);
            }
        }
        any
    }

    fn restore_kind(&mut self, stream: StreamId, kind: Kind) -> bool {
        let Some(handle) = self.streams.get(stream).cloned() else { return false };
        let Some(origin) = self.streams.origin(stream) else { return false };
        let Some(left) = &mut self.restore.left else { return false };
        let wanted = |item: &mut Item| {
            *item.origin == *origin
                && Kind::from_type_url(&item.type_url) == Some(kind)
                && handle.awaits(kind, &item.name)
        };
        let items: Vec<Item> = left.extract_if(.., wanted).collect();
        let lists = [(Kind::Cluster, &self.cds), (Kind::Listener, &self.lds)];
        let mut lists = lists.iter().filter_map(|(kind, list)| Some((*kind, list.as_ref()?.0)));
        let listed = lists.clone().any(|list| list == (kind, stream));
        // An empty list is an answer too.
        if items.is_empty() && (!listed || self.restore.lists.contains(&kind)) {
            return false;
        }
        if listed || !lists.any(|(_, of)| of == stream) {
            self.restore.standing.insert((stream, kind));
            self.control.keep.set_restored(Some(self.restore.kept_at.unwrap_or_else(SystemTime::now)));
        }
        let resource = |item: Item| {
            let name: Arc<str> = item.name.into();
            handle.adopt(kind, &name);
            let version = item.version.into();
            Resource { name, version, body: item.body, aliases: Vec::new(), ttl: None }
        };
        let resources = items.into_iter().map(resource).collect();
        // On a stream that is open, the control plane has not heard what we have.
        handle.reconnect();
        self.update(
            stream,
            Update {
                kind,
                token: Token::NONE,
                version: Arc::default(),
                resources,
                removed: Vec::new(),
                unresolved: Vec::new(),
                whole: false,
                refused: Vec::new(),
                control_plane: Arc::default(),
            },
        );
        true
    }

    /// What is in force may be written once the first configuration is complete, and only while none of it is from disk:
    /// what the file has and nobody could ask for yet (the endpoints of a cluster that waits for its secrets) would be
    /// lost. One that began without its clusters or listeners, because they were late or refused, is not worth what it
    /// would overwrite either.
    fn check_whole(&mut self) {
        if self.restore.dir.is_none() {
            return;
        }
        let accepted = &self.restore.accepted;
        let came = |kind, list: bool| !list || accepted.contains(&kind);
        self.restore.complete |= self.stage == Stage::Done
            && self.restore.standing.is_empty()
            && came(Kind::Cluster, self.cds.is_some())
            && came(Kind::Listener, self.lds.is_some())
            && !self.clusters.is_warming(false)
            && !self.listeners.is_warming(false);
        self.control.keep.set_whole(self.restore.complete && self.restore.standing.is_empty());
    }
}
