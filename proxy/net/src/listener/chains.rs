//! Filter-chain match, compiled.
//!
//! Envoy's order ("FilterChainMatch"): destination port, destination prefix, server name, transport
//! protocol, application protocol, direct source prefix, source type, source prefix, source port. At each
//! step the most specific key that any chain still in play has is followed, and never gone back on: when
//! a later step fails, no less specific key is tried, and the default chain is all that is left.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use outrider_config::model::{Cidr, FilterChainMatch, SourceType};
use outrider_core::stream::Address;

/// What is known of a connection when its chain is chosen.
#[derive(Debug, Clone)]
pub(super) struct MatchInput<'a> {
    /// Where the client wanted to go.
    pub local: &'a Address,
    /// Who the client is.
    pub remote: &'a Address,
    /// The peer of the socket.
    pub direct_remote: &'a Address,
    /// The server name, lower case; empty for none.
    pub server_name: &'a str,
    /// `tls` or `raw_buffer`.
    pub transport: &'a str,
    /// The application protocols the client offers, in its order.
    pub protocols: &'a [Arc<str>],
}

/// The compiled match of a listener; leaves are indices of filter chains.
#[derive(Debug, Default)]
pub(super) struct ChainTree {
    ports: Keyed<u16, Destination>,
}

type Destination = Prefixes<Names>;
type Transport = Keyed<Arc<str>, Keyed<Arc<str>, Prefixes<Types>>>;
type Source = Prefixes<Keyed<u16, usize>>;

/// Children by exact key, and the one for those who ask for nothing.
#[derive(Debug)]
struct Keyed<K, T> {
    exact: HashMap<K, T>,
    any: Option<Box<T>>,
}

/// Children by IP prefix; the longest one that holds the address is followed.
#[derive(Debug)]
struct Prefixes<T> {
    // Longest first, for each family.
    v4: Vec<u8>,
    v6: Vec<u8>,
    nodes: HashMap<Cidr, T>,
    any: Option<Box<T>>,
}

/// Children by server name: exact ones, then suffixes (`.example.com`), longest first.
#[derive(Debug, Default)]
struct Names {
    exact: HashMap<Arc<str>, Transport>,
    suffixes: HashMap<Box<str>, Transport>,
    any: Option<Box<Transport>>,
}

#[derive(Debug, Default)]
struct Types {
    any: Option<Box<Source>>,
    local: Option<Box<Source>>,
    external: Option<Box<Source>>,
}

impl<K, T> Default for Keyed<K, T> {
    fn default() -> Self {
        Self { exact: HashMap::new(), any: None }
    }
}

impl<T> Default for Prefixes<T> {
    fn default() -> Self {
        Self { v4: Vec::new(), v6: Vec::new(), nodes: HashMap::new(), any: None }
    }
}

impl<K: Hash + Eq, T: Default> Keyed<K, T> {
    fn child(&mut self, key: Option<K>) -> &mut T {
        match key {
            Some(key) => self.exact.entry(key).or_default(),
            None => self.any.get_or_insert_default(),
        }
    }
}

impl<T: Default> Prefixes<T> {
    fn child(&mut self, cidr: Option<Cidr>) -> &mut T {
        let Some(cidr) = cidr else { return self.any.get_or_insert_default() };
        let lengths = if cidr.address.is_ipv4() { &mut self.v4 } else { &mut self.v6 };
        if let Err(at) = lengths.binary_search_by(|len| cidr.len.cmp(len)) {
            lengths.insert(at, cidr.len);
        }
        self.nodes.entry(cidr).or_default()
    }
}

impl<T> Prefixes<T> {
    fn find(&self, address: &Address) -> Option<&T> {
        if let Some(address) = address.ip() {
            let ip = address.ip();
            let lengths = if ip.is_ipv4() { &self.v4 } else { &self.v6 };
            for len in lengths {
                if let Some(node) = self.nodes.get(&Cidr { address: masked(ip, *len), len: *len }) {
                    return Some(node);
                }
            }
        }
        self.any.as_deref()
    }
}

impl Names {
    fn child(&mut self, name: Option<&Arc<str>>) -> &mut Transport {
        match name {
            None => self.any.get_or_insert_default(),
            Some(name) => match name.strip_prefix('*') {
                Some(suffix) => self.suffixes.entry(suffix.into()).or_default(),
                None => self.exact.entry(name.clone()).or_default(),
            },
        }
    }

    fn find(&self, name: &str) -> Option<&Transport> {
        if !name.is_empty() {
            if let Some(node) = self.exact.get(name) {
                return Some(node);
            }
            // A suffix begins at a dot that is neither the first nor the last character.
            let dots = name.char_indices().skip(1).filter(|(i, c)| *c == '.' && i + 1 < name.len());
            for (dot, _) in dots {
                if let Some(node) = name.get(dot..).and_then(|suffix| self.suffixes.get(suffix)) {
                    return Some(node);
                }
            }
        }
        self.any.as_deref()
    }
}

