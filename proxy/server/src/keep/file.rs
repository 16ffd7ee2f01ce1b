//! The file: whole and of this format, or not used at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use outrider_config::model;
use prost::Message;
use xxhash_rust::xxh64::xxh64;

/// The file's name.
pub(crate) const NAME: &str = "state.bin";

/// What was found to be bad is kept under this name, to be looked at.
const BAD: &str = "state.bad";

const MAGIC: &[u8; 8] = b"OUTRIDER";

/// Counts changes of what the file holds. Another's file is not read.
const FORMAT: u32 = 1;

/// Magic, format, length and checksum of what follows.
const HEADER: usize = 8 + 4 + 8 + 8;

/// More than this is no state of ours.
const LARGEST: u64 = 2 << 30;

/// The content.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct Kept {
    /// Whose configuration it is.
    #[prost(message, optional, tag = "1")]
    pub(crate) node: Option<Node>,
    /// When it was in force: milliseconds since the epoch.
    #[prost(uint64, tag = "2")]
    pub(crate) at: u64,
    /// The resources.
    #[prost(message, repeated, tag = "3")]
    pub(crate) items: Vec<Item>,
}

/// Who the control planes took us for. What they said to another is not for us.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Node {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    cluster: String,
}

/// A resource.
#[derive(Clone, PartialEq, Eq, Message)]
pub(crate) struct Item {
    /// The stream that it came by.
    #[prost(string, tag = "1")]
    pub(crate) origin: String,
    #[prost(string, tag = "2")]
    pub(crate) type_url: String,
    #[prost(string, tag = "3")]
    pub(crate) name: String,
    #[prost(string, tag = "4")]
    pub(crate) version: String,
    #[prost(bytes = "bytes", tag = "5")]
    pub(crate) body: Bytes,
}

/// Why a file is not used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Fault {
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    #[error("it is no state of this program")]
    Foreign,
    #[error("it is of format {0}, and this is format {FORMAT}")]
    Format(u32),
    #[error("it is torn: it should have {wanted} bytes, and has {found}")]
    Torn { wanted: u64, found: u64 },
    #[error("its checksum is wrong")]
    Checksum,
    #[error("its content cannot be read: {0}")]
    Content(#[from] prost::DecodeError),
    #[error("it is the state of the node {id:?} of the cluster {cluster:?}")]
    Node { id: String, cluster: String },
}

impl Node {
    pub(crate) fn new(node: &model::Node) -> Self {
        Self { id: node.id.to_string(), cluster: node.cluster.to_string() }
    }
}

/// What `dir` holds for `node`; `None` when there is nothing.
///
/// # Errors
/// There is a file, and it is not to be used.
pub(crate) fn read(dir: &Path, node: &Node) -> Result<Option<Kept>, Fault> {
    let file = match File::open(dir.join(NAME)) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    let length = file.metadata()?.len();
    let mut bytes = Vec::with_capacity(usize::try_from(length.min(LARGEST)).unwrap_or(0));
    file.take(LARGEST).read_to_end(&mut bytes)?;
    let kept = decode(bytes.into())?;
    match &kept.node {
        Some(whose) if whose == node => Ok(Some(kept)),
        whose => {
            let Node { id, cluster } = whose.clone().unwrap_or_default();
            Err(Fault::Node { id, cluster })
        }
    }
}

/// Puts `kept` in the place of what `dir` holds. After a crash at any moment it holds the one or the other.
///
/// # Errors
/// It cannot be written; what was there stays.
pub(crate) fn write(dir: &Path, kept: &Kept) -> io::Result<usize> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    // Of this process alone: a successor may run beside its predecessor.
    let new = dir.join(format!("state.{}.new", std::process::id()));
    let bytes = encode(kept);
    let written = write_new(&new, &bytes).and_then(|()| fs::rename(&new, dir.join(NAME)));
    if let Err(error) = written {
        // What a full disk holds half of is in the way.
        let _ = fs::remove_file(&new);
        return Err(error);
    }
    File::open(dir)?.sync_all()?;
    Ok(bytes.len())
}

/// A file that is being written is younger than this.
const WRITING: Duration = Duration::from_secs(60);

/// Removes what processes that crashed while they wrote left in `dir`. What is young may be a living neighbour's.
pub(crate) fn clean(dir: &Path) {
    let Ok(entries) = fs::read_dir(dir) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let middle = name.to_str().and_then(|name| name.strip_prefix("state.")?.strip_suffix(".new"));
        let is_ours = middle.is_some_and(|pid| pid.parse::<u32>().is_ok());
        let age = || entry.metadata().ok()?.modified().ok()?.elapsed().ok();
        if is_ours && age().is_some_and(|age| age > WRITING) {
            let path = entry.path();
            match fs::remove_file(&path) {
                Ok(()) => tracing::info!("{} of a crash is removed", path.display()),
                Err(error) => tracing::warn!("{} of a crash cannot be removed: {error}", path.display()),
            }
        }
    }
}

