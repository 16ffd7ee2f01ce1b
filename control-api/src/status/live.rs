//! The picture, made anew every two seconds while somebody looks, and shared by all who do.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use tokio::sync::{Notify, Semaphore, watch};

use super::admin::{Admin, AdminTarget};
use super::overview::{Sources, picture};

/// How often it is made.
const INTERVAL: Duration = Duration::from_secs(2);
/// How many admin interfaces are asked at a time.
const AT_ONCE: usize = 16;

/// Makes pictures for those who look. Each gets the newest: nothing queues up for somebody who is slow.
#[derive(Debug)]
pub(super) struct Live {
    newest: watch::Sender<Bytes>,
    /// Somebody began to look.
    wanted: Notify,
}

impl Live {
    /// Starts making pictures. Must be called in a runtime.
    pub(super) fn start(sources: Sources, targets: Vec<AdminTarget>) -> Arc<Self> {
        let live = Arc::new(Self { newest: watch::channel(Bytes::new()).0, wanted: Notify::new() });
        tokio::spawn(Arc::clone(&live).run(sources, targets));
        live
    }

    /// The pictures, as JSON. The first one may be empty: the next is on its way then.
    pub(super) fn look(&self) -> watch::Receiver<Bytes> {
        let pictures = self.newest.subscribe();
        self.wanted.notify_one();
        pictures
    }

    async fn run(self: Arc<Self>, sources: Sources, targets: Vec<AdminTarget>) {
        let mut admins: Vec<Admin> = targets.into_iter().map(Admin::new).collect();
        let mut ticks = tokio::time::interval(INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            if self.newest.receiver_count() == 0 {
                // What is old is nobody's picture of now, and rates do not reach over a time in which nobody looked.
                self.newest.send_replace(Bytes::new());
                admins.iter_mut().for_each(|admin| admin.window.clear());
                self.wanted.notified().await;
                ticks.reset_immediately();
                continue;
            }
            ticks.tick().await;
            let places = &Semaphore::new(AT_ONCE);
            join_all(admins.iter_mut().map(|admin| async move {
                // It is never closed.
                let _place = places.acquire().await;
                admin.refresh().await;
            }))
            .await;
            let sources = sources.clone();
            // A large mesh takes a while to write down.
            let made = tokio::task::spawn_blocking(move || {
                let bytes = serde_json::to_vec(&picture(&sources, &admins)).unwrap_or_default();
                (admins, bytes)
            });
            let Ok((back, bytes)) = made.await else {
                tracing::error!("the status page could not be made, which is a fault of this control plane");
                return;
            };
            admins = back;
            self.newest.send_replace(bytes.into());
        }
    }
}
