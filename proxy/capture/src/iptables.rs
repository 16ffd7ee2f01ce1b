//! The rules as `iptables-restore --noflush` reads them: chains of our own, and a jump into them from the kernel's.
//!
//! Each table is one transaction. Chains that are declared are emptied by it, so what was there is replaced; jumps that are there
//! already, and chains that are not wanted any more, are known from `iptables-save` ([`Present`]).

use std::collections::BTreeSet;
use std::fmt::{Display, Write as _};

use crate::options::Range;
use crate::plan::{MARK, Plan};
use crate::rule::{Action, Chain, Family, Match, Rule, Table};

/// What our chains begin with.
pub(crate) const PREFIX: &str = "OUTRIDER_";

/// What of ours is in a namespace now, of one family.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Present {
    chains: BTreeSet<(Table, String)>,
    /// Jumps from chains of others, as `iptables-save` writes them, from the name of the chain on.
    jumps: Vec<(Table, String)>,
}

impl Present {
    /// Reads what `iptables-save` says.
    pub fn read(saved: &str) -> Self {
        let mut present = Self::default();
        let mut table = None;
        for line in saved.lines() {
            if let Some(name) = line.strip_prefix('*') {
                table = Table::ALL.into_iter().find(|it| it.as_str() == name.trim());
            }
            let Some(table) = table else { continue };
            if let Some(rest) = line.strip_prefix(':') {
                let name = rest.split_whitespace().next().unwrap_or_default();
                if name.starts_with(PREFIX) {
                    present.chains.insert((table, name.to_owned()));
                }
            } else if let Some(rest) = line.strip_prefix("-A ")
                && !rest.starts_with(PREFIX)
                && (rest.contains("-j OUTRIDER_") || rest.contains("-g OUTRIDER_"))
            {
                present.jumps.push((table, rest.to_owned()));
            }
        }
        present
    }

    /// Whether there is nothing of ours.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.jumps.is_empty()
    }
}

/// What `iptables-restore --noflush` reads: after it there are the chains of this family, and nothing else of ours.
pub fn render(plan: &Plan, family: Family, present: &Present) -> String {
    let chains = plan.rules.iter().find(|(it, _)| *it == family).map_or(&[][..], |(_, chains)| chains);
    let mut text = String::new();
    for table in Table::ALL {
        let wanted: Vec<_> = chains.iter().filter(|it| it.table == table).collect();
        let mut names: BTreeSet<_> = wanted.iter().map(|it| name(it.name)).collect();
        if table == Table::Nat && !wanted.is_empty() {
            names.insert(name(&format!("plan_{}", plan.fingerprint(family))));
        }
        let gone: Vec<_> = present
            .chains
            .iter()
            .filter(|(at, it)| *at == table && !names.contains(it))
            .map(|(_, it)| it)
            .collect();
        let jumps = present.jumps.iter().filter(|(at, _)| *at == table).map(|(_, it)| it);
        let jumps: Vec<_> = jumps.collect();
        if wanted.is_empty() && gone.is_empty() && jumps.is_empty() {
            continue;
        }
        let _ = writeln!(text, "*{}", table.as_str());
        for it in names.iter().chain(gone.iter().copied()) {
            let _ = writeln!(text, ":{it} - [0:0]");
        }
        for it in jumps {
            let _ = writeln!(text, "-D {it}");
        }
        for chain in &wanted {
            for rule in &chain.rules {
                render_rule(&mut text, chain, rule);
            }
        }
        for chain in &wanted {
            if let Some(hook) = chain.hook {
                let (hook, proto, name) = (hook.iptables(), chain.proto.as_str(), name(chain.name));
                let _ = writeln!(text, "-A {hook} -p {proto} -j {name}");
            }
        }
        for it in gone {
            let _ = writeln!(text, "-X {it}");
        }
        text.push_str("COMMIT\n");
    }
    text
}

/// The name that a chain has in the kernel.
pub(crate) fn name(chain: &str) -> String {
    format!("{PREFIX}{}", chain.to_ascii_uppercase())
}

/// One line for each combination of what the conditions list.
fn render_rule(text: &mut String, chain: &Chain, rule: &Rule) {
    let mut lines = vec![format!("-A {} -p {}", name(chain.name), chain.proto.as_str())];
    for it in &rule.matches {
        let forms = render_match(it);
        lines =
            lines.iter().flat_map(|line| forms.iter().map(move |form| format!("{line} {form}"))).collect();
    }
    for line in lines {
        let comment = rule.why.comment();
        let _ = writeln!(text, "{line} -m comment --comment \"{comment}\" {}", target(rule.action));
    }
}

fn render_match(it: &Match) -> Vec<String> {
    fn each<T: Display>(entries: &[T], flag: &str) -> Vec<String> {
        entries.iter().map(|it| format!("{flag} {it}")).collect()
    }
    match it {
        Match::Oif(names) => each(names, "-o"),
        Match::OifNotLo => vec!["! -o lo".to_owned()],
        Match::Iif(names) => each(names, "-i"),
        Match::IifNotLo => vec!["! -i lo".to_owned()],
        Match::Uid(ids) => each(ids, "-m owner --uid-owner"),
        Match::Gid(ids) => each(ids, "-m owner --gid-owner"),
        Match::Dport(ports) => ports.iter().map(|it| format!("--dport {}", colon(it))).collect(),
        Match::Sport(port) => vec![format!("--sport {port}")],
        Match::Daddr(nets) => each(nets, "-d"),
        Match::NotDaddr(net) => vec![format!("! -d {net}")],
        Match::Saddr(net) => vec![format!("-s {net}")],
        Match::Mark(mark) => vec![format!("-m mark --mark {mark}")],
        Match::NotMark(mark) => vec![format!("-m mark ! --mark {mark}")],
        Match::CtMark(mark) => vec![format!("-m connmark --mark {mark}")],
        Match::CtReply => vec!["-m conntrack --ctdir REPLY".to_owned()],
        Match::CtNotNew => vec!["-m conntrack ! --ctstate NEW".to_owned()],
        Match::NotSyn => vec!["! --syn".to_owned()],
    }
}

fn colon(range: &Range<u16>) -> String {
    range.to_string().replace('-', ":")
}

fn target(action: Action) -> String {
    match action {
        Action::Return => "-j RETURN".to_owned(),
        Action::Goto(chain) => format!("-g {}", name(chain)),
        Action::Redirect(port) => format!("-j REDIRECT --to-ports {port}"),
        Action::Tproxy { port, .. } => format!("-j TPROXY --on-port {port} --tproxy-mark {MARK}"),
        Action::SetMark(mark) => format!("-j MARK --set-mark {mark}"),
        Action::SetCtMark(mark) => format!("-j CONNMARK --set-mark {mark}"),
        Action::SaveMark => "-j CONNMARK --save-mark".to_owned(),
        Action::RestoreMark => "-j CONNMARK --restore-mark".to_owned(),
        Action::Zone(zone) => format!("-j CT --zone {zone}"),
    }
}
