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
    // Before the task runs, so that it misses nothing.
    let mut news = engine.news();
    tokio::spawn(async move {
        // What is said before all sources have told what they have would take statuses away for a moment.
        engine.until_ready().await;
        let (mut first, mut last) = (true, None);
        loop {
            news.borrow_and_update();
            let snapshot = engine.snapshot();
            // With endpoints alone no status changes.
            let same = last.as_ref().is_some_and(|last| Arc::ptr_eq(last, &snapshot.context.attachments));
            if same {
                if sender.is_closed() || news.changed().await.is_err() {
                    return;
                }
                continue;
            }
            last = Some(Arc::clone(&snapshot.context.attachments));
            let statuses = Arc::new(of(&snapshot));
            sender.send_if_modified(|known| {
                let changed = std::mem::take(&mut first) || **known != *statuses;
                *known = statuses;
                changed
            });
            if sender.is_closed() || news.changed().await.is_err() {
                return;
            }
        }
    });
    receiver
}
