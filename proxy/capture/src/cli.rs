//! `outrider capture`: the command line.

use std::io::{Read as _, Write};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand, ValueEnum};

use crate::iptables::{self, Present};
use crate::options::Options;
use crate::plan::Plan;
use crate::rule::Family;
use crate::system::{self, Choice};
use crate::{cni, in_force, nft, verify};

/// What is done with the capture of this network namespace.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Set it up, in place of what was set up before.
    Apply {
        /// What is captured.
        #[command(flatten)]
        settings: Box<Settings>,
        /// What sets the rules.
        #[arg(long, value_enum, default_value_t = BackendArg::Auto)]
        backend: BackendArg,
    },
    /// Take all of it away.
    Remove,
    /// Show the rules that `apply` would set, and change nothing.
    Print {
        /// What is captured.
        #[command(flatten)]
        settings: Box<Settings>,
        /// For what; auto is nft.
        #[arg(long, value_enum, default_value_t = BackendArg::Auto)]
        backend: BackendArg,
    },
    /// Try whether traffic arrives; exits with 1 unless it is seen to. Takes the options that `apply` was given.
    Verify {
        /// What is captured.
        #[command(flatten)]
        settings: Box<Settings>,
        /// Look at the rules alone, and connect nowhere.
        #[arg(long)]
        rules_only: bool,
        /// Show how many connections were captured, and how many bypassed the proxy, by reason.
        #[arg(long)]
        counters: bool,
    },
    /// Run as a CNI plugin (specification 1.0.0): CNI_* in the environment, the configuration on standard input.
    Cni,
}

/// What sets the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum BackendArg {
    /// nftables where they work, else iptables.
    Auto,
    /// nftables.
    Nft,
    /// iptables: on nftables or legacy, whichever the kernel takes.
    Iptables,
    /// iptables' legacy form.
    IptablesLegacy,
}

/// What is captured. Lists are separated by commas, and ranges are FIRST-LAST.
#[derive(Debug, Default, Args)]
pub struct Settings {
    /// How inbound connections come to the proxy: redirect (default) or tproxy (addresses stay).
    #[arg(long, value_name = "redirect|tproxy")]
    mode: Option<String>,
    /// Capture IPv6 where the kernel has it (auto, the default), or leave it alone (off).
    #[arg(long, value_name = "auto|off")]
    ipv6: Option<String>,
    /// Users that are the proxy [default: 1337].
    #[arg(long, value_name = "UIDS")]
    proxy_uid: Option<String>,
    /// Groups that are the proxy [default: 1337].
    #[arg(long, value_name = "GIDS")]
    proxy_gid: Option<String>,
    /// Ports of the proxy's own that others reach without it [default: 15020,15021,15090].
    #[arg(long, value_name = "PORTS")]
    proxy_ports: Option<String>,
    /// Where outbound connections go [default: 15001].
    #[arg(long, value_name = "PORT")]
    outbound_port: Option<String>,
    /// Where inbound connections go [default: 15006].
    #[arg(long, value_name = "PORT")]
    inbound_port: Option<String>,
    /// Where questions of DNS go (UDP and TCP), to a server on 127.0.0.1 and ::1; without it they are not captured.
    #[arg(long, value_name = "PORT")]
    dns_port: Option<String>,
    /// Networks to which connections are captured; * is all (default), nothing is none.
    #[arg(long, value_name = "CIDRS")]
    include_outbound_cidrs: Option<String>,
    /// Networks to which connections are not captured.
    #[arg(long, value_name = "CIDRS")]
    exclude_outbound_cidrs: Option<String>,
    /// Ports to which connections are captured, whatever network they go to.
    #[arg(long, value_name = "PORTS")]
    include_outbound_ports: Option<String>,
    /// Ports to which connections are not captured.
    #[arg(long, value_name = "PORTS")]
    exclude_outbound_ports: Option<String>,
    /// Ports of the pod that are captured; * is all (default), nothing is none.
    #[arg(long, value_name = "PORTS")]
    include_inbound_ports: Option<String>,
    /// Ports of the pod that are not captured.
    #[arg(long, value_name = "PORTS")]
    exclude_inbound_ports: Option<String>,
    /// Interfaces whose traffic alone is captured.
    #[arg(long, value_name = "NAMES")]
    include_interfaces: Option<String>,
    /// Interfaces whose traffic is not captured.
    #[arg(long, value_name = "NAMES")]
    exclude_interfaces: Option<String>,
    /// Users whose connections alone are captured (with --include-gids: those of either).
    #[arg(long, value_name = "UIDS")]
    include_uids: Option<String>,
    /// Users whose connections are not captured.
    #[arg(long, value_name = "UIDS")]
    exclude_uids: Option<String>,
    /// Groups whose connections alone are captured (with --include-uids: those of either).
    #[arg(long, value_name = "GIDS")]
    include_gids: Option<String>,
    /// Groups whose connections are not captured.
    #[arg(long, value_name = "GIDS")]
    exclude_gids: Option<String>,
}

