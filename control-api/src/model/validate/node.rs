//! Places in an object, and what is said about them.

use std::collections::BTreeMap;

use serde_json::Value;

/// What is wrong: fields and reasons.
#[derive(Debug, Default)]
pub(super) struct Report(pub(super) Vec<(String, String)>);

impl Report {
    /// Says what is wrong with a field.
    pub(super) fn say(&mut self, field: impl Into<String>, reason: impl Into<String>) {
        self.0.push((field.into(), reason.into()));
    }
}

/// A value and its path.
#[derive(Clone, Debug)]
pub(super) struct Node<'v> {
    pub(super) path: String,
    pub(super) value: &'v Value,
}

impl<'v> Node<'v> {
    /// The whole object.
    pub(super) fn root(value: &'v Value) -> Self {
        Self { path: String::new(), value }
    }

    /// The path of a field of it, whether it is there or not.
    pub(super) fn at(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// A field, by names with dots between; `None` when it is not there.
    pub(super) fn get(&self, names: &str) -> Option<Node<'v>> {
        let mut node = self.clone();
        for name in names.split('.') {
            let value = node.value.get(name).filter(|value| !value.is_null())?;
            node = Node { path: node.at(name), value };
        }
        Some(node)
    }

    /// The items of a list that may be missing.
    pub(super) fn items(&self, names: &str) -> Vec<Node<'v>> {
        let Some(list) = self.get(names) else { return Vec::new() };
        list.value
            .as_array()
            .into_iter()
            .flatten()
            .enumerate()
            .map(|(at, value)| Node { path: format!("{}[{at}]", list.path), value })
            .collect()
    }

    /// The entries of a map that may be missing.
    pub(super) fn entries(&self, names: &str) -> Vec<(&'v String, Node<'v>)> {
        let Some(map) = self.get(names) else { return Vec::new() };
        let entries = map.value.as_object().into_iter().flatten();
        entries.map(|(key, value)| (key, Node { path: format!("{}[{key:?}]", map.path), value })).collect()
    }

    /// A text that may be missing.
    pub(super) fn text(&self, names: &str) -> Option<&'v str> {
        self.get(names)?.value.as_str()
    }

    /// A number that may be missing.
    pub(super) fn number(&self, names: &str) -> Option<i64> {
        self.get(names)?.value.as_i64()
    }

    /// Whether it is there.
    pub(super) fn has(&self, names: &str) -> bool {
        self.get(names).is_some()
    }
}

/// What a value must be like.
#[derive(Clone, Copy, Debug)]
pub(super) enum Rule {
    /// A text of so many characters.
    Text(usize, usize),
    /// A text of so many characters and a form, which is called by the text when it has another one.
    Form(usize, usize, fn(&str) -> Result<(), String>),
    /// A number.
    Range(i64, i64),
    /// A list or map of so many entries.
    Count(usize, usize),
}

/// Judges values by their paths: `spec.rules[].name`; `[]` is each item of a list.
pub(super) fn judge(report: &mut Report, root: &Node<'_>, rules: &[(&str, Rule)]) {
    for (path, rule) in rules {
        for node in select(root, path) {
            if let Err(reason) = apply(*rule, node.value) {
                report.say(node.path, reason);
            }
        }
    }
}

/// All values at a path.
pub(super) fn select<'v>(root: &Node<'v>, path: &str) -> Vec<Node<'v>> {
    let mut nodes = vec![root.clone()];
    for part in path.split('.') {
        nodes = match part.strip_suffix("[]") {
            Some("") => nodes.iter().flat_map(|node| items_of(node)).collect(),
            Some(name) => nodes.iter().flat_map(|node| node.items(name)).collect(),
            None => nodes.iter().filter_map(|node| node.get(part)).collect(),
        };
    }
    nodes
}

fn items_of<'v>(list: &Node<'v>) -> Vec<Node<'v>> {
    let items = list.value.as_array().into_iter().flatten().enumerate();
    items.map(|(at, value)| Node { path: format!("{}[{at}]", list.path), value }).collect()
}

fn apply(rule: Rule, value: &Value) -> Result<(), String> {
    match rule {
        Rule::Text(least, most) => length(value, least, most),
        Rule::Form(least, most, form) => {
            length(value, least, most)?;
            // What may be empty has no form then.
            value.as_str().filter(|text| !text.is_empty()).map_or(Ok(()), form)
        }
        Rule::Range(least, most) => match value.as_i64() {
            Some(number) if !(least..=most).contains(&number) => {
                Err(format!("{number} is out of range; use {least} to {most}"))
            }
            _ => Ok(()),
        },
        Rule::Count(least, most) => {
            let count = value.as_array().map(Vec::len).or(value.as_object().map(serde_json::Map::len));
            match count {
                Some(count) if count < least => {
                    Err(format!("has {count} entries; at least {least} must be there"))
                }
                Some(count) if count > most => {
                    Err(format!("has {count} entries; there can be {most} at most"))
                }
                _ => Ok(()),
            }
        }
    }
}

fn length(value: &Value, least: usize, most: usize) -> Result<(), String> {
    let Some(text) = value.as_str() else { return Ok(()) };
    match text.chars().count() {
        0 if least > 0 => Err("must not be empty".to_owned()),
        length if length < least => Err(format!("is shorter than {least} characters")),
        length if length > most => Err(format!("has {length} characters; there can be {most} at most")),
        _ => Ok(()),
    }
}

/// Says of each item that has the same key as one before it.
pub(super) fn unique<'v, K: Ord>(
    report: &mut Report,
    items: &[Node<'v>],
    field: &str,
    key: impl Fn(&Node<'v>) -> Option<K>,
    what: &str,
) {
    let mut seen: BTreeMap<K, &str> = BTreeMap::new();
    for item in items {
        let Some(key) = key(item) else { continue };
        match seen.get(&key) {
            Some(first) => {
                let path = if field.is_empty() { item.path.clone() } else { item.at(field) };
                report.say(path, format!("{what} is the same as that of {first}"));
            }
            None => {
                seen.insert(key, &item.path);
            }
        }
    }
}
