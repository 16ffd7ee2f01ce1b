//! How the engine learns what a store has.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use bytes::Bytes;
use futures_util::stream::{BoxStream, StreamExt as _};
use outrider_control::model::Key;
use outrider_control::source::{Problems, stored};
use outrider_control::store::memory::Memory;
use outrider_control::store::{Change, Expect, Listing, Record, Store, StoreError, Write};
use tokio::sync::Notify;

use crate::follow::{Follower, json, service};
use crate::runtime;

/// A store that can be cut off.
#[derive(Debug, Default)]
struct Cut {
    memory: Memory,
    off: AtomicBool,
    cut: Notify,
}

fn unavailable() -> StoreError {
    StoreError::Unavailable { reason: "cut off".into(), unknown: false }
}

impl Cut {
    fn is_on(&self) -> Result<(), StoreError> {
        if self.off.load(Ordering::SeqCst) { Err(unavailable()) } else { Ok(()) }
    }

    fn turn(&self, off: bool) {
        self.off.store(off, Ordering::SeqCst);
        self.cut.notify_waiters();
    }
}

/// The store, shared: a watch keeps hold of it.
#[derive(Clone, Debug, Default)]
struct Shared(Arc<Cut>);

#[tonic::async_trait]
impl Store for Shared {
    async fn list(&self) -> Result<Listing, StoreError> {
        self.0.is_on()?;
        self.0.memory.list().await
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.0.is_on()?;
        self.0.memory.get(key).await
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<u64, StoreError> {
        self.0.memory.commit(writes).await
    }

    async fn watch(
        &self,
        revision: u64,
    ) -> Result<BoxStream<'static, Result<Change, StoreError>>, StoreError> {
        self.0.is_on()?;
        let changes = self.0.memory.watch(revision).await?;
        let cut = Arc::clone(&self.0);
        let end = Box::pin(futures_util::stream::once(async move {
            cut.cut.notified().await;
            Err(unavailable())
        }));
        let mut both = futures_util::stream::select(changes, end);
        let mut ended = false;
        Ok(futures_util::stream::poll_fn(move |cx| {
            if ended {
                return std::task::Poll::Ready(None);
            }
            let next = both.poll_next_unpin(cx);
            ended = matches!(next, std::task::Poll::Ready(Some(Err(_))));
            next
        })
        .boxed())
    }

    fn describe(&self) -> String {
        "a store that can be cut off".into()
    }
}

fn write(name: &str, json: impl Into<Option<Bytes>>) -> Write {
    Write { key: service(name), expect: Expect::Any, json: json.into() }
}

#[test]
fn commits_come_through_whole_and_in_order() {
    runtime().block_on(async {
        let store = Shared::default();
        store.commit(vec![write("one", json("one", "1"))]).await.unwrap();
        let (mut known, inputs) = Follower::new();
        stored::start(Arc::new(store.clone()), inputs, Problems::default());
        known.until("the first picture", |known| known.resets == 1).await;
        assert_eq!((known.version("one"), known.revision), (Some("1"), 1));
        assert_eq!(known.objects[&service("one")].revision, 1);
        for version in 2..50 {
            let version = version.to_string();
            let writes = ["one", "two", "three"].map(|name| write(name, json(name, &version)));
            store.commit(writes.into()).await.unwrap();
        }
        while known.revision < 49 {
            let before = known.revision;
            known.until("the next commit", |known| known.revision > before).await;
            let versions = ["one", "two", "three"].map(|name| known.version(name).map(str::to_owned));
            assert!(versions.iter().all(|it| *it == versions[0]), "half a commit: {versions:?}");
            assert_eq!(known.revision, before + 1);
        }
        store.commit(vec![write("two", None)]).await.unwrap();
        known.until("a deletion", |known| known.version("two").is_none()).await;
        assert_eq!(known.resets, 1);
    });
}

#[test]
fn a_store_out_of_reach_takes_nothing_away() {
    runtime().block_on(async {
        let store = Shared::default();
        store.0.turn(true);
        let (mut known, inputs) = Follower::new();
        stored::start(Arc::new(store.clone()), inputs, Problems::default());
        store.commit(vec![write("one", json("one", "1"))]).await.unwrap();
        store.0.turn(false);
        known.until("the first picture", |known| known.version("one") == Some("1")).await;
        store.0.turn(true);
        store.commit(vec![write("one", json("one", "2"))]).await.unwrap();
        store.0.turn(false);
        known.until("what changed meanwhile", |known| known.version("one") == Some("2")).await;
        assert_eq!(known.resets, 1, "the watch goes on where it was");
        // Away for longer than the store remembers.
        store.0.turn(true);
        for version in 0..5000 {
            store.commit(vec![write("one", json("one", &version.to_string()))]).await.unwrap();
        }
        store.commit(vec![write("two", json("two", "1"))]).await.unwrap();
        store.0.turn(false);
        known.until("the whole picture", |known| known.version("two") == Some("1")).await;
        assert_eq!(known.version("one"), Some("4999"));
    });
}

