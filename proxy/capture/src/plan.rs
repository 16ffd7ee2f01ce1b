//! From options to rules. Pure; what it promises is tested packet by packet, on a model of the kernel (`simulate`) and in real namespaces.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::options::{Mode, Options, Range, Which};
use crate::rule::{Action, Chain, Family, Hook, Match, Proto, Rule, Table, Why};

/// The mark of the proxy's connections to the application that show the client's address (`original_src` has it in Istio's
/// configuration), and of what is to be delivered here whatever its address.
pub const MARK: u32 = 1337;
/// The mark of inbound connections that go to the proxy by TPROXY, and of the proxy's own to the pod's address, which are to.
pub const CAPTURED_MARK: u32 = 1338;
/// The routing table that delivers all addresses here.
pub const ROUTING_TABLE: u32 = 133;
/// The zone in which the proxy's own questions of DNS are tracked.
pub const DNS_ZONE: u16 = 1337;

const DNS: u16 = 53;

/// From where the proxy speaks to the application: Istio's address for inbound connections that do not show the client's.
pub const fn inbound_source(family: Family) -> IpAddr {
    match family {
        Family::V4 => IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)),
        Family::V6 => IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6)),
    }
}

/// Addresses within the pod; Istio's rules know 127.0.0.1 alone of them.
pub(crate) const fn loopback(family: Family) -> IpNet {
    match family {
        Family::V4 => IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
        Family::V6 => IpNet::new_assert(IpAddr::V6(Ipv6Addr::LOCALHOST), 128),
    }
}

/// All that is to be in a network namespace.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// The rules of each family that is captured.
    pub rules: Vec<(Family, Vec<Chain>)>,
    /// Whether packets with [`MARK`] are delivered here by [`ROUTING_TABLE`].
    pub routing: bool,
}

impl Plan {
    /// Makes one for these families.
    pub fn new(options: &Options, families: &[Family]) -> Self {
        let rules = families.iter().map(|family| (*family, chains(options, *family))).collect();
        Self { rules, routing: options.mode == Mode::Tproxy }
    }

    /// The families.
    pub fn families(&self) -> impl Iterator<Item = Family> + '_ {
        self.rules.iter().map(|(family, _)| *family)
    }

    /// Twelve digits by which the rules of a family are known again; a chain without rules has them in its name.
    pub fn fingerprint(&self, family: Family) -> String {
        let chains = self.rules.iter().find(|(it, _)| *it == family).map_or(&[][..], |(_, chains)| chains);
        let text = crate::nft::render_chains(chains, family);
        format!("{:012x}", xxhash_rust::xxh64::xxh64(text.as_bytes(), 0) >> 16)
    }
}

fn chains(options: &Options, family: Family) -> Vec<Chain> {
    let builder = Builder { options, family };
    let mut chains = Vec::new();
    if options.dns_port.is_some() {
        chains.extend(builder.dns_zones());
    }
    if options.mode == Mode::Tproxy {
        chains.extend(builder.tproxy_inbound());
        chains.push(builder.tproxy_port());
        chains.push(builder.tproxy_output());
    }
    if let Some(port) = options.dns_port {
        chains.extend(builder.dns(port));
    }
    if options.mode == Mode::Redirect {
        chains.extend(builder.inbound());
        chains.push(builder.inbound_port());
    }
    chains.extend(builder.outbound());
    chains
}

/// Chains that continue one another.
struct Chains {
    done: Vec<Chain>,
    now: Chain,
}

impl Chains {
    fn new(name: &'static str, table: Table, hook: Option<Hook>, proto: Proto) -> Self {
        Self { done: Vec::new(), now: Chain { name, table, hook, proto, rules: Vec::new() } }
    }

    fn rule(&mut self, matches: Vec<Match>, action: Action, why: Why) {
        self.now.rules.push(Rule { matches, action, why });
    }

    /// Only what one of these is true of goes on, in a chain of this name.
    fn only(&mut self, any: Vec<Match>, next: &'static str, why: &'static str) {
        for it in any {
            self.rule(vec![it], Action::Goto(next), Why::Works("included"));
        }
        self.rule(Vec::new(), Action::Return, Why::Bypass(why));
        let next = Chain { name: next, hook: None, rules: Vec::new(), ..self.now.clone() };
        self.done.push(std::mem::replace(&mut self.now, next));
    }

