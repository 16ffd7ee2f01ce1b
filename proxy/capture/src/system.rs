//! The namespace that this thread is in: what is there, what to put there, what to take away.

use std::fs;
use std::path::Path;

use crate::iptables::{self, Present};
use crate::nft;
use crate::options::Options;
use crate::plan::{MARK, Plan, ROUTING_TABLE, inbound_source};
use crate::rule::Family;
use crate::tool::{Error, run};

/// Which tool is to be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Choice {
    /// nftables where they work, else iptables.
    #[default]
    Auto,
    /// nftables.
    Nft,
    /// iptables: `iptables-restore`, or `iptables-legacy-restore` where the kernel has the old tables alone.
    Iptables,
    /// `iptables-legacy-restore`.
    IptablesLegacy,
}

/// What sets the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Backend {
    /// `nft`.
    Nft,
    /// `iptables-restore` and `ip6tables-restore`.
    Iptables,
    /// `iptables-legacy-restore` and `ip6tables-legacy-restore`.
    IptablesLegacy,
}

impl Backend {
    pub(crate) const ALL: [Self; 3] = [Self::Nft, Self::Iptables, Self::IptablesLegacy];

    /// Its name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nft => "nft",
            Self::Iptables => "iptables",
            Self::IptablesLegacy => "iptables-legacy",
        }
    }

    pub(crate) fn program(self, family: Family, what: &str) -> String {
        let ip = match family {
            Family::V4 => "iptables",
            Family::V6 => "ip6tables",
        };
        let legacy = if self == Self::IptablesLegacy { "-legacy" } else { "" };
        format!("{ip}{legacy}-{what}")
    }
}

const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

/// What was done, in words for the log.
pub type Notes = Vec<String>;

/// The families that are captured under these options, and why one is not.
pub fn families(options: &Options) -> (Vec<Family>, Notes) {
    if !options.ipv6 {
        return (vec![Family::V4], Vec::new());
    }
    if Path::new("/proc/thread-self/net/if_inet6").exists() {
        return (FAMILIES.to_vec(), Vec::new());
    }
    (vec![Family::V4], vec!["IPv6 is left out: the kernel has none".to_owned()])
}

/// Sets up what the options say, in place of whatever of ours was there. Rules are in force family by family (iptables: table by table)
/// or not at all; all of them are tried before the first is.
///
/// # Errors
/// If nothing can set rules here, or a tool fails.
pub fn apply(options: &Options, choice: Choice) -> Result<(Backend, Notes), Error> {
    let (families, mut notes) = families(options);
    let plan = Plan::new(options, &families);
    let backend = choose(&plan, choice, &mut notes)?;
    add_addresses(&plan, &mut notes)?;
    match backend {
        Backend::Nft => {
            let not_wanted = FAMILIES.into_iter().filter(|it| !families.contains(it));
            let gone: Vec<_> = not_wanted.filter(|it| nft_table(*it).is_ok()).collect();
            run("nft", &["-f", "-"], &nft::render(&plan, &gone))?;
        }
        _ => {
            for family in FAMILIES {
                restore(backend, family, &plan)?;
            }
        }
    }
    // What was set by another tool is still there; until here it has done the same.
    for other in Backend::ALL.into_iter().filter(|it| *it != backend) {
        if take_away(other)? {
            notes.push(format!("rules of {} are gone", other.as_str()));
        }
    }
    let unrouted = FAMILIES.into_iter().filter(|it| !plan.routing || !families.contains(it));
    remove_routing(&unrouted.collect::<Vec<_>>())?;
    if !families.contains(&Family::V6) {
        remove_address(&mut notes)?;
    }
    Ok((backend, notes))
}

/// Takes all away that [`apply`] sets up, by whatever tool; what was not there is not missed.
///
/// # Errors
/// If a tool fails.
pub fn remove() -> Result<Notes, Error> {
    let mut notes = Vec::new();
    for backend in Backend::ALL {
        if take_away(backend)? {
            notes.push(format!("rules of {} are gone", backend.as_str()));
        }
    }
    remove_routing(&FAMILIES)?;
    remove_address(&mut notes)?;
    Ok(notes)
}

fn remove_address(notes: &mut Notes) -> Result<(), Error> {
    let ours = format!("{}/128", inbound_source(Family::V6));
    let shown = ["-6", "-o", "address", "show", "dev", "lo", "to", ours.as_str()];
    if tolerate_missing(run("ip", &shown, ""))?.is_some_and(|it| !it.trim().is_empty()) {
        run("ip", &["-6", "address", "del", &ours, "dev", "lo"], "")?;
        notes.push(format!("{ours} is gone from lo"));
    }
    Ok(())
}

/// What can set the plan: it is tried, not guessed.
fn choose(plan: &Plan, choice: Choice, notes: &mut Notes) -> Result<Backend, Error> {
    let candidates: &[Backend] = match choice {
        Choice::Auto => &Backend::ALL,
        Choice::Nft => &[Backend::Nft],
        Choice::Iptables => &[Backend::Iptables, Backend::IptablesLegacy],
        Choice::IptablesLegacy => &[Backend::IptablesLegacy],
    };
    let mut tried = Vec::new();
    for backend in candidates {
        let outcome = match backend {
            Backend::Nft => run("nft", &["--check", "-f", "-"], &nft::render(plan, &[])).map(drop),
            _ => FAMILIES.into_iter().try_for_each(|family| try_restore(*backend, family, plan)),
        };
        match outcome {
            Ok(()) => {
                notes.extend(tried);
                return Ok(*backend);
            }
            Err(error) => tried.push(format!("{} is not used: {error}", backend.as_str())),
        }
    }
    Err(Error::NoBackend(tried.join("\n")))
}

