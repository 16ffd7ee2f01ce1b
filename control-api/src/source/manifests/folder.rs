//! What the files of a folder say, the last good version of each object, and what follows of all files together.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;
use xxhash_rust::xxh64::xxh64;

use super::scan::{Scan, Stamp};
use crate::model::{Key, Kind, Object, Problem, documents, read_value};

/// How large a file may be.
const LARGEST: u64 = 16 << 20;

/// A folder as it was read last.
#[derive(Debug, Default)]
pub(super) struct Folder {
    files: BTreeMap<PathBuf, Document>,
    /// What was told: file and content.
    told: BTreeMap<Key, (PathBuf, u64)>,
    /// Folders and files that cannot be looked at.
    unreadable: Vec<Problem>,
}

/// One file.
#[derive(Debug, Default)]
struct Document {
    /// `None`: to be read again at the next look.
    stamp: Option<Stamp>,
    /// It was written to a moment ago, so the next look is to be soon.
    fresh: bool,
    objects: BTreeMap<Key, Entry>,
    problems: Vec<Problem>,
}

/// One object, and what tells its content from another.
#[derive(Debug)]
struct Entry {
    object: Object,
    content: u64,
}

/// What is to be told.
#[derive(Debug, Default)]
pub(super) struct News {
    /// Objects that are new, other, or gone.
    pub changes: Vec<(Key, Option<Object>)>,
    /// All that is wrong now.
    pub problems: Vec<Problem>,
}

impl Folder {
    /// Takes what a scan found; reads what has changed. `root` is what cannot be looked at when the scan itself failed.
    pub(super) fn update(&mut self, root: &Path, scan: Result<Scan, io::Error>) -> News {
        match scan {
            Ok(scan) => self.take(scan),
            Err(error) => {
                self.unreadable = vec![problem(
                    root,
                    "folder".into(),
                    format!("cannot be read: {error}; what was in it stays in force"),
                )];
            }
        }
        self.tell()
    }

    fn take(&mut self, scan: Scan) {
        self.unreadable = scan
            .unreadable
            .iter()
            .map(|(path, why)| {
                let reason = format!("cannot be read: {why}; what was in it stays in force");
                problem(path, "manifest".into(), reason)
            })
            .collect();
        let hidden = |path: &Path| scan.unreadable.iter().any(|(folder, _)| path.starts_with(folder));
        self.files.retain(|path, _| scan.files.contains_key(path) || hidden(path));
        for (path, stamp) in scan.files {
            let file = self.files.entry(path.clone()).or_default();
            if file.stamp != Some(stamp) {
                file.read(&path, stamp);
            }
        }
    }

    /// Whether a file is to be read again though nothing may happen to it.
    pub(super) fn unsettled(&self) -> bool {
        self.files.values().any(|file| file.fresh)
    }

    /// What all files come to, and how that differs from what was told before.
    fn tell(&mut self) -> News {
        let mut problems = self.unreadable.clone();
        let mut all: BTreeMap<&Key, (&PathBuf, &Entry)> = BTreeMap::new();
        for (path, file) in &self.files {
            problems.extend(file.problems.iter().cloned());
            for (key, entry) in &file.objects {
                if let Some((first, _)) = all.get(key) {
                    let reason = format!(
                        "it is in {} too, which comes first and so holds; remove one",
                        first.display()
                    );
                    problems.push(problem(path, key.to_string(), reason));
                } else {
                    all.insert(key, (path, entry));
                }
            }
        }
        let mut changes: Vec<_> =
            self.told.keys().filter(|key| !all.contains_key(key)).map(|key| (key.clone(), None)).collect();
        let mut told = BTreeMap::new();
        for (key, (path, entry)) in all {
            let now = (path.clone(), entry.content);
            if self.told.get(key) != Some(&now) {
                changes.push((key.clone(), Some(entry.object.clone())));
            }
            told.insert(key.clone(), now);
        }
        self.told = told;
        News { changes, problems }
    }
}

