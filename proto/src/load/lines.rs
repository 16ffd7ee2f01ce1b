//! Which line each field of a loaded message came from.

use std::sync::Arc;

use crate::{
    Problem,
    path::{Path, Seg},
};

/// The line, and the source text, of every field of a loaded message.
#[derive(Clone, Debug, Default)]
pub struct LineMap {
    sources: Vec<Arc<str>>,
    root: Spot,
}

/// A place in a source, and the places of what lies inside.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spot {
    /// Counted from one; zero is no line.
    pub(crate) line: u32,
    pub(crate) source: u16,
    pub(crate) kids: Kids,
}

#[derive(Clone, Debug, Default)]
pub(crate) enum Kids {
    #[default]
    None,
    Fields(Vec<(Arc<str>, Spot)>),
    Items(Vec<Spot>),
    Entries(Vec<(Box<str>, Spot)>),
}

impl LineMap {
    pub(crate) fn new(source: &str, root: Spot) -> Self {
        Self { sources: vec![source.into()], root }
    }

    /// The line of the field at a path written as text; of the nearest enclosing field, if that one has none.
    pub fn line(&self, path: &str) -> Option<u32> {
        self.locate_text(path).1
    }

    /// The source and the line of the field at a path written as text, or of the nearest enclosing field.
    pub fn locate_text(&self, path: &str) -> (&str, Option<u32>) {
        let mut at = &self.root;
        for step in steps(path) {
            let Some(next) = at.step(&step.as_seg()) else { break };
            at = next;
        }
        let source = self.sources.get(usize::from(at.source)).map_or("", |source| source);
        (source, (at.line > 0).then_some(at.line))
    }

    /// The source and the line of the field at `path`, or of the nearest enclosing field that has them.
    pub fn locate(&self, path: &Path<'_>) -> (&str, Option<u32>) {
        let mut at = &self.root;
        for seg in path.segments() {
            if matches!(seg, Seg::Root(_)) {
                continue;
            }
            let Some(next) = at.step(&seg) else { break };
            at = next;
        }
        let source = self.sources.get(usize::from(at.source)).map_or("", |source| source);
        (source, (at.line > 0).then_some(at.line))
    }

    /// A problem with the field at `path`, with its source and line.
    pub fn problem(&self, path: &Path<'_>, message: impl Into<String>) -> Problem {
        let (source, line) = self.locate(path);
        Problem { path: path.to_string(), line, source: source.to_owned(), message: message.into() }
    }

    /// Lays `other` over this map as protobuf merges messages: repeated fields append, the rest replaces.
    pub(crate) fn merge_over(&mut self, mut other: Self) {
        let shift = u16::try_from(self.sources.len()).unwrap_or(u16::MAX);
        other.root.shift_source(shift);
        self.sources.extend(other.sources);
        self.root.merge_over(other.root);
    }
}

impl Spot {
    fn step(&self, seg: &Seg<'_>) -> Option<&Self> {
        match (&self.kids, seg) {
            (Kids::Fields(fields), Seg::Field(name)) => {
                fields.iter().find(|(field, _)| &**field == *name).map(|(_, spot)| spot)
            }
            (Kids::Items(items), Seg::Index(index)) => items.get(*index),
            (Kids::Entries(entries), Seg::Key(key)) => {
                entries.iter().find(|(entry, _)| &**entry == *key).map(|(_, spot)| spot)
            }
            _ => None,
        }
    }

    fn shift_source(&mut self, by: u16) {
        self.source = self.source.saturating_add(by);
        match &mut self.kids {
            Kids::None => {}
            Kids::Fields(fields) => fields.iter_mut().for_each(|(_, spot)| spot.shift_source(by)),
            Kids::Items(items) => items.iter_mut().for_each(|spot| spot.shift_source(by)),
            Kids::Entries(entries) => entries.iter_mut().for_each(|(_, spot)| spot.shift_source(by)),
        }
    }

