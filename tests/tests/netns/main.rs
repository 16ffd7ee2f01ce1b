//! Redirected traffic: `original_dst`, `use_original_dst` and ORIGINAL_DST clusters behind real REDIRECT rules, in a
//! network namespace of its own. Beside the real Envoy where there is one, which must show the same. Before them, two sidecars with
//! identities of a real control plane, one of them with its application in a namespace like a Pod's, and pods with `outrider capture`, by
//! each of its ways.
//!
//! It needs root, `ip`, `unshare`, `nsenter`, `setpriv`, `nft` and `iptables`; without them it says so and passes.

mod life;
mod mesh;
mod pod;
mod pods;
mod scene;

use std::{io::Write as _, os::unix::process::CommandExt as _, process::Command};

use anyhow::{Context as _, Result, ensure};
use outrider_tests::{binary, oracle, proxy::Kind};

/// Set in the process that runs inside of the namespace.
const INSIDE: &str = "OUTRIDER_NETNS";

fn main() -> Result<()> {
    if std::env::var_os(INSIDE).is_some() {
        set_up()?;
        let runtime = tokio::runtime::Runtime::new()?;
        return runtime.block_on(inside());
    }
    if let Some(why) = missing() {
        say(&format!("skipped: {why}"))?;
        return Ok(());
    }
    // All are had out here, where there is a network.
    let (outrider, control, ctl) = (binary::outrider()?, binary::control()?, binary::outriderctl()?);
    if let Err(why) = oracle::envoy() {
        say(&format!("without the oracle: {why:#}"))?;
    }
    let mut command = Command::new("unshare");
    command.args(["--net", "--"]).arg(std::env::current_exe()?);
    command.env(INSIDE, "1").env("OUTRIDER_BIN", outrider);
    command.env("OUTRIDER_CONTROL_BIN", control).env("OUTRIDERCTL_BIN", ctl);
    Err(command.exec()).context("running unshare")
}

/// Why the test cannot run here.
fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("network namespaces need root".into());
    }
    for tool in ["ip", "unshare", "nsenter", "setpriv", "nft", "iptables", "ip6tables"] {
        let found = std::env::split_paths(&std::env::var_os("PATH")?).any(|dir| dir.join(tool).is_file());
        if !found {
            return Some(format!("there is no {tool}"));
        }
    }
    let works = Command::new("unshare").args(["--net", "--", "nft", "add", "table", "ip", "probe"]).output();
    (!works.is_ok_and(|output| output.status.success())).then(|| "namespaces or nft do not work here".into())
}

/// Addresses, and the rules that redirect what comes from the two clients to one proxy each.
fn set_up() -> Result<()> {
    run("ip", &["link", "set", "lo", "up"])?;
    for address in scene::SERVERS.iter().chain(&scene::CLIENTS) {
        run("ip", &["address", "add", &format!("{address}/32"), "dev", "lo"])?;
    }
    run("nft", &["add", "table", "ip", "nat"])?;
    run("nft", &["add chain ip nat output { type nat hook output priority -100 ; }"])?;
    for (client, port) in scene::CLIENTS.iter().zip(scene::PORTS) {
        run(
            "nft",
            &[&format!("add rule ip nat output ip saddr {client} meta l4proto tcp redirect to :{port}")],
        )?;
    }
    Ok(())
}

fn say(line: &str) -> Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).output().with_context(|| format!("running {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {args:?}: {said}");
    Ok(())
}

async fn inside() -> Result<()> {
    mesh::play().await.context("two sidecars and their control plane")?;
    say("mutual TLS between two sidecars")?;
    life::play().await.context("the end of a sidecar")?;
    say("a sidecar outlives its application")?;
    pods::play(say).await.context("pods")?;
    scene::start_servers().await?;
    let ours = scene::play(Kind::Outrider, 0).await.context("Outrider")?;
    for (step, (got, wanted)) in ours.iter().zip(scene::wanted()).enumerate() {
        ensure!(*got == wanted, "step {step}: wanted {wanted:?}, got {got:?}");
    }
    if oracle::envoy().is_ok() {
        let theirs = scene::play(Kind::Envoy, 1).await.context("Envoy")?;
        let common = ours.get(..theirs.len()).unwrap_or_default();
        ensure!(common == theirs, "Outrider: {ours:#?}\nEnvoy: {theirs:#?}");
        say(&format!("{} steps, the same as Envoy", theirs.len()))?;
    } else {
        say(&format!("{} steps", ours.len()))?;
    }
    Ok(())
}