impl Document {
    /// Reads the file. Of what is wrong in it, the last good version stays; so does what is missing in a file that is being
    /// written, until it is settled: who writes in place empties it first.
    fn read(&mut self, path: &Path, stamp: Stamp) {
        let keep =
            |why: String| problem(path, "file".into(), format!("{why}; what was in it stays in force"));
        let text = match text_of(path) {
            Ok(text) => text,
            Err(error) => {
                (self.stamp, self.fresh) = (None, false);
                self.problems = vec![keep(format!("cannot be read: {error}"))];
                return;
            }
        };
        // While it is being written, it is read again.
        let settled = Stamp::look(path).is_ok_and(|now| now == stamp && !now.is_fresh());
        (self.stamp, self.fresh) = (settled.then_some(stamp), !settled);
        let name = path.display().to_string();
        let values = match documents(&name, &text) {
            Ok(values) => values,
            Err(error) => {
                self.problems = vec![keep(error.reason)];
                return;
            }
        };
        let mut before = std::mem::take(&mut self.objects);
        self.problems = Vec::new();
        let mut seen = BTreeSet::new();
        for value in values {
            let content = xxh64(value.to_string().as_bytes(), 0);
            let key = key_of(&value);
            if let Some(key) = &key
                && !seen.insert(key.clone())
            {
                let reason = "it is twice in this file; the first one holds: remove one".into();
                self.problems.push(problem(path, key.to_string(), reason));
                continue;
            }
            match read_value(&name, value, "default") {
                Ok(Some(object)) if object.key.kind == Kind::JoinToken => {
                    let reason = "uses of a join token are counted in the store; apply it there (outriderctl token create)";
                    self.problems.push(problem(path, object.key.to_string(), reason.into()));
                }
                Ok(Some(object)) => {
                    self.objects.insert(object.key.clone(), Entry { object, content });
                }
                Ok(None) => tracing::debug!(file = name, "an object of a kind that does not concern us"),
                Err(problems) => {
                    self.problems.extend(problems);
                    if let Some(key) = key
                        && let Some(good) = before.remove(&key)
                    {
                        self.objects.insert(key, good);
                    }
                }
            }
        }
        if self.fresh {
            for (key, entry) in before {
                self.objects.entry(key).or_insert(entry);
            }
        }
    }
}

/// The key of an object that may be wrong in every other way.
fn key_of(value: &Value) -> Option<Key> {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).filter(|text| !text.is_empty());
    let (version, name) = (text("/apiVersion").unwrap_or_default(), text("/kind")?);
    let kind = match Kind::of_manifest(version, name) {
        Ok(kind) => kind?,
        // A version that is not known, say: it is still clear which object is meant.
        Err(_) => Kind::ALL.iter().copied().find(|known| known.name() == name)?,
    };
    Some(Key::new(kind, text("/metadata/namespace").unwrap_or("default"), text("/metadata/name")?))
}

fn text_of(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(LARGEST + 1).read_to_string(&mut text)?;
    if text.len() as u64 > LARGEST {
        return Err(io::Error::other(format!("it is larger than {} MiB; split it", LARGEST >> 20)));
    }
    Ok(text)
}

fn problem(path: &Path, object: String, reason: String) -> Problem {
    Problem { source: Arc::from(path.display().to_string()), object, field: String::new(), reason }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::scan::scan;
    use super::*;

    #[test]
    fn what_is_missing_in_a_file_that_is_being_written_goes_when_it_is_settled() {
        let dir = tempfile::tempdir().unwrap();
        let (root, path) = (dir.path(), dir.path().join("a.yaml"));
        let service = |name: &str| {
            format!(
                "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n"
            )
        };
        let mut folder = Folder::default();
        let both = format!("{}---\n{}", service("one"), service("two"));
        std::fs::write(&path, both).unwrap();
        let news = folder.update(root, scan(root));
        assert_eq!((news.changes.len(), news.problems.len()), (2, 0), "{news:?}");
        for (text, goes) in [(service("one"), 1), (String::new(), 1)] {
            std::fs::write(&path, text).unwrap();
            let end = Instant::now() + Duration::from_secs(20);
            loop {
                let news = folder.update(root, scan(root));
                let gone = news.changes.iter().filter(|(_, object)| object.is_none()).count();
                // On a machine with much to do it is settled at the first look.
                assert_eq!(gone, if folder.unsettled() { 0 } else { goes }, "{news:?}");
                if !folder.unsettled() {
                    break;
                }
                assert!(Instant::now() < end, "it is never settled");
                std::thread::sleep(Duration::from_millis(5));
            }
        }
    }
}
