//! Header changes of several filters as one change that Envoy makes in one go.

use outrider_proto::pb::envoy::config::core::v3::HeaderValueOption;

use crate::attach::ir::HeaderChange;
use crate::translate::wire;

/// What becomes of one header.
#[derive(Clone, Debug, Default)]
struct Fate {
    name: String,
    /// What came with the message is taken away.
    clear: bool,
    /// What is put there then.
    values: Vec<String>,
}

/// What becomes of headers, in the order in which they were first named.
///
/// Envoy removes first, then overwrites, then adds, whatever the order of its lists; the Gateway API has its filters one after
/// the other, and `set`, `add`, `remove` in each. So the end is worked out here, for each header by itself.
#[derive(Clone, Debug, Default)]
pub(super) struct Headers(Vec<Fate>);

/// A header that nobody may change by name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Untouchable(pub(super) String);

impl Headers {
    /// One more change, after those before it.
    pub(super) fn then(&mut self, change: &HeaderChange) -> Result<(), Untouchable> {
        for (name, value) in &change.set {
            let fate = self.fate(name)?;
            fate.clear = true;
            fate.values = vec![value.to_string()];
        }
        for (name, value) in &change.add {
            self.fate(name)?.values.push(value.to_string());
        }
        for name in &change.remove {
            let fate = self.fate(name)?;
            fate.clear = true;
            fate.values.clear();
        }
        Ok(())
    }

    fn fate(&mut self, name: &str) -> Result<&mut Fate, Untouchable> {
        let name = name.to_ascii_lowercase();
        // Envoy and Outrider refuse a whole table for one of these, and for what is no name at all.
        if name == "host" || http::HeaderName::from_bytes(name.as_bytes()).is_err() {
            return Err(Untouchable(name));
        }
        let at = match self.0.iter().position(|fate| fate.name == name) {
            Some(at) => at,
            None => {
                self.0.push(Fate { name, ..Fate::default() });
                self.0.len() - 1
            }
        };
        self.0.get_mut(at).ok_or_else(|| Untouchable(String::new()))
    }

    /// As Envoy's lists.
    pub(super) fn add(&self) -> Vec<HeaderValueOption> {
        let mut out = Vec::new();
        for fate in &self.0 {
            for (i, value) in fate.values.iter().enumerate() {
                let mut option = wire::header(&fate.name, &literal(value), i > 0 || !fate.clear);
                option.keep_empty_value = value.is_empty();
                out.push(option);
            }
        }
        out
    }

    /// As Envoy's list.
    pub(super) fn remove(&self) -> Vec<String> {
        let gone = self.0.iter().filter(|fate| fate.clear && fate.values.is_empty());
        gone.map(|fate| fate.name.clone()).collect()
    }
}

/// Envoy reads `%` as the start of a command; here it means itself.
fn literal(value: &str) -> String {
    value.replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(list: &[(&str, &str)]) -> Vec<(std::sync::Arc<str>, std::sync::Arc<str>)> {
        list.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
    }

    #[test]
    fn filters_follow_one_another() {
        let mut headers = Headers::default();
        let first = HeaderChange {
            set: pairs(&[("A", "1"), ("b", "50%")]),
            add: pairs(&[("a", "2"), ("c", "x")]),
            remove: vec!["d".into()],
        };
        let second = HeaderChange { set: pairs(&[("d", "back")]), add: vec![], remove: vec!["B".into()] };
        headers.then(&first).unwrap();
        headers.then(&second).unwrap();
        let add: Vec<_> = headers
            .add()
            .into_iter()
            .map(|it| {
                let header = it.header.unwrap();
                (header.key, header.value, it.append_action)
            })
            .collect();
        let (append, overwrite) = (0, 2);
        assert_eq!(
            add,
            [
                ("a".to_owned(), "1".to_owned(), overwrite),
                ("a".to_owned(), "2".to_owned(), append),
                ("c".to_owned(), "x".to_owned(), append),
                ("d".to_owned(), "back".to_owned(), overwrite),
            ]
        );
        assert_eq!(headers.remove(), ["b"]);
    }

    #[test]
    fn percent_signs_mean_themselves() {
        let mut headers = Headers::default();
        let change = HeaderChange { set: pairs(&[("a", "%REQ(x)%")]), ..HeaderChange::default() };
        headers.then(&change).unwrap();
        assert_eq!(headers.add()[0].header.as_ref().unwrap().value, "%%REQ(x)%%");
    }

    #[test]
    fn the_host_is_not_a_header_to_change() {
        for name in ["Host", ":path", "no name"] {
            let change = HeaderChange { remove: vec![name.into()], ..HeaderChange::default() };
            assert!(Headers::default().then(&change).is_err(), "{name}");
        }
    }
}