#[test]
fn what_cannot_be_read_is_told_and_its_last_good_version_stays() {
    runtime().block_on(async {
        let store = Shared::default();
        let (mut known, inputs) = Follower::new();
        let problems = Problems::default();
        stored::start(Arc::new(store.clone()), inputs, problems.clone());
        store.commit(vec![write("one", json("one", "1"))]).await.unwrap();
        known.until("an object", |known| known.version("one") == Some("1")).await;
        let bad = [
            ("one", Bytes::from_static(b"{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{\"name\":\"one\"},\"spce\":{}}")),
            ("two", Bytes::from_static(b"\xff")),
            ("three", json("four", "1")),
        ];
        store.commit(bad.into_iter().map(|(name, json)| write(name, json)).collect()).await.unwrap();
        let last = store.commit(vec![write("five", json("five", "1"))]).await.unwrap();
        known.until("what is good", |known| known.revision == last).await;
        assert_eq!((known.version("one"), known.version("five")), (Some("1"), Some("1")));
        assert_eq!(known.objects.len(), 2);
        let told: Vec<_> = problems.all().iter().map(ToString::to_string).collect();
        let has = |text: &str| told.iter().any(|it| it.contains(text));
        assert!(has("Service one: spce: unknown field"), "{told:?}");
        assert!(has("not JSON") && has("the content is Service default/four"), "{told:?}");
        // Also over a new picture of everything.
        store.0.turn(true);
        for _ in 0..5000 {
            store.commit(vec![write("five", json("five", "2"))]).await.unwrap();
        }
        store.0.turn(false);
        known.until("the whole picture", |known| known.version("five") == Some("2")).await;
        assert_eq!(known.version("one"), Some("1"));
        let mended = ["one", "two", "three"].map(|name| write(name, json(name, "3")));
        store.commit(mended.into()).await.unwrap();
        known.until("what is mended", |known| known.version("three") == Some("3")).await;
        assert_eq!(known.version("one"), Some("3"));
        assert_eq!(problems.all(), []);
    });
}

/// A store in which the first list panics, and the first watch.
#[derive(Debug, Default)]
struct Faulty {
    memory: Memory,
    calls: AtomicUsize,
}

impl Faulty {
    fn may_fail(&self) {
        let call = self.calls.fetch_add(1, Ordering::SeqCst);
        assert!(call != 0 && call != 2, "as the test wants it");
    }
}

#[tonic::async_trait]
impl Store for Faulty {
    async fn list(&self) -> Result<Listing, StoreError> {
        self.may_fail();
        self.memory.list().await
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        self.memory.get(key).await
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<u64, StoreError> {
        self.memory.commit(writes).await
    }

    async fn watch(
        &self,
        revision: u64,
    ) -> Result<BoxStream<'static, Result<Change, StoreError>>, StoreError> {
        self.may_fail();
        self.memory.watch(revision).await
    }

    fn describe(&self) -> String {
        "a store with faults".into()
    }
}

#[test]
fn a_fault_in_following_a_store_is_not_the_end_of_it() {
    runtime().block_on(async {
        let store = Arc::new(Faulty::default());
        store.commit(vec![write("one", json("one", "1"))]).await.unwrap();
        let (mut known, inputs) = Follower::new();
        stored::start(Arc::clone(&store) as _, inputs, Problems::default());
        known.until("the first picture", |known| known.version("one") == Some("1")).await;
        store.commit(vec![write("one", json("one", "2"))]).await.unwrap();
        known.until("what came after", |known| known.version("one") == Some("2")).await;
        // The second may have come by the second list; the third comes by the watch.
        store.commit(vec![write("one", json("one", "3"))]).await.unwrap();
        known.until("what the watch tells", |known| known.version("one") == Some("3")).await;
        assert_eq!(store.calls.load(Ordering::SeqCst), 5, "two faults, two lists, one watch");
    });
}
