//! Which roots are believed: those that are configured, and those from before until the last certificate under them has ended.
//!
//! A root's horizon is noted before anything is signed beyond it, so that it is known after a restart too.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::authority::date;
use crate::api::auth::write_private;

/// How far ahead of what is signed a horizon is noted, in seconds: the file is written once in so long at most.
const AHEAD: i64 = 3600;

/// The roots under which something was signed.
#[derive(Debug, Default)]
pub struct Trust {
    path: Option<PathBuf>,
    /// By DER: until when something that hangs from it may be valid, in seconds since 1970.
    known: BTreeMap<Vec<u8>, i64>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct File {
    roots: Vec<Entry>,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    /// DER in base64.
    root: String,
    /// Seconds since 1970.
    until: i64,
}

impl Trust {
    /// What a file has; when there is none it is made with the first certificate. Without a path nothing outlives the process.
    ///
    /// # Errors
    /// When it is damaged.
    pub fn open(path: Option<PathBuf>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self::default()) };
        let place = path.display().to_string();
        let text = match std::fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                return Ok(Self { path: Some(path), known: BTreeMap::new() });
            }
            Err(error) => return Err(error).context(place),
        };
        let damaged = || {
            format!(
                "{place}: damaged; it says until when former roots are believed. Restore it, or move it away when no root was \
                 replaced lately"
            )
        };
        let file: File = serde_json::from_slice(&text).with_context(damaged)?;
        let read = |it: Entry| Ok::<_, base64::DecodeError>((STANDARD.decode(it.root)?, it.until));
        let known = file.roots.into_iter().map(read).collect::<Result<_, _>>().with_context(damaged)?;
        Ok(Self { path: Some(path), known })
    }

    /// Notes that something under a root will be valid until a moment.
    ///
    /// # Errors
    /// When it cannot be written down: then nothing may be signed.
    pub fn extend(&mut self, root: &CertificateDer<'_>, until: i64) -> anyhow::Result<()> {
        let old = self.known.get(root.as_ref()).copied();
        if old.is_some_and(|known| known >= until) {
            return Ok(());
        }
        self.known.insert(root.as_ref().to_vec(), until.saturating_add(AHEAD));
        let kept = self.keep();
        if kept.is_err() {
            // As it was, so that the next one tries again.
            match old {
                Some(old) => self.known.insert(root.as_ref().to_vec(), old),
                None => self.known.remove(root.as_ref()),
            };
        }
        kept
    }

    /// Until when what hangs from a root may be valid.
    pub fn horizon(&self, root: &CertificateDer<'_>) -> Option<i64> {
        self.known.get(root.as_ref()).copied()
    }

    /// The roots, besides `configured`, that are still needed.
    pub fn former(&self, configured: &[CertificateDer<'_>], now: i64) -> Vec<CertificateDer<'static>> {
        let known = self.known.iter();
        known
            .filter(|(root, until)| {
                **until > now && !configured.iter().any(|it| it.as_ref() == root.as_slice())
            })
            .map(|(root, _)| CertificateDer::from(root.clone()))
            .collect()
    }

    /// Forgets a root, whatever still hangs from it.
    ///
    /// # Errors
    /// When it cannot be written down: then it stays.
    pub fn forget(&mut self, root: &CertificateDer<'_>) -> anyhow::Result<()> {
        let Some(until) = self.known.remove(root.as_ref()) else { return Ok(()) };
        let kept = self.keep();
        if kept.is_err() {
            self.known.insert(root.as_ref().to_vec(), until);
        } else {
            tracing::warn!(until = date(until), "a former root is no longer believed: it was dropped");
        }
        kept
    }

    /// Forgets the roots whose last certificate has ended, but for those that are configured. Gives how many went.
    pub fn prune(&mut self, configured: &[CertificateDer<'_>], now: i64) -> usize {
        let before = self.known.len();
        self.known.retain(|root, until| {
            let stays = *until > now || configured.iter().any(|it| it.as_ref() == root.as_slice());
            if !stays {
                tracing::info!(
                    until = date(*until),
                    "a former root is no longer believed: its last certificate has ended"
                );
            }
            stays
        });
        let gone = before - self.known.len();
        if gone > 0
            && let Err(error) = self.keep()
        {
            tracing::error!(error = format!("{error:#}"), "the former roots could not be written down");
        }
        gone
    }

    fn keep(&self) -> anyhow::Result<()> {
        let Some(path) = &self.path else { return Ok(()) };
        let entry = |(root, until): (&Vec<u8>, &i64)| Entry { root: STANDARD.encode(root), until: *until };
        let file = File { roots: self.known.iter().map(entry).collect() };
        write_private(path, &serde_json::to_string_pretty(&file)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_needed_until_its_last_certificate_ends() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trust.json");
        let root = |byte| CertificateDer::from(vec![byte; 4]);
        let mut trust = Trust::open(Some(path.clone())).unwrap();
        trust.extend(&root(1), 1000).unwrap();
        trust.extend(&root(2), 9000).unwrap();
        // A restart later, with the second one configured.
        let mut trust = Trust::open(Some(path.clone())).unwrap();
        assert_eq!(trust.former(&[root(2)], 1000), [root(1)]);
        assert_eq!(trust.former(&[root(1), root(2)], 1000), []);
        assert_eq!(trust.former(&[root(2)], 1000 + AHEAD), []);
        assert_eq!(trust.prune(&[root(2)], 20_000), 1);
        assert_eq!(trust.horizon(&root(1)), None);
        std::fs::write(&path, "{").unwrap();
        let error = format!("{:#}", Trust::open(Some(path)).unwrap_err());
        assert!(error.contains("trust.json") && error.contains("damaged"), "{error}");
    }
}
