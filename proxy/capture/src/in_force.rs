//! What is in the kernel now: whose rules, of which plan, and what their counters say.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::iptables::{self, Present};
use crate::nft;
use crate::plan::{MARK, Plan, ROUTING_TABLE};
use crate::rule::Family;
use crate::system::{Backend, nft_table, rules_of};
use crate::tool::{Error, run};

/// A rule in the kernel: its chain in our spelling, its comment, and how many packets it has seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The chain, in lower case and without a prefix.
    pub chain: String,
    /// The comment: why it is there.
    pub comment: String,
    /// Packets, as its counter has them.
    pub packets: u64,
}

/// What is in the kernel of a family: who set it, the fingerprint, the rules.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InForce {
    /// What it was set by.
    pub backend: Backend,
    /// Of which plan, if that can be told.
    pub fingerprint: Option<String>,
    /// Its rules.
    pub rules: Vec<Seen>,
}

/// What is in force of a family, if something is.
///
/// # Errors
/// If no tool could tell.
pub fn in_force(family: Family) -> Result<Option<InForce>, Error> {
    let mut tried = Vec::new();
    for backend in Backend::ALL {
        let found = match backend {
            Backend::Nft => match nft_table(family) {
                Ok(text) => read_nft(&text).map(Some),
                Err(Error::Failed { said, .. }) if said.contains("No such file") => Ok(None),
                Err(error) => Err(error),
            },
            _ => run(&backend.program(family, "save"), &["-c"], "").map(|it| read_iptables(backend, &it)),
        };
        match found {
            Ok(Some(found)) => return Ok(Some(found)),
            Ok(None) => tried.push(None),
            Err(error) => tried.push(Some(error)),
        }
    }
    if tried.iter().any(Option::is_none) {
        return Ok(None);
    }
    let lines: Vec<_> = tried.into_iter().flatten().map(|it| it.to_string()).collect();
    Err(Error::NoBackend(lines.join("\n")))
}

fn read_nft(text: &str) -> Result<InForce, Error> {
    let odd = |what: &str| Error::Odd { command: "nft -j list table".to_owned(), what: what.to_owned() };
    let value: Value = serde_json::from_str(text).map_err(|error| odd(&error.to_string()))?;
    let entries = value.get("nftables").and_then(Value::as_array).ok_or_else(|| odd("no list"))?;
    let mut found = InForce { backend: Backend::Nft, fingerprint: None, rules: Vec::new() };
    for entry in entries {
        if let Some(name) = entry.pointer("/chain/name").and_then(Value::as_str) {
            found.fingerprint = name.strip_prefix("plan_").map(str::to_owned).or(found.fingerprint);
        }
        let Some(rule) = entry.get("rule") else { continue };
        let text = |name: &str| rule.get(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let counters = rule.get("expr").and_then(Value::as_array).into_iter().flatten();
        let packets = counters.filter_map(|it| it.pointer("/counter/packets")).find_map(Value::as_u64);
        // The first rule of a chain turns other protocols away, and says nothing.
        if let Some(packets) = packets {
            found.rules.push(Seen { chain: text("chain"), comment: text("comment"), packets });
        }
    }
    Ok(found)
}

fn read_iptables(backend: Backend, text: &str) -> Option<InForce> {
    let mut found = InForce { backend, fingerprint: None, rules: Vec::new() };
    let mut any = false;
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix(':').and_then(|it| it.strip_prefix(iptables::PREFIX)) {
            any = true;
            let name = rest.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
            found.fingerprint = name.strip_prefix("plan_").map(str::to_owned).or(found.fingerprint);
        }
        // `[packets:bytes] -A OUTRIDER_CHAIN ... --comment "why" ...`
        let Some((count, rule)) = line.strip_prefix('[').and_then(|it| it.split_once("] -A ")) else {
            continue;
        };
        let Some(rule) = rule.strip_prefix(iptables::PREFIX) else { continue };
        let chain = rule.split_whitespace().next().unwrap_or_default().to_ascii_lowercase();
        let comment = rule.split_once("--comment ").map_or("", |(_, it)| it);
        let comment = match comment.strip_prefix('"') {
            Some(quoted) => quoted.split('"').next(),
            None => comment.split_whitespace().next(),
        };
        let packets = count.split(':').next().and_then(|it| it.parse().ok()).unwrap_or(0);
        found.rules.push(Seen { chain, comment: comment.unwrap_or_default().to_owned(), packets });
    }
    any.then_some(found)
}

/// What is not as the plan has it; nothing if all is.
///
/// # Errors
/// If no tool could tell.
pub fn missing(plan: &Plan) -> Result<Vec<String>, Error> {
    let mut missing = Vec::new();
    for family in plan.families() {
        let Some(found) = in_force(family)? else {
            missing.push(format!("{family}: there are no rules"));
            continue;
        };
        let wanted = plan.fingerprint(family);
        if found.fingerprint.as_deref() != Some(wanted.as_str()) {
            missing.push(format!("{family}: the rules are those of other options (or of another version)"));
        } else if counts(&found.rules) != counts(&expected(plan, family, found.backend)) {
            missing.push(format!("{family}: somebody added or took away rules"));
        }
        if plan.routing && rules_of(family)?.is_empty() {
            missing
                .push(format!("{family}: packets with mark {MARK} are not routed by table {ROUTING_TABLE}"));
        }
    }
    Ok(missing)
}

fn expected(plan: &Plan, family: Family, backend: Backend) -> Vec<Seen> {
    let only = Plan {
        rules: plan.rules.iter().filter(|(it, _)| *it == family).cloned().collect(),
        routing: plan.routing,
    };
    let mut chain = String::new();
    let text = match backend {
        Backend::Nft => nft::render(&only, &[]),
        _ => iptables::render(&only, family, &Present::default()),
    };
    let mut rules = Vec::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("\tchain ") {
            name.trim_end_matches(" {").clone_into(&mut chain);
        }
        if let Some(name) = line.strip_prefix("-A ").and_then(|it| it.strip_prefix(iptables::PREFIX)) {
            chain = name.split(' ').next().unwrap_or_default().to_ascii_lowercase();
        }
        if let Some((_, comment)) = line.split_once("comment \"") {
            let comment = comment.split('"').next().unwrap_or_default().to_owned();
            rules.push(Seen { chain: chain.clone(), comment, packets: 0 });
        }
    }
    rules
}

fn counts(rules: &[Seen]) -> BTreeMap<(&str, &str), usize> {
    let mut counts = BTreeMap::new();
    for it in rules {
        *counts.entry((it.chain.as_str(), it.comment.as_str())).or_default() += 1;
    }
    counts
}
