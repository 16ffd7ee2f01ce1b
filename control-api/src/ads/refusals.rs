//! What a client refused of one type, by name: an acknowledgement of something else does not make it good.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// How many bytes of a client's words are kept of one refusal.
const WORDS: usize = 4096;
/// Of how many refusals the words are kept; the newest are.
const KEPT: usize = 8;

/// The names whose last version was refused. All that came in one response were refused together: which of them was wrong, the
/// protocol does not say.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// The response in which each was refused last.
    names: BTreeMap<Arc<str>, u64>,
    responses: BTreeMap<u64, Refused>,
}

/// One response that was refused.
#[derive(Debug, Default)]
struct Refused {
    /// How many of its names have not been replaced by something that was accepted.
    names: usize,
    /// The client's words; empty when there were newer ones to keep.
    words: String,
}

impl Refusals {
    /// Whether nothing is refused.
    pub(super) fn is_empty(&self) -> bool {
        self.names.is_empty()
    }

    /// Whether the last version of a name was refused.
    pub(super) fn has(&self, name: &str) -> bool {
        self.names.contains_key(name)
    }

    /// Notes that a response was refused. One that had no resources stands under the empty name, until something is accepted.
    pub(super) fn note(&mut self, response: u64, words: &str, names: impl IntoIterator<Item = Arc<str>>) {
        let mut count = 0;
        for name in names {
            self.remove(&name);
            self.names.insert(name, response);
            count += 1;
        }
        if count == 0 {
            return;
        }
        self.responses.insert(response, Refused { names: count, words: shortened(words) });
        for old in self.responses.values_mut().rev().skip(KEPT) {
            old.words = String::new();
        }
    }

    /// A name was accepted, or is gone.
    pub(super) fn remove(&mut self, name: &str) {
        let Some(response) = self.names.remove(name) else { return };
        if let Some(refused) = self.responses.get_mut(&response) {
            refused.names -= 1;
            if refused.names == 0 {
                self.responses.remove(&response);
            }
        }
    }

    /// Keeps these names alone.
    pub(super) fn retain(&mut self, keep: impl Fn(&str) -> bool) {
        let gone: Vec<_> = self.names.keys().filter(|name| !keep(name)).cloned().collect();
        gone.iter().for_each(|name| self.remove(name));
    }

    /// What was refused in one response with any of these names, they themselves left out.
    pub(super) fn beside<'n>(&self, names: impl Iterator<Item = &'n Arc<str>>) -> Vec<Arc<str>> {
        if self.is_empty() {
            return Vec::new();
        }
        let names: BTreeSet<&Arc<str>> = names.filter(|name| self.has(name)).collect();
        let responses: BTreeSet<u64> =
            names.iter().filter_map(|name| self.names.get(*name).copied()).collect();
        let beside = self
            .names
            .iter()
            .filter(|(name, response)| responses.contains(response) && !names.contains(name));
        beside.map(|(name, _)| Arc::clone(name)).collect()
    }

    /// The client's words about all that is refused, the newest first. `None`: nothing is.
    pub(super) fn words(&self) -> Option<String> {
        if self.is_empty() {
            return None;
        }
        let mut told: Vec<&str> = Vec::new();
        for refused in self.responses.values().rev() {
            if !refused.words.is_empty() && !told.contains(&refused.words.as_str()) {
                told.push(&refused.words);
            }
        }
        if told.is_empty() {
            Some("it did not say why".to_owned())
        } else {
            Some(shortened(&told.join("; ")))
        }
    }
}

/// A client's words, so far as they are kept.
pub(super) fn shortened(words: &str) -> String {
    if words.len() <= WORDS {
        return words.to_owned();
    }
    let mut end = WORDS;
    while !words.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}...", words.get(..end).unwrap_or_default())
}
