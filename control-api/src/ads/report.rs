//! How far a stream is, for people.

use std::sync::Arc;

use tokio::time::Instant;

use super::session::Session;
use crate::translate::Type;

/// How far a type is.
#[derive(Clone, Debug, Default)]
pub struct TypeReport {
    /// The client asked for it.
    pub asked: bool,
    /// It has been sent so many resources.
    pub resources: usize,
    /// A response is on its way.
    pub outstanding: bool,
    /// Something is to be looked at.
    pub pending: bool,
    /// The last version sent.
    pub version_sent: String,
    /// The last version acknowledged whole.
    pub version_acked: String,
    /// The client's words about what it refused and has accepted nothing newer of.
    pub refused: Option<String>,
    /// When the last response went out.
    pub sent_at: Option<Instant>,
    /// When the last acknowledgement came.
    pub acked_at: Option<Instant>,
}

impl Session {
    /// What it has been sent of a type: names and versions, and whether each was acknowledged.
    pub fn sent(&self, kind: Type) -> Vec<(Arc<str>, u64, bool)> {
        let subscription = self.at(kind);
        let mut out: Vec<_> =
            subscription.has().map(|(name, version)| (Arc::clone(name), version, true)).collect();
        for (name, _, acked) in &mut out {
            *acked = !subscription.refusals.has(name);
        }
        out.sort();
        // Of the response on its way nothing is known yet.
        if let Some(it) = &subscription.outstanding {
            for (name, _) in &it.resources {
                if let Ok(at) = out.binary_search_by(|(known, ..)| known.cmp(name))
                    && let Some(found) = out.get_mut(at)
                {
                    found.2 = false;
                }
            }
        }
        out
    }

    /// How far a type is.
    pub fn report(&self, kind: Type) -> TypeReport {
        let it = self.at(kind);
        TypeReport {
            asked: it.asked,
            resources: it.has().count(),
            outstanding: it.outstanding.is_some(),
            pending: it.asked && it.look != super::subscription::Look::None,
            version_sent: it.version_sent.clone(),
            version_acked: it.version_acked.clone(),
            refused: it.refusals.words(),
            sent_at: it.sent_at,
            acked_at: it.acked_at,
        }
    }
}
