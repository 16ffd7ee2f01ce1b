//! The certificates that contexts are built with, for those who watch their ends, and the leaves that open connections showed.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use outrider_core::stream::CertInfo;

/// A certificate of a TLS context in force.
#[derive(Debug, Clone, Copy)]
pub struct CertInUse<'a> {
    /// An authority that vouches for peers; else a leaf of our own.
    pub authority: bool,
    /// The field and the file that it came from, or where else.
    pub source: &'a str,
    /// Its first second since the epoch.
    pub not_before: i64,
    /// Its last.
    pub not_after: i64,
    /// The certificate.
    pub der: &'a [u8],
}

impl CertInUse<'_> {
    /// How much of its life is left at `now` (seconds since the epoch), in percent; negative once it has ended.
    pub fn percent_left(&self, now: i64) -> i64 {
        let life = i128::from(self.not_after) - i128::from(self.not_before);
        let left = i128::from(self.not_after) - i128::from(now);
        if left < 0 {
            return -1;
        }
        i64::try_from(left.saturating_mul(100) / life.max(1)).unwrap_or(i64::MAX).min(100)
    }

    /// What logs and pages say of it.
    pub fn info(&self) -> Option<Arc<CertInfo>> {
        super::cert::cert_info(self.der)
    }
}

/// A leaf of ours, which open connections hold on to, and who built a context with it.
#[derive(Debug)]
struct Leaf {
    shown: Weak<CertInfo>,
    holder: Weak<()>,
}

/// All leaves that a context was built with and that somebody holds yet.
static LEAVES: Mutex<Vec<Leaf>> = Mutex::new(Vec::new());

/// A leaf of ours: connections that show it hold on to what [`shown`](Self::shown) gives, and that is how they are known.
#[derive(Debug)]
pub(super) struct Held {
    info: Arc<CertInfo>,
    _holder: Arc<()>,
}

impl Held {
    /// Notes a leaf that a context is built with. Control thread.
    pub(super) fn new(info: &CertInfo) -> Self {
        // One of its own: that of the cache is held by others too.
        let (info, holder) = (Arc::new(info.clone()), Arc::new(()));
        let mut leaves = lock();
        leaves.retain(|leaf| leaf.shown.strong_count() > 0);
        leaves.push(Leaf { shown: Arc::downgrade(&info), holder: Arc::downgrade(&holder) });
        Self { info, _holder: holder }
    }

    /// The leaf, for the life of a connection.
    pub(super) fn shown(&self) -> Arc<CertInfo> {
        self.info.clone()
    }

    pub(super) fn info(&self) -> &CertInfo {
        &self.info
    }
}

/// When the oldest leaf of ours begins that an open connection showed, in seconds since the epoch; `None`: there is none.
pub fn oldest_open_leaf() -> Option<i64> {
    let leaves = lock();
    let open = leaves.iter().filter(|leaf| leaf.shown.strong_count() > leaf.holder.strong_count());
    open.filter_map(|leaf| leaf.shown.upgrade()).map(|info| info.not_before).min()
}

fn lock() -> MutexGuard<'static, Vec<Leaf>> {
    LEAVES.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(not_before: i64, not_after: i64) -> CertInUse<'static> {
        CertInUse { authority: false, source: "", not_before, not_after, der: &[] }
    }

    #[test]
    fn what_is_left_of_a_life() {
        assert_eq!(at(0, 100).percent_left(0), 100);
        assert_eq!(at(0, 100).percent_left(51), 49);
        assert_eq!(at(0, 100).percent_left(100), 0);
        assert_eq!(at(0, 100).percent_left(101), -1);
        assert_eq!(at(50, 100).percent_left(0), 100, "it has not begun");
        assert_eq!(at(i64::MIN, i64::MAX).percent_left(0), 49);
        assert_eq!(at(7, 7).percent_left(7), 0);
    }

    #[test]
    fn a_leaf_is_open_while_a_connection_holds_it_even_after_its_context_is_gone() {
        let info = CertInfo { not_before: -77, ..CertInfo::default() };
        let held = Held::new(&info);
        assert_ne!(oldest_open_leaf(), Some(-77));
        let connection = held.shown();
        assert_eq!(oldest_open_leaf(), Some(-77));
        drop(held);
        assert_eq!(oldest_open_leaf(), Some(-77));
        drop(connection);
        assert_ne!(oldest_open_leaf(), Some(-77));
    }
}
