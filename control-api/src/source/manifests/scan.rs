//! Which files there are in a folder, and whether they have changed.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// How deep folders go.
const DEEPEST: usize = 32;

/// What tells one state of a file from the next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(meta: &Metadata) -> Self {
        Self {
            device: meta.dev(),
            inode: meta.ino(),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }

    /// That of a file, following links.
    pub(super) fn look(path: &Path) -> io::Result<Self> {
        fs::metadata(path).map(|meta| Self::of(&meta))
    }

    /// Changed so short a time ago that one more write would leave the same stamp, as clocks of file systems are coarse.
    pub(super) fn is_fresh(self) -> bool {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let changed = i128::from(self.changed.0) * 1_000_000_000 + i128::from(self.changed.1);
        i128::try_from(now.as_nanos()).is_ok_and(|now| now - changed < 50_000_000)
    }
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Scan {
    /// Manifests, by path.
    pub files: BTreeMap<PathBuf, Stamp>,
    /// Where something can change: real folders, with what tells one from its successor of the same name.
    pub folders: BTreeMap<PathBuf, (u64, u64)>,
    /// Folders and files that cannot be looked at, and why.
    pub unreadable: Vec<(PathBuf, String)>,
}

/// Looks through a folder. Names that begin with a dot are left out: editors and Kubernetes keep their own things there.
pub(super) fn scan(root: &Path) -> Result<Scan, io::Error> {
    let mut scan = Scan::default();
    let mut walk = Walk { scan: &mut scan, above: BTreeSet::new() };
    walk.folder(root, 0)?;
    Ok(scan)
}

struct Walk<'s> {
    scan: &'s mut Scan,
    /// The folders that lead here, to notice links in circles.
    above: BTreeSet<(u64, u64)>,
}

impl Walk<'_> {
    fn folder(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        let meta = fs::metadata(path)?;
        let id = (meta.dev(), meta.ino());
        if depth > DEEPEST {
            return Err(io::Error::other(format!("folders go deeper than {DEEPEST}")));
        }
        if !self.above.insert(id) {
            return Err(io::Error::other("a link leads back to a folder that it is in"));
        }
        let listed = self.entries(path, id, depth);
        self.above.remove(&id);
        listed
    }

    fn entries(&mut self, path: &Path, id: (u64, u64), depth: usize) -> io::Result<()> {
        let entries = fs::read_dir(path)?;
        self.scan.folders.insert(path.canonicalize()?, id);
        for entry in entries {
            let entry = entry?;
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            if let Err(error) = self.entry(&path, depth) {
                // It went away between two looks: so it is not there.
                let gone = error.kind() == io::ErrorKind::NotFound && fs::symlink_metadata(&path).is_err();
                if !gone {
                    self.scan.unreadable.push((path, error.to_string()));
                }
            }
        }
        Ok(())
    }

    fn entry(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        let meta = match fs::metadata(path) {
            // A dangling link is of interest only where a manifest would be.
            Err(error) if error.kind() == io::ErrorKind::NotFound && !is_manifest(path) => {
                tracing::debug!(path = %path.display(), %error, "skipped");
                return Ok(());
            }
            meta => meta?,
        };
        if meta.is_dir() {
            return self.folder(path, depth + 1);
        }
        if !is_manifest(path) {
            return Ok(());
        }
        if !meta.is_file() {
            return Err(io::Error::other("it is no ordinary file"));
        }
        // Where a link leads is watched as well: the file may change there.
        if fs::symlink_metadata(path)?.is_symlink()
            && let Some(folder) = path.canonicalize()?.parent()
        {
            let meta = fs::metadata(folder)?;
            self.scan.folders.insert(folder.to_owned(), (meta.dev(), meta.ino()));
        }
        self.scan.files.insert(path.to_owned(), Stamp::of(&meta));
        Ok(())
    }
}

fn is_manifest(path: &Path) -> bool {
    path.extension()
        .and_then(|ext| ext.to_str())
        .is_some_and(|ext| ["yaml", "yml", "json"].iter().any(|known| ext.eq_ignore_ascii_case(known)))
}
