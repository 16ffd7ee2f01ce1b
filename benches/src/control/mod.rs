//! `control`: a control plane with many services and many proxies; how long they wait for what, and what it costs.

mod fleet;
mod world;

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use outrider_control_proto::control_client::ControlClient;
use outrider_control_proto::{ApplyRequest, Manifest};
use outrider_tests::ports::Lease;
use serde_json::{Value, json};
use tonic::transport::{Channel, Endpoint};

use crate::cli::ControlArgs;
use crate::process::{Process, Spawn};
use crate::say;
use fleet::{Event, Fleet, Type};
use world::World;

/// How many objects one request applies.
const BATCH: usize = 200;
/// How long anything may take.
const LIMIT: Duration = Duration::from_secs(180);

/// A figure: what it is, the value, its unit, and the most that it may be.
struct Figure(&'static str, f64, &'static str, Option<f64>);

/// Runs both scenarios and prints a table.
pub(crate) fn run(args: &ControlArgs) -> Result<()> {
    let program = program(args)?;
    let out = args.out.clone().unwrap_or_else(|| target_dir().join("bench"));
    fs::create_dir_all(&out)?;
    say!(
        "{} ({} services of {} endpoints, {} proxies)",
        program.display(),
        args.services,
        args.endpoints,
        args.proxies
    );
    let mut table = String::new();
    let mut report = Vec::new();
    for (name, scoped) in [("all", false), ("scoped", true)] {
        if !args.only.is_empty() && !args.only.iter().any(|only| only == name) {
            continue;
        }
        let world = World { services: args.services, endpoints: args.endpoints, scoped };
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let figures = runtime.block_on(scenario(args, &program, &out.join(format!("control-{name}")), world));
        runtime.shutdown_background();
        let figures = figures.with_context(|| name.to_owned())?;
        for Figure(what, value, unit, most) in &figures {
            // Writing to a String cannot fail.
            let _ = write!(table, "{name:<8}{what:<52}{:>12} {unit:<4}", text(*value));
            if let Some(most) = most {
                let word = if value <= most { "reached" } else { "MISSED" };
                let _ = write!(table, " {word} (at most {most})");
            }
            table.push('\n');
        }
        let of = |Figure(what, value, unit, _): &Figure| json!({"what": what, "value": value, "unit": unit});
        report.push(json!({"scenario": name, "figures": figures.iter().map(of).collect::<Vec<_>>()}));
    }
    say!("\n{table}");
    fs::write(out.join("control.txt"), &table)?;
    fs::write(out.join("control.json"), serde_json::to_vec_pretty(&report)?)?;
    say!("control.txt and control.json are in {}", out.display());
    Ok(())
}

fn text(value: f64) -> String {
    let text = format!("{value:.2}");
    text.strip_suffix(".00").unwrap_or(&text).to_owned()
}

/// The running control plane.
struct Plane<'a> {
    program: &'a Path,
    dir: &'a Path,
    xds: Lease,
    api: Lease,
    process: Process,
    client: ControlClient<Channel>,
}

impl<'a> Plane<'a> {
    fn start(program: &'a Path, dir: &'a Path) -> Result<Self> {
        if dir.exists() {
            fs::remove_dir_all(dir)?;
        }
        fs::create_dir_all(dir)?;
        let (xds, api) = (Lease::new()?, Lease::new()?);
        let process = spawn(program, dir, xds.port(), api.port())?;
        let channel = Endpoint::from_shared(format!("http://127.0.0.1:{}", api.port()))?.connect_lazy();
        let client = ControlClient::new(channel).max_decoding_message_size(64 << 20);
        let mut plane = Self { program, dir, xds, api, process, client };
        plane.process.wait_listening(plane.api.port(), LIMIT)?;
        plane.process.wait_listening(plane.xds.port(), LIMIT)?;
        Ok(plane)
    }