fn present(backend: Backend, family: Family) -> Result<Present, Error> {
    run(&backend.program(family, "save"), &[], "").map(|it| Present::read(&it))
}

fn try_restore(backend: Backend, family: Family, plan: &Plan) -> Result<(), Error> {
    if !plan.families().any(|it| it == family) {
        return Ok(());
    }
    let text = iptables::render(plan, family, &present(backend, family)?);
    run(&backend.program(family, "restore"), &["--test", "--noflush", "--wait"], &text).map(drop)
}

fn restore(backend: Backend, family: Family, plan: &Plan) -> Result<(), Error> {
    let present = match present(backend, family) {
        Err(_) if !plan.families().any(|it| it == family) => return Ok(()),
        other => other?,
    };
    let text = iptables::render(plan, family, &present);
    if text.is_empty() {
        return Ok(());
    }
    run(&backend.program(family, "restore"), &["--noflush", "--wait"], &text).map(drop)
}

/// Whether there was something of ours.
fn take_away(backend: Backend) -> Result<bool, Error> {
    let mut any = false;
    for family in FAMILIES {
        if backend == Backend::Nft {
            match nft_table(family) {
                Ok(_) => {
                    let mut text = String::new();
                    nft::delete(&mut text, family);
                    run("nft", &["-f", "-"], &text)?;
                    any = true;
                }
                // Who may not look gets no answer to "is it gone?".
                Err(error @ Error::Failed { .. }) if error.to_string().contains("not permitted") => {
                    return Err(error);
                }
                Err(_) => {}
            }
            continue;
        }
        // No such tool, or not for this kernel: it has set nothing.
        let Ok(present) = present(backend, family) else { continue };
        if present.is_empty() {
            continue;
        }
        let none = Plan { rules: Vec::new(), routing: false };
        let text = iptables::render(&none, family, &present);
        run(&backend.program(family, "restore"), &["--noflush", "--wait"], &text)?;
        any = true;
    }
    Ok(any)
}

pub(crate) fn nft_table(family: Family) -> Result<String, Error> {
    run("nft", &["-j", "list", "table", family.nft(), nft::TABLE], "")
}

/// Commands of `ip(8)`, without the program, that the plan needs. They may be given again.
pub fn address_commands(plan: &Plan) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    let mut add = |line: String| commands.push(line.split(' ').map(str::to_owned).collect());
    for family in plan.families() {
        if family == Family::V6 {
            // All of 127.0.0.0/8 is here anyway. Deprecated: it is nobody's source who did not ask for it.
            let address = inbound_source(family);
            add(format!("-6 address replace {address}/128 dev lo preferred_lft 0"));
        }
        if plan.routing {
            let flag = family.flag();
            add(format!("{flag} rule add fwmark {MARK} lookup {ROUTING_TABLE}"));
            add(format!("{flag} route replace local default dev lo table {ROUTING_TABLE}"));
        }
    }
    commands
}

fn add_addresses(plan: &Plan, notes: &mut Notes) -> Result<(), Error> {
    let disabled =
        fs::read_to_string("/proc/sys/net/ipv6/conf/lo/disable_ipv6").is_ok_and(|it| it.trim() == "1");
    for command in address_commands(plan) {
        let args: Vec<_> = command.iter().map(String::as_str).collect();
        let v6 = args.first() == Some(&"-6");
        if v6 && disabled {
            let line = args.join(" ");
            notes.push(format!("IPv6 is off for lo (net.ipv6.conf.lo.disable_ipv6), so not done: ip {line}"));
            continue;
        }
        if args.get(1) == Some(&"rule") && !rules_of(if v6 { Family::V6 } else { Family::V4 })?.is_empty() {
            continue;
        }
        match run("ip", &args, "") {
            Err(Error::Missing(_)) if !plan.routing => {
                notes.push(format!(
                    "there is no ip(8), so lo has no {}: inbound connections over IPv6 will not find the application",
                    inbound_source(Family::V6)
                ));
            }
            other => drop(other?),
        }
    }
    Ok(())
}

/// Our routing rules.
pub(crate) fn rules_of(family: Family) -> Result<Vec<String>, Error> {
    let shown = run("ip", &[family.flag(), "rule", "show"], "")?;
    let ours = format!("fwmark {MARK:#x} lookup {ROUTING_TABLE}");
    Ok(shown.lines().filter(|it| it.contains(&ours)).map(str::to_owned).collect())
}

fn remove_routing(families: &[Family]) -> Result<(), Error> {
    let (mark, table) = (MARK.to_string(), ROUTING_TABLE.to_string());
    for family in families {
        let flag = family.flag();
        // Without the tool there were never rules; without IPv6 there are none.
        let Ok(rules) = rules_of(*family) else { continue };
        if rules.is_empty() {
            continue;
        }
        for _ in rules {
            run("ip", &[flag, "rule", "del", "fwmark", &mark, "lookup", &table], "")?;
        }
        // With `lo` down it has gone already.
        let _ = run("ip", &[flag, "route", "del", "local", "default", "dev", "lo", "table", &table], "");
    }
    Ok(())
}

fn tolerate_missing(outcome: Result<String, Error>) -> Result<Option<String>, Error> {
    match outcome {
        Ok(text) => Ok(Some(text)),
        Err(Error::Missing(_)) => Ok(None),
        // No IPv6.
        Err(Error::Failed { said, .. }) if !said.contains("not permitted") => Ok(None),
        Err(error) => Err(error),
    }
}
