//! The rules as nftables has them: a table `outrider` for each family, in one transaction that takes the place of what was there.

use std::fmt::{Display, Write as _};

use crate::options::Range;
use crate::plan::{MARK, Plan};
use crate::rule::{Action, Chain, Family, Hook, Match, Rule, Table};

/// The table's name.
pub(crate) const TABLE: &str = "outrider";

/// What `nft -f -` reads. What is not in the plan (a family that is not captured any more) goes, if `gone` names it.
pub fn render(plan: &Plan, gone: &[Family]) -> String {
    let mut text = String::new();
    for family in gone {
        delete(&mut text, *family);
    }
    for (family, chains) in &plan.rules {
        delete(&mut text, *family);
        let _ = writeln!(text, "table {} {TABLE} {{", family.nft());
        let rules = render_chains(chains, *family);
        let _ = writeln!(text, "\tchain plan_{} {{\n\t}}", plan.fingerprint(*family));
        text.push_str(&rules);
        text.push_str("}\n");
    }
    text
}

/// What takes the table away; it does not mind if there is none.
pub(crate) fn delete(text: &mut String, family: Family) {
    let _ = writeln!(text, "add table {0} {TABLE}\ndelete table {0} {TABLE}", family.nft());
}

/// The chains alone.
pub(crate) fn render_chains(chains: &[Chain], family: Family) -> String {
    let mut text = String::new();
    for chain in chains {
        render_chain(&mut text, chain, family);
    }
    text
}

fn render_chain(text: &mut String, chain: &Chain, family: Family) {
    let _ = writeln!(text, "\tchain {} {{", chain.name);
    if let Some(hook) = chain.hook {
        let (kind, priority) = match (chain.table, hook) {
            (Table::Raw, _) => ("filter", -300),
            (Table::Mangle, Hook::Prerouting) => ("filter", -150),
            // A new mark may mean another route.
            (Table::Mangle, Hook::Output) => ("route", -150),
            (Table::Nat, _) => ("nat", -100),
        };
        let hook = hook.nft();
        let _ = writeln!(text, "\t\ttype {kind} hook {hook} priority {priority}; policy accept;");
        let _ = writeln!(text, "\t\tmeta l4proto != {} return", chain.proto.as_str());
    }
    for rule in &chain.rules {
        let mut line = String::new();
        for it in &rule.matches {
            line.push_str(&render_match(it, chain, family));
            line.push(' ');
        }
        for (action, comment) in actions(rule, chain) {
            let _ = writeln!(text, "\t\t{line}{action} comment \"{comment}\"");
        }
    }
    text.push_str("\t}\n");
}

fn render_match(it: &Match, chain: &Chain, family: Family) -> String {
    let (ip, proto) = (family.nft(), chain.proto.as_str());
    match it {
        Match::Oif(names) => format!("oifname {}", set(&quoted(names))),
        Match::OifNotLo => "oifname != \"lo\"".to_owned(),
        Match::Iif(names) => format!("iifname {}", set(&quoted(names))),
        Match::IifNotLo => "iifname != \"lo\"".to_owned(),
        Match::Uid(ids) => format!("meta skuid {}", set(ids)),
        Match::Gid(ids) => format!("meta skgid {}", set(ids)),
        Match::Dport(ports) => format!("{proto} dport {}", set::<Range<u16>>(ports)),
        Match::Sport(port) => format!("{proto} sport {port}"),
        Match::Daddr(nets) => format!("{ip} daddr {}", set(nets)),
        Match::NotDaddr(net) => format!("{ip} daddr != {net}"),
        Match::Saddr(net) => format!("{ip} saddr {net}"),
        Match::Mark(mark) => format!("meta mark {mark}"),
        Match::NotMark(mark) => format!("meta mark != {mark}"),
        Match::CtMark(mark) => format!("ct mark {mark}"),
        Match::CtReply => "ct direction reply".to_owned(),
        Match::CtNotNew => "ct state != new".to_owned(),
        Match::NotSyn => "tcp flags & (fin | syn | rst | ack) != syn".to_owned(),
    }
}

/// What is done, and the comment: one rule, or two, where nftables needs them.
fn actions(rule: &Rule, chain: &Chain) -> Vec<(String, String)> {
    let proto = chain.proto.as_str();
    let action = match rule.action {
        Action::Return => "counter return".to_owned(),
        Action::Goto(next) => format!("counter goto {next}"),
        Action::Redirect(port) => format!("meta l4proto {proto} counter redirect to :{port}"),
        Action::Tproxy { port, .. } => {
            format!("meta l4proto {proto} tproxy to :{port} meta mark set {MARK} counter accept")
        }
        Action::SetMark(mark) => format!("counter meta mark set {mark}"),
        Action::SetCtMark(mark) => format!("counter ct mark set {mark}"),
        Action::SaveMark => "counter ct mark set meta mark".to_owned(),
        Action::RestoreMark => "counter meta mark set ct mark".to_owned(),
        Action::Zone(zone) => format!("counter ct zone set {zone}"),
    };
    let mut rules = vec![(action, rule.why.comment())];
    if matches!(rule.action, Action::Tproxy { or_drop: true, .. }) {
        // Where nothing listens nftables goes on to the next rule, and the packet would find the application.
        rules.push(("counter drop".to_owned(), "dropped: no transparent listener".to_owned()));
    }
    rules
}

fn quoted(names: &[String]) -> Vec<String> {
    names.iter().map(|it| format!("\"{it}\"")).collect()
}

fn set<T: Display>(entries: &[T]) -> String {
    match entries {
        [one] => one.to_string(),
        more => {
            let more: Vec<_> = more.iter().map(T::to_string).collect();
            format!("{{ {} }}", more.join(", "))
        }
    }
}
