//! Host names with `*.` in front of suffixes.

use std::sync::Arc;

/// In lower case.
pub(super) fn lower(name: &str) -> Arc<str> {
    name.to_ascii_lowercase().into()
}

/// What both name, when they have something in common. `*.` stands for one label or more.
pub(super) fn intersect<'a>(one: &'a Arc<str>, other: &'a Arc<str>) -> Option<&'a Arc<str>> {
    let within = |narrow: &str, wide: &str| match wide.strip_prefix('*') {
        // The rest begins with a dot, so that something must stand before it; a wildcard is as wide as its suffix is short.
        Some(suffix) => narrow == wide || (narrow.len() > suffix.len() && narrow.ends_with(suffix)),
        None => narrow == wide,
    };
    if within(one, other) {
        Some(one)
    } else if within(other, one) {
        Some(other)
    } else {
        None
    }
}

/// The hosts of a route at a listener; `None`: they have nothing in common.
/// <https://gateway-api.sigs.k8s.io/reference/spec/#httproutespec>
pub(super) fn at_listener(route: &[Arc<str>], listener: Option<&Arc<str>>) -> Option<Vec<Arc<str>>> {
    let Some(listener) = listener else { return Some(route.to_vec()) };
    if route.is_empty() {
        return Some(vec![Arc::clone(listener)]);
    }
    let mut hosts: Vec<_> = route.iter().filter_map(|host| intersect(host, listener).cloned()).collect();
    let mut seen = std::collections::BTreeSet::new();
    hosts.retain(|host| seen.insert(Arc::clone(host)));
    (!hosts.is_empty()).then_some(hosts)
}
