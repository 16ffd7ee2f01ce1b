//! What is set up for each scenario, and how its figures are taken.

use std::io::BufRead;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::certs::Certs;
use crate::config::filters::Filter;
use crate::config::{Edge, Plan, Shape};
use crate::drivers::{Ask, Load, Papers};
use crate::preflight;
use crate::process::{Process, free_port};
use crate::proxies::Proxy;
use crate::report::median;
use crate::scenario::{Metrics, Scenario};
use crate::tools::Tools;
use crate::upstream::{HelperServer, Nginx, spawn_helper};

/// How long connections do nothing before the memory that they hold is read.
const ASLEEP: Duration = Duration::from_secs(12);
/// Connections of the idle scenario.
const IDLE_CONNECTIONS: u32 = 2_000;
/// Clusters of the start scenario.
const CLUSTERS: usize = 5_000;
/// Seconds of load before the measured load.
const WARM_UP: u64 = 1;
/// How long memory may settle before it is read.
const SETTLE: Duration = Duration::from_millis(700);
/// How often load with a filter and load without it take turns.
const TURNS: u64 = 4;

/// What all scenarios share.
#[derive(Debug)]
pub(crate) struct Stage<'a> {
    tools: &'a Tools,
    certs: Certs,
    nginx: Nginx,
    echo: HelperServer,
    source: HelperServer,
    grpc: HelperServer,
    seconds: u64,
    dir: std::path::PathBuf,
}

/// A proxy set up for a scenario (two of them for the mesh).
#[derive(Debug)]
pub(crate) struct Running {
    /// The processes, the one that clients connect to first.
    pub(crate) processes: Vec<Process>,
    /// The port that clients connect to.
    pub(crate) port: u16,
    /// The port of the same listener without the filter, where a filter is what is measured.
    bare: Option<u16>,
}

/// What a load cost.
#[derive(Debug)]
struct Cost {
    cpu: Duration,
    wall: Duration,
    load: Load,
}

impl Cost {
    fn us_per_request(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.load.requests as f64
    }
}

impl Running {
    fn cpu(&self) -> Result<Duration> {
        self.processes.iter().map(Process::cpu).sum()
    }

    /// Resident and anonymous memory of all processes, kB.
    fn memory(&self) -> Result<(f64, f64)> {
        let (mut rss, mut anon) = (0, 0);
        for process in &self.processes {
            let memory = process.memory()?;
            rss += memory.rss;
            anon += memory.anon;
        }
        Ok((rss as f64, anon as f64))
    }
}

impl<'a> Stage<'a> {
    /// Starts the upstreams and makes the certificates. `seconds` is the length of the measured load.
    pub(crate) fn new(tools: &'a Tools, seconds: u64) -> Result<Self> {
        let dir = tools.work_dir()?;
        let cpus = &tools.load_cpus;
        Ok(Self {
            certs: Certs::create(&dir.join("certs"))?,
            nginx: Nginx::start(&tools.nginx, cpus, &dir.join("nginx"))?,
            echo: HelperServer::start("echo", cpus, &dir)?,
            source: HelperServer::start("source", cpus, &dir)?,
            grpc: HelperServer::start("grpc", cpus, &dir)?,
            tools,
            seconds,
            dir,
        })
    }

    /// Runs one scenario on one proxy and returns its figures; fails when an answer was wrong or a request failed.
    pub(crate) fn run(&self, scenario: Scenario, proxy: &Proxy) -> Result<Metrics> {
        match scenario {
            Scenario::IdleConns => self.idle_connections(proxy),
            Scenario::IdleRss => self.idle_memory(proxy),
            Scenario::Clusters => self.many_clusters(proxy),
            _ if scenario.filter().is_some() => self.beside(scenario, proxy),
            _ => self.load(scenario, proxy),
        }
    }

