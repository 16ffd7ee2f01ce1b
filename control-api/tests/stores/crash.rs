//! kill -9 under writes loses nothing that was acknowledged, and a full disk stops nobody from reading.
//!
//! The process that is killed is this test binary, started anew for the one test that an environment variable wakes.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use outrider_control::model::{Key, Kind};
use outrider_control::store::{StoreError, Write};

use crate::embedded::{open_dir, put};
use crate::runtime;

const DIR: &str = "OUTRIDER_TEST_STORE";
const WRITERS: usize = 4;
const ROUNDS: usize = 40;

fn number(json: &[u8]) -> u64 {
    std::str::from_utf8(json).unwrap().parse().unwrap()
}

/// One line to the test that started this process.
fn tell(line: std::fmt::Arguments<'_>) {
    let mut out = std::io::stdout().lock();
    out.write_fmt(format_args!("{line}\n")).and_then(|()| out.flush()).unwrap();
}

/// The process that is killed: commits as fast as it can and tells what was acknowledged.
#[test]
fn child_that_writes() {
    let Ok(dir) = std::env::var(DIR) else { return };
    runtime().block_on(async {
        let store = open_dir(Path::new(&dir)).await.unwrap();
        // Ends the line that the test runner began.
        tell(format_args!(""));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let store = std::sync::Arc::clone(&store);
                tokio::spawn(async move {
                    let key = Key::new(Kind::Service, "shop", &format!("one-{writer}"));
                    let from = store.get(&key).await.unwrap().map_or(0, |record| number(&record.json));
                    for count in from + 1.. {
                        // Two objects each, to see that no half of a commit is there.
                        let writes = ["one", "two"]
                            .map(|name| put(&format!("{name}-{writer}"), count.to_string().into_bytes()));
                        let revision = store.commit(writes.into()).await.unwrap();
                        tell(format_args!("ack {revision} {writer} {count}"));
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.unwrap();
        }
    });
}

fn start(test: &str, dir: &Path) -> Child {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture", "--test-threads=1"])
        .env(DIR, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .unwrap()
}

/// Lets a child write until so many commits are acknowledged, kills it while it goes on, and gives what it had acknowledged:
/// writer to (revision, count).
fn killed(dir: &Path, after: usize) -> BTreeMap<usize, (u64, u64)> {
    let mut child = start("crash::child_that_writes", dir);
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let (enough, reached) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let mut acknowledged = BTreeMap::new();
        let mut all = 0;
        for line in lines {
            // The last line may be half of one.
            let Ok(line) = line else { break };
            let words: Vec<_> = line.split(' ').collect();
            if let ["ack", revision, writer, count] = words.as_slice() {
                let told = (revision.parse().unwrap(), count.parse().unwrap());
                acknowledged.insert(writer.parse().unwrap(), told);
                all += 1;
                if all == after {
                    enough.send(()).unwrap();
                }
            }
        }
        acknowledged
    });
    // The other writers are somewhere in the midst of a commit then.
    reached
        .recv_timeout(Duration::from_secs(60))
        .expect("the child opens the store and writes, whatever happened before");
    child.kill().unwrap();
    child.wait().unwrap();
    reader.join().unwrap()
}

#[test]
fn nothing_acknowledged_is_lost_when_the_process_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let random = RandomState::new();
    let (mut total, mut acknowledged_in_all) = (0, 0);
    for round in 0..ROUNDS {
        let after = 1 + usize::try_from(random.hash_one(round) % 48).unwrap();
        let acknowledged = killed(&data, after);
        runtime().block_on(async {
            let store = open_dir(&data).await.unwrap();
            let listing = store.list().await.unwrap();
            acknowledged_in_all = acknowledged_in_all.max(listing.revision);
            for writer in 0..WRITERS {
                let find = |name: &str| {
                    let key = Key::new(Kind::Service, "shop", &format!("{name}-{writer}"));
                    listing.records.iter().find(|record| record.key == key)
                };
                let (one, two) = (find("one"), find("two"));
                assert_eq!(
                    one.map(|record| (record.revision, &record.json)),
                    two.map(|record| (record.revision, &record.json)),
                    "half a commit is there (round {round}, killed after {after})"
                );
                if let Some((revision, count)) = acknowledged.get(&writer) {
                    let found = one.unwrap_or_else(|| panic!("writer {writer} lost all it had (round {round})"));
                    assert!(
                        found.revision >= *revision && number(&found.json) >= *count,
                        "acknowledged: {count} at {revision}; found: {found:?} (round {round}, killed after {after})"
                    );
                    total += 1;
                }
            }
        });
    }
    println!("{acknowledged_in_all} commits were acknowledged in {ROUNDS} lives");
    assert!(total >= ROUNDS, "in each life something was acknowledged: {total}");
}

/// The process whose disk is full: its files may not grow beyond a limit.
#[test]
fn child_on_a_full_disk() {
    let Ok(dir) = std::env::var(DIR) else { return };
    runtime().block_on(async {
        let store = open_dir(Path::new(&dir)).await.unwrap();
        let large = |count: usize| -> Write { put(&format!("web-{count}"), vec![b' '; 256 << 10]) };
        let mut written = 0;
        let error = loop {
            match store.commit(vec![large(written)]).await {
                Ok(_) => written += 1,
                Err(error) => break error,
            }
            assert!(written < 1000, "the disk is never full");
        };
        let StoreError::Unavailable { reason, unknown } = error else { panic!("{error:?}") };
        assert!(reason.contains("state.redb") && reason.contains("File too large"), "{reason}");
        assert!(!unknown, "{reason}");
        assert!(reason.contains("nothing was written"), "{reason}");
        // Reads go on, of all that was acknowledged and nothing else.
        assert_eq!(store.list().await.unwrap().records.len(), written);
        assert!(store.watch(store.list().await.unwrap().revision).await.is_ok());
        let lifted = Command::new("prlimit")
            .args(["--pid", &std::process::id().to_string(), "--fsize=unlimited:unlimited"])
            .status();
        assert!(lifted.unwrap().success());
        // And with room again, so do writes, without a restart.
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while let Err(error) = store.commit(vec![large(written)]).await {
            assert!(tokio::time::Instant::now() < deadline, "{error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(store.list().await.unwrap().records.len(), written + 1);
        tell(format_args!("\nwritten {}", written + 1));
    });
}

#[test]
fn a_full_disk_is_told_and_reads_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let out = Command::new("sh")
        .args(["-c", "trap '' XFSZ; ulimit -S -f 16384; exec \"$0\" \"$@\""])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "crash::child_on_a_full_disk", "--nocapture", "--test-threads=1"])
        .env(DIR, &data)
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&out.stdout);
    let errors = String::from_utf8_lossy(&out.stderr);
    assert!(out.status.success(), "{text}\n{errors}");
    let written: usize =
        text.lines().find_map(|line| line.strip_prefix("written ")).unwrap().parse().unwrap();
    assert!(written > 1, "{written}");
    let there = runtime().block_on(async { open_dir(&data).await.unwrap().list().await.unwrap() });
    assert_eq!(there.records.len(), written);
}
