//! Files that secrets of SDS are in: watched as Envoy does, by moves into their directories.

use std::collections::HashMap;
use std::sync::Arc;

use outrider_config::model::Secret;
use outrider_xds::Moves;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::controller::Controller;
use super::listeners::fingerprint;
use super::streams::StreamId;

/// A secret, and the stream that it came by.
type Place = (StreamId, Arc<str>);

/// Who watches.
pub(super) struct SecretFiles {
    changed: mpsc::Sender<Place>,
    /// The secrets whose files are others than before.
    pub(super) changes: mpsc::Receiver<Place>,
    watchers: HashMap<Place, Watcher>,
}

/// Watches the files of a secret until it is dropped.
struct Watcher(AbortHandle);

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Default for SecretFiles {
    fn default() -> Self {
        // A watcher waits when nobody takes what it has to say.
        let (changed, changes) = mpsc::channel(1);
        Self { changed, changes, watchers: HashMap::new() }
    }
}

impl SecretFiles {
    /// Watches the files of `secret`, which had these `prints` when it was read, and no more those that it had before.
    pub(super) fn follow(&mut self, place: Place, secret: &Arc<Secret>, prints: Vec<Option<u64>>) {
        let directories = secret.watched_directories();
        if directories.is_empty() {
            self.watchers.remove(&place);
            return;
        }
        let (secret, changed, at) = (secret.clone(), self.changed.clone(), place.clone());
        let mut moves = Moves::of(directories);
        let task = tokio::task::spawn_local(async move {
            let mut prints = prints;
            loop {
                let now = prints_of(&secret);
                if now != prints {
                    prints = now;
                    if changed.send(at.clone()).await.is_err() {
                        return;
                    }
                }
                moves.next().await;
            }
        });
        self.watchers.insert(place, Watcher(task.abort_handle()));
    }
}

/// What tells the content of a secret's files from another; `None` for one that cannot be read.
pub(super) fn prints_of(secret: &Secret) -> Vec<Option<u64>> {
    secret.files().iter().map(|file| std::fs::read(&***file).ok().map(|bytes| fingerprint(&bytes))).collect()
}

impl Controller {
    /// The files of a secret are others: it takes effect anew, if it is any good. A pair that is half replaced is not, and is
    /// looked at again when the other half comes.
    pub(super) fn secret_files_changed(&mut self, (stream, name): &Place) {
        let of = self.wanted_secrets.iter().filter(|(from, wanted)| from == stream && wanted.name == *name);
        let wanted: Vec<_> = of.map(|(_, wanted)| wanted.clone()).collect();
        let Some(secret) = wanted.iter().find_map(|wanted| self.control.secrets.find(wanted)) else { return };
        if let Err(error) = outrider_net::tls::check_secret(&secret) {
            tracing::warn!(
                secret = &**name,
                "its files have changed, and what was read before stays: {error}"
            );
            return;
        }
        tracing::info!(secret = &**name, "its files have changed, and take effect");
        self.put_secret(*stream, name, &secret);
    }
}
