//! `push`: a control plane pushes, Outrider and Envoy follow; what it costs, and what it breaks.

mod big;
mod churn;
mod eds;
mod faults;
mod hosts;
mod plane;
mod resources;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail};
use outrider_tests::client::Conn;
use outrider_tests::control_plane::follower;
use outrider_tests::ports::Lease;
use serde_json::{Value, json};

use crate::cli::PushArgs;
use crate::process::{Process, Spawn};
use crate::proxies::{Kind, Proxy};
use crate::say;
use crate::tools::Tools;

/// Figures of one scenario on one proxy, by key.
type Figures = BTreeMap<&'static str, f64>;

/// What is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scenario {
    Churn,
    Big,
    Eds,
    Faults,
}

/// A row of the table: the figure's key, what it is, its unit, and whether Outrider has a goal: so many times Envoy's
/// figure, or an absolute one.
struct Row(&'static str, &'static str, &'static str, Goal);

#[derive(Clone, Copy)]
enum Goal {
    None,
    /// At most this.
    Most(f64),
    /// At least this.
    Least(f64),
    /// At most so many times Envoy's.
    OfEnvoy(f64),
}

impl Scenario {
    const ALL: [Scenario; 4] = [Scenario::Churn, Scenario::Big, Scenario::Eds, Scenario::Faults];

    fn name(self) -> &'static str {
        match self {
            Scenario::Churn => "churn",
            Scenario::Big => "big",
            Scenario::Eds => "eds",
            Scenario::Faults => "faults",
        }
    }

    fn rows(self) -> &'static [Row] {
        match self {
            Scenario::Churn => &[
                Row("failed", "requests failed", "", Goal::Most(0.0)),
                Row("closed", "client connections closed", "", Goal::Most(0.0)),
                Row("streams_closed", "gRPC streams closed", "", Goal::Most(0.0)),
                Row("sockets_closed", "WebSockets closed", "", Goal::Most(0.0)),
                Row("exchanges", "exchanges", "", Goal::None),
                Row("acknowledged_ms", "last change acknowledged after", "ms", Goal::None),
                Row("cpu_s", "CPU", "s", Goal::None),
            ],
            Scenario::Big => &[
                Row("acknowledged_s", "all acknowledged after", "s", Goal::OfEnvoy(1.0 / 3.0)),
                Row("rss_mb", "memory then", "MB", Goal::OfEnvoy(0.1)),
                Row("start_cpu_s", "CPU by then", "s", Goal::None),
                Row("effect_p50_ms", "an endpoint's change in effect, p50", "ms", Goal::None),
                Row("effect_p99_ms", "an endpoint's change in effect, p99", "ms", Goal::Most(10.0)),
                Row("effect_max_ms", "an endpoint's change in effect, max", "ms", Goal::None),
                Row("ack_p50_ms", "acknowledged, p50", "ms", Goal::None),
                Row("ack_p99_ms", "acknowledged, p99", "ms", Goal::None),
            ],
            Scenario::Eds => &[
                Row("new_connections", "new connections to unchanged hosts", "", Goal::Most(0.0)),
                Row("cpu_s", "CPU", "s", Goal::None),
                Row("ack_p50_ms", "acknowledged, p50", "ms", Goal::None),
                Row("ack_p99_ms", "acknowledged, p99", "ms", Goal::None),
                Row("failed", "requests failed", "", Goal::Most(0.0)),
                Row("requests", "requests", "", Goal::None),
                Row("rss_mb", "memory", "MB", Goal::None),
            ],
            Scenario::Faults => &[
                Row("named", "refusals that name the bad resource", "of 8", Goal::Least(8.0)),
                Row("applied", "good resources beside it that apply", "of 40", Goal::Least(40.0)),
            ],
        }
    }
}

/// What the scenarios share.
struct Stage {
    dir: PathBuf,
    cpus: String,
    args: PushArgs,
}

/// A proxy that follows a control plane.
struct Follower {
    process: Process,
    admin: Lease,
    /// The port of its first listener: the control plane's to use.
    port: u16,
    _leases: Vec<Lease>,
}

