//! The list of known differences: each says why, and exactly which lines differ.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

/// One known difference.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// Why it is so.
    pub(crate) reason: String,
    /// The lines that only one side has, `- ` Envoy's, `+ ` ours.
    pub(crate) diff: Vec<String>,
    /// For a whole group, `[group/*]`: Outrider refuses its bootstrap with these words.
    pub(crate) refused: Option<String>,
}

/// Reads the list.
///
/// ```text
/// # a comment
/// [group/case]
/// reason: why
/// - a line that only Envoy has
/// + a line that only Outrider has
/// [group/*]
/// reason: why Outrider refuses this group's bootstrap
/// refused: a part of what it then says
/// ```
pub(crate) fn parse(text: &str) -> Result<BTreeMap<String, Known>> {
    let mut all: BTreeMap<String, Known> = BTreeMap::new();
    let mut current: Option<&mut Known> = None;
    for (number, line) in text.lines().enumerate() {
        if line.trim().is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(name) = line.strip_prefix('[').and_then(|l| l.strip_suffix(']')) {
            current = Some(all.entry(name.to_owned()).or_default());
            continue;
        }
        let Some(known) = current.as_deref_mut() else {
            bail!("line {}: no [group/case] before", number + 1)
        };
        if let Some(reason) = line.strip_prefix("reason: ") {
            reason.clone_into(&mut known.reason);
        } else if let Some(words) = line.strip_prefix("refused: ") {
            known.refused = Some(words.to_owned());
        } else if line.starts_with("- ") || line.starts_with("+ ") {
            known.diff.push(line.to_owned());
        } else {
            bail!("line {}: not understood: {line:?}", number + 1);
        }
    }
    for (name, known) in &all {
        if known.reason.is_empty() {
            bail!("known difference {name} has no reason");
        }
    }
    Ok(all)
}

/// Lines that only one of two observations has; empty when both are the same.
pub(crate) fn diff(envoy: &[String], outrider: &[String]) -> Vec<String> {
    let mut extra: Vec<Option<&String>> = outrider.iter().map(Some).collect();
    let mut lines = Vec::new();
    for line in envoy {
        match extra.iter_mut().find(|slot| slot.is_some_and(|l| l == line)) {
            Some(slot) => *slot = None,
            None => lines.push(format!("- {line}")),
        }
    }
    lines.extend(extra.into_iter().flatten().map(|line| format!("+ {line}")));
    lines
}
