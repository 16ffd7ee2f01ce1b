//! Ring hash and maglev: tables that give each hash a host, made when hosts change. Both give the host that Envoy's give.

use std::borrow::Cow;
use std::fmt::Write;
use std::net::IpAddr;
use std::sync::Arc;

use outrider_config::model::{LbPolicy, MetadataValue, RingHashFunction};
use outrider_core::stats::Scope;

use crate::host::Host;

outrider_core::stat_struct! {
    /// `cluster.<name>.ring_hash_lb.`
    struct RingStats {
        counters {}
        gauges { size, min_hashes_per_host, max_hashes_per_host }
        histograms {}
    }
}

outrider_core::stat_struct! {
    /// `cluster.<name>.maglev_lb.`
    struct MaglevStats {
        counters {}
        gauges { min_entries_per_host, max_entries_per_host }
        histograms {}
    }
}

/// Where in the list of hosts a hash falls.
#[derive(Debug)]
pub struct HashTable {
    kind: Kind,
    size: usize,
    /// The fewest and the most entries that a host has.
    entries: (usize, usize),
}

#[derive(Debug)]
enum Kind {
    /// Hashes in order, each with the index of its host.
    Ring(Box<[(u64, u32)]>),
    /// Indices of hosts.
    Maglev(Box<[u32]>),
}

impl HashTable {
    /// The table over `hosts`; `None` for a policy that does not draw by a hash.
    pub fn build(policy: &LbPolicy, hosts: &[Arc<Host>]) -> Option<Self> {
        match policy {
            LbPolicy::RingHash { function, min_size, max_size, by_hostname } => {
                Some(ring(hosts, *function, (*min_size as f64, *max_size as f64), *by_hostname))
            }
            LbPolicy::Maglev { table_size, by_hostname } => Some(maglev(hosts, *table_size, *by_hostname)),
            _ => None,
        }
    }

    /// Publishes its size and how evenly it is shared out, under `cluster.<name>.`.
    pub(crate) fn publish(&self, cluster: &Scope, policy: &LbPolicy) {
        if self.size == 0 {
            return;
        }
        let (fewest, most) = (self.entries.0 as u64, self.entries.1 as u64);
        if matches!(policy, LbPolicy::RingHash { .. }) {
            let stats = RingStats::new(cluster.child("ring_hash_lb."));
            stats.size().set(self.size as u64);
            stats.min_hashes_per_host().set(fewest);
            stats.max_hashes_per_host().set(most);
        } else {
            let stats = MaglevStats::new(cluster.child("maglev_lb."));
            stats.min_entries_per_host().set(fewest);
            stats.max_entries_per_host().set(most);
        }
    }

    /// The index of the host of `hash`; `None` when there is none. `attempt` counts hosts that were drawn and not wanted.
    pub fn pick(&self, hash: u64, attempt: u32) -> Option<usize> {
        match &self.kind {
            Kind::Ring(ring) => {
                let at = ring.partition_point(|(entry, _)| *entry < hash);
                let at = if at == ring.len() { 0 } else { at };
                let at = (at + attempt as usize).checked_rem(ring.len())?;
                ring.get(at).map(|(_, index)| *index as usize)
            }
            Kind::Maglev(table) => {
                let hash = if attempt > 0 { hash ^ u64::from(attempt).wrapping_neg() } else { hash };
                let at = hash.checked_rem(table.len() as u64)?;
                table.get(at as usize).map(|index| *index as usize)
            }
        }
    }
}

/// xxHash64 of `bytes`.
pub fn xx_hash(bytes: &[u8], seed: u64) -> u64 {
    xxhash_rust::xxh64::xxh64(bytes, seed)
}

/// The hash of a client's address.
pub fn ip_hash(ip: IpAddr) -> u64 {
    let mut text = SmallText { bytes: [0; 64], len: 0 };
    // The longest address fits.
    let _ = write!(text, "{ip}");
    xx_hash(text.bytes.get(..text.len).unwrap_or_default(), 0)
}

/// An address as text, on the stack.
struct SmallText {
    bytes: [u8; 64],
    len: usize,
}

impl Write for SmallText {
    fn write_str(&mut self, text: &str) -> std::fmt::Result {
        let place = self.bytes.get_mut(self.len..self.len + text.len()).ok_or(std::fmt::Error)?;
        place.copy_from_slice(text.as_bytes());
        self.len += text.len();
        Ok(())
    }
}

/// MurmurHash2 (64 bit), as GNU's C++ library has it.
fn murmur2(bytes: &[u8]) -> u64 {
    const MUL: u64 = 0xc6a4_a793_5bd1_e995;
    const SEED: u64 = 0xc70f_6907;
    let mix = |value: u64| value ^ (value >> 47);
    let mut hash = SEED ^ (bytes.len() as u64).wrapping_mul(MUL);
    let (words, rest) = bytes.as_chunks::<8>();
    for word in words {
        let data = mix(u64::from_le_bytes(*word).wrapping_mul(MUL)).wrapping_mul(MUL);
        hash = (hash ^ data).wrapping_mul(MUL);
    }
    if !rest.is_empty() {
        let data = rest.iter().rev().fold(0, |data: u64, byte| data << 8 | u64::from(*byte));
        hash = (hash ^ data).wrapping_mul(MUL);
    }
    mix(mix(hash).wrapping_mul(MUL))
}