    fn merge_over(&mut self, other: Self) {
        (self.line, self.source) = (other.line, other.source);
        match (&mut self.kids, other.kids) {
            (_, Kids::None) => {}
            (Kids::Fields(mine), Kids::Fields(theirs)) => {
                for (name, spot) in theirs {
                    match mine.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, known)) => known.merge_over(spot),
                        None => mine.push((name, spot)),
                    }
                }
            }
            (Kids::Items(mine), Kids::Items(theirs)) => mine.extend(theirs),
            (Kids::Entries(mine), Kids::Entries(theirs)) => {
                for (key, spot) in theirs {
                    match mine.iter_mut().find(|(known, _)| *known == key) {
                        // A map entry is replaced whole.
                        Some((_, known)) => *known = spot,
                        None => mine.push((key, spot)),
                    }
                }
            }
            (mine, theirs) => *mine = theirs,
        }
    }
}

/// An owned step of a path that came as text.
enum Step {
    Field(String),
    Index(usize),
    Key(String),
}

impl Step {
    fn as_seg(&self) -> Seg<'_> {
        match self {
            Self::Field(name) => Seg::Field(name),
            Self::Index(index) => Seg::Index(*index),
            Self::Key(key) => Seg::Key(key),
        }
    }
}

/// Splits a path text into steps; stops at what is none.
fn steps(path: &str) -> Vec<Step> {
    let (mut steps, mut rest) = (Vec::new(), path);
    while !rest.is_empty() {
        rest = rest.strip_prefix('.').unwrap_or(rest);
        if let Some(inside) = rest.strip_prefix("[\"") {
            let Some(end) = inside.find("\"]") else { break };
            let key = inside.get(..end).unwrap_or_default();
            steps.push(Step::Key(key.replace("\\\"", "\"").replace("\\\\", "\\")));
            rest = inside.get(end + 2..).unwrap_or_default();
        } else if let Some(inside) = rest.strip_prefix('[') {
            let Some((index, after)) = inside.split_once(']') else { break };
            let Ok(index) = index.parse() else { break };
            steps.push(Step::Index(index));
            rest = after;
        } else {
            let end = rest.find(['.', '[']).unwrap_or(rest.len());
            if end == 0 {
                break;
            }
            steps.push(Step::Field(rest.get(..end).unwrap_or_default().to_owned()));
            rest = rest.get(end..).unwrap_or_default();
        }
    }
    steps
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spot(line: u32, kids: Kids) -> Spot {
        Spot { line, source: 0, kids }
    }

    fn map(source: &str, base: u32) -> LineMap {
        let items = Kids::Items(vec![spot(base + 2, Kids::None)]);
        let entries = Kids::Entries(vec![("a.b".into(), spot(base + 4, Kids::None))]);
        let fields = vec![("list".into(), spot(base + 1, items)), ("map".into(), spot(base + 3, entries))];
        LineMap::new(source, spot(base, Kids::Fields(fields)))
    }

    #[test]
    fn finds_the_nearest_line() {
        let map = map("a.yaml", 1);
        assert_eq!(map.line("list[0].name"), Some(3));
        assert_eq!(map.line("list[7]"), Some(2));
        assert_eq!(map.line(r#"map["a.b"]"#), Some(5));
        assert_eq!(map.line("nothing"), Some(1));
        for junk in ["[", "[\"", "..", "[x]", "a..b", "]"] {
            let _ = map.line(junk);
        }
        assert_eq!(LineMap::default().line("list"), None);
    }

    #[test]
    fn merging_appends_to_lists_and_keeps_sources_apart() {
        let mut merged = map("a.yaml", 1);
        merged.merge_over(map("b.yaml", 100));
        let root = Path::root();
        let list = root.field("list");
        assert_eq!(merged.locate(&list.index(0)), ("a.yaml", Some(3)));
        assert_eq!(merged.locate(&list.index(1)), ("b.yaml", Some(102)));
        let entries = root.field("map");
        assert_eq!(merged.locate(&entries.key("a.b")), ("b.yaml", Some(104)));
    }
}
