//! `load --instructions SCENARIO`: how many instructions a request costs outside the kernel, by function, and how
//! often it allocates. Counted by valgrind's callgrind: the same on a busy machine as on a quiet one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};

use crate::callgrind::Profile;
use crate::cli::LoadArgs;
use crate::proxies::{Kind, Proxy};
use crate::say;
use crate::scenario::Scenario;
use crate::stage::Stage;
use crate::tools::{Tools, find};

/// Lines of each list.
const TOP: usize = 40;

/// Counts for the scenario named by `--instructions` on one proxy (Outrider unless `--proxies` names another).
pub(crate) fn run(args: &LoadArgs) -> Result<()> {
    let name = args.instructions.as_deref().unwrap_or_default();
    let scenario = Scenario::parse(name).ok_or_else(|| anyhow!("no scenario {name}"))?;
    let kind = match args.proxies.first() {
        Some(name) => Kind::parse(name).ok_or_else(|| anyhow!("no proxy {name}"))?,
        None => Kind::Outrider,
    };
    let valgrind = find("valgrind").ok_or_else(|| anyhow!("valgrind is not installed"))?;
    let tools = Tools::prepare(&args.common, &[kind])?;
    let proxy = tools.proxies.first().ok_or_else(|| anyhow!("no {kind} to run"))?;
    let stage = Stage::new(&tools, args.seconds)?;
    let proxy = Proxy { wrapper: Some(wrapper(&valgrind, stage.dir())), ..proxy.clone() };
    remove_profiles(stage.dir())?;
    let running = stage.set_up(scenario, &proxy)?;
    // What happens once only is not the requests' share.
    stage.drive(scenario, running.port, 1)?;
    let pids: Vec<u32> = running.processes.iter().map(crate::process::Process::pid).collect();
    for pid in &pids {
        control(&["-i", "on"], *pid)?;
    }
    let load = stage.drive(scenario, running.port, args.seconds.max(1))?;
    for pid in &pids {
        control(&["-i", "off"], *pid)?;
        control(&["-d"], *pid)?;
    }
    let mut profile = Profile::default();
    for file in profiles(stage.dir())? {
        profile.read(&fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))?);
    }
    report(&profile, load.requests as f64);
    Ok(())
}

fn report(profile: &Profile, requests: f64) {
    let total: u64 = profile.costs.values().sum();
    let allocations: u64 = profile.allocations.values().sum();
    say!(
        "{:.0} instructions and {:.2} allocations per request ({requests} requests)",
        total as f64 / requests,
        allocations as f64 / requests
    );
    say!("\n== instructions per request, by function ==");
    for (name, cost) in largest(&profile.costs) {
        say!("{:>8.0} {:>5.1} %  {name}", cost as f64 / requests, cost as f64 * 100.0 / total.max(1) as f64);
    }
    say!("\n== allocations per request, by caller ==");
    for (name, count) in largest(&profile.allocations) {
        say!("{:>8.2}  {name}", count as f64 / requests);
    }
}

fn largest(by_name: &std::collections::HashMap<String, u64>) -> Vec<(&str, u64)> {
    let mut list: Vec<(&str, u64)> = by_name.iter().map(|(name, n)| (name.as_str(), *n)).collect();
    list.sort_by_key(|(name, n)| (std::cmp::Reverse(*n), *name));
    list.truncate(TOP);
    list
}

/// valgrind and its options; the proxy's command line follows.
fn wrapper(valgrind: &Path, dir: &Path) -> Vec<String> {
    vec![
        valgrind.display().to_string(),
        "--tool=callgrind".to_owned(),
        "--instr-atstart=no".to_owned(),
        format!("--callgrind-out-file={}/callgrind.%p", dir.display()),
    ]
}

fn control(args: &[&str], pid: u32) -> Result<()> {
    let output = Command::new("callgrind_control").args(args).arg(pid.to_string()).output()?;
    if !output.status.success() {
        bail!("callgrind_control {args:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    // It returns when the request is taken, not when it is done.
    std::thread::sleep(Duration::from_millis(1500));
    Ok(())
}

/// What callgrind wrote, without the file of the time before the load.
fn profiles(dir: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        if name.starts_with("callgrind.") {
            found.push(path);
        }
    }
    if found.is_empty() {
        bail!("callgrind wrote nothing");
    }
    Ok(found)
}

fn remove_profiles(dir: &Path) -> Result<()> {
    for file in profiles(dir).unwrap_or_default() {
        fs::remove_file(file)?;
    }
    Ok(())
}
