//! The parameters of a path's query.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use outrider_config::model::AppendAction;

use crate::filter::places::decoded;

/// Parameters by name, each with its values in order; they are written in the order of their names (Envoy:
/// `QueryParamsMulti`).
#[derive(Debug, Default)]
pub(in crate::filter) struct Query(BTreeMap<String, Vec<String>>);

impl Query {
    /// The parameters of `path`.
    pub(in crate::filter) fn parse(path: &str) -> Self {
        let mut query = Self::default();
        let Some((_, text)) = path.split_once('?') else { return query };
        let text = text.split('#').next().unwrap_or_default();
        for pair in text.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            query.0.entry(name.to_owned()).or_default().push(value.to_owned());
        }
        query
    }

    /// The first value of `name`, as it was written.
    pub(in crate::filter) fn first(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.first().map(String::as_str)
    }

    /// Removes all values of `name`.
    pub(in crate::filter) fn remove(&mut self, name: &str) {
        self.0.remove(name);
    }

    /// Removes all values of the parameters whose decoded name is `name`.
    pub(in crate::filter) fn remove_decoded(&mut self, name: &str) {
        self.0.retain(|known, _| *decoded(known) != *name.as_bytes());
    }

    /// Sets or appends `value`, which is percent-encoded for it; what was there before stays as the client wrote it.
    pub(super) fn set(&mut self, name: &str, value: &[u8], action: AppendAction) {
        let present = self.0.contains_key(name);
        match action {
            AppendAction::AppendIfExistsOrAdd => {}
            AppendAction::AddIfAbsent if present => return,
            AppendAction::OverwriteIfExists if !present => return,
            AppendAction::AddIfAbsent
            | AppendAction::OverwriteIfExists
            | AppendAction::OverwriteIfExistsOrAdd => self.remove(name),
        }
        self.0.entry(name.to_owned()).or_default().push(encoded(value));
    }

    /// Sets `value`, which is taken as it is, in place of all that there were.
    pub(in crate::filter) fn overwrite(&mut self, name: &str, value: &str) {
        self.0.insert(name.to_owned(), vec![value.to_owned()]);
    }

    /// `path` with these parameters in place of its own.
    pub(in crate::filter) fn path(&self, path: &str) -> String {
        let mut out = path.split('?').next().unwrap_or_default().to_owned();
        let mut separator = '?';
        for (name, values) in &self.0 {
            for value in values {
                out.push(separator);
                out.push_str(name);
                out.push('=');
                out.push_str(value);
                separator = '&';
            }
        }
        out
    }
}

/// `text` with all but RFC 3986's unreserved characters percent-encoded.
fn encoded(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(byte) {
            out.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_set_removed_and_kept_in_the_order_of_their_names() {
        let path = "/p?z=1&b&rm=1&a=x%20y&z=2";
        let mut query = Query::parse(path);
        query.remove("rm");
        query.set("z", b"3", AppendAction::AppendIfExistsOrAdd);
        query.set("a", b"no", AppendAction::AddIfAbsent);
        query.set("c", b"a b&", AppendAction::AddIfAbsent);
        query.set("d", b"no", AppendAction::OverwriteIfExists);
        query.set("b", b"yes", AppendAction::OverwriteIfExistsOrAdd);
        assert_eq!(query.path(path), "/p?a=x%20y&b=yes&c=a%20b%26&z=1&z=2&z=3");
        assert_eq!(Query::parse("/p").path("/p"), "/p");
    }
}