    fn end(mut self) -> Vec<Chain> {
        self.done.push(self.now);
        self.done
    }
}

struct Builder<'a> {
    options: &'a Options,
    family: Family,
}

impl Builder<'_> {
    /// Who is the proxy: each of them alone is enough.
    fn proxy(&self) -> Vec<Match> {
        let (uids, gids) = (&self.options.proxy_uids, &self.options.proxy_gids);
        owners(uids, gids)
    }

    fn proxy_source(&self) -> Match {
        Match::Saddr(inbound_source(self.family).into())
    }

    /// Interfaces that are left alone; `lo` is the pod's own, and stays unless it is named.
    fn interfaces(
        &self,
        chains: &mut Chains,
        next: &'static str,
        by: fn(Vec<String>) -> Match,
        why: [&'static str; 2],
    ) {
        let (include, exclude) = (&self.options.include_interfaces, &self.options.exclude_interfaces);
        if !exclude.is_empty() {
            chains.rule(vec![by(exclude.clone())], Action::Return, Why::Bypass(why[0]));
        }
        if !include.is_empty() {
            let mut names = include.clone();
            if !names.iter().any(|it| it == "lo") {
                names.push("lo".to_owned());
            }
            chains.only(vec![by(names)], next, why[1]);
        }
    }

    fn outbound_owners(&self, chains: &mut Chains, next: &'static str) {
        for it in owners(&self.options.exclude_uids, &self.options.exclude_gids) {
            chains.rule(vec![it], Action::Return, Why::Bypass("excluded user or group"));
        }
        let include = owners(&self.options.include_uids, &self.options.include_gids);
        if !include.is_empty() {
            chains.only(include, next, "user or group not included");
        }
    }

    /// First packets of connections that processes here open.
    fn outbound(&self) -> Vec<Chain> {
        let options = self.options;
        let mut chains = Chains::new("outbound", Table::Nat, Some(Hook::Output), Proto::Tcp);
        chains.rule(vec![Match::NotSyn], Action::Return, BEFORE);
        for it in self.proxy() {
            chains.rule(vec![it, Match::OifNotLo], Action::Return, Why::Works("of the proxy"));
        }
        self.interfaces(
            &mut chains,
            "outbound_via",
            Match::Oif,
            ["outbound, excluded interface", "outbound, interface not included"],
        );
        if !options.exclude_outbound_ports.is_empty() {
            chains.rule(
                vec![Match::Dport(options.exclude_outbound_ports.clone())],
                Action::Return,
                Why::Bypass("excluded outbound port"),
            );
        }
        // The proxy hands an inbound connection to the application.
        chains.rule(vec![lo(), self.proxy_source()], Action::Return, Why::Works("proxy to application"));
        if options.mode == Mode::Redirect {
            // The application asked for a service, and the proxy chose this very pod: that comes in like any other.
            for it in self.proxy() {
                chains.rule(
                    vec![it, lo(), Match::NotDaddr(loopback(self.family))],
                    Action::Goto("inbound_port"),
                    Why::Works("proxy to its own pod"),
                );
            }
        }
        for it in self.proxy() {
            chains.rule(vec![it], Action::Return, Why::Works("of the proxy"));
        }
        self.outbound_owners(&mut chains, "outbound_of");
        if let Some(port) = options.dns_port {
            let dns = Match::Dport(vec![Range::one(DNS)]);
            chains.rule(vec![dns], Action::Redirect(port), Why::Captured("DNS over TCP"));
        }
        chains.rule(vec![lo()], Action::Return, Why::Works("within the pod"));
        let of_family = |nets: &[IpNet]| -> Vec<IpNet> {
            nets.iter().filter(|it| Family::of(it.addr()) == self.family).copied().collect()
        };
        let exclude = of_family(&options.exclude_outbound_cidrs);
        if !exclude.is_empty() {
            chains.rule(
                vec![Match::Daddr(exclude)],
                Action::Return,
                Why::Bypass("excluded outbound address"),
            );
        }
        let captured = |chains: &mut Chains, matches| {
            chains.rule(matches, Action::Redirect(options.outbound_port), Why::Captured("outbound"));
        };
        if !options.include_outbound_ports.is_empty() {
            captured(&mut chains, vec![Match::Dport(options.include_outbound_ports.clone())]);
        }
        match &options.include_outbound_cidrs {
            Which::All => captured(&mut chains, Vec::new()),
            Which::Only(nets) => {
                let nets = of_family(nets);
                if !nets.is_empty() {
                    captured(&mut chains, vec![Match::Daddr(nets)]);
                }
                let why = Why::Bypass("outbound address not included");
                chains.rule(Vec::new(), Action::Return, why);
            }
        }
        chains.end()
    }

    /// First packets of connections from outside.
    fn inbound(&self) -> Vec<Chain> {
        let mut chains = Chains::new("inbound", Table::Nat, Some(Hook::Prerouting), Proto::Tcp);
        chains.rule(vec![Match::NotSyn], Action::Return, BEFORE);
        self.interfaces(&mut chains, "inbound_via", Match::Iif, INBOUND_INTERFACES);
        chains.rule(Vec::new(), Action::Goto("inbound_port"), Why::Works("by port"));
        chains.end()
    }

    /// The ports of the pod.
    fn inbound_port(&self) -> Chain {
        let mut chains = Chains::new("inbound_port", Table::Nat, None, Proto::Tcp);
        self.inbound_exclusions(&mut chains);
        let captured = Action::Redirect(self.options.inbound_port);
        match &self.options.include_inbound_ports {
            Which::All => chains.rule(Vec::new(), captured, Why::Captured("inbound")),
            Which::Only(ports) => {
                if !ports.is_empty() {
                    chains.rule(vec![Match::Dport(ports.clone())], captured, Why::Captured("inbound"));
                }
                chains.rule(Vec::new(), Action::Return, Why::Bypass(INBOUND_OTHER));
            }
        }
        chains.now
    }

    fn inbound_exclusions(&self, chains: &mut Chains) {
        let (own, exclude) = (&self.options.proxy_ports, &self.options.exclude_inbound_ports);
        if !own.is_empty() {
            chains.rule(vec![Match::Dport(own.clone())], Action::Return, Why::Works("port of the proxy"));
        }
        if !exclude.is_empty() {
            let why = Why::Bypass("excluded inbound port");
            chains.rule(vec![Match::Dport(exclude.clone())], Action::Return, why);
        }
    }

    /// All packets that arrive, under TPROXY. Rules from the interfaces on see first packets alone, so that their counters count flows.
    fn tproxy_inbound(&self) -> Vec<Chain> {
        let mut chains = Chains::new("tproxy_inbound", Table::Mangle, Some(Hook::Prerouting), Proto::Tcp);
        chains.rule(vec![Match::CtReply], Action::Return, Why::Works("answers"));
        // The proxy speaks to the application as the client: what the application answers must come back to the proxy.
        chains.rule(vec![Match::Mark(MARK)], Action::SaveMark, Why::Works("proxy to application"));
        chains.rule(vec![Match::Mark(MARK)], Action::Return, Why::Works("proxy to application"));
        let established = [Match::CtNotNew, Match::CtMark(CAPTURED_MARK)].into_iter().collect::<Vec<_>>();
        let port = self.options.inbound_port;
        chains.rule(established, Action::Tproxy { port, or_drop: false }, Why::Works("established"));
        chains.rule(vec![Match::CtNotNew], Action::Return, BEFORE);
        chains.rule(vec![Match::NotSyn], Action::Return, BEFORE);
        let within = vec![Match::Iif(vec!["lo".to_owned()]), Match::NotMark(CAPTURED_MARK)];
        chains.rule(within, Action::Return, Why::Works("within the pod"));
        self.interfaces(&mut chains, "tproxy_via", Match::Iif, INBOUND_INTERFACES);
        chains.rule(Vec::new(), Action::Goto("tproxy_port"), Why::Works("by port"));
        chains.end()
    }

    fn tproxy_port(&self) -> Chain {
        let mut chains = Chains::new("tproxy_port", Table::Mangle, None, Proto::Tcp);
        self.inbound_exclusions(&mut chains);
        let captured = Action::Tproxy { port: self.options.inbound_port, or_drop: true };
        let mark = (Action::SetCtMark(CAPTURED_MARK), Why::Works("captured from here on"));
        let (ports, others) = match &self.options.include_inbound_ports {
            Which::All => (Some(Vec::new()), false),
            Which::Only(ports) => ((!ports.is_empty()).then(|| vec![Match::Dport(ports.clone())]), true),
        };
        if let Some(matches) = ports {
            chains.rule(matches.clone(), mark.0, mark.1);
            chains.rule(matches, captured, Why::Captured("inbound"));
        }
        if others {
            chains.rule(Vec::new(), Action::Return, Why::Bypass(INBOUND_OTHER));
        }
        chains.now
    }

    /// All packets that leave, under TPROXY.
    fn tproxy_output(&self) -> Chain {
        let mut chains = Chains::new("tproxy_output", Table::Mangle, Some(Hook::Output), Proto::Tcp);
        chains.rule(vec![Match::Mark(MARK)], Action::Return, Why::Works("proxy to application"));
        let back = || vec![Match::CtMark(MARK)];
        chains.rule(back(), Action::RestoreMark, Why::Works("application to proxy"));
        chains.rule(back(), Action::Return, Why::Works("application to proxy"));
        chains.rule(vec![lo(), self.proxy_source()], Action::Return, Why::Works("proxy to application"));
        // As in `outbound`; what is left alone there is here, too.
        if !self.options.exclude_outbound_ports.is_empty() {
            let ports = Match::Dport(self.options.exclude_outbound_ports.clone());
            chains.rule(vec![ports], Action::Return, Why::Works("excluded outbound port"));
        }
        for it in self.proxy() {
            chains.rule(
                vec![it, lo(), Match::NotDaddr(loopback(self.family))],
                Action::SetMark(CAPTURED_MARK),
                Why::Works("proxy to its own pod"),
            );
        }
        chains.now
    }

    /// First packets of questions over UDP.
    fn dns(&self, port: u16) -> Vec<Chain> {
        let mut chains = Chains::new("dns", Table::Nat, Some(Hook::Output), Proto::Udp);
        for it in self.proxy() {
            chains.rule(vec![it], Action::Return, Why::Works("of the proxy"));
        }
        // Everything else that is UDP is not looked at, nor counted.
        let dns = Match::Dport(vec![Range::one(DNS)]);
        chains.rule(vec![dns], Action::Goto("dns_by"), Why::Works("DNS"));
        let next = Chain { name: "dns_by", hook: None, rules: Vec::new(), ..chains.now.clone() };
        chains.done.push(std::mem::replace(&mut chains.now, next));
        self.interfaces(
            &mut chains,
            "dns_via",
            Match::Oif,
            ["DNS, excluded interface", "DNS, interface not included"],
        );
        self.outbound_owners(&mut chains, "dns_of");
        chains.rule(Vec::new(), Action::Redirect(port), Why::Captured("DNS over UDP"));
        chains.end()
    }

    /// A question of the proxy's may have the very addresses and ports of one of the application's that was translated: apart, none is
    /// taken for the other.
    fn dns_zones(&self) -> [Chain; 2] {
        let zone = (Action::Zone(DNS_ZONE), Why::Works("DNS of the proxy"));
        let mut output = Chains::new("dns_zone_output", Table::Raw, Some(Hook::Output), Proto::Udp);
        for it in self.proxy() {
            output.rule(vec![it, Match::Dport(vec![Range::one(DNS)])], zone.0, zone.1);
        }
        let mut answers = Chains::new("dns_zone_inbound", Table::Raw, Some(Hook::Prerouting), Proto::Udp);
        answers.rule(vec![Match::IifNotLo, Match::Sport(DNS)], zone.0, zone.1);
        [output.now, answers.now]
    }
}

/// Connections from before the rules. Where nothing was tracked until then, their next packet is taken for the first of a new one.
const BEFORE: Why = Why::Works("from before");
const INBOUND_INTERFACES: [&str; 2] = ["inbound, excluded interface", "inbound, interface not included"];
const INBOUND_OTHER: &str = "inbound port not included";

fn lo() -> Match {
    Match::Oif(vec!["lo".to_owned()])
}

fn owners(uids: &[Range<u32>], gids: &[Range<u32>]) -> Vec<Match> {
    let uids = (!uids.is_empty()).then(|| Match::Uid(uids.to_vec()));
    uids.into_iter().chain((!gids.is_empty()).then(|| Match::Gid(gids.to_vec()))).collect()
}