/// Runs the scenarios and prints the table.
pub(crate) fn run(args: &PushArgs) -> Result<()> {
    let scenarios = chosen(&args.only, &Scenario::ALL, |scenario| scenario.name())?;
    let kinds = chosen(&args.proxies, &[Kind::Outrider, Kind::Envoy], |kind| kind.name())?;
    let tools = Tools::prepare(&args.common, &kinds)?;
    if tools.proxies.is_empty() {
        bail!("no proxy to run");
    }
    for proxy in &tools.proxies {
        say!("{:<9} {} ({})", proxy.kind, proxy.version, proxy.program.display());
    }
    let count = std::thread::available_parallelism()?.get();
    let stage = Stage { dir: tools.work_dir()?, cpus: format!("0-{}", count - 1), args: args.clone() };
    let clock = Instant::now();
    let mut runs: Vec<(Scenario, Kind, Result<Figures, String>)> = Vec::new();
    for round in 0..args.rounds.max(1) {
        for &scenario in &scenarios {
            let order = tools.proxies.iter().cycle().skip(round % tools.proxies.len());
            for proxy in order.take(tools.proxies.len()) {
                // A runtime of its own for each run: what one leaves behind is gone.
                let runtime =
                    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
                let figures = runtime.block_on(stage.run(scenario, proxy));
                runtime.shutdown_background();
                let figures = figures.map_err(|error| format!("{error:#}"));
                say!("round {} {:<7} {:<8} {}", round + 1, scenario.name(), proxy.kind, short(&figures));
                runs.push((scenario, proxy.kind, figures));
            }
        }
    }
    let table = table(&scenarios, &tools.proxies, &runs);
    say!("\n{table}");
    fs::write(tools.out.join("push.txt"), &table)?;
    fs::write(tools.out.join("push.json"), serde_json::to_vec_pretty(&report(args, &tools, &runs))?)?;
    say!("{:.0} s; push.txt and push.json are in {}", clock.elapsed().as_secs_f64(), tools.out.display());
    let failed = runs.iter().filter(|(_, _, figures)| figures.is_err()).count();
    if failed > 0 {
        bail!("{failed} of {} runs failed", runs.len());
    }
    Ok(())
}

impl Stage {
    async fn run(&self, scenario: Scenario, proxy: &Proxy) -> Result<Figures> {
        match scenario {
            Scenario::Churn => churn::run(self, proxy).await,
            Scenario::Big => big::run(self, proxy).await,
            Scenario::Eds => eds::run(self, proxy).await,
            Scenario::Faults => faults::run(self, proxy).await,
        }
    }

    /// Starts a proxy that follows the control plane on `plane`. `leases` are the ports that its listeners will have.
    fn follow(
        &self,
        proxy: &Proxy,
        delta: bool,
        plane: u16,
        leases: Vec<Lease>,
        label: &str,
        more: &[&str],
    ) -> Result<Follower> {
        let admin = Lease::new()?;
        let places = [("plane", plane), ("admin", admin.port())];
        let places = places.map(|(name, port)| (name.to_owned(), port.to_string())).into();
        let stem = format!("push-{label}-{}", proxy.kind);
        let file = self.dir.join(format!("{stem}.yaml"));
        fs::write(&file, follower(delta, "").render(&places))?;
        let words = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"];
        let mut args: Vec<String> = words.iter().chain(more).map(|&word| word.to_owned()).collect();
        args.extend(["-c".to_owned(), file.display().to_string()]);
        let process = Process::spawn(Spawn {
            name: proxy.kind.name(),
            program: &proxy.program,
            args,
            cpus: &self.cpus,
            log: self.dir.join(format!("{stem}.log")),
            piped: false,
        })?;
        let port = leases.first().map_or(0, Lease::port);
        Ok(Follower { process, admin, port, _leases: leases })
    }
}

