//! The file beneath redb, which is not written to before all that is in it has been found to be good.
//!
//! redb writes when it opens: that the file is in use, and what it repairs after a crash. Done to a damaged file, or to one
//! of another program, that would be the first step of losing it. So what it writes is held back in memory while it opens and
//! checks, and goes to the file, in the same order and with the same syncs, when all is well.

use std::fs::File;
use std::io;
use std::ops::{Bound, Range};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::backends::FileBackend;
use redb::{BackendError, StorageBackend};

/// The file, shared between redb and whoever releases it.
#[derive(Clone, Debug)]
pub(super) struct Guard(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    file: FileBackend,
    mode: Mutex<Mode>,
}

#[derive(Debug)]
enum Mode {
    /// Writes wait in memory.
    Held { len: u64, ops: Vec<Op> },
    /// Writes go to the file.
    Through,
    /// Writes got half way to the file: no more of them until it has been opened and checked again.
    Dead,
}

#[derive(Clone, Debug)]
enum Op {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

impl Guard {
    /// Holds back what is written to a file.
    pub(super) fn new(file: File) -> Result<Self, redb::DatabaseError> {
        let len = file.metadata()?.len();
        let mode = Mutex::new(Mode::Held { len, ops: Vec::new() });
        Ok(Self(Arc::new(Inner { file: FileBackend::new(file)?, mode })))
    }

    /// Writes what was held back; from now on writes go to the file.
    pub(super) fn release(&self) -> io::Result<()> {
        let mut mode = self.mode();
        if let Mode::Held { ops, .. } = std::mem::replace(&mut *mode, Mode::Dead) {
            for op in ops {
                match op {
                    Op::Write(offset, data) => self.0.file.write(offset, &data)?,
                    Op::SetLen(len) => self.0.file.set_len(len)?,
                    Op::Sync => self.0.file.sync_data()?,
                }
            }
            *mode = Mode::Through;
        }
        Ok(())
    }

    fn mode(&self) -> MutexGuard<'_, Mode> {
        self.0.mode.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn dead<T>() -> io::Result<T> {
    Err(io::Error::other("an earlier write failed half way"))
}

/// Where two ranges of a file overlap.
fn overlap(one: &Range<u64>, other: &Range<u64>) -> Option<Range<u64>> {
    let both = one.start.max(other.start)..one.end.min(other.end);
    (!both.is_empty()).then_some(both)
}

/// A part of a buffer that starts at `base` in the file.
fn part(range: &Range<u64>, base: u64) -> Option<Range<usize>> {
    Some(usize::try_from(range.start - base).ok()?..usize::try_from(range.end - base).ok()?)
}

/// What a read would give had the held operations been done.
fn patch(ops: &[Op], offset: u64, out: &mut [u8]) {
    let wanted = offset..offset + out.len() as u64;
    for op in ops {
        let (touched, data) = match op {
            Op::Write(at, data) => (*at..*at + data.len() as u64, Some((*at, data))),
            Op::SetLen(len) => (*len..u64::MAX, None),
            Op::Sync => continue,
        };
        let Some(both) = overlap(&wanted, &touched) else { continue };
        let Some(to) = part(&both, offset).and_then(|range| out.get_mut(range)) else { continue };
        match data {
            Some((at, data)) => {
                if let Some(from) = part(&both, at).and_then(|range| data.get(range)) {
                    to.copy_from_slice(from);
                }
            }
            None => to.fill(0),
        }
    }
}

impl StorageBackend for Guard {
    fn len(&self) -> io::Result<u64> {
        match &*self.mode() {
            Mode::Held { len, .. } => Ok(*len),
            Mode::Through | Mode::Dead => self.0.file.len(),
        }
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let mode = self.mode();
        let Mode::Held { len, ops } = &*mode else {
            drop(mode);
            return self.0.file.read(offset, out);
        };
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > *len) {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.fill(0);
        let there = 0..self.0.file.len()?;
        if let Some(both) = overlap(&(offset..offset + out.len() as u64), &there)
            && let Some(to) = part(&both, offset).and_then(|range| out.get_mut(range))
        {
            self.0.file.read(offset, to)?;
        }
        patch(ops, offset, out);
        Ok(())
    }

    fn set_len(&self, to: u64) -> io::Result<()> {
        match &mut *self.mode() {
            Mode::Held { len, ops } => {
                *len = to;
                ops.push(Op::SetLen(to));
                Ok(())
            }
            Mode::Through => self.0.file.set_len(to),
            Mode::Dead => dead(),
        }
    }

    fn sync_data(&self) -> io::Result<()> {
        match &mut *self.mode() {
            Mode::Held { ops, .. } => {
                ops.push(Op::Sync);
                Ok(())
            }
            Mode::Through => self.0.file.sync_data(),
            Mode::Dead => dead(),
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        match &mut *self.mode() {
            Mode::Held { len, ops } => {
                *len = (*len).max(offset + data.len() as u64);
                ops.push(Op::Write(offset, data.to_vec()));
                Ok(())
            }
            Mode::Through => self.0.file.write(offset, data),
            Mode::Dead => dead(),
        }
    }

    fn close(&self) -> io::Result<()> {
        self.0.file.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.0.file.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.0.file.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// What redb does to its file, and a model of it: bytes.
    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            4 => (0..200_u64, prop::collection::vec(any::<u8>(), 1..40)).prop_map(|(at, data)| Op::Write(at, data)),
            2 => (0..240_u64).prop_map(Op::SetLen),
            1 => Just(Op::Sync),
        ];
        prop::collection::vec(op, 0..20)
    }

    fn apply(guard: &Guard, model: &mut Vec<u8>, op: &Op) {
        match op {
            Op::Write(at, data) => {
                let at_model = usize::try_from(*at).unwrap();
                model.resize(model.len().max(at_model + data.len()), 0);
                model[at_model..at_model + data.len()].copy_from_slice(data);
                guard.write(*at, data).unwrap();
            }
            Op::SetLen(len) => {
                model.resize(usize::try_from(*len).unwrap(), 0);
                guard.set_len(*len).unwrap();
            }
            Op::Sync => guard.sync_data().unwrap(),
        }
    }

    proptest! {
        #[test]
        fn what_is_held_back_reads_as_if_written_and_is_written_when_released(
            before in prop::collection::vec(any::<u8>(), 0..150),
            held in ops(),
            through in ops(),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("file");
            std::fs::write(&path, &before).unwrap();
            let file = File::options().read(true).write(true).open(&path).unwrap();
            let guard = Guard::new(file).unwrap();
            let mut model = before.clone();
            let same = |model: &[u8]| {
                assert_eq!(guard.len().unwrap(), model.len() as u64);
                for (offset, len) in [(0, model.len()), (model.len() / 3, model.len() / 2)] {
                    let mut read = vec![1; len];
                    guard.read(offset as u64, &mut read).unwrap();
                    assert_eq!(read, model[offset..offset + len]);
                }
                assert!(guard.read(model.len() as u64, &mut [0]).is_err());
            };
            for op in &held {
                apply(&guard, &mut model, op);
                same(&model);
            }
            prop_assert_eq!(std::fs::read(&path).unwrap(), before, "nothing is written before it is released");
            guard.release().unwrap();
            prop_assert_eq!(&std::fs::read(&path).unwrap(), &model);
            for op in &through {
                apply(&guard, &mut model, op);
                same(&model);
            }
            prop_assert_eq!(&std::fs::read(&path).unwrap(), &model);
        }
    }
}
