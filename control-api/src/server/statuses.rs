//! The statuses of all objects, for those who write them down.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use tokio::sync::watch;

use crate::engine::{Engine, Snapshot};
use crate::model::Key;

/// The statuses that a snapshot comes to.
pub(super) fn of(snapshot: &Snapshot) -> BTreeMap<Key, Value> {
    snapshot.context.attachments.statuses.clone()
}

/// Follows an engine.
pub(super) fn follow(engine: Arc<Engine>) -> watch::Receiver<Arc<BTreeMap<Key, Value>>> {
    let (sender, receiver) = watch::channel(Arc::default());
    tokio::spawn(async move {
        let mut news = engine.news();
        while news.changed().await.is_ok() {
            let statuses = Arc::new(of(&engine.snapshot()));
            sender.send_if_modified(|known| {
                let changed = **known != *statuses;
                *known = statuses;
                changed
            });
            if sender.is_closed() {
                return;
            }
        }
    });
    receiver
}
