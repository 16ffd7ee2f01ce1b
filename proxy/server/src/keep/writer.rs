//! Writes what is in force, some time after it changed.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use outrider_proto::{Descriptors, holds_secrets};
use outrider_xds::Kind;
use xxhash_rust::xxh64::xxh64;

use super::file::{self, Item, Kept, Node};
use crate::control::Control;
use crate::dynamic::{InForce, lock};

/// After a change others usually follow: so long is waited for them.
const PAUSE: Duration = Duration::from_secs(1);

/// Writing has at most this share of a core's time and of the disk's: one in so many.
const SHARE: u32 = 20;

/// What is known of the resources that were looked at for secrets: a checksum of each, and whether it holds any.
type Looked = HashMap<(Kind, Arc<str>), (u64, bool)>;

/// Resources by kind and name.
type Names = HashSet<(Kind, Arc<str>)>;

/// Writes what is in force to the state directory, whenever it changed, until the process ends.
pub(crate) async fn run(control: Arc<Control>) {
    let Some(dir) = control.options.state_dir.clone() else { return };
    let mut changes = control.records.generations().changes();
    let mut whole = control.keep.whole.subscribe();
    let of_crash = dir.clone();
    _ = tokio::task::spawn_blocking(move || file::clean(&of_crash)).await;
    let mut looked = Looked::new();
    let mut failed = false;
    while changes.changed().await.is_ok() {
        tokio::time::sleep(PAUSE).await;
        if whole.wait_for(|whole| *whole).await.is_err() {
            return;
        }
        changes.mark_unchanged();
        let (in_force, dir, whose) = (control.records.kept(), dir.clone(), Node::new(&control.model.node));
        let missing = lock(&control.keep.missing).clone();
        let begin = Instant::now();
        // Looking for secrets and waiting for the disk are not for this thread.
        let done = tokio::task::spawn_blocking(move || {
            let (mut kept, left_out) = gather(in_force, whose, &mut looked);
            if !missing.is_empty() {
                carry_over(&dir, &mut kept, &missing);
            }
            (file::write(&dir, &kept), left_out, looked)
        });
        let (written, left_out);
        (written, left_out, looked) = match done.await {
            Ok(done) => done,
            Err(error) => {
                tracing::error!(%error, "the state is no longer kept");
                return;
            }
        };
        let stats = &control.keep.stats;
        stats.state_left_out().set(left_out as u64);
        match written {
            Ok(bytes) => {
                stats.state_written().inc();
                stats.state_bytes().set(bytes as u64);
                if std::mem::take(&mut failed) {
                    tracing::info!("the state is kept again");
                }
            }
            Err(error) => {
                stats.state_write_failed().inc();
                if !std::mem::replace(&mut failed, true) {
                    let dir: &Path = control.options.state_dir.as_deref().unwrap_or(Path::new(""));
                    tracing::warn!("the state cannot be kept in {}: {error}", dir.display());
                }
            }
        }
        tokio::time::sleep(begin.elapsed() * SHARE).await;
    }
}

/// What one of `kind` may need: with it missing, nobody asked for that.
const fn needs(kind: Kind) -> &'static [Kind] {
    match kind {
        Kind::Cluster => &[Kind::Endpoint],
        Kind::Listener => &[Kind::Route, Kind::ScopedRoute, Kind::VirtualHost, Kind::Extension],
        Kind::ScopedRoute => &[Kind::Route, Kind::VirtualHost],
        Kind::Route => &[Kind::VirtualHost],
        _ => &[],
    }
}

/// Adds to `kept` what the file has of the resources that are `missing`: what failed to come is not gone.
fn carry_over(dir: &Path, kept: &mut Kept, missing: &Names) {
    let Some(Ok(Some(before))) = kept.node.as_ref().map(|node| file::read(dir, node)) else { return };
    let known: HashSet<(String, String)> =
        kept.items.iter().map(|item| (item.type_url.clone(), item.name.clone())).collect();
    let misses = |kind: Kind, name: &str| missing.contains(&(kind, name.into()));
    let is_missing = |item: &Item| {
        Kind::from_type_url(&item.type_url).is_some_and(|kind| {
            let namespace = kind.namespace(&item.name);
            misses(kind, &item.name)
                || misses(kind, super::ALL)
                || namespace.is_some_and(|space| misses(kind, space))
                || missing.iter().any(|(of, _)| needs(*of).contains(&kind))
        })
    };
    let carried = before
        .items
        .into_iter()
        .filter(|item| is_missing(item) && !known.contains(&(item.type_url.clone(), item.name.clone())));
    kept.items.extend(carried);
}

/// What may be written of what is in force, and how many resources may not.
fn gather(in_force: Vec<InForce>, node: Node, looked: &mut Looked) -> (Kept, usize) {
    let descriptors = Descriptors::load();
    let mut known = Looked::with_capacity(in_force.len());
    let mut items = Vec::with_capacity(in_force.len());
    let mut left_out = 0;
    for InForce { kind, name, version, origin, body } in in_force {
        let sum = xxh64(&body, 0);
        let key = (kind, name);
        let before = looked.get(&key).filter(|(of, _)| *of == sum).map(|(_, secret)| *secret);
        let secret = before.unwrap_or_else(|| {
            let message = kind.type_url().rsplit('/').next().unwrap_or_default();
            let secret = holds_secrets(&descriptors, message, &body);
            if secret {
                tracing::warn!("{kind} {:?} holds secrets: it is not kept in the state directory", key.1);
            }
            secret
        });
        if secret {
            left_out += 1;
        } else {
            items.push(Item {
                origin: origin.to_string(),
                type_url: kind.type_url().to_owned(),
                name: key.1.to_string(),
                version: version.to_string(),
                body,
            });
        }
        known.insert(key, (sum, secret));
    }
    *looked = known;
    let at = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (Kept { node: Some(node), at: u64::try_from(at.as_millis()).unwrap_or(0), items }, left_out)
}