    /// Starts a proxy for a scenario and sees that it answers as it should.
    pub(crate) fn set_up(&self, scenario: Scenario, proxy: &Proxy) -> Result<Running> {
        if !scenario.runs_on(proxy.kind) {
            bail!("{} has nothing to compare in {}", proxy.kind, scenario.name());
        }
        if let Some(filter) = scenario.filter() {
            return self.set_up_beside(scenario, filter, proxy);
        }
        let nginx = self.nginx.http1;
        let running = match scenario {
            Scenario::H2 => self.start(proxy, "h2", Shape::ToHttp1 { h2_down: true }, nginx, 0)?,
            Scenario::H2ToH2 => self.start(proxy, "h2-h2", Shape::ToHttp2, self.nginx.http2, 0)?,
            Scenario::Grpc => self.start(proxy, "grpc", Shape::ToHttp2, self.grpc.port, 0)?,
            Scenario::Mesh => {
                let inbound = self.start(proxy, "mesh-in", Shape::MeshInbound, nginx, 0)?;
                let mut outbound = self.start(proxy, "mesh-out", Shape::MeshOutbound, inbound.port, 0)?;
                outbound.processes.extend(inbound.processes);
                outbound
            }
            Scenario::TcpSmall => {
                self.start(proxy, "tcp-small", Shape::Tcp { bulk: false }, self.echo.port, 0)?
            }
            Scenario::TcpBulk => {
                self.start(proxy, "tcp-bulk", Shape::Tcp { bulk: true }, self.source.port, 0)?
            }
            Scenario::Clusters => {
                self.start(proxy, "clusters", Shape::ToHttp1 { h2_down: false }, nginx, CLUSTERS)?
            }
            Scenario::TlsHandshake | Scenario::TlsHandshakeRsa => {
                let rsa = scenario == Scenario::TlsHandshakeRsa;
                self.start(proxy, scenario.name(), Shape::Handshake { rsa }, nginx, 0)?
            }
            _ => self.start(proxy, scenario.name(), Shape::ToHttp1 { h2_down: false }, nginx, 0)?,
        };
        let ask = self.ask(scenario);
        match scenario {
            Scenario::H2 | Scenario::H2ToH2 => preflight::http2(running.port)?,
            Scenario::Grpc => preflight::grpc(running.port)?,
            Scenario::TcpSmall => preflight::echo(running.port)?,
            Scenario::TcpBulk => preflight::source(running.port)?,
            // Memory at rest is read before the first request.
            Scenario::IdleRss => {}
            Scenario::TlsHandshake | Scenario::TlsHandshakeRsa => {
                preflight::http1(running.port, &ask)?;
                preflight::demands_certificate(running.port, &ask)?;
            }
            _ => preflight::http1(running.port, &ask)?,
        }
        Ok(running)
    }

    /// Starts a proxy with two listeners, one with the filter, and sees that it lets in what it should and nothing else.
    fn set_up_beside(&self, scenario: Scenario, filter: Filter, proxy: &Proxy) -> Result<Running> {
        let edge = |filter: Option<Filter>, tls: bool| -> Result<Edge> {
            let shape = Shape::Guarded { tls, filter };
            Ok(Edge { listen: free_port()?, upstream: self.nginx.http1, shape })
        };
        let (guarded, bare) = (edge(Some(filter), filter.tls())?, edge(None, filter.tls())?);
        let mut running = self.start_edges(proxy, scenario.name(), vec![guarded, bare], 0)?;
        running.bare = Some(bare.listen);
        let (stranger, status) = filter.stranger(&self.certs);
        for port in [guarded.listen, bare.listen] {
            preflight::http1(port, &self.ask(scenario))?;
        }
        preflight::refused(guarded.listen, &stranger, status)?;
        preflight::http1(bare.listen, &stranger)?;
        Ok(running)
    }

    /// What HTTP/1.1 clients of a scenario ask for.
    fn ask(&self, scenario: Scenario) -> Ask {
        match scenario {
            Scenario::TlsHandshake | Scenario::TlsHandshakeRsa => {
                Ask { papers: Some(Papers::new(&self.certs, Some("client"))), ..Ask::default() }
            }
            _ => scenario.filter().map_or_else(Ask::default, |filter| filter.ask(&self.certs)),
        }
    }

    fn start(
        &self,
        proxy: &Proxy,
        label: &str,
        shape: Shape,
        upstream: u16,
        extra: usize,
    ) -> Result<Running> {
        self.start_edges(proxy, label, vec![Edge { listen: free_port()?, upstream, shape }], extra)
    }

