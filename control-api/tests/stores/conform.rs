//! What every store must do, found out by random commits beside the store in memory, which is the model.

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use outrider_control::model::{Key, Kind};
use outrider_control::store::memory::Memory;
use outrider_control::store::{Change, Expect, SharedStore, Store as _, StoreError, Write};
use proptest::prelude::*;

/// What happens to a store.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    Commit(Vec<Planned>),
    /// Closed and opened again.
    Reopen,
}

/// A write, before it is known what there is.
#[derive(Clone, Debug)]
pub(crate) struct Planned {
    key: usize,
    json: Option<u8>,
    expect: Expected,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Expected {
    Any,
    Absent,
    /// The revision that the object has.
    Current,
    /// That of an earlier commit.
    Earlier(prop::sample::Index),
}

pub(crate) fn steps() -> impl Strategy<Value = Vec<Step>> {
    let expect = prop_oneof![
        4 => Just(Expected::Any),
        2 => Just(Expected::Absent),
        4 => Just(Expected::Current),
        1 => any::<prop::sample::Index>().prop_map(Expected::Earlier),
    ];
    let write = (0..6_usize, prop::option::weighted(0.7, any::<u8>()), expect)
        .prop_map(|(key, json, expect)| Planned { key, json, expect });
    prop::collection::vec(
        prop_oneof![8 => prop::collection::vec(write, 0..4).prop_map(Step::Commit), 1 => Just(Step::Reopen)],
        1..24,
    )
}

fn key(index: usize) -> Key {
    match index {
        0 => Key::new(Kind::Namespace, "", "shop"),
        1 => Key::new(Kind::Service, "shop", "web"),
        2 => Key::new(Kind::Service, "shop", "web-2"),
        3 => Key::new(Kind::Service, "shop-2", "web"),
        4 => Key::new(Kind::Secret, "shop", "web"),
        _ => Key::new(Kind::HttpRoute, "shop", "web.example"),
    }
}

/// One that opens (again) the store under test.
pub(crate) trait Home {
    fn open(&mut self) -> impl Future<Output = SharedStore>;
    /// Closes the store, where that means something.
    fn close(&mut self) {}
}

/// What was committed, by the revisions of the store under test.
type Past = BTreeMap<u64, Vec<(Key, Option<Bytes>)>>;

/// The store under test beside the model.
struct Pair {
    store: SharedStore,
    model: Memory,
    /// From the model's revisions to the store's.
    revisions: BTreeMap<u64, u64>,
    past: Past,
}

pub(crate) async fn run(home: &mut impl Home, steps: &[Step]) {
    let store = home.open().await;
    let start = store.list().await.unwrap();
    assert!(start.records.is_empty(), "each case starts with nothing: {start:?}");
    let mut pair =
        Pair { store, model: Memory::default(), revisions: [(0, start.revision)].into(), past: Past::new() };
    for step in steps {
        match step {
            Step::Commit(writes) => pair.commit(writes).await,
            Step::Reopen => {
                drop(std::mem::replace(&mut pair.store, std::sync::Arc::new(Memory::default())));
                home.close();
                pair.store = home.open().await;
            }
        }
        pair.same().await;
    }
    pair.watches(start.revision).await;
}

impl Pair {
    async fn commit(&mut self, planned: &[Planned]) {
        let (mut ours, mut models, mut effects) = (Vec::new(), Vec::new(), Vec::new());
        for Planned { key: index, json, expect } in planned {
            let key = key(*index);
            let json = json.map(|number| Bytes::from(format!("{{\"number\":{number}}}")));
            let found = self.model.get(&key).await.unwrap().map(|record| record.revision);
            let (model, our) = match expect {
                Expected::Any => (Expect::Any, Expect::Any),
                Expected::Absent => (Expect::Absent, Expect::Absent),
                Expected::Current => {
                    let revision = found.unwrap_or(0);
                    (Expect::Revision(revision), Expect::Revision(self.revisions[&revision]))
                }
                Expected::Earlier(which) => {
                    let (model, our) =
                        self.revisions.iter().nth(which.index(self.revisions.len())).expect("there is one");
                    (Expect::Revision(*model), Expect::Revision(*our))
                }
            };
            models.push(Write { key: key.clone(), expect: model, json: json.clone() });
            ours.push(Write { key: key.clone(), expect: our, json: json.clone() });
            if json.is_some() || found.is_some() {
                effects.push((key, json));
            }
        }
        let (before, after) = (self.model.list().await.unwrap(), self.model.commit(models).await);
        match (after, self.store.commit(ours).await) {
            (Ok(model), Ok(ours)) if effects.is_empty() => {
                assert_eq!(model, before.revision);
                // Others may write to the same etcd, so its revision may have grown.
                assert!(ours >= self.revisions[&model], "a revision went back");
            }
            (Ok(model), Ok(ours)) => {
                let last = *self.revisions.values().next_back().expect("there is one");
                assert!(ours > last, "revision {ours} after {last}");
                self.revisions.insert(model, ours);
                self.past.insert(ours, effects);
            }
            (Err(StoreError::Conflict { key: expected, .. }), Err(StoreError::Conflict { key, found })) => {
                assert_eq!(expected, key);
                assert!(!found.is_empty());
            }
            (Err(StoreError::Unfit(_)), Err(StoreError::Unfit(_))) => {}
            (model, ours) => panic!("{model:?}, but {ours:?}"),
        }
    }

