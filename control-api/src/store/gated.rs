//! A store whose commits wait until they are let go on, for tests.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream::BoxStream;
use tokio::sync::{Notify, Semaphore};

use super::memory::Memory;
use super::{Change, Listing, Record, Store, StoreError, Write};
use crate::model::Key;

/// In memory. Commits pass until they are held.
#[derive(Debug)]
pub(crate) struct Gated {
    inner: Memory,
    held: AtomicBool,
    asked: Notify,
    passed: Semaphore,
}

impl Default for Gated {
    fn default() -> Self {
        Self {
            inner: Memory::default(),
            held: AtomicBool::new(false),
            asked: Notify::new(),
            passed: Semaphore::new(0),
        }
    }
}

impl Gated {
    /// Commits wait from now on.
    pub(crate) fn hold(&self) {
        self.held.store(true, Ordering::SeqCst);
    }

    /// Resolves when a commit waits.
    pub(crate) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Lets one commit go on that waits.
    pub(crate) fn pass(&self) {
        self.passed.add_permits(1);
    }
}

#[tonic::async_trait]
impl Store for Gated {
    async fn list(&self) -> Result<Listing, StoreError> {
        self.inner.list().await
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.inner.get(key).await
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<u64, StoreError> {
        if self.held.load(Ordering::SeqCst) {
            self.asked.notify_one();
            self.passed.acquire().await.unwrap().forget();
        }
        self.inner.commit(writes).await
    }

    async fn watch(
        &self,
        revision: u64,
    ) -> Result<BoxStream<'static, Result<Change, StoreError>>, StoreError> {
        self.inner.watch(revision).await
    }

    fn describe(&self) -> String {
        "memory behind a gate".into()
    }
}
