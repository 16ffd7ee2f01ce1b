//! Which of many texts a text begins with.

use std::collections::BTreeMap;

/// Values by beginnings of texts, sorted. What is asked about may be long, and is its sender's choice: the time is that of some
/// comparisons with the beginnings, however long it is.
#[derive(Debug, Clone)]
pub struct Prefixes<V>(Box<[Entry<V>]>);

#[derive(Debug, Clone)]
struct Entry<V> {
    text: Box<str>,
    /// The longest other one that this one begins with.
    shorter: Option<u32>,
    value: V,
}

impl<V> FromIterator<(Box<str>, V)> for Prefixes<V> {
    fn from_iter<I: IntoIterator<Item = (Box<str>, V)>>(entries: I) -> Self {
        let sorted: BTreeMap<Box<str>, V> = entries.into_iter().collect();
        let mut all: Vec<Entry<V>> = Vec::with_capacity(sorted.len());
        for (text, value) in sorted {
            let mut shorter = all.len().checked_sub(1).and_then(|last| u32::try_from(last).ok());
            while let Some(known) = shorter.and_then(|number| all.get(number as usize)) {
                if text.starts_with(&*known.text) {
                    break;
                }
                shorter = known.shorter;
            }
            all.push(Entry { text, shorter, value });
        }
        Self(all.into())
    }
}

impl<V> Prefixes<V> {
    /// Hands `take` the value of the longest text that `text` begins with, then of the next shorter one, until it gives
    /// something.
    pub fn find<'a, R>(&'a self, text: &str, mut take: impl FnMut(&'a V) -> Option<R>) -> Option<R> {
        // What it begins with sorts before it, and what sorts between begins with the same.
        let behind = self.0.partition_point(|known| *known.text <= *text);
        let mut next = behind.checked_sub(1).and_then(|last| self.0.get(last));
        let mut holds = false;
        while let Some(known) = next {
            // Where one holds, those that it begins with do.
            holds = holds || text.starts_with(&*known.text);
            if holds && let Some(taken) = take(&known.value) {
                return Some(taken);
            }
            next = known.shorter.and_then(|number| self.0.get(number as usize));
        }
        None
    }

    /// All values.
    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.0.iter().map(|entry| &entry.value)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn of(texts: &[String]) -> Prefixes<String> {
        texts.iter().map(|text| (text.as_str().into(), text.clone())).collect()
    }

    proptest! {
        #[test]
        fn the_longest_comes_first_and_none_is_left_out(
            texts in prop::collection::vec("[ab]{0,4}", 0..12), text in "[ab]{0,6}"
        ) {
            let mut found = Vec::new();
            let nothing: Option<()> = of(&texts).find(&text, |known| {
                found.push(known.clone());
                None
            });
            prop_assert!(nothing.is_none());
            let mut wanted: Vec<_> = texts.into_iter().filter(|known| text.starts_with(&**known)).collect();
            wanted.sort_by_key(|known| std::cmp::Reverse(known.len()));
            wanted.dedup();
            prop_assert_eq!(found, wanted);
        }
    }

    #[test]
    fn a_long_text_is_no_more_work_than_a_short_one() {
        let known = of(&["/a".to_owned(), "/b".to_owned(), String::new()]);
        let long = format!("/a{}", "b".repeat(1 << 24));
        assert_eq!(known.find(&long, |text| Some(text.len())), Some(2));
        assert_eq!(known.find("b", |text| Some(text.len())), Some(0));
    }
}
