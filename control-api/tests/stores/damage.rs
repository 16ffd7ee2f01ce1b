//! Damaged files are reported, and stay as they are to the byte.

use std::path::{Path, PathBuf};

use outrider_control::store::{Listing, StoreError};
use proptest::prelude::*;
use redb::{Database, TableDefinition};

use crate::embedded::{open_dir, put};
use crate::runtime;

const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");

/// What became of opening a directory with this file.
fn opened(dir: &Path) -> Result<Listing, StoreError> {
    runtime().block_on(async {
        let store = open_dir(dir).await?;
        store.list().await
    })
}

/// Asserts that opening reports damage with the file's name, and changes no byte.
fn refused(dir: &Path, why: &str) {
    let file = dir.join("state.redb");
    let before = std::fs::read(&file).unwrap();
    match opened(dir) {
        Err(StoreError::Corrupt { place, reason }) => {
            assert_eq!(place, file.display().to_string());
            assert!(reason.contains(why), "{reason}");
            assert!(reason.contains("nothing was changed"), "{reason}");
        }
        other => panic!("{other:?}"),
    }
    assert!(std::fs::read(&file).unwrap() == before, "the damaged file was written to");
}

/// A store with something in it: closed in good order, or as a crash leaves it.
fn sample(dir: &Path, crashed: bool) -> (Vec<u8>, Listing) {
    runtime().block_on(async {
        let store = open_dir(dir).await.unwrap();
        for round in 0..3 {
            for name in 0..20 {
                let json = format!("{{\"round\":{round},\"name\":{name},\"text\":\"{}\"}}", "x".repeat(300));
                store.commit(vec![put(&format!("web-{name}"), json.into_bytes())]).await.unwrap();
            }
        }
        let listing = store.list().await.unwrap();
        let file = dir.join("state.redb");
        if crashed {
            return (std::fs::read(&file).unwrap(), listing);
        }
        drop(store);
        (std::fs::read(&file).unwrap(), listing)
    })
}

#[derive(Clone, Debug)]
enum Harm {
    /// One bit of a byte that is not zero.
    Flip(prop::sample::Index, u8),
    /// A page of noise.
    Page(prop::sample::Index, u8),
    /// The end is missing.
    Cut(prop::sample::Index),
    /// Something was added.
    Grow(u16),
}

impl Harm {
    fn to(&self, file: &mut Vec<u8>) {
        match self {
            Self::Flip(at, bit) => {
                let used: Vec<_> = (0..file.len()).filter(|at| file[*at] != 0).collect();
                file[used[at.index(used.len())]] ^= 1 << bit;
            }
            Self::Page(at, seed) => {
                let used: Vec<_> = file
                    .chunks(4096)
                    .enumerate()
                    .filter(|(_, page)| page.iter().any(|byte| *byte != 0))
                    .map(|(index, _)| index)
                    .collect();
                let page = used[at.index(used.len())] * 4096;
                for (index, byte) in file[page..].iter_mut().take(4096).enumerate() {
                    *byte = seed.wrapping_mul(31).wrapping_add((index % 251) as u8);
                }
            }
            Self::Cut(at) => file.truncate(at.index(file.len())),
            Self::Grow(by) => file.extend(std::iter::repeat_n(7, usize::from(*by) + 1)),
        }
    }
}

fn harm() -> impl Strategy<Value = Harm> {
    prop_oneof![
        6 => (any::<prop::sample::Index>(), 0..8_u8).prop_map(|(at, bit)| Harm::Flip(at, bit)),
        2 => (any::<prop::sample::Index>(), any::<u8>()).prop_map(|(at, seed)| Harm::Page(at, seed)),
        1 => any::<prop::sample::Index>().prop_map(Harm::Cut),
        1 => any::<u16>().prop_map(Harm::Grow),
    ]
}

/// Whatever happens to the file: it is reported and stays as it is, or all is there.
fn never_another_answer(crashed: bool, cases: u32) {
    let dir = tempfile::tempdir().unwrap();
    let (good, listing) = sample(&dir.path().join("good"), crashed);
    let mut runner =
        proptest::test_runner::TestRunner::new(ProptestConfig { cases, ..ProptestConfig::default() });
    let refused = std::cell::Cell::new(0);
    let outcome = runner.run(&harm(), |harm| {
        let data = dir.path().join("data");
        let file = data.join("state.redb");
        let mut bytes = good.clone();
        harm.to(&mut bytes);
        std::fs::create_dir_all(&data).unwrap();
        std::fs::write(&file, &bytes).unwrap();
        match opened(&data) {
            Ok(found) => {
                prop_assert_eq!(found.revision, listing.revision);
                prop_assert!(found.records == listing.records, "other objects were found");
            }
            Err(StoreError::Corrupt { place, .. }) => {
                refused.set(refused.get() + 1);
                prop_assert_eq!(PathBuf::from(place), file.clone());
                prop_assert!(std::fs::read(&file).unwrap() == bytes, "the damaged file was written to");
            }
            Err(other) => prop_assert!(false, "{:?}", other),
        }
        Ok(())
    });
    outcome.unwrap();
    assert!(refused.get() > cases / 10, "only {} of {cases} were noticed", refused.get());
}

#[test]
fn damage_is_noticed_and_never_overwritten() {
    never_another_answer(false, 96);
}

#[test]
fn damage_after_a_crash_is_noticed_and_never_overwritten() {
    never_another_answer(true, 96);
}

#[test]
fn a_foreign_file_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("state.redb");
    std::fs::write(&file, "").unwrap();
    refused(dir.path(), "the file is empty");
    std::fs::write(&file, "apiVersion: v1\nkind: Service\n".repeat(1000)).unwrap();
    refused(dir.path(), "damaged");
    std::fs::remove_file(&file).unwrap();
    // Another program's redb.
    drop(Database::create(&file).unwrap());
    refused(dir.path(), "no store of this program");
}

#[test]
fn a_newer_format_is_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    sample(dir.path(), false);
    let file = dir.path().join("state.redb");
    {
        let db = Database::open(&file).unwrap();
        let write = db.begin_write().unwrap();
        write.open_table(META).unwrap().insert("format", 2).unwrap();
        write.commit().unwrap();
    }
    refused(
        dir.path(),
        "its format is 2, which another version of this program wrote; this one knows format 1",
    );
}