    /// Starts a proxy; clients connect to the first of its listeners.
    fn start_edges(&self, proxy: &Proxy, label: &str, edges: Vec<Edge>, extra: usize) -> Result<Running> {
        let port = edges.first().map(|edge| edge.listen).ok_or_else(|| anyhow!("no listener"))?;
        let plan = Plan { admin: free_port()?, edges, extra_clusters: extra, certs: &self.certs };
        let process = proxy.start(&plan, &self.tools.proxy_cpu, &self.dir, label)?;
        Ok(Running { processes: vec![process], port, bare: None })
    }

    /// Runs the scenario's load for some seconds.
    pub(crate) fn drive(&self, scenario: Scenario, port: u16, seconds: u64) -> Result<Load> {
        let driver = scenario.driver().ok_or_else(|| anyhow!("{} has no load", scenario.name()))?;
        driver.run(self.tools, port, seconds, &self.dir, &self.ask(scenario))
    }

    /// How long the measured load lasts, in seconds.
    pub(crate) fn seconds(&self) -> u64 {
        self.seconds
    }

    /// Where configurations and logs are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs the load and reads what it cost; fails when a request failed.
    fn measure(&self, scenario: Scenario, running: &mut Running, port: u16, seconds: u64) -> Result<Cost> {
        let (cpu, clock) = (running.cpu()?, Instant::now());
        let load = self.drive(scenario, port, seconds)?;
        let (wall, cpu) = (clock.elapsed(), running.cpu()? - cpu);
        for process in &mut running.processes {
            process.check_alive()?;
        }
        if load.errors > 0 {
            bail!("{} of {} requests failed", load.errors, load.requests + load.errors);
        }
        Ok(Cost { cpu, wall, load })
    }

    fn load(&self, scenario: Scenario, proxy: &Proxy) -> Result<Metrics> {
        let mut running = self.set_up(scenario, proxy)?;
        let port = running.port;
        self.drive(scenario, port, WARM_UP)?;
        let cost = self.measure(scenario, &mut running, port, self.seconds)?;
        let Cost { cpu, wall, load } = &cost;
        let (rss, anon) = running.memory()?;
        let mut metrics = Metrics::from([
            ("rss_mb", rss / 1024.0),
            ("anon_mb", anon / 1024.0),
            ("cpu_share", cpu.as_secs_f64() / wall.as_secs_f64()),
        ]);
        if scenario == Scenario::TcpBulk {
            let gigabytes = load.bytes as f64 / 1e9;
            metrics.insert("cpu_ms_per_gb", cpu.as_secs_f64() * 1e3 / gigabytes);
            metrics.insert("gb_per_s", gigabytes / load.seconds);
        } else {
            metrics.insert("cpu_us_per_request", cost.us_per_request());
            metrics.insert("requests_per_s", load.requests as f64 / load.seconds);
            metrics.insert("requests", load.requests as f64);
            metrics.insert("p50_us", load.p50_us);
            metrics.insert("p99_us", load.p99_us);
        }
        if matches!(scenario, Scenario::TlsHandshake | Scenario::TlsHandshakeRsa) {
            metrics.insert("handshakes_per_cpu_s", load.requests as f64 / cpu.as_secs_f64());
        }
        Ok(metrics)
    }

