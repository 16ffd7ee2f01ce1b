//! Scoped routes: from a request's key to its route table.

use std::collections::HashMap;
use std::sync::Arc;

use arc_swap::ArcSwap;
use outrider_config::model::{Extract, HeaderValueExtractor, ScopeKeyBuilder};
use outrider_core::matcher::{HeadView, HeaderRef};
use smallvec::SmallVec;

use super::RouteSlot;

/// A key, its fragments one after the other, each behind its length.
type Key = SmallVec<[u8; 64]>;

/// A scope.
#[derive(Debug, Clone)]
pub struct Scope {
    /// Its name.
    pub name: Arc<str>,
    /// The place of its table.
    pub routes: Arc<RouteSlot>,
    /// Its table is asked for when a request needs it.
    pub on_demand: bool,
}

/// The scopes of a connection manager by their keys.
#[derive(Debug, Default)]
pub struct ScopeTable {
    key: Vec<HeaderValueExtractor>,
    by_key: HashMap<Box<[u8]>, u32>,
    scopes: Vec<Scope>,
}

impl ScopeTable {
    /// A table of `scopes`, each with the fragments of its key. Of two with one key the later counts.
    pub fn build<'k>(
        key: &ScopeKeyBuilder,
        scopes: impl IntoIterator<Item = (&'k [Box<str>], Scope)>,
    ) -> Self {
        let mut table = Self { key: key.0.clone(), ..Self::default() };
        for (fragments, scope) in scopes {
            let mut key = Key::new();
            fragments.iter().for_each(|fragment| push(&mut key, fragment));
            let number = u32::try_from(table.scopes.len()).unwrap_or(u32::MAX);
            table.by_key.insert(key.to_vec().into(), number);
            table.scopes.push(scope);
        }
        table
    }

    /// The number of the scope that a request is in; `None` when its key is not whole, or nobody's.
    pub(crate) fn find(&self, head: &HeadView<'_>) -> Option<u32> {
        let mut key = Key::new();
        for extractor in &self.key {
            if !extract(extractor, head, &mut key) {
                return None;
            }
        }
        self.by_key.get(&*key).copied()
    }

    /// The scopes, by their numbers.
    pub fn scopes(&self) -> &[Scope] {
        &self.scopes
    }
}

/// The place of a [`ScopeTable`].
#[derive(Debug, Default)]
pub struct ScopeSlot(ArcSwap<ScopeTable>);

impl ScopeSlot {
    /// A slot with `table` in it.
    pub fn new(table: ScopeTable) -> Self {
        Self(ArcSwap::from_pointee(table))
    }

    /// Puts `table` in the place of what is there.
    pub fn store(&self, table: Arc<ScopeTable>) {
        self.0.store(table);
    }

    /// The scopes in force.
    pub fn load(&self) -> arc_swap::Guard<Arc<ScopeTable>> {
        self.0.load()
    }
}

fn push(key: &mut Key, fragment: &str) {
    key.extend_from_slice(&fragment.len().to_le_bytes());
    key.extend_from_slice(fragment.as_bytes());
}

/// Adds the fragment that a request has; false when it has none.
fn extract(extractor: &HeaderValueExtractor, head: &HeadView<'_>, key: &mut Key) -> bool {
    let mut take = |value: Option<&str>| match value.and_then(|value| fragment(extractor, value)) {
        Some(fragment) => {
            push(key, fragment);
            true
        }
        None => false,
    };
    match &extractor.header {
        // The first of several.
        HeaderRef::Name(name) => take(head.headers.get(name).and_then(|value| value.to_str().ok())),
        pseudo => head.with(pseudo, take),
    }
}

fn fragment<'v>(extractor: &HeaderValueExtractor, value: &'v str) -> Option<&'v str> {
    let whole = extractor.separator.is_empty();
    let mut elements = value.split(&*extractor.separator);
    match &extractor.extract {
        Extract::Index(index) if whole => (*index == 0).then_some(value),
        Extract::Index(index) => elements.nth(*index),
        Extract::Element { separator, key } => {
            let of = |element: &'v str| {
                let (name, value) = element.split_once(&**separator).unwrap_or((element, ""));
                (name == &**key).then_some(value)
            };
            if whole { of(value) } else { elements.find_map(of) }
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn by(separator: &str, extract: Extract) -> HeaderValueExtractor {
        let header = HeaderRef::Name(HeaderName::from_static("x"));
        HeaderValueExtractor { header, separator: separator.into(), extract }
    }

    fn element(key: &str) -> Extract {
        Extract::Element { separator: "=".into(), key: key.into() }
    }

    #[test]
    fn a_fragment_is_an_element_by_its_place_or_the_value_of_one_by_its_key() {
        for (separator, extract, value, want) in [
            ("", Extract::Index(0), "a,b", Some("a,b")),
            (",", Extract::Index(0), "a,b", Some("a")),
            (",", Extract::Index(1), "a,b", Some("b")),
            (",", Extract::Index(1), "a,", Some("")),
            (",", Extract::Index(2), "a,b", None),
            (";", element("c"), "a=b;c=d;c=e", Some("d")),
            (";", element("c"), "a=b;c", Some("")),
            (";", element("c"), "a=b;;c=d=e", Some("d=e")),
            (";", element("c"), "a=b", None),
            ("", element("a"), "a=b;c=d", Some("b;c=d")),
        ] {
            assert_eq!(
                fragment(&by(separator, extract.clone()), value),
                want,
                "{separator:?} {extract:?} {value:?}"
            );
        }
    }

    proptest! {
        #[test]
        fn a_request_is_in_the_scope_whose_fragments_are_its_own(
            scopes in proptest::collection::btree_set(proptest::collection::vec("[ab]{0,2}", 2), 1..6),
            asked in proptest::collection::vec("[ab]{0,2}", 2),
        ) {
            let key = ScopeKeyBuilder(vec![by("|", Extract::Index(0)), by("|", Extract::Index(1))]);
            let scopes: Vec<Vec<Box<str>>> =
                scopes.into_iter().map(|key| key.into_iter().map(Into::into).collect()).collect();
            let scope = Scope { name: "s".into(), routes: Arc::default(), on_demand: false };
            let table = ScopeTable::build(&key, scopes.iter().map(|key| (&key[..], scope.clone())));
            let mut headers = HeaderMap::new();
            headers.insert("x", HeaderValue::from_str(&asked.join("|")).unwrap());
            let want = scopes.iter().position(|key| key.iter().map(|part| &**part).eq(asked.iter().map(|part| &**part)));
            prop_assert_eq!(table.find(&HeadView::of(&headers)).map(|number| number as usize), want);
        }
    }
}