impl Settings {
    fn options(self) -> Result<Options> {
        let Self {
            mode,
            ipv6,
            proxy_uid,
            proxy_gid,
            proxy_ports,
            outbound_port,
            inbound_port,
            dns_port,
            include_outbound_cidrs,
            exclude_outbound_cidrs,
            include_outbound_ports,
            exclude_outbound_ports,
            include_inbound_ports,
            exclude_inbound_ports,
            include_interfaces,
            exclude_interfaces,
            include_uids,
            exclude_uids,
            include_gids,
            exclude_gids,
        } = self;
        // In the order of `NAMES`.
        let values = [
            mode,
            ipv6,
            proxy_uid,
            proxy_gid,
            proxy_ports,
            outbound_port,
            inbound_port,
            dns_port,
            include_outbound_cidrs,
            exclude_outbound_cidrs,
            include_outbound_ports,
            exclude_outbound_ports,
            include_inbound_ports,
            exclude_inbound_ports,
            include_interfaces,
            exclude_interfaces,
            include_uids,
            exclude_uids,
            include_gids,
            exclude_gids,
        ];
        let given = crate::options::NAMES.into_iter().zip(values).filter_map(|(name, it)| Some((name, it?)));
        Options::parse(given).map_err(|problems| {
            let lines: Vec<_> = problems.0.iter().map(|it| format!("--{it}")).collect();
            anyhow::anyhow!("{}", lines.join("\n"))
        })
    }
}

impl From<BackendArg> for Choice {
    fn from(arg: BackendArg) -> Self {
        match arg {
            BackendArg::Auto => Self::Auto,
            BackendArg::Nft => Self::Nft,
            BackendArg::Iptables => Self::Iptables,
            BackendArg::IptablesLegacy => Self::IptablesLegacy,
        }
    }
}

/// Does it; what it says goes to `out`. False is an answer that is no: `verify` failed, or the CNI call did.
///
/// # Errors
/// If the options do not work, or capture could not be set up or taken away.
pub fn run(command: Command, out: &mut dyn Write) -> Result<bool> {
    match command {
        Command::Apply { settings, backend } => {
            let (backend, notes) = system::apply(&settings.options()?, backend.into())?;
            for note in notes {
                writeln!(out, "{note}")?;
            }
            writeln!(out, "capture is set up by {}", backend.as_str())?;
        }
        Command::Remove => {
            let notes = system::remove()?;
            if notes.is_empty() {
                writeln!(out, "there was nothing to take away")?;
            }
            for note in notes {
                writeln!(out, "{note}")?;
            }
        }
        Command::Print { settings, backend } => {
            out.write_all(print(&settings.options()?, backend).as_bytes())?
        }
        Command::Verify { settings, rules_only, counters } => {
            let options = settings.options()?;
            let mut findings = vec![verify::rules(&options)];
            if !rules_only {
                findings.extend(verify::traffic(&options));
            }
            for finding in &findings {
                writeln!(out, "{finding}")?;
            }
            if counters {
                show_counters(out)?;
            }
            // Rules in place prove nothing about traffic, if that was asked about.
            let traffic = findings.get(usize::from(!rules_only)..).unwrap_or_default();
            let holds = verify::holds(&findings) && verify::holds(traffic);
            let all = findings.iter().all(|it| it.verdict == verify::Verdict::Works);
            let verdict = match (holds, all) {
                (true, true) => "capture works",
                (true, false) => "capture works as far as it could be tried here",
                (false, _) => "capture is NOT proven",
            };
            writeln!(out, "{verdict}")?;
            return Ok(holds);
        }
        Command::Cni => return plugin(out),
    }
    Ok(true)
}

/// The plugin, as the runtime calls it.
///
/// # Errors
/// If standard input or output fails.
pub fn plugin(out: &mut dyn Write) -> Result<bool> {
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input).context("reading the network configuration")?;
    match cni::run(&cni::Call::from_env(), &input) {
        Ok(answer) if answer.is_empty() => {}
        Ok(answer) => writeln!(out, "{answer}")?,
        Err(failure) => {
            writeln!(out, "{}", failure.to_json())?;
            return Ok(false);
        }
    }
    Ok(true)
}

/// The rules as text, the same on every machine: as if there were IPv6, and nothing of ours were there.
pub fn print(options: &Options, backend: BackendArg) -> String {
    let families: &[Family] = if options.ipv6 { &[Family::V4, Family::V6] } else { &[Family::V4] };
    let plan = Plan::new(options, families);
    let mut text = String::new();
    for command in system::address_commands(&plan) {
        text.push_str(&format!("# ip {}\n", command.join(" ")));
    }
    if matches!(backend, BackendArg::Iptables | BackendArg::IptablesLegacy) {
        let form = if backend == BackendArg::Iptables { "" } else { "-legacy" };
        for family in families {
            let program = if *family == Family::V4 { "iptables" } else { "ip6tables" };
            text.push_str(&format!("# {program}{form}-restore --noflush --wait\n"));
            text.push_str(&iptables::render(&plan, *family, &Present::default()));
        }
    } else {
        text.push_str("# nft -f -\n");
        text.push_str(&nft::render(&plan, &[]));
    }
    text
}

fn show_counters(out: &mut dyn Write) -> Result<()> {
    for family in [Family::V4, Family::V6] {
        let Some(found) = in_force::in_force(family)? else {
            writeln!(out, "{family}: there are no rules")?;
            continue;
        };
        let mut sums = std::collections::BTreeMap::<&str, u64>::new();
        for rule in &found.rules {
            if ["captured: ", "bypass: ", "dropped: "].iter().any(|it| rule.comment.starts_with(it)) {
                *sums.entry(&rule.comment).or_default() += rule.packets;
            }
        }
        writeln!(out, "{family} ({}), connections:", found.backend.as_str())?;
        for (why, packets) in sums {
            writeln!(out, "{packets:>10}  {why}")?;
        }
    }
    Ok(())
}
