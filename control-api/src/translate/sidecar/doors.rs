//! What is let in at a workload's ports: mutual TLS, clear text, or both.

use std::collections::{BTreeMap, BTreeSet};

use outrider_proto::pb::envoy::config::listener::v3::{FilterChainMatch, ListenerFilter};

use super::probe::{self, Probe};
use crate::model::own::MtlsMode;
use crate::translate::hcm::{but_at, only_at, tls_inspector};
use crate::translate::policy::authorization::Workload;
use crate::translate::policy::peers::Accepted;
use crate::translate::port::Spoken;
use crate::translate::{Context, mtls};
use crate::world::Proxy;

/// What is let in at one port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Door {
    /// Mutual TLS.
    pub(super) tls: bool,
    /// Clear text, and TLS that is the application's own.
    pub(super) clear: bool,
}

/// Those of a workload.
#[derive(Debug)]
pub(super) struct Doors<'c> {
    accepted: Accepted<'c>,
    /// The proxy has an identity. Without one it has no certificate to show: what is to come by TLS alone does not come in at all.
    identity: bool,
    /// What the kubelet asks for, by port.
    pub(super) probes: BTreeMap<u16, Vec<Probe>>,
}

impl<'c> Doors<'c> {
    /// Those of a proxy's workload.
    pub(super) fn of(context: &'c Context, proxy: &Proxy, workload: Workload<'_>) -> Self {
        let accepted = Accepted::of(context, workload);
        let identity = mtls::is_on(&context.world, proxy);
        Self { accepted, identity, probes: probe::of(&context.world, proxy) }
    }

    /// What is let in at a port; `None`: at those that nobody named.
    pub(super) fn at(&self, port: Option<u16>) -> Door {
        let mode = self.accepted.at(port);
        Door { tls: self.identity && mode != MtlsMode::Disabled, clear: mode != MtlsMode::Strict }
    }

    /// The ports at which something else is let in than at the rest.
    pub(super) fn ports(&self) -> BTreeSet<u16> {
        let rest = self.at(None);
        let named = self.accepted.ports().filter(|port| self.at(Some(*port)) != rest);
        let probed = self.probes.keys().copied().filter(|port| !self.at(Some(*port)).clear);
        named.chain(probed).collect()
    }

    /// What is to come by mutual TLS. Where other TLS may come, too, a peer is known by the protocols that it offers.
    pub(super) fn wanted(&self, wanted: FilterChainMatch, door: Door) -> FilterChainMatch {
        let protocols: &[&str] = if door.clear { &mtls::PROTOCOLS } else { &[] };
        FilterChainMatch {
            transport_protocol: "tls".to_owned(),
            application_protocols: protocols.iter().map(|it| (*it).to_owned()).collect(),
            ..wanted
        }
    }

    /// The filter that tells TLS from clear text, at those ports where it matters.
    pub(super) fn inspector(&self, served: &BTreeMap<u16, Spoken>) -> Option<ListenerFilter> {
        let (with, without): (Vec<u16>, Vec<u16>) = served.keys().partition(|port| self.at(Some(**port)).tls);
        match (self.at(None).tls, with.as_slice(), without.as_slice()) {
            (true, _, []) => Some(tls_inspector()),
            (true, _, without) => Some(but_at(tls_inspector(), without)),
            (false, [], _) => None,
            (false, with, _) => Some(only_at(tls_inspector(), with)),
        }
    }

    /// Whether a client's silence has to be interpreted somewhere.
    pub(super) fn guesses(&self, served: &BTreeMap<u16, Spoken>) -> bool {
        let doors = served.keys().map(|port| self.at(Some(*port))).chain([self.at(None)]);
        doors.into_iter().any(|door| door.tls && door.clear)
    }
}
