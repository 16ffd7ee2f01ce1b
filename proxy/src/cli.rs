//! The command line: that of the `envoy` binary, and a few commands beside it.

use std::path::PathBuf;

use clap::{ArgAction, Parser, Subcommand, ValueEnum};
use outrider_server::options::{self, Options};

/// An Envoy-compatible sidecar and ambassador proxy.
///
/// Takes the command line of the `envoy` binary and an Envoy v3 bootstrap (YAML or JSON).
#[derive(Debug, Parser)]
#[command(
    name = "outrider",
    disable_version_flag = true,
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  outrider -c envoy.yaml --concurrency 2\n  outrider --mode validate -c envoy.yaml\n  \
                  outrider check envoy.yaml\n  outrider demo"
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) flags: Flags,
}

/// What else the binary can do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print what each field of a bootstrap or config_dump would do here: enforced, inert (why), refused (where).
    ///
    /// Exits with 1 if anything is refused.
    Check {
        /// The bootstrap (YAML or JSON) or a saved `/config_dump`.
        file: PathBuf,
        /// Print JSON instead of text.
        #[arg(long)]
        json: bool,
    },
    /// Wait until the proxy beside this process is ready: it has its certificates and its first configuration.
    ///
    /// Exits with 1 when that takes too long. For what must not start before the proxy: a postStart hook, a start script.
    Wait {
        /// Where the proxy's admin interface is.
        #[arg(long, value_name = "HOST:PORT", default_value = "127.0.0.1:15000")]
        admin: String,
        /// How long to wait, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        timeout_s: u64,
    },
    /// Capture the traffic of the network namespace that this runs in: rules that lead it to the proxy.
    Capture {
        /// What to do.
        #[command(subcommand)]
        command: outrider_capture::cli::Command,
    },
    /// Have a running proxy hand over to another binary: it takes the listening sockets and what was counted, and the old
    /// process finishes what it has begun.
    ///
    /// The new process is started with the arguments and the environment of the old one. If it is not ready in time, or
    /// ends, nothing has happened: the old one goes on, and this exits with 1.
    Upgrade {
        /// What is to be run, as the proxy sees the file system.
        #[arg(long, value_name = "FILE")]
        binary: PathBuf,
        /// The proxy's --upgrade-socket.
        #[arg(long, value_name = "PATH", default_value = "/var/run/outrider/upgrade.sock")]
        socket: PathBuf,
        /// How long the new process may take until it is ready, in seconds.
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        timeout_s: u64,
    },
    /// What the first process becomes when others have taken over: it passes signals on to them, and ends with them.
    #[command(hide = true)]
    Shepherd,
    /// Start a mesh on this machine, show step by step what it does, and keep it up.
    ///
    /// Applications with sidecars and a control plane with its authority. As root the pods are network namespaces whose traffic is
    /// captured; else they stand side by side on the loopback. Exits with 1 when a step fails.
    Demo {
        /// Exit after the last step instead of serving until Ctrl-C.
        #[arg(long)]
        once: bool,
        /// Explicit ports on the loopback instead of network namespaces, even as root.
        #[arg(long, conflicts_with = "simple")]
        loopback: bool,
        /// One proxy on a bundled bootstrap with two bundled upstreams, without a control plane.
        #[arg(long)]
        simple: bool,
        /// With --simple: port of the proxy's first listener; the next ports are its other listeners.
        #[arg(long, default_value_t = 10000)]
        port: u16,
    },
    /// Part of the demo.
    #[command(hide = true)]
    DemoPart {
        /// Which, and what it needs to know.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

/// The flags of the `envoy` binary.
#[derive(Debug, Parser)]
pub(crate) struct Flags {
    /// The bootstrap file: YAML, or JSON when it ends in `.json`.
    #[arg(short = 'c', long, value_name = "FILE")]
    config_path: Option<PathBuf>,
    /// A bootstrap as text, merged over the file.
    #[arg(long, value_name = "YAML")]
    config_yaml: Option<String>,
    /// Serve, only validate the configuration, or exit when everything is initialised.
    #[arg(long, value_enum, default_value_t = Mode::Serve)]
    mode: Mode,
    /// Worker threads; 0 or absent: one for each CPU.
    #[arg(long, value_name = "N")]
    concurrency: Option<usize>,
    /// trace, debug, info, warning|warn, error, critical or off.
    #[arg(short = 'l', long, value_name = "LEVEL", default_value = "info")]
    log_level: String,
    /// Levels by component, as `upstream:debug,http:trace`.
    #[arg(long, value_name = "LIST", default_value = "")]
    component_log_level: String,
    /// Write the log to this file instead of standard error.
    #[arg(long, value_name = "FILE")]
    log_path: Option<PathBuf>,
    /// The log's format, in spdlog's pattern syntax.
    #[arg(long, value_name = "PATTERN")]
    log_format: Option<String>,
    /// Escape line breaks and other control characters in log messages.
    #[arg(long)]
    log_format_escaped: bool,
    /// Where the admin interface's address is written once it listens.
    #[arg(long, value_name = "FILE")]
    admin_address_path: Option<PathBuf>,
    /// Unknown fields in static configuration are logged instead of refused.
    #[arg(long, visible_alias = "allow-unknown-fields")]
    allow_unknown_static_fields: bool,
    /// Unknown fields in dynamic configuration are refused.
    #[arg(long)]
    reject_unknown_dynamic_fields: bool,
    /// Unknown fields in dynamic configuration are not even logged.
    #[arg(long)]
    ignore_unknown_dynamic_fields: bool,
    /// How long connections may take to finish when draining, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    drain_time_s: u64,
    /// Ask a growing share of clients to go, or all at once.
    #[arg(long, value_enum, default_value_t = DrainStrategy::Gradual)]
    drain_strategy: DrainStrategy,
    /// When told to end (SIGTERM): ask inbound clients to go, but serve outbound traffic until the application beside this
    /// proxy has no TCP sockets left, at most --drain-time-s.
    #[arg(long)]
    outlive_application: bool,
    /// Name of the service's cluster (`node.cluster`).
    #[arg(long, value_name = "NAME")]
    service_cluster: Option<String>,
    /// Name of this node (`node.id`).
    #[arg(long, value_name = "NAME")]
    service_node: Option<String>,
    /// Zone of this node (`node.locality.zone`).
    #[arg(long, value_name = "NAME")]
    service_zone: Option<String>,
    /// Which of our addresses stand for us: v4 or v6.
    #[arg(long, value_name = "v4|v6", default_value = "v4")]
    local_address_ip_version: String,
    /// How often access logs are written to their files, in milliseconds.
    #[arg(long, value_name = "MSEC", default_value_t = 10_000)]
    file_flush_interval_msec: u64,
    /// How much of an access log may wait to be written, in KiB.
    #[arg(long, value_name = "KIB", default_value_t = 64)]
    file_flush_min_size_kb: u64,
    /// Do not log the use of deprecated fields.
    #[arg(long)]
    skip_deprecated_logs: bool,
    /// A tag for all stats, as `name:value`; may be given several times.
    #[arg(long, value_name = "NAME:VALUE")]
    stats_tag: Vec<String>,
    /// Keep the last good configuration of control planes in this directory (no secrets), and start from it when none
    /// answers.
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Where `outrider upgrade` may ask for another process to take over: a unix socket, for this user and root alone.
    #[arg(long, value_name = "PATH")]
    upgrade_socket: Option<PathBuf>,
    /// Take over from the process at the other end of standard input.
    #[arg(long, hide = true)]
    take_over: bool,
    /// Print the version and exit.
    #[arg(long)]
    pub(crate) version: bool,
    #[command(flatten)]
    unused: Unused,
}

/// Flags of the `envoy` binary that mean nothing here: accepted, with a warning.
#[derive(Debug, Parser)]
struct Unused {
    /// Accepted; there is no hot restart through shared memory here (see `outrider upgrade`).
    #[arg(long, value_name = "N")]
    base_id: Option<u32>,
    /// Accepted; see --base-id.
    #[arg(long)]
    use_dynamic_base_id: bool,
    /// Accepted; see --base-id.
    #[arg(long, value_name = "FILE")]
    base_id_path: Option<PathBuf>,
    /// Accepted; see --base-id.
    #[arg(long, value_name = "N")]
    restart_epoch: Option<u32>,
    /// Accepted; hot restart is never used.
    #[arg(long)]
    disable_hot_restart: bool,
    /// Accepted; see --base-id.
    #[arg(long)]
    hot_restart_version: bool,
    /// Accepted; see --base-id.
    #[arg(long, value_name = "SECONDS")]
    parent_shutdown_time_s: Option<u64>,
    /// Accepted; see --base-id.
    #[arg(long)]
    skip_hot_restart_on_no_parent: bool,
    /// Accepted; see --base-id.
    #[arg(long)]
    skip_hot_restart_parent_stats: bool,
    /// Accepted; see --base-id.
    #[arg(long, value_name = "PATH")]
    socket_path: Option<String>,
    /// Accepted; see --base-id.
    #[arg(long, value_name = "MODE")]
    socket_mode: Option<String>,
    /// Accepted; workers already follow the CPU set.
    #[arg(long)]
    cpuset_threads: bool,
    /// Accepted; there are no mutexes to trace on the request path.
    #[arg(long)]
    enable_mutex_tracing: bool,
    /// Accepted; the log's components are always named.
    #[arg(long)]
    enable_fine_grain_logging: bool,
    /// Accepted; core dumps follow the process's own limits.
    #[arg(long)]
    enable_core_dump: bool,
    /// Accepted; there are no stack traces over several log lines here.
    #[arg(long)]
    log_stacktrace_single_entry: bool,
    /// Accepted; extensions are not loaded by name.
    #[arg(long, value_name = "LIST", action = ArgAction::Append)]
    disable_extensions: Vec<String>,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum Mode {
    Serve,
    Validate,
    #[value(name = "init_only")]
    InitOnly,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum DrainStrategy {
    Gradual,
    Immediate,
}

impl Flags {
    /// The server's options, and the flags that were given but mean nothing here.
    pub(crate) fn into_options(self) -> (Options, Vec<&'static str>) {
        let unused = self.unused.given();
        let options = Options {
            config_path: self.config_path,
            config_yaml: self.config_yaml,
            mode: match self.mode {
                Mode::Serve => options::Mode::Serve,
                Mode::Validate => options::Mode::Validate,
                Mode::InitOnly => options::Mode::InitOnly,
            },
            concurrency: self.concurrency.filter(|n| *n > 0),
            log: options::LogOptions {
                level: self.log_level,
                component_levels: self.component_log_level,
                path: self.log_path,
                format: self.log_format,
                escape: self.log_format_escaped,
            },
            admin_address_path: self.admin_address_path,
            allow_unknown_static_fields: self.allow_unknown_static_fields,
            reject_unknown_dynamic_fields: self.reject_unknown_dynamic_fields,
            ignore_unknown_dynamic_fields: self.ignore_unknown_dynamic_fields,
            drain_time: std::time::Duration::from_secs(self.drain_time_s),
            drain_gradually: matches!(self.drain_strategy, DrainStrategy::Gradual),
            outlive_application: self.outlive_application,
            service_cluster: self.service_cluster,
            service_node: self.service_node,
            service_zone: self.service_zone,
            local_address_ip_version: self.local_address_ip_version,
            file_flush_interval: std::time::Duration::from_millis(self.file_flush_interval_msec),
            file_flush_min_size: self.file_flush_min_size_kb.saturating_mul(1024),
            skip_deprecated_logs: self.skip_deprecated_logs,
            stats_tags: self.stats_tag,
            state_dir: self.state_dir,
            upgrade_socket: self.upgrade_socket,
            take_over: self.take_over,
            command_line: std::env::args().collect(),
        };
        (options, unused)
    }
}

impl Unused {
    fn given(&self) -> Vec<&'static str> {
        // --base-id, --restart-epoch 0 and --disable-hot-restart ask for what is so anyway: no warning.
        let flags = [
            (self.use_dynamic_base_id, "--use-dynamic-base-id"),
            (self.base_id_path.is_some(), "--base-id-path"),
            (self.restart_epoch.is_some_and(|epoch| epoch > 0), "--restart-epoch"),
            (self.hot_restart_version, "--hot-restart-version"),
            (self.parent_shutdown_time_s.is_some(), "--parent-shutdown-time-s"),
            (self.skip_hot_restart_on_no_parent, "--skip-hot-restart-on-no-parent"),
            (self.skip_hot_restart_parent_stats, "--skip-hot-restart-parent-stats"),
            (self.socket_path.is_some(), "--socket-path"),
            (self.socket_mode.is_some(), "--socket-mode"),
            (self.cpuset_threads, "--cpuset-threads"),
            (self.enable_mutex_tracing, "--enable-mutex-tracing"),
            (self.enable_fine_grain_logging, "--enable-fine-grain-logging"),
            (self.enable_core_dump, "--enable-core-dump"),
            (self.log_stacktrace_single_entry, "--log-stacktrace-single-entry"),
            (!self.disable_extensions.is_empty(), "--disable-extensions"),
        ];
        flags.into_iter().filter(|(given, _)| *given).map(|(_, name)| name).collect()
    }
}
