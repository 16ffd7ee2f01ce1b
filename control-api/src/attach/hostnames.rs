//! Host names with `*.` in front of suffixes.

use std::sync::Arc;

/// In lower case.
pub(super) fn lower(name: &str) -> Arc<str> {
    name.to_ascii_lowercase().into()
}

/// Whether every host that is meant by `narrow` is meant by `wide`: `*.` stands for one label or more, `*` for anything.
pub(crate) fn covers(wide: &str, narrow: &str) -> bool {
    if wide == "*" || wide == narrow {
        return true;
    }
    // The rest begins with a dot, so that something must stand before it; a wildcard is as wide as its suffix is short.
    let Some(suffix) = wide.strip_prefix('*') else { return false };
    let bare = narrow.strip_prefix('*').unwrap_or(narrow);
    bare.len() > suffix.len() && bare.ends_with(suffix)
}

/// What both name, when they have something in common. `*.` stands for one label or more.
pub(super) fn intersect<'a>(one: &'a Arc<str>, other: &'a Arc<str>) -> Option<&'a Arc<str>> {
    if covers(other, one) {
        Some(one)
    } else if covers(one, other) {
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

/// Whether two routes at one listener have a host in common; no hosts are any.
pub(super) fn overlap(one: &[Arc<str>], other: &[Arc<str>]) -> bool {
    one.is_empty()
        || other.is_empty()
        || one.iter().any(|it| other.iter().any(|other| intersect(it, other).is_some()))
}