    /// Kills it and starts it again on what it stored.
    fn restart(&mut self) -> Result<()> {
        let again = || spawn(self.program, self.dir, self.xds.port(), self.api.port());
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(self.process.pid().cast_signed()).context("a pid")?,
            rustix::process::Signal::KILL,
        )?;
        // Its sockets are free when it is gone; dropping waits for that.
        let new = loop {
            if self.process.check_alive().is_err() {
                break again()?;
            }
            std::thread::sleep(Duration::from_millis(2));
        };
        self.process = new;
        Ok(())
    }

    async fn apply(&mut self, objects: &[Value]) -> Result<()> {
        for batch in objects.chunks(BATCH) {
            let manifest = |value: &Value| Manifest { source: String::new(), json: value.to_string() };
            let manifests = batch.iter().map(manifest).collect();
            self.client.apply(ApplyRequest { manifests, dry_run: false }).await?;
        }
        Ok(())
    }

    fn rss_mb(&self) -> Result<f64> {
        Ok(self.process.memory()?.rss as f64 / 1024.0)
    }

    /// The most that was ever resident.
    fn peak_mb(&self) -> Result<f64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
        let kb: f64 = line.split_whitespace().next().context("a figure")?.parse()?;
        Ok(kb / 1024.0)
    }

    fn cpu_s(&self) -> Result<f64> {
        Ok(self.process.cpu()?.as_secs_f64())
    }
}

fn spawn(program: &Path, dir: &Path, xds: u16, api: u16) -> Result<Process> {
    let count = std::thread::available_parallelism()?.get();
    Process::spawn(Spawn {
        name: "outrider-control",
        program,
        args: vec![
            format!("--xds=127.0.0.1:{xds}"),
            format!("--api=127.0.0.1:{api}"),
            format!("--data-dir={}", dir.join("data").display()),
            "--insecure-loopback".to_owned(),
        ],
        cpus: &format!("0-{}", count - 1),
        log: dir.join("outrider-control.log"),
        piped: false,
    })
}

async fn scenario(args: &ControlArgs, program: &Path, dir: &Path, world: World) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    let mut plane = Plane::start(program, dir)?;
    let began = Instant::now();
    plane.apply(&world.objects()).await.context("apply the world")?;
    figures.push(Figure("all objects applied after", began.elapsed().as_secs_f64(), "s", None));
    // The configuration is published when it has been quiet for a moment.
    tokio::time::sleep(Duration::from_secs(2)).await;
    figures.push(Figure("memory without proxies", plane.rss_mb()?, "MB", None));

    let (cpu, began) = (plane.cpu_s()?, Instant::now());
    let mut fleet = Fleet::start(world, args.proxies, args.connections, plane.xds.port())?;
    let mut synced = 0;
    while synced < args.proxies {
        let event =
            fleet.next(&format!("{synced} of {} proxies synced", args.proxies), began + LIMIT).await?;
        synced += usize::from(matches!(event, Event::Synced));
    }
    figures.push(Figure("all proxies synced after", began.elapsed().as_secs_f64(), "s", None));
    figures.push(Figure("CPU of that", plane.cpu_s()? - cpu, "s", None));
    fleet.quiet(Duration::from_secs(1)).await?;
    figures.push(Figure("memory then", plane.rss_mb()?, "MB", Some(400.0)));

    changes(args, &mut plane, &mut fleet, world, &mut figures).await?;
    figures.push(Figure("memory after the changes", plane.rss_mb()?, "MB", Some(400.0)));
    figures.push(Figure("memory at most", plane.peak_mb()?, "MB", Some(400.0)));

    let began = Instant::now();
    plane.restart()?;
    // A change that all are concerned by, as soon as it can be told: who has it has a stream that is served.
    let service = 0;
    while plane.apply(&[world.slice(service, args.changes + 1)]).await.is_err() {
        plane.process.check_alive()?;
        ensure!(began.elapsed() < LIMIT, "the API does not answer after the restart");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    figures.push(Figure(
        "killed; its API takes writes again after",
        began.elapsed().as_secs_f64(),
        "s",
        None,
    ));
    let mut bytes = 0;
    let (mut served, all) = (0, world.concerned(service, args.proxies));
    while served < all {
        let event = fleet.next(&format!("{served} of {all} proxies served again"), began + LIMIT).await?;
        let Event::Push(push) = event else { continue };
        bytes += push.bytes;
        served += usize::from(
            push.kind == Type::Endpoints && push.names.iter().any(|it| **it == *world.cluster(service)),
        );
    }
    figures.push(Figure(
        "killed; all proxies are served again after",
        began.elapsed().as_secs_f64(),
        "s",
        Some(10.0),
    ));
    figures.push(Figure("bytes sent for that, per proxy", bytes as f64 / all as f64, "B", None));
    fleet.quiet(Duration::from_secs(1)).await?;
    figures.push(Figure("memory after the restart", plane.rss_mb()?, "MB", Some(400.0)));
    Ok(figures)
}

