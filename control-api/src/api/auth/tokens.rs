//! Tokens: who has which role. The file keeps hashes; whoever reads it can pretend to be nobody.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use aws_lc_rs::{constant_time, digest, rand};
use base64::Engine as _;

use super::Role;

/// All tokens that are believed.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    entries: Vec<Entry>,
}

/// One token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    /// Its name.
    pub(super) name: Arc<str>,
    /// What its bearer may do.
    pub(super) role: Role,
    hash: [u8; 32],
}

/// A token that was just made.
#[derive(Clone)]
pub struct NewToken {
    /// What its bearer sends.
    pub secret: String,
    /// Its line in the file of tokens.
    pub line: String,
}

impl Tokens {
    /// Reads a file of tokens.
    ///
    /// # Errors
    /// When it cannot be read, or a line has another form.
    pub fn load(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{}", path.display()))?;
        Self::parse(&text).with_context(|| format!("{}", path.display()))
    }

    /// Reads lines of `NAME ROLE sha256:HEX`; empty lines and those with `#` in front are comments.
    ///
    /// # Errors
    /// When a line has another form.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let mut entries: Vec<Entry> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let entry = Entry::parse(line).with_context(|| format!("line {}", index + 1))?;
            if entries.iter().any(|known| known.hash == entry.hash) {
                bail!("line {}: this token stands here twice", index + 1);
            }
            entries.push(entry);
        }
        Ok(Self { entries })
    }

    /// Whose token this is. Takes as long for a wrong token as for any.
    pub fn find(&self, token: &[u8]) -> Option<(Arc<str>, Role)> {
        self.entry(token).map(|entry| (Arc::clone(&entry.name), entry.role))
    }

    /// Whether a token is still among them, and means what it did.
    pub(super) fn have(&self, entry: &Entry) -> bool {
        self.entries.contains(entry)
    }

    /// As [`Tokens::find`].
    pub(super) fn entry(&self, token: &[u8]) -> Option<&Entry> {
        let hash = digest::digest(&digest::SHA256, token);
        let mut found = None;
        for entry in &self.entries {
            if constant_time::verify_slices_are_equal(hash.as_ref(), &entry.hash).is_ok() {
                found = Some(entry);
            }
        }
        found
    }

    /// How many.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nobody has one.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }
}

impl Entry {
    fn parse(line: &str) -> anyhow::Result<Self> {
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let [name, role, hash] = words.as_slice() else {
            bail!("want NAME ROLE sha256:HEX, found {} words", words.len());
        };
        let role: Role = role.parse().map_err(anyhow::Error::msg)?;
        let Some(hex) = hash.strip_prefix("sha256:") else {
            bail!(
                "want the hash as sha256:HEX (`printf %s TOKEN | sha256sum`); a token itself must not stand here"
            );
        };
        let hash = unhex(hex).context("want 64 hexadecimal digits after sha256:")?;
        Ok(Self { name: (*name).into(), role, hash })
    }
}

/// Makes a token of 256 random bits.
///
/// # Errors
/// When the system has no random numbers.
pub fn new_token(name: &str, role: Role) -> anyhow::Result<NewToken> {
    if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '#') {
        bail!("{name:?} is no name for a token; use letters, digits and dashes");
    }
    let mut bytes = [0u8; 32];
    rand::fill(&mut bytes).map_err(|_| anyhow::anyhow!("the system has no random numbers"))?;
    let secret = format!("outrider_{}", base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(bytes));
    let hash = digest::digest(&digest::SHA256, secret.as_bytes());
    let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    let line = format!("{name} {role} sha256:{hex}");
    Ok(NewToken { secret, line })
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let mut out = [0u8; 32];
    let digits: Vec<u8> = text
        .chars()
        .map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok()))
        .collect::<Option<_>>()?;
    if digits.len() != 64 {
        return None;
    }
    for (slot, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *slot = pair.iter().fold(0, |sum, digit| sum * 16 + digit);
    }
    Some(out)
}