impl ChainTree {
    /// Adds chain `index` for every combination of what `matches` names.
    ///
    /// # Errors
    /// The index of a chain that has one of the combinations already.
    pub(super) fn insert(&mut self, matches: &FilterChainMatch, index: usize) -> Result<(), usize> {
        let transport = (!matches.transport_protocol.is_empty()).then(|| matches.transport_protocol.clone());
        let names: Vec<Option<&Arc<str>>> = or_any(matches.server_names.iter());
        let protocols = or_any(matches.application_protocols.iter().cloned());
        let by_port = self.ports.child(matches.destination_port);
        for destination in or_any(matches.prefix_ranges.iter().copied()) {
            let by_name = by_port.child(destination);
            for name in &names {
                let by_protocol = by_name.child(*name).child(transport.clone());
                for protocol in &protocols {
                    let by_source = by_protocol.child(protocol.clone());
                    for direct in or_any(matches.direct_source_prefix_ranges.iter().copied()) {
                        by_source.child(direct).insert(matches, index)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The chain for `input`; `None` when there is none but the default.
    pub(super) fn find(&self, input: &MatchInput<'_>) -> Option<usize> {
        let port = input.local.ip().map(|ip| ip.port());
        let by_port = port.and_then(|port| self.ports.exact.get(&port)).or(self.ports.any.as_deref())?;
        let by_transport = by_port.find(input.local)?.find(input.server_name)?;
        let by_protocol = by_transport.exact.get(input.transport).or(by_transport.any.as_deref())?;
        let known = input.protocols.iter().find_map(|protocol| by_protocol.exact.get(protocol));
        let by_type = known.or(by_protocol.any.as_deref())?.find(input.direct_remote)?;
        let by_port = by_type.find(input)?.find(input.remote)?;
        let port = input.remote.ip().map(|ip| ip.port());
        port.and_then(|port| by_port.exact.get(&port)).or(by_port.any.as_deref()).copied()
    }
}

impl Types {
    fn insert(&mut self, matches: &FilterChainMatch, index: usize) -> Result<(), usize> {
        let by_source = match matches.source_type {
            SourceType::Any => self.any.get_or_insert_default(),
            SourceType::SameIpOrLoopback => self.local.get_or_insert_default(),
            SourceType::External => self.external.get_or_insert_default(),
        };
        for source in or_any(matches.source_prefix_ranges.iter().copied()) {
            let ports = by_source.child(source);
            for port in or_any(matches.source_ports.iter().copied()) {
                let taken = match port {
                    Some(port) => ports.exact.insert(port, index),
                    None => ports.any.replace(Box::new(index)).map(|index| *index),
                };
                // A chain may name the same thing twice, two chains may not.
                if let Some(other) = taken.filter(|other| *other != index) {
                    return Err(other);
                }
            }
        }
        Ok(())
    }

    fn find(&self, input: &MatchInput<'_>) -> Option<&Source> {
        let special = match (&self.local, &self.external) {
            (None, None) => None,
            (local, external) => {
                if is_same_ip_or_loopback(input.local, input.remote) {
                    local.as_deref()
                } else {
                    external.as_deref()
                }
            }
        };
        special.or(self.any.as_deref())
    }
}

fn or_any<T>(keys: impl Iterator<Item = T>) -> Vec<Option<T>> {
    let keys: Vec<_> = keys.map(Some).collect();
    if keys.is_empty() { vec![None] } else { keys }
}

/// Envoy's `isSameIpOrLoopback`: pipes, 127.0.0.1 or ::1 (and no other loopback), or the same IP at both ends.
pub(super) fn is_same_ip_or_loopback(local: &Address, remote: &Address) -> bool {
    match (local, remote) {
        (_, Address::Pipe(_)) => true,
        (local, Address::Ip(remote)) => {
            let ip = remote.ip();
            ip == IpAddr::V4(Ipv4Addr::LOCALHOST)
                || ip == IpAddr::V6(Ipv6Addr::LOCALHOST)
                || local.ip().is_some_and(|local| local.ip() == ip)
        }
    }
}

fn masked(ip: IpAddr, len: u8) -> IpAddr {
    match ip {
        IpAddr::V4(ip) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(len.min(32))).unwrap_or(0);
            IpAddr::V4((ip.to_bits() & mask).into())
        }
        IpAddr::V6(ip) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(len.min(128))).unwrap_or(0);
            IpAddr::V6((ip.to_bits() & mask).into())
        }
    }
}

#[cfg(test)]
#[path = "chains_tests.rs"]
mod tests;