/// One endpoint after the other changes its address.
async fn changes(
    args: &ControlArgs,
    plane: &mut Plane<'_>,
    fleet: &mut Fleet,
    world: World,
    figures: &mut Vec<Figure>,
) -> Result<()> {
    let mut times = Vec::new();
    let mut applies = Vec::new();
    let (mut bytes, mut resources, mut others) = (0, 0, 0);
    let (cpu, start) = (plane.cpu_s()?, Instant::now());
    for generation in 1..=args.changes {
        let service = generation * 37 % world.services;
        let cluster = world.cluster(service);
        let all = world.concerned(service, args.proxies);
        let began = Instant::now();
        let apply = plane.apply(&[world.slice(service, generation)]).await;
        apply.with_context(|| format!("change {generation}"))?;
        applies.push(began.elapsed());
        let mut got = 0;
        while got < all {
            let what = format!("change {generation} at {got} of {all} proxies");
            let Event::Push(push) = fleet.next(&what, began + LIMIT).await? else { continue };
            bytes += push.bytes;
            resources += push.resources;
            if push.kind == Type::Endpoints && push.names.iter().any(|name| **name == *cluster) {
                got += 1;
                times.push(push.at - began);
            } else {
                others += 1;
            }
        }
        tokio::time::sleep(Duration::from_millis(args.pause)).await;
    }
    others += fleet.quiet(Duration::from_millis(500)).await?;
    if times.is_empty() {
        bail!("nothing was changed");
    }
    let pushes = times.len() as f64;
    figures.push(Figure("an endpoint's change at a proxy, p50", quantile(&mut times, 0.5), "ms", None));
    figures.push(Figure(
        "an endpoint's change at a proxy, p99",
        quantile(&mut times, 0.99),
        "ms",
        Some(300.0),
    ));
    figures.push(Figure("an endpoint's change at a proxy, max", quantile(&mut times, 1.0), "ms", None));
    figures.push(Figure("its Apply answered, p50", quantile(&mut applies, 0.5), "ms", None));
    figures.push(Figure("resources in a push", resources as f64 / pushes, "", Some(1.0)));
    figures.push(Figure("responses that had nothing of it", others as f64, "", Some(0.0)));
    figures.push(Figure("bytes of a push", bytes as f64 / pushes, "B", None));
    let cpu = plane.cpu_s()? - cpu;
    figures.push(Figure("CPU of a change at all", cpu * 1e3 / args.changes as f64, "ms", None));
    figures.push(Figure("CPU of a push", cpu * 1e6 / pushes, "us", None));
    figures.push(Figure("changes a second", args.changes as f64 / start.elapsed().as_secs_f64(), "", None));
    Ok(())
}

/// The value below which `share` of all are, ms.
fn quantile(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    let at = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len().max(1)) - 1;
    times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

/// The build directory: this program is `target/PROFILE/outrider-benches`.
fn target_dir() -> PathBuf {
    let exe = std::env::current_exe().ok();
    let found = exe.as_deref().and_then(|exe| exe.parent()?.parent());
    found.map_or_else(|| PathBuf::from("target"), Path::to_owned)
}

/// The control plane's binary: the one that was named, or built.
fn program(args: &ControlArgs) -> Result<PathBuf> {
    if let Some(path) = &args.control {
        return Ok(path.clone());
    }
    say!("cargo build --release -p outrider-control");
    let built = Command::new("cargo")
        .args(["build", "--release", "-p", "outrider-control", "--bin", "outrider-control"])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .status()?;
    ensure!(built.success(), "cargo build: {built}");
    Ok(target_dir().join("release/outrider-control"))
}