    /// Asserts that both hold the same.
    async fn same(&self) {
        let (model, ours) = (self.model.list().await.unwrap(), self.store.list().await.unwrap());
        let translated: Vec<_> = model
            .records
            .iter()
            .map(|record| (record.key.clone(), self.revisions[&record.revision], record.json.clone()))
            .collect();
        let ours_are: Vec<_> = ours
            .records
            .iter()
            .map(|record| (record.key.clone(), record.revision, record.json.clone()))
            .collect();
        assert_eq!(translated, ours_are);
        assert!(ours.revision >= self.revisions[&model.revision]);
        for index in 0..6 {
            let (model, ours) =
                (self.model.get(&key(index)).await.unwrap(), self.store.get(&key(index)).await.unwrap());
            assert_eq!(
                model.map(|record| (self.revisions[&record.revision], record.json)),
                ours.map(|record| (record.revision, record.json))
            );
        }
    }

    /// Asserts that a watch from each revision sees what came after it, once and in order, and what comes later.
    async fn watches(&mut self, start: u64) {
        let froms: Vec<u64> = std::iter::once(start).chain(self.past.keys().copied()).collect();
        let mut watchers = Vec::new();
        for from in froms {
            watchers.push((from, self.store.watch(from).await.unwrap()));
        }
        let last = Write { key: key(0), expect: Expect::Any, json: Some(Bytes::from_static(b"{}")) };
        let end = self.store.commit(vec![last.clone()]).await.unwrap();
        self.past.insert(end, vec![(last.key, last.json)]);
        for (from, mut watcher) in watchers {
            let mut seen = Vec::new();
            while seen.last().is_none_or(|change: &Change| change.revision < end) {
                let next = tokio::time::timeout(Duration::from_secs(20), watcher.next()).await;
                seen.push(next.expect("a watcher waited in vain").expect("a watch ended").expect("a watch"));
            }
            let expected: Vec<Change> = self
                .past
                .range(from + 1..)
                .flat_map(|(revision, effects)| {
                    effects.iter().enumerate().map(move |(index, (key, json))| Change {
                        revision: *revision,
                        key: key.clone(),
                        version: *revision,
                        json: json.clone(),
                        more: index + 1 < effects.len(),
                    })
                })
                .collect();
            assert_eq!(seen, expected, "after {from}");
        }
    }
}
