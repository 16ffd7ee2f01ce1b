//! Capture in real network namespaces: by nftables, iptables and its legacy form, redirect and TPROXY, IPv4 and IPv6.
//!
//! It needs root, `ip`, `unshare`, `nsenter`, `nft` and `iptables`; without them it says so and passes. Called with `capture ...` it is
//! `outrider capture ...`, so that what is tested is what the command line does.

mod cni;
mod life;
mod paths;
mod servers;
mod world;

use std::io::Write as _;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use clap::Parser as _;

#[derive(clap::Parser)]
enum Outrider {
    Capture {
        #[command(subcommand)]
        command: outrider_capture::cli::Command,
    },
}

fn main() -> Result<()> {
    let mut out = std::io::stdout();
    if std::env::args().nth(1).as_deref() == Some("capture") {
        let Outrider::Capture { command } = Outrider::parse();
        ensure!(outrider_capture::cli::run(command, &mut out)?, "no");
        return Ok(());
    }
    if let Some(why) = missing() {
        return Ok(writeln!(out, "skipped: {why}")?);
    }
    let filter = std::env::args().skip(1).find(|it| !it.starts_with('-'));
    let mut scenes: Vec<(String, Scene)> = Vec::new();
    for mode in ["redirect", "tproxy"] {
        for backend in ["nft", "iptables", "iptables-legacy"] {
            scenes.push((format!("{mode} by {backend}"), Box::new(move || paths::play(mode, backend))));
        }
    }
    scenes.push(("DNS".into(), Box::new(paths::dns)));
    scenes.push(("life".into(), Box::new(life::play)));
    scenes.push(("open connections".into(), Box::new(life::open_connections)));
    scenes.push(("verify".into(), Box::new(life::verify)));
    scenes.push(("goldens".into(), Box::new(life::goldens)));
    scenes.push(("cni".into(), Box::new(cni::play)));
    scenes.retain(|(name, _)| filter.as_ref().is_none_or(|it| name.contains(it.as_str())));
    // Each is in namespaces of its own; most of the time they wait for what must not arrive.
    let running: Vec<_> = scenes.into_iter().map(|(name, scene)| (name, std::thread::spawn(scene))).collect();
    let mut outcomes = Vec::new();
    for (name, scene) in running {
        // All end before the first failure is told: their namespaces go with them.
        outcomes.push((name, scene.join()));
    }
    for (name, outcome) in outcomes {
        outcome.map_err(|_| anyhow::anyhow!("{name}: the thread fell"))?.with_context(|| name.clone())?;
        writeln!(out, "{name}: ok")?;
    }
    Ok(())
}

type Scene = Box<dyn FnOnce() -> Result<()> + Send>;

/// Why the test cannot run here.
fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    for tool in ["ip", "unshare", "nsenter", "nft", "iptables", "ip6tables", "iptables-legacy"] {
        let found = std::env::split_paths(&std::env::var_os("PATH")?).any(|dir| dir.join(tool).is_file());
        if !found {
            return Some(format!("there is no {tool}"));
        }
    }
    let works = Command::new("unshare").args(["--net", "--", "nft", "add", "table", "ip", "probe"]).output();
    (!works.is_ok_and(|output| output.status.success())).then(|| "namespaces or nft do not work here".into())
}
