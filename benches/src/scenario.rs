//! The scenarios: what is set up for each, what load it gets and what is measured.

use std::collections::BTreeMap;
use std::io::BufRead;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};

use crate::certs::Certs;
use crate::config::{Edge, Plan, Shape};
use crate::drivers::Driver;
use crate::preflight;
use crate::process::{Process, free_port};
use crate::proxies::Proxy;
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

/// Figures of one scenario on one proxy in one round, by key (see [`Figure`] and README.md).
pub(crate) type Metrics = BTreeMap<&'static str, f64>;

/// One kind of work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Scenario {
    /// HTTP/1.1 keep-alive to HTTP/1.1.
    H1,
    /// h2 to HTTP/1.1.
    H2,
    /// h2 to h2.
    H2ToH2,
    /// gRPC unary, h2 to h2.
    Grpc,
    /// Plain HTTP/1.1 -> mTLS h2 -> plain HTTP/1.1 through two instances.
    Mesh,
    /// 64-byte round trips.
    TcpSmall,
    /// A stream of bytes from the upstream to the client.
    TcpBulk,
    /// Connections that idle.
    IdleConns,
    /// Memory right after start.
    IdleRss,
    /// Start with many clusters.
    Clusters,
}

/// The figure by which a scenario compares proxies; less is better in all of them.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Figure {
    /// Key in [`Metrics`].
    pub(crate) key: &'static str,
    /// Its unit.
    pub(crate) unit: &'static str,
}

impl Scenario {
    /// All, in the order in which they run and are printed.
    pub(crate) const ALL: [Scenario; 10] = [
        Scenario::H1,
        Scenario::H2,
        Scenario::H2ToH2,
        Scenario::Grpc,
        Scenario::Mesh,
        Scenario::TcpSmall,
        Scenario::TcpBulk,
        Scenario::IdleConns,
        Scenario::IdleRss,
        Scenario::Clusters,
    ];

    /// The name on the command line.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Scenario::H1 => "h1",
            Scenario::H2 => "h2",
            Scenario::H2ToH2 => "h2-h2",
            Scenario::Grpc => "grpc",
            Scenario::Mesh => "mesh",
            Scenario::TcpSmall => "tcp-small",
            Scenario::TcpBulk => "tcp-bulk",
            Scenario::IdleConns => "idle-conns",
            Scenario::IdleRss => "idle-rss",
            Scenario::Clusters => "clusters",
        }
    }

    /// What it is, in a few words.
    pub(crate) fn title(self) -> &'static str {
        match self {
            Scenario::H1 => "HTTP/1.1",
            Scenario::H2 => "h2 -> HTTP/1.1",
            Scenario::H2ToH2 => "h2 -> h2",
            Scenario::Grpc => "gRPC unary",
            Scenario::Mesh => "mesh, both hops",
            Scenario::TcpSmall => "TCP 64 B round trip",
            Scenario::TcpBulk => "TCP bulk",
            Scenario::IdleConns => "2,000 idle connections",
            Scenario::IdleRss => "idle after start",
            Scenario::Clusters => "start, 5,000 clusters",
        }
    }

    /// The reverse of [`Scenario::name`].
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scenario| scenario.name() == name)
    }

    /// The figure to compare.
    pub(crate) fn figure(self) -> Figure {
        match self {
            Scenario::TcpBulk => Figure { key: "cpu_ms_per_gb", unit: "ms CPU/GB" },
            Scenario::IdleConns => Figure { key: "kb_per_conn", unit: "kB/connection" },
            Scenario::IdleRss => Figure { key: "rss_mb", unit: "MB RSS" },
            Scenario::Clusters => Figure { key: "ready_ms", unit: "ms to ready" },
            _ => Figure { key: "cpu_us_per_request", unit: "us CPU/request" },
        }
    }

    /// The load generator, where the scenario is one of load.
    fn driver(self) -> Option<Driver> {
        match self {
            Scenario::H1 | Scenario::Mesh => Some(Driver::Wrk),
            Scenario::H2 | Scenario::H2ToH2 => Some(Driver::H2load),
            Scenario::Grpc => Some(Driver::GrpcH2load),
            Scenario::TcpSmall => Some(Driver::Ping),
            Scenario::TcpBulk => Some(Driver::Pull),
            Scenario::IdleConns | Scenario::IdleRss | Scenario::Clusters => None,
        }
    }
}

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
            _ => self.load(scenario, proxy),
        }
    }

    /// Starts a proxy for a scenario and sees that it answers as it should.
    pub(crate) fn set_up(&self, scenario: Scenario, proxy: &Proxy) -> Result<Running> {
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
            Scenario::H1 | Scenario::IdleConns | Scenario::IdleRss => {
                self.start(proxy, scenario.name(), Shape::ToHttp1 { h2_down: false }, nginx, 0)?
            }
        };
        match scenario {
            Scenario::H2 | Scenario::H2ToH2 => preflight::http2(running.port)?,
            Scenario::Grpc => preflight::grpc(running.port)?,
            Scenario::TcpSmall => preflight::echo(running.port)?,
            Scenario::TcpBulk => preflight::source(running.port)?,
            // Memory at rest is read before the first request.
            Scenario::IdleRss => {}
            _ => preflight::http1(running.port)?,
        }
        Ok(running)
    }

    fn start(
        &self,
        proxy: &Proxy,
        label: &str,
        shape: Shape,
        upstream: u16,
        extra: usize,
    ) -> Result<Running> {
        let listen = free_port()?;
        let plan = Plan {
            admin: free_port()?,
            edges: vec![Edge { listen, upstream, shape }],
            extra_clusters: extra,
            certs: &self.certs,
        };
        let process = proxy.start(&plan, &self.tools.proxy_cpu, &self.dir, label)?;
        Ok(Running { processes: vec![process], port: listen })
    }

    /// Runs the scenario's load for some seconds.
    pub(crate) fn drive(&self, scenario: Scenario, port: u16, seconds: u64) -> Result<crate::drivers::Load> {
        let driver = scenario.driver().ok_or_else(|| anyhow!("{} has no load", scenario.name()))?;
        driver.run(self.tools, port, seconds, &self.dir)
    }

    /// How long the measured load lasts, in seconds.
    pub(crate) fn seconds(&self) -> u64 {
        self.seconds
    }

    /// Where configurations and logs are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    fn load(&self, scenario: Scenario, proxy: &Proxy) -> Result<Metrics> {
        let mut running = self.set_up(scenario, proxy)?;
        self.drive(scenario, running.port, WARM_UP)?;
        let (cpu, clock) = (running.cpu()?, Instant::now());
        let load = self.drive(scenario, running.port, self.seconds)?;
        let (wall, cpu) = (clock.elapsed(), running.cpu()? - cpu);
        for process in &mut running.processes {
            process.check_alive()?;
        }
        if load.errors > 0 {
            bail!("{} of {} requests failed", load.errors, load.requests + load.errors);
        }
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
            metrics.insert("cpu_us_per_request", cpu.as_secs_f64() * 1e6 / load.requests as f64);
            metrics.insert("requests_per_s", load.requests as f64 / load.seconds);
            metrics.insert("requests", load.requests as f64);
            metrics.insert("p50_us", load.p50_us);
            metrics.insert("p99_us", load.p99_us);
        }
        Ok(metrics)
    }

    fn idle_connections(&self, proxy: &Proxy) -> Result<Metrics> {
        let running = self.set_up(Scenario::IdleConns, proxy)?;
        // What the first requests make the process allocate once is not the connections' share.
        for _ in 0..50 {
            preflight::http1(running.port)?;
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
        preflight::http1(running.port)?;
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
