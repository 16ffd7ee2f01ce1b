//! Label selectors, as kubectl's: `app=web,tier!=cache,env in (a,b),canary,!old`.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;

/// Which objects are meant, by their labels.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector {
    requirements: Vec<Requirement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Test {
    In(BTreeSet<String>),
    NotIn(BTreeSet<String>),
    Exists,
    Absent,
}

/// Why a text is no selector.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("label selector {text:?}: {reason}; as in \"app=web,tier!=cache,env in (a,b),canary,!old\"")]
pub struct SelectorError {
    text: String,
    reason: String,
}

impl Selector {
    /// Whether it means all objects.
    pub fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Whether an object with these labels is meant.
    pub fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.requirements.iter().all(|it| {
            let value = labels.and_then(|labels| labels.get(&it.key));
            match &it.test {
                Test::In(values) => value.is_some_and(|value| values.contains(value)),
                // As in Kubernetes: what has no such label is not in either.
                Test::NotIn(values) => value.is_none_or(|value| !values.contains(value)),
                Test::Exists => value.is_some(),
                Test::Absent => value.is_none(),
            }
        })
    }
}

impl FromStr for Selector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, SelectorError> {
        let error = |reason: String| SelectorError { text: text.to_owned(), reason };
        let requirements = split(text)
            .map_err(error)?
            .into_iter()
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(|part| requirement(part).map_err(error))
            .collect::<Result<_, _>>()?;
        Ok(Self { requirements })
    }
}

/// At commas outside of parentheses.
fn split(text: &str) -> Result<Vec<&str>, String> {
    let (mut parts, mut from, mut inside) = (Vec::new(), 0, false);
    for (at, c) in text.char_indices() {
        match c {
            '(' if inside => return Err("a parenthesis within a parenthesis".to_owned()),
            '(' => inside = true,
            ')' if !inside => return Err("a parenthesis that was not opened".to_owned()),
            ')' => inside = false,
            ',' if !inside => {
                parts.push(text.get(from..at).unwrap_or_default());
                from = at + 1;
            }
            _ => {}
        }
    }
    if inside {
        return Err("a parenthesis is not closed".to_owned());
    }
    parts.push(text.get(from..).unwrap_or_default());
    Ok(parts)
}

fn requirement(part: &str) -> Result<Requirement, String> {
    let one =
        |value: &str| -> Result<BTreeSet<String>, String> { Ok(BTreeSet::from([checked_value(value)?])) };
    if let Some(key) = part.strip_prefix('!') {
        return Ok(Requirement { key: checked_key(key)?, test: Test::Absent });
    }
    if let Some((key, value)) = part.split_once("!=") {
        return Ok(Requirement { key: checked_key(key)?, test: Test::NotIn(one(value)?) });
    }
    if let Some((key, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        return Ok(Requirement { key: checked_key(key)?, test: Test::In(one(value)?) });
    }
    let Some((front, rest)) = part.split_once('(') else {
        return Ok(Requirement { key: checked_key(part)?, test: Test::Exists });
    };
    let Some(inner) = rest.trim_end().strip_suffix(')') else {
        return Err(format!("{part:?} goes on after its parenthesis"));
    };
    let values = inner.split(',').map(checked_value).collect::<Result<BTreeSet<_>, _>>()?;
    let words: Vec<_> = front.split_whitespace().collect();
    match words.as_slice() {
        [key, "in"] => Ok(Requirement { key: checked_key(key)?, test: Test::In(values) }),
        [key, "notin"] => Ok(Requirement { key: checked_key(key)?, test: Test::NotIn(values) }),
        _ => Err(format!("{part:?}: want KEY in (...) or KEY notin (...)")),
    }
}

fn checked_key(key: &str) -> Result<String, String> {
    let key = key.trim();
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    if key.is_empty() || !key.chars().all(fine) {
        return Err(format!("{key:?} is no name of a label"));
    }
    Ok(key.to_owned())
}

fn checked_value(value: &str) -> Result<String, String> {
    let value = value.trim();
    let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    if !value.chars().all(fine) {
        return Err(format!("{value:?} is no value of a label"));
    }
    Ok(value.to_owned())
}
