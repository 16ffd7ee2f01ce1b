//! Host names with wildcards: `*` is any, `*.example.com` any with one or more labels in front.

use std::cmp::Reverse;
use std::collections::BTreeSet;
use std::sync::Arc;

use crate::attach::ir::HttpRoute;
use crate::attach::{Listener, covers};

/// Any host.
pub(super) const ANY: &str = "*";

/// The host of a listener.
pub(super) fn of(listener: &Listener) -> &str {
    listener.hostname.as_deref().unwrap_or(ANY)
}

/// How exactly a host is named: a whole name first, then the longest.
fn exactness(host: &str) -> (bool, usize) {
    (!host.starts_with('*'), host.len())
}

/// The listener that a host belongs to: the one that names it most exactly, whether it has routes or not.
/// <https://gateway-api.sigs.k8s.io/reference/spec/#listener>: "exact matches must be processed before wildcard matches".
pub(super) fn owner<'l>(listeners: &[&'l Listener], host: &str) -> Option<&'l Listener> {
    let covering = listeners.iter().copied().filter(|it| covers(of(it), host));
    // Of equals the first one; `max_by_key` would take the last.
    covering.min_by_key(|it| Reverse(exactness(of(it))))
}

/// All hosts that listeners and their HTTP routes name, those of each listener's own alone.
pub(super) fn owned<'l>(listeners: &[&'l Listener]) -> Vec<(String, &'l Listener)> {
    let named = listeners.iter().flat_map(|listener| {
        let http = listener.http.iter().flat_map(|route| &route.hostnames);
        let tcp = listener.tcp.iter().flat_map(|route| &route.hostnames);
        http.chain(tcp).map(|host| &**host).chain([of(listener)])
    });
    let all: BTreeSet<&str> = named.collect();
    all.into_iter().filter_map(|host| Some((host.to_owned(), owner(listeners, host)?))).collect()
}

/// How exactly a route names a host; `None` when it does not.
pub(super) fn fit(hostnames: &[Arc<str>], host: &str) -> Option<(bool, usize)> {
    if hostnames.is_empty() {
        return Some((false, 0));
    }
    hostnames.iter().filter(|it| covers(it, host)).map(|it| exactness(it)).max()
}

/// The HTTP routes of a listener that serve a host, in groups: those that name it most exactly come first, whatever they match.
/// "Precedence must be given to rules from the HTTPRoute with the largest number of characters in a matching
/// non-wildcard hostname, characters in a matching hostname."
pub(super) fn groups(listener: &Listener, host: &str) -> Vec<Vec<Arc<HttpRoute>>> {
    let mut all: Vec<_> = listener
        .http
        .iter()
        .filter_map(|route| Some((Reverse(fit(&route.hostnames, host)?), Arc::clone(route))))
        .collect();
    all.sort_by_key(|(fit, _)| *fit);
    all.chunk_by(|(a, _), (b, _)| a == b)
        .map(|group| group.iter().map(|(_, route)| Arc::clone(route)).collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wildcard_is_one_label_or_more() {
        assert!(covers("*.example.com", "a.example.com"));
        assert!(covers("*.example.com", "a.b.example.com"));
        assert!(covers("*.example.com", "*.b.example.com"));
        assert!(covers("*", "*.example.com"));
        assert!(!covers("*.example.com", "example.com"));
        assert!(!covers("*.example.com", "*"));
        assert!(!covers("*.b.example.com", "*.example.com"));
        assert!(!covers("a.example.com", "*.example.com"));
        assert!(!covers("*.example.com", "badexample.com"));
    }

    #[test]
    fn the_most_exact_listener_has_a_host() {
        let listener = |name: &str, hostname: Option<&str>| Listener {
            name: name.into(),
            port: 80,
            protocol: crate::attach::Protocol::Http,
            hostname: hostname.map(Into::into),
            http: Vec::new(),
            tcp: Vec::new(),
            client_validation: None,
        };
        let all = [
            listener("any", None),
            listener("wide", Some("*.example.com")),
            listener("narrow", Some("*.b.example.com")),
            listener("exact", Some("a.b.example.com")),
        ];
        let all: Vec<&Listener> = all.iter().collect();
        let owner = |host| &*owner(&all, host).unwrap().name;
        assert_eq!(owner("a.b.example.com"), "exact");
        assert_eq!(owner("c.b.example.com"), "narrow");
        assert_eq!(owner("b.example.com"), "wide");
        assert_eq!(owner("*.b.example.com"), "narrow");
        assert_eq!(owner("example.com"), "any");
    }
}