    /// The same load in turns on the listener with the filter and on the one without it, of one process: what a request
    /// costs more is taken within a turn, and each turn begins with the other one.
    fn beside(&self, scenario: Scenario, proxy: &Proxy) -> Result<Metrics> {
        let mut running = self.set_up(scenario, proxy)?;
        let bare = running.bare.ok_or_else(|| anyhow!("{} has no listener to compare", scenario.name()))?;
        let guarded = running.port;
        let seconds = (self.seconds / TURNS).max(1);
        for port in [bare, guarded] {
            self.drive(scenario, port, WARM_UP)?;
        }
        let mut turns = Vec::new();
        for turn in 0..TURNS {
            let (with, without) = if turn % 2 == 0 {
                let without = self.measure(scenario, &mut running, bare, seconds)?;
                (self.measure(scenario, &mut running, guarded, seconds)?, without)
            } else {
                let with = self.measure(scenario, &mut running, guarded, seconds)?;
                (with, self.measure(scenario, &mut running, bare, seconds)?)
            };
            turns.push((with, without));
        }
        let (rss, anon) = running.memory()?;
        let mut metrics = Metrics::from([("rss_mb", rss / 1024.0), ("anon_mb", anon / 1024.0)]);
        let mut of = |key, value: &dyn Fn(&Cost, &Cost) -> f64| {
            if let Some(value) = median(turns.iter().map(|(with, without)| value(with, without))) {
                metrics.insert(key, value);
            }
        };
        of("cpu_us_added", &|with, without| with.us_per_request() - without.us_per_request());
        of("cpu_us_per_request", &|with, _| with.us_per_request());
        of("cpu_us_without", &|_, without| without.us_per_request());
        of("requests_per_s", &|with, _| with.load.requests as f64 / with.load.seconds);
        of("p50_us", &|with, _| with.load.p50_us);
        of("p99_us", &|with, _| with.load.p99_us);
        Ok(metrics)
    }

    fn idle_connections(&self, proxy: &Proxy) -> Result<Metrics> {
        let running = self.set_up(Scenario::IdleConns, proxy)?;
        // What the first requests make the process allocate once is not the connections' share.
        for _ in 0..50 {
            preflight::http1(running.port, &Ask::default())?;
        }
        thread::sleep(SETTLE);
        let (before, anon_before) = running.memory()?;
        let (port, count) = (running.port.to_string(), IDLE_CONNECTIONS.to_string());
        let args = ["--port", &port, "--connections", &count];
        let mut client = spawn_helper("idle", &args, &self.tools.load_cpus, &self.dir, true)?;
        let mut said = String::new();
        if let Some(out) = client.take_stdout() {
            std::io::BufReader::new(out).read_line(&mut said)?;
        }
        if said.trim() != "ready" {
            thread::sleep(Duration::from_millis(100));
            client.check_alive()?;
            bail!("the idle client said {said:?}");
        }
        thread::sleep(SETTLE);
        let (fresh, _) = running.memory()?;
        // An idle connection is one that does nothing for a while: proxies may put it to sleep.
        thread::sleep(ASLEEP);
        let (after, anon_after) = running.memory()?;
        drop(client.take_stdin());
        let (status, _) = client.finish(Duration::from_secs(10))?;
        if !status.success() {
            bail!(
                "idle connections were closed: {}",
                crate::process::tail(&self.dir.join("helper-idle.log"))
            );
        }
        let connections = f64::from(IDLE_CONNECTIONS);
        Ok(Metrics::from([
            ("rss_mb", after / 1024.0),
            ("rss_before_mb", before / 1024.0),
            ("kb_per_conn", (after - before) / connections),
            ("fresh_kb_per_conn", (fresh - before) / connections),
            ("anon_kb_per_conn", (anon_after - anon_before) / connections),
        ]))
    }

    fn idle_memory(&self, proxy: &Proxy) -> Result<Metrics> {
        let clock = Instant::now();
        let running = self.set_up(Scenario::IdleRss, proxy)?;
        let ready = clock.elapsed();
        thread::sleep(SETTLE);
        let (rss, anon) = running.memory()?;
        preflight::http1(running.port, &Ask::default())?;
        Ok(Metrics::from([
            ("rss_mb", rss / 1024.0),
            ("anon_mb", anon / 1024.0),
            ("ready_ms", ready.as_secs_f64() * 1e3),
        ]))
    }

    fn many_clusters(&self, proxy: &Proxy) -> Result<Metrics> {
        let clock = Instant::now();
        let running = self.set_up(Scenario::Clusters, proxy)?;
        let (ready, cpu) = (clock.elapsed(), running.cpu()?);
        thread::sleep(SETTLE);
        let (rss, anon) = running.memory()?;
        Ok(Metrics::from([
            ("ready_ms", ready.as_secs_f64() * 1e3),
            ("start_cpu_ms", cpu.as_secs_f64() * 1e3),
            ("rss_mb", rss / 1024.0),
            ("anon_mb", anon / 1024.0),
        ]))
    }
}