/// What a host is hashed by: `hash_key` of its metadata `envoy.lb`, else its name or address.
fn key_of(host: &Host, by_hostname: bool) -> Cow<'_, str> {
    let given = host.metadata.as_ref().and_then(|metadata| metadata.get("envoy.lb", &["hash_key"]));
    match given {
        Some(MetadataValue::Text(key)) if !key.is_empty() => Cow::Borrowed(key),
        _ if by_hostname => Cow::Borrowed(&host.hostname),
        _ => Cow::Owned(host.address.to_string()),
    }
}

/// The share of the weight that each host has.
fn shares(hosts: &[Arc<Host>]) -> Vec<f64> {
    let sum: u64 = hosts.iter().map(|host| u64::from(host.weight)).sum();
    hosts.iter().map(|host| f64::from(host.weight) / sum as f64).collect()
}

/// As many entries for each host as its share asks for: the lightest has a whole number of them.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a size, limited by the configuration"
)]
fn ring(
    hosts: &[Arc<Host>],
    function: RingHashFunction,
    (min_size, max_size): (f64, f64),
    by_hostname: bool,
) -> HashTable {
    if hosts.is_empty() {
        return HashTable { kind: Kind::Ring(Box::default()), size: 0, entries: (0, 0) };
    }
    let shares = shares(hosts);
    let least = shares.iter().copied().fold(1.0, f64::min);
    let scale = ((least * min_size).ceil() / least).min(max_size);
    let size = scale.ceil() as usize;
    let mut ring = Vec::with_capacity(size);
    let mut entries = (size, 0);
    // Running sums: what one host's fraction leaves over is the next one's.
    let (mut current, mut target) = (0.0, 0.0);
    for (index, (host, share)) in hosts.iter().zip(&shares).enumerate() {
        let key = key_of(host, by_hostname);
        let mut text = String::with_capacity(key.len() + 8);
        target += scale * share;
        let mut count = 0_usize;
        while current < target {
            text.clear();
            text.push_str(&key);
            text.push('_');
            text.push_str(&count.to_string());
            let hash = match function {
                RingHashFunction::XxHash => xx_hash(text.as_bytes(), 0),
                RingHashFunction::Murmur2 => murmur2(text.as_bytes()),
            };
            ring.push((hash, index as u32));
            count += 1;
            current += 1.0;
        }
        entries = (entries.0.min(count), entries.1.max(count));
    }
    ring.sort_unstable();
    HashTable { kind: Kind::Ring(ring.into()), size, entries }
}

/// A host on its way through the table.
struct Walk {
    index: u32,
    offset: u64,
    skip: u64,
    share: f64,
    due: f64,
    next: u64,
    count: usize,
}

/// Each host in turn takes the next free place of its own permutation; the lighter ones pause (the paper's listing 1).
fn maglev(hosts: &[Arc<Host>], size: u64, by_hostname: bool) -> HashTable {
    if hosts.is_empty() || size < 2 {
        return HashTable { kind: Kind::Maglev(Box::default()), size: 0, entries: (0, 0) };
    }
    let shares = shares(hosts);
    let most = shares.iter().copied().fold(0.0, f64::max);
    let mut keyed: Vec<_> = hosts
        .iter()
        .zip(shares)
        .enumerate()
        .map(|(i, (host, share))| (key_of(host, by_hostname), i, share))
        .collect();
    // In the order of the keys: the table does not depend on that of the hosts.
    keyed.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.cmp(&b.1)));
    let mut walks: Vec<_> = keyed
        .into_iter()
        .map(|(key, index, share)| Walk {
            index: index as u32,
            offset: xx_hash(key.as_bytes(), 0) % size,
            skip: xx_hash(key.as_bytes(), 1) % (size - 1) + 1,
            share,
            due: 0.0,
            next: 0,
            count: 0,
        })
        .collect();
    let mut table = vec![u32::MAX; size as usize];
    let mut left = table.len();
    let mut turn = 1.0;
    while left > 0 {
        for walk in &mut walks {
            if left == 0 {
                break;
            }
            if turn * walk.share < walk.due {
                continue;
            }
            walk.due += most;
            walk.take(&mut table, size);
            left -= 1;
        }
        turn += 1.0;
    }
    let fewest = walks.iter().map(|walk| walk.count).min().unwrap_or(0);
    let entries = (fewest, walks.iter().map(|walk| walk.count).max().unwrap_or(0));
    HashTable { size: table.len(), kind: Kind::Maglev(table.into()), entries }
}

impl Walk {
    /// Takes the next free place. There is one, and a prime table's permutation meets them all.
    fn take(&mut self, table: &mut [u32], size: u64) {
        loop {
            let at = (self.offset + self.skip * self.next) % size;
            self.next += 1;
            if let Some(place) = table.get_mut(at as usize).filter(|place| **place == u32::MAX) {
                *place = self.index;
                self.count += 1;
                return;
            }
        }
    }
}
