//! The vocabulary of a plan: chains of rules, as nftables and iptables can both say them.
//!
//! Chains hand on by `goto` alone, never by `jump`: "return" ends the walk wherever it is met, and rules of others at the same hook are
//! still asked.

use std::fmt;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::options::Range;

/// The version of IP.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

impl Family {
    /// The family of an address.
    pub fn of(address: IpAddr) -> Self {
        if address.is_ipv4() { Self::V4 } else { Self::V6 }
    }

    /// The flag of `ip(8)`.
    pub(crate) fn flag(self) -> &'static str {
        match self {
            Self::V4 => "-4",
            Self::V6 => "-6",
        }
    }

    /// nft's family.
    pub(crate) fn nft(self) -> &'static str {
        match self {
            Self::V4 => "ip",
            Self::V6 => "ip6",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V4 => "IPv4",
            Self::V6 => "IPv6",
        })
    }
}

/// What a chain is for; everything else passes it by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proto {
    /// TCP.
    Tcp,
    /// UDP, for DNS.
    Udp,
}

impl Proto {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// Where in the kernel's order a chain stands. iptables has a table for each; for nftables it is a type and a priority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Table {
    /// Before connections are tracked.
    Raw,
    /// Each packet, before addresses are translated.
    Mangle,
    /// The first packet of each connection.
    Nat,
}

impl Table {
    /// All of them, in the kernel's order.
    pub const ALL: [Self; 3] = [Self::Raw, Self::Mangle, Self::Nat];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Mangle => "mangle",
            Self::Nat => "nat",
        }
    }
}

/// The way of packets that a chain is put into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hook {
    /// What arrives, from outside or over `lo`.
    Prerouting,
    /// What processes here send.
    Output,
}

impl Hook {
    pub(crate) fn iptables(self) -> &'static str {
        match self {
            Self::Prerouting => "PREROUTING",
            Self::Output => "OUTPUT",
        }
    }

    pub(crate) fn nft(self) -> &'static str {
        match self {
            Self::Prerouting => "prerouting",
            Self::Output => "output",
        }
    }
}

/// Rules in their order. After the last, the packet goes its way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chain {
    /// The name, in lower case; at most 19 bytes, as iptables has 28 for it and the prefix.
    pub name: &'static str,
    /// The table.
    pub table: Table,
    /// Where packets come from, unless other chains hand them on.
    pub hook: Option<Hook>,
    /// The protocol.
    pub proto: Proto,
    /// The rules.
    pub rules: Vec<Rule>,
}

/// All conditions true: this is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// What must be true of the packet.
    pub matches: Vec<Match>,
    /// What is done then.
    pub action: Action,
    /// Why the rule is there; its comment in the kernel, and the name of its counter.
    pub why: Why,
}

/// One condition. A list is true for any of its entries, and is never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Match {
    /// It leaves by one of these interfaces.
    Oif(Vec<String>),
    /// It leaves by another interface than `lo`.
    OifNotLo,
    /// It came by one of these interfaces.
    Iif(Vec<String>),
    /// It came by another interface than `lo`.
    IifNotLo,
    /// Its socket belongs to one of these users.
    Uid(Vec<Range<u32>>),
    /// Its socket belongs to one of these groups.
    Gid(Vec<Range<u32>>),
    /// It goes to one of these ports.
    Dport(Vec<Range<u16>>),
    /// It comes from this port.
    Sport(u16),
    /// It goes to one of these networks.
    Daddr(Vec<IpNet>),
    /// It does not go to this network.
    NotDaddr(IpNet),
    /// It comes from this network.
    Saddr(IpNet),
    /// It has this mark.
    Mark(u32),
    /// It has another mark, or none.
    NotMark(u32),
    /// Its connection has this mark.
    CtMark(u32),
    /// It goes in the direction of answers.
    CtReply,
    /// Its connection has been answered already.
    CtNotNew,
    /// It is of TCP, and opens no connection.
    NotSyn,
}

/// What a rule does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// The packet goes its way.
    Return,
    /// On in another chain of the same table.
    Goto(&'static str),
    /// To this port of this host; the connection remembers where it was going.
    Redirect(u16),
    /// To the transparent socket at this port, with all addresses as they are.
    Tproxy {
        /// The port.
        port: u16,
        /// A packet for which there is no such socket is dropped. (With iptables it always is.)
        or_drop: bool,
    },
    /// The packet gets a mark, and the walk goes on.
    SetMark(u32),
    /// The connection gets a mark, and the walk goes on.
    SetCtMark(u32),
    /// The connection gets the packet's mark, and the walk goes on.
    SaveMark,
    /// The packet gets the connection's mark, and the walk goes on.
    RestoreMark,
    /// The connection is tracked apart from others with the same addresses, and the walk goes on.
    Zone(u16),
}

/// Why a rule is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Why {
    /// What is captured.
    Captured(&'static str),
    /// What is let by because somebody asked for it: flows that bypass the proxy, which are counted.
    Bypass(&'static str),
    /// How it works: neither.
    Works(&'static str),
}

impl Why {
    /// The comment of the rule.
    pub(crate) fn comment(self) -> String {
        match self {
            Self::Captured(it) => format!("captured: {it}"),
            Self::Bypass(it) => format!("bypass: {it}"),
            Self::Works(it) => it.to_owned(),
        }
    }
}
