//! Which filter chain of an updated listener takes over the connections of which chain before.

use std::sync::Arc;

use super::{FilterChain, FilterChainMatch, Listener, SourceType};

/// For each chain of `earlier`, the index of the chain of `next` that takes its connections over; the default chain
/// is the last one of either. None takes over those of two. Where `next` has no place for them, `None`.
///
/// It is a chain with the same match, or with one that takes all that the other took, or with a part of its server
/// names; TLS stays TLS. Not all connections need to be such as the successor would let in: that is for others to judge.
pub fn successions(earlier: &Listener, next: &Listener) -> Vec<Option<usize>> {
    let (before, after): (Vec<_>, Vec<_>) = (chains(earlier).collect(), chains(next).collect());
    let mut found = vec![None; before.len()];
    let mut taken = vec![false; after.len()];
    for fits in [same, enters_alike, matches_alike, covers_by_name, covers, shares_by_name, shares] {
        for (place, before) in found.iter_mut().zip(&before).filter(|(place, _)| place.is_none()) {
            let mut free = after.iter().zip(&mut taken).enumerate();
            if let Some((index, (_, taken))) =
                free.find(|(_, (after, taken))| !**taken && fits(before, after))
            {
                *taken = true;
                *place = Some(index);
            }
        }
    }
    found
}

impl Listener {
    /// Its filter chains in order, the default chain last.
    pub fn chains(&self) -> impl Iterator<Item = &Arc<FilterChain>> {
        self.filter_chains.iter().chain(&self.default_filter_chain)
    }
}

impl FilterChainMatch {
    /// Whether a client that asks for `name` can match it.
    pub fn takes_name(&self, name: &str) -> bool {
        let is = |known: &Arc<str>| match known.strip_prefix('*') {
            Some(suffix) => name.len() > suffix.len() && name.ends_with(suffix),
            None => **known == *name,
        };
        self.server_names.is_empty() || self.server_names.iter().any(is)
    }

    /// Whether it takes every server name that `other` takes.
    pub fn takes_names_of(&self, other: &Self) -> bool {
        list_covers(&self.server_names, &other.server_names)
    }

    /// Whether it takes all that `other` takes, server names apart.
    fn covers_but_names(&self, other: &Self) -> bool {
        let Self {
            destination_port,
            prefix_ranges,
            server_names: _judged_apart,
            transport_protocol,
            application_protocols,
            direct_source_prefix_ranges,
            source_type,
            source_prefix_ranges,
            source_ports,
        } = self;
        (destination_port.is_none() || *destination_port == other.destination_port)
            && list_covers(prefix_ranges, &other.prefix_ranges)
            && (transport_protocol.is_empty() || *transport_protocol == other.transport_protocol)
            && list_covers(application_protocols, &other.application_protocols)
            && list_covers(direct_source_prefix_ranges, &other.direct_source_prefix_ranges)
            && (*source_type == SourceType::Any || *source_type == other.source_type)
            && list_covers(source_prefix_ranges, &other.source_prefix_ranges)
            && list_covers(source_ports, &other.source_ports)
    }
}

/// Criteria of one kind: none at all take everything.
fn list_covers<T: PartialEq>(list: &[T], other: &[T]) -> bool {
    list.is_empty() || !other.is_empty() && other.iter().all(|one| list.contains(one))
}

fn chains(listener: &Listener) -> impl Iterator<Item = &FilterChain> {
    listener.chains().map(|chain| &**chain)
}

fn same(before: &FilterChain, after: &FilterChain) -> bool {
    before.hash == after.hash && enters_alike(before, after)
}

fn enters_alike(before: &FilterChain, after: &FilterChain) -> bool {
    before.entry_hash == after.entry_hash && before.match_hash == after.match_hash
}

fn matches_alike(before: &FilterChain, after: &FilterChain) -> bool {
    before.match_hash == after.match_hash && before.tls.is_some() == after.tls.is_some()
}

fn covers_by_name(before: &FilterChain, after: &FilterChain) -> bool {
    has_name_of(before, after) && covers(before, after)
}

fn covers(before: &FilterChain, after: &FilterChain) -> bool {
    after.matches.covers_but_names(&before.matches)
        && after.matches.takes_names_of(&before.matches)
        && before.tls.is_some() == after.tls.is_some()
}

fn shares_by_name(before: &FilterChain, after: &FilterChain) -> bool {
    has_name_of(before, after) && shares(before, after)
}

/// Only of TLS sessions the server name is known for sure.
fn shares(before: &FilterChain, after: &FilterChain) -> bool {
    after.matches.covers_but_names(&before.matches)
        && before.matches.server_names.iter().any(|name| after.matches.server_names.contains(name))
        && before.tls.is_some()
        && after.tls.is_some()
}

fn has_name_of(before: &FilterChain, after: &FilterChain) -> bool {
    !before.name.is_empty() && before.name == after.name
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> FilterChainMatch {
        let server_names = names.iter().map(|name| (*name).into()).collect();
        FilterChainMatch { server_names, ..FilterChainMatch::default() }
    }

    #[test]
    fn names_cover_what_they_hold() {
        let (two, one, any) = (names(&["a.test", "*.b.test"]), names(&["a.test"]), names(&[]));
        assert!(two.takes_names_of(&one) && any.takes_names_of(&two) && two.takes_names_of(&two));
        assert!(!one.takes_names_of(&two) && !two.takes_names_of(&any));
        assert!(two.takes_name("a.test") && two.takes_name("x.b.test") && any.takes_name("whatever"));
        assert!(!two.takes_name("b.test") && !two.takes_name(".b.test") && !one.takes_name("x.a.test"));
    }

    #[test]
    fn every_other_criterion_must_be_held_too() {
        let port = FilterChainMatch { destination_port: Some(1), ..FilterChainMatch::default() };
        let any = FilterChainMatch::default();
        assert!(any.covers_but_names(&port) && port.covers_but_names(&port));
        assert!(!port.covers_but_names(&any));
        let local = FilterChainMatch { source_type: SourceType::SameIpOrLoopback, ..any.clone() };
        assert!(any.covers_but_names(&local) && !local.covers_but_names(&any));
        let ports = |ports: &[u16]| FilterChainMatch { source_ports: ports.to_vec(), ..any.clone() };
        assert!(ports(&[1, 2]).covers_but_names(&ports(&[2])));
        assert!(!ports(&[2]).covers_but_names(&ports(&[1, 2])));
    }
}