/// Moves a file that is not to be used out of the way.
pub(crate) fn set_aside(dir: &Path) -> io::Result<PathBuf> {
    let bad = dir.join(BAD);
    fs::rename(dir.join(NAME), &bad)?;
    Ok(bad)
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn encode(kept: &Kept) -> Vec<u8> {
    let length = kept.encoded_len();
    let mut bytes = Vec::with_capacity(HEADER + length);
    bytes.extend_from_slice(MAGIC);
    bytes.extend_from_slice(&FORMAT.to_le_bytes());
    bytes.extend_from_slice(&(length as u64).to_le_bytes());
    let content = kept.encode_to_vec();
    bytes.extend_from_slice(&xxh64(&content, 0).to_le_bytes());
    bytes.extend_from_slice(&content);
    bytes
}

fn decode(mut bytes: Bytes) -> Result<Kept, Fault> {
    let found = bytes.len() as u64;
    let torn = |wanted: u64| Fault::Torn { wanted, found };
    let magic = MAGIC.get(..bytes.len().min(MAGIC.len())).unwrap_or_default();
    if !bytes.starts_with(magic) {
        return Err(Fault::Foreign);
    }
    let header = bytes.first_chunk::<HEADER>().ok_or_else(|| torn(HEADER as u64))?;
    let [
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        _,
        f0,
        f1,
        f2,
        f3,
        l0,
        l1,
        l2,
        l3,
        l4,
        l5,
        l6,
        l7,
        c0,
        c1,
        c2,
        c3,
        c4,
        c5,
        c6,
        c7,
    ] = *header;
    let format = u32::from_le_bytes([f0, f1, f2, f3]);
    if format != FORMAT {
        return Err(Fault::Format(format));
    }
    let length = u64::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
    if found - HEADER as u64 != length {
        return Err(torn(length.saturating_add(HEADER as u64)));
    }
    let content = bytes.split_off(HEADER);
    if xxh64(&content, 0) != u64::from_le_bytes([c0, c1, c2, c3, c4, c5, c6, c7]) {
        return Err(Fault::Checksum);
    }
    Ok(Kept::decode(content)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept() -> Kept {
        let item = Item {
            origin: "ads".into(),
            type_url: "t".into(),
            name: "a".into(),
            version: "1".into(),
            body: Bytes::from_static(b"body"),
        };
        let node = Node { id: "n".into(), cluster: "c".into() };
        Kept { node: Some(node), at: 7, items: vec![item] }
    }

    fn scratch(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("outrider-keep-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn what_is_written_is_read_by_the_node_it_belongs_to() {
        let (dir, kept) = (scratch("whole"), kept());
        let node = kept.node.clone().unwrap();
        assert!(read(&dir, &node).unwrap().is_none(), "nothing is there yet");
        for at in [7, 8] {
            write(&dir, &Kept { at, ..kept.clone() }).unwrap();
            assert_eq!(read(&dir, &node).unwrap().unwrap().at, at);
        }
        let names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, [NAME], "nothing is left beside it");
        let other = Node { id: "m".into(), ..node };
        assert!(matches!(read(&dir, &other), Err(Fault::Node { .. })));
        assert!(set_aside(&dir).unwrap().exists());
        assert!(read(&dir, &other).unwrap().is_none());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn what_a_crash_left_half_written_goes_and_what_is_being_written_stays() {
        let dir = scratch("crash");
        fs::create_dir_all(&dir).unwrap();
        let old = std::time::SystemTime::now() - 2 * WRITING;
        for (name, is_old) in
            [("state.17.new", true), ("state.18.new", false), ("state.bin", true), ("state.mine.new", true)]
        {
            let file = File::create(dir.join(name)).unwrap();
            if is_old {
                file.set_modified(old).unwrap();
            }
        }
        clean(&dir);
        let mut names: Vec<_> = fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["state.18.new", "state.bin", "state.mine.new"]);
        fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn a_file_that_is_torn_or_changed_anywhere_is_not_used() {
        let whole = encode(&kept());
        assert_eq!(decode(whole.clone().into()).unwrap(), kept());
        for length in 0..whole.len() {
            assert!(decode(whole[..length].to_vec().into()).is_err(), "cut at {length}");
        }
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 1;
            assert!(decode(changed.into()).is_err(), "changed at {place}");
        }
        let mut longer = whole.clone();
        longer.push(0);
        assert!(matches!(decode(longer.into()), Err(Fault::Torn { .. })));
        let mut newer = whole;
        newer[8] = 2;
        assert!(matches!(decode(newer.into()), Err(Fault::Format(2))));
        assert!(matches!(decode(Bytes::from_static(b"{}")), Err(Fault::Foreign)));
    }
}
