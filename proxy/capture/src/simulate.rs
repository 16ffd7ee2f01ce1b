//! A small model of the kernel: what becomes of a packet under a plan. It chooses where `verify` connects to, and tests hold the plan
//! against it.

use std::net::IpAddr;

use crate::plan::Plan;
use crate::rule::{Action, Chain, Family, Hook, Match, Proto, Table, Why};

/// A packet of a connection, as the rules see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packet {
    /// The protocol.
    pub proto: Proto,
    /// From where.
    pub source: IpAddr,
    /// Where to.
    pub destination: IpAddr,
    /// From which port.
    pub sport: u16,
    /// To which port.
    pub dport: u16,
    /// The user and the group of the socket; packets from outside have none.
    pub owner: Option<(u32, u32)>,
    /// The interface that it leaves or came by.
    pub interface: String,
    /// Its mark.
    pub mark: u32,
    /// It opens a connection (TCP).
    pub syn: bool,
    /// What is known of its connection.
    pub ct: Tracked,
}

/// What is known of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Tracked {
    /// It was answered already.
    pub established: bool,
    /// The packet goes in the direction of answers.
    pub reply: bool,
    /// Its mark.
    pub mark: u32,
    /// Its zone.
    pub zone: u16,
}

/// What becomes of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It goes its way.
    Passes,
    /// It is redirected to this port.
    Redirected(u16),
    /// It goes to the transparent socket at this port.
    Tproxied(u16),
}

/// The walk of a packet: its fate, how it looks then, and the reasons of the rules that decided in each table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walk {
    /// What became of it.
    pub fate: Fate,
    /// How it looks now.
    pub packet: Packet,
    /// Why, in order.
    pub why: Vec<Why>,
}

/// A packet that a process here sends. What is for this host comes in over `lo`.
pub fn send(plan: &Plan, packet: Packet) -> Walk {
    let mut walk = pass(plan, Hook::Output, packet);
    if let Fate::Redirected(port) = walk.fate {
        walk.packet.destination = match Family::of(walk.packet.destination) {
            Family::V4 => IpAddr::V4(std::net::Ipv4Addr::LOCALHOST),
            Family::V6 => IpAddr::V6(std::net::Ipv6Addr::LOCALHOST),
        };
        walk.packet.dport = port;
        "lo".clone_into(&mut walk.packet.interface);
    }
    if walk.packet.interface == "lo" {
        // Addresses were translated, or not, for good when it left.
        let mut arrived = pass_tables(plan, Hook::Prerouting, walk.packet, &[Table::Raw, Table::Mangle]);
        if arrived.fate == Fate::Passes {
            arrived.fate = walk.fate;
        }
        walk.why.append(&mut arrived.why);
        arrived.why = walk.why;
        return arrived;
    }
    walk
}

/// A packet that comes from outside.
pub fn arrive(plan: &Plan, packet: Packet) -> Walk {
    pass(plan, Hook::Prerouting, packet)
}

fn pass(plan: &Plan, hook: Hook, packet: Packet) -> Walk {
    pass_tables(plan, hook, packet, &Table::ALL)
}

fn pass_tables(plan: &Plan, hook: Hook, packet: Packet, tables: &[Table]) -> Walk {
    let mut walk = Walk { fate: Fate::Passes, packet, why: Vec::new() };
    let family = Family::of(walk.packet.destination);
    let Some((_, chains)) = plan.rules.iter().find(|(it, _)| *it == family) else { return walk };
    for table in tables {
        // Addresses are translated by the first packet of a connection.
        if *table == Table::Nat && (walk.packet.ct.established || walk.packet.ct.reply) {
            continue;
        }
        let proto = walk.packet.proto;
        let first =
            chains.iter().filter(|it| it.table == *table && it.hook == Some(hook) && it.proto == proto);
        for chain in first {
            follow(chains, chain, &mut walk);
            if walk.fate != Fate::Passes {
                return walk;
            }
        }
    }
    walk
}

fn follow(chains: &[Chain], chain: &Chain, walk: &mut Walk) {
    let mut next = Some(chain);
    // Chains hand on to later ones alone, so this ends.
    while let Some(chain) = next.take() {
        for rule in &chain.rules {
            if !rule.matches.iter().all(|it| is_true(it, &walk.packet)) {
                continue;
            }
            walk.why.push(rule.why);
            match rule.action {
                Action::Return => return,
                Action::Goto(name) => {
                    next = chains.iter().find(|it| it.name == name);
                    break;
                }
                Action::Redirect(port) => {
                    walk.fate = Fate::Redirected(port);
                    return;
                }
                Action::Tproxy { port, .. } => {
                    walk.fate = Fate::Tproxied(port);
                    return;
                }
                Action::SetMark(mark) => walk.packet.mark = mark,
                Action::SetCtMark(mark) => walk.packet.ct.mark = mark,
                Action::SaveMark => walk.packet.ct.mark = walk.packet.mark,
                Action::RestoreMark => walk.packet.mark = walk.packet.ct.mark,
                Action::Zone(zone) => walk.packet.ct.zone = zone,
            }
        }
    }
}

fn is_true(it: &Match, packet: &Packet) -> bool {
    match it {
        Match::Oif(names) | Match::Iif(names) => names.contains(&packet.interface),
        Match::OifNotLo | Match::IifNotLo => packet.interface != "lo",
        Match::Uid(ids) => packet.owner.is_some_and(|(uid, _)| ids.iter().any(|it| it.contains(uid))),
        Match::Gid(ids) => packet.owner.is_some_and(|(_, gid)| ids.iter().any(|it| it.contains(gid))),
        Match::Dport(ports) => ports.iter().any(|it| it.contains(packet.dport)),
        Match::Sport(port) => packet.sport == *port,
        Match::Daddr(nets) => nets.iter().any(|it| it.contains(&packet.destination)),
        Match::NotDaddr(net) => !net.contains(&packet.destination),
        Match::Saddr(net) => net.contains(&packet.source),
        Match::Mark(mark) => packet.mark == *mark,
        Match::NotMark(mark) => packet.mark != *mark,
        Match::CtMark(mark) => packet.ct.mark == *mark,
        Match::CtReply => packet.ct.reply,
        Match::CtNotNew => packet.ct.established || packet.ct.reply,
        Match::NotSyn => !packet.syn,
    }
}
