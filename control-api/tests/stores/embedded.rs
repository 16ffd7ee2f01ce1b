//! The store in memory and the one in a directory.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use outrider_control::model::{Key, Kind};
use outrider_control::store::{Expect, Place, SharedStore, StoreError, Write, memory::Memory, open};
use proptest::prelude::*;

use crate::conform::{self, Home};
use crate::runtime;

/// The store in memory, which is kept while it is "closed".
#[derive(Default)]
struct InMemory(Arc<Memory>);

impl Home for InMemory {
    async fn open(&mut self) -> SharedStore {
        let store: Arc<Memory> = Arc::clone(&self.0);
        store
    }
}

struct InDirectory(PathBuf);

impl Home for InDirectory {
    async fn open(&mut self) -> SharedStore {
        open(&Place::Dir(self.0.clone())).await.unwrap()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn memory_conforms(steps in conform::steps()) {
        runtime().block_on(conform::run(&mut InMemory::default(), &steps));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, ..ProptestConfig::default() })]

    #[test]
    fn redb_conforms_and_remembers_all_over_restarts(steps in conform::steps()) {
        let dir = tempfile::tempdir().unwrap();
        runtime().block_on(conform::run(&mut InDirectory(dir.path().join("data")), &steps));
    }
}

pub(crate) fn put(name: &str, json: impl Into<Bytes>) -> Write {
    Write { key: Key::new(Kind::Service, "shop", name), expect: Expect::Any, json: Some(json.into()) }
}

pub(crate) async fn open_dir(dir: &Path) -> Result<SharedStore, StoreError> {
    open(&Place::Dir(dir.to_owned())).await
}

#[test]
fn only_the_owner_can_read_what_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("below/data");
    runtime().block_on(async {
        let store = open_dir(&data).await.unwrap();
        store.commit(vec![put("web", "{}")]).await.unwrap();
    });
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&data), 0o700);
    for entry in std::fs::read_dir(&data).unwrap() {
        assert_eq!(mode(&entry.unwrap().path()), 0o600);
    }
    // A copy that was made without care is made private again.
    let file = data.join("state.redb");
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    runtime().block_on(async { open_dir(&data).await.unwrap() });
    assert_eq!(mode(&file), 0o600);
}

#[test]
fn a_directory_in_use_is_told_plainly() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let first = open_dir(dir.path()).await.unwrap();
        let Err(error) = open_dir(dir.path()).await else { panic!("two at once") };
        let text = error.to_string();
        assert!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
        assert!(text.contains(&format!("process {} uses this data directory", std::process::id())), "{text}");
        assert!(text.contains("--data-dir"), "{text}");
        drop(first);
        open_dir(dir.path()).await.unwrap();
    });
}

#[test]
fn a_control_plane_that_comes_second_makes_nothing_in_the_directory() {
    use clap::Parser as _;
    use outrider_control::server::{self, Options};
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    let args = ["outrider-control", "--data-dir", data, "--xds=127.0.0.1:0", "--api=127.0.0.1:0"];
    let options = Options::parse_from(args);
    runtime().block_on(async {
        let _first = open_dir(dir.path()).await.unwrap();
        let error = server::run(options).await.unwrap_err().to_string();
        assert!(error.contains("uses this data directory"), "{error}");
    });
    assert!(!dir.path().join("tls").exists() && !dir.path().join("tokens").exists());
}

#[test]
fn a_directory_that_cannot_be_made_is_told_plainly() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    std::fs::write(&file, "").unwrap();
    let error = runtime().block_on(async { open_dir(&file.join("data")).await.map(drop).unwrap_err() });
    let text = error.to_string();
    assert!(text.contains("cannot make the data directory") && text.contains("file/data"), "{text}");
}

#[test]
fn the_log_forgets_and_says_so_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    runtime().block_on(async {
        let store = open_dir(dir.path()).await.unwrap();
        // The log holds 16 MiB: with objects of 1 MiB, the first of 40 commits are soon forgotten.
        let large = vec![b' '; 1 << 20];
        for number in 0..40 {
            store.commit(vec![put(&format!("web-{}", number % 3), large.clone())]).await.unwrap();
        }
        let mut store = Some(store);
        for _ in 0..2 {
            let here = match store.take() {
                Some(store) => store,
                None => open_dir(dir.path()).await.unwrap(),
            };
            let first = match here.watch(1).await {
                Ok(mut stream) => stream.next().await,
                Err(error) => Some(Err(error)),
            };
            let Some(Err(StoreError::Compacted { oldest, .. })) = first else { panic!("the log has no end") };
            assert!((20..40).contains(&oldest), "{oldest}");
            let first = here.watch(oldest).await.unwrap().next().await.unwrap().unwrap();
            assert_eq!(first.revision, oldest + 1);
        }
    });
}