impl Follower {
    /// Waits until `GET path` of `host` is answered 200 by the first listener.
    async fn serves(&mut self, host: &str, path: &str, limit: Duration) -> Result<Conn> {
        let until = Instant::now() + limit;
        loop {
            if let Ok(mut conn) = Conn::plain(self.port).await
                && get(&mut conn, host, path).await.is_ok()
            {
                return Ok(conn);
            }
            self.process.check_alive()?;
            if Instant::now() > until {
                bail!("{path} is not served after {limit:?}");
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// What its admin interface says.
    async fn admin(&self, path: &str) -> Result<String> {
        let mut conn = Conn::plain(self.admin.port()).await?;
        conn.send(format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")).await?;
        Ok(conn.response("GET").await?.text())
    }

    fn rss_mb(&self) -> Result<f64> {
        Ok(self.process.memory()?.rss as f64 / 1024.0)
    }

    fn cpu_s(&self) -> Result<f64> {
        Ok(self.process.cpu()?.as_secs_f64())
    }
}

/// A request that must be answered 200; its body.
async fn get(conn: &mut Conn, host: &str, path: &str) -> Result<String> {
    conn.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\n\r\n")).await?;
    let response = conn.response("GET").await?;
    if response.status != 200 {
        bail!("{path} was answered {} {:?}", response.status, response.text());
    }
    Ok(response.text())
}

/// The value below which `share` of all are, ms.
fn quantile(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    let at = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len().max(1)) - 1;
    times.get(at).map_or(f64::NAN, |time| time.as_secs_f64() * 1e3)
}

fn chosen<T: Copy>(names: &[String], all: &[T], name_of: impl Fn(T) -> &'static str) -> Result<Vec<T>> {
    let one = |name: &String| {
        let found = all.iter().copied().find(|one| name_of(*one) == name);
        found.ok_or_else(|| anyhow!("there is no {name}"))
    };
    if names.is_empty() { Ok(all.to_vec()) } else { names.iter().map(one).collect() }
}

fn short(figures: &Result<Figures, String>) -> String {
    match figures {
        Ok(figures) => {
            figures.iter().map(|(key, value)| format!("{key} {value:.2}")).collect::<Vec<_>>().join(", ")
        }
        Err(error) => format!("FAILED: {error}"),
    }
}

type Runs = [(Scenario, Kind, Result<Figures, String>)];

/// The median over the rounds.
fn median(runs: &Runs, scenario: Scenario, kind: Kind, key: &str) -> Option<f64> {
    let of = runs.iter().filter(|(of, by, _)| (*of, *by) == (scenario, kind));
    let mut values: Vec<f64> =
        of.filter_map(|(_, _, figures)| figures.as_ref().ok()?.get(key).copied()).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

fn table(scenarios: &[Scenario], proxies: &[Proxy], runs: &Runs) -> String {
    let mut out = format!("{:<8}{:<42}{:>6}", "", "", "");
    // Writing to a String cannot fail.
    proxies.iter().for_each(|proxy| _ = write!(out, "{:>12}", proxy.kind));
    out.push('\n');
    for &scenario in scenarios {
        for Row(key, what, unit, goal) in scenario.rows() {
            let of = |kind| median(runs, scenario, kind, key);
            let _ = write!(out, "{:<8}{what:<42}{unit:>6}", scenario.name());
            for proxy in proxies {
                let figure = of(proxy.kind).map_or_else(|| "-".to_owned(), |value| format!("{value:.2}"));
                let figure = figure.strip_suffix(".00").unwrap_or(&figure);
                let _ = write!(out, "{figure:>12}");
            }
            out.push_str(&verdict(*goal, of(Kind::Outrider), of(Kind::Envoy)));
            out.push('\n');
        }
    }
    for (scenario, kind, figures) in runs {
        if let Err(error) = figures {
            let _ = writeln!(out, "FAILED: {} {kind}: {error}", scenario.name());
        }
    }
    out
}

fn verdict(goal: Goal, ours: Option<f64>, envoy: Option<f64>) -> String {
    let Some(ours) = ours else { return String::new() };
    let (reached, words) = match goal {
        Goal::None => return String::new(),
        Goal::Most(most) => (ours <= most, format!("at most {most}")),
        Goal::Least(least) => (ours >= least, format!("at least {least}")),
        Goal::OfEnvoy(share) => match envoy {
            Some(envoy) => {
                (ours <= envoy * share, format!("{:.2} of Envoy's, at most {share:.2}", ours / envoy))
            }
            None => return String::new(),
        },
    };
    format!("   {} ({words})", if reached { "reached" } else { "MISSED" })
}

fn report(args: &PushArgs, tools: &Tools, runs: &Runs) -> Value {
    let versions: serde_json::Map<String, Value> =
        tools.proxies.iter().map(|proxy| (proxy.kind.name().to_owned(), json!(proxy.version))).collect();
    let runs: Vec<Value> = runs
        .iter()
        .map(|(scenario, kind, figures)| match figures {
            Ok(figures) => json!({ "scenario": scenario.name(), "proxy": kind.name(), "figures": figures }),
            Err(error) => json!({ "scenario": scenario.name(), "proxy": kind.name(), "error": error }),
        })
        .collect();
    json!({
        "versions": versions, "rounds": args.rounds, "changes": args.changes, "clusters": args.clusters,
        "swaps": args.swaps, "endpoints": args.endpoints, "seconds": args.seconds, "runs": runs,
    })
}

/// A path as text for a configuration.
fn text(path: &Path) -> Result<String> {
    Ok(path.to_str().context("a path that is no text")?.to_owned())
}
