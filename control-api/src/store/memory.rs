//! A store in memory: for development, and the model that the others are tested against.

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::stream::BoxStream;

use super::image::{self, Commit, Image, Memento, State};
use super::{Change, Listing, Record, Store, StoreError, Write};
use crate::model::Key;

/// What is kept, in memory alone.
#[derive(Debug)]
pub struct Memory {
    image: Arc<Image>,
    /// Held while a commit is judged and done.
    memento: Mutex<Memento>,
}

impl Default for Memory {
    fn default() -> Self {
        Self { image: Image::new(State::default()), memento: Mutex::default() }
    }
}

#[tonic::async_trait]
impl Store for Memory {
    async fn list(&self) -> Result<Listing, StoreError> {
        Ok(self.image.list())
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        Ok(self.image.get(key))
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<u64, StoreError> {
        let mut memento = self.memento.lock().unwrap_or_else(PoisonError::into_inner);
        let (revision, effects) = {
            let state = self.image.state();
            let found = |key: &Key| state.objects.get(key).map(|(revision, _)| *revision);
            (state.revision, image::plan(writes, found)?)
        };
        if effects.is_empty() {
            return Ok(revision);
        }
        let commit = Commit { revision: revision + 1, effects };
        let forgotten = memento.note(&commit);
        self.image.apply(vec![commit], forgotten);
        Ok(revision + 1)
    }

    async fn watch(
        &self,
        revision: u64,
    ) -> Result<BoxStream<'static, Result<Change, StoreError>>, StoreError> {
        self.image.watch(revision)
    }

    fn describe(&self) -> String {
        "memory (nothing survives a restart)".into()
    }
}
