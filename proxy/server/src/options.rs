//! What the command line decides.

use std::path::PathBuf;
use std::time::Duration;

/// The process's options; each has the meaning of the `envoy` flag of the same name.
#[derive(Debug, Clone)]
pub struct Options {
    /// The bootstrap file.
    pub config_path: Option<PathBuf>,
    /// A bootstrap as text, merged over the file.
    pub config_yaml: Option<String>,
    /// Serve, validate, or exit once initialised.
    pub mode: Mode,
    /// Worker threads; `None` for one each CPU.
    pub concurrency: Option<usize>,
    /// The log.
    pub log: LogOptions,
    /// Where the admin address is written.
    pub admin_address_path: Option<PathBuf>,
    /// Unknown static fields are logged instead of refused.
    pub allow_unknown_static_fields: bool,
    /// Unknown dynamic fields are refused.
    pub reject_unknown_dynamic_fields: bool,
    /// Unknown dynamic fields are not logged.
    pub ignore_unknown_dynamic_fields: bool,
    /// How long a drain may take.
    pub drain_time: Duration,
    /// A growing share of clients is asked to go, instead of all at once.
    pub drain_gradually: bool,
    /// What is outbound is served until the application beside us has ended, which is at most `drain_time`.
    pub outlive_application: bool,
    /// `node.cluster`
    pub service_cluster: Option<String>,
    /// `node.id`
    pub service_node: Option<String>,
    /// `node.locality.zone`
    pub service_zone: Option<String>,
    /// `v4` or `v6`.
    pub local_address_ip_version: String,
    /// How often access logs are written.
    pub file_flush_interval: Duration,
    /// How much of an access log may wait, bytes.
    pub file_flush_min_size: u64,
    /// Deprecated fields are not logged.
    pub skip_deprecated_logs: bool,
    /// Tags for all stats, `name:value`.
    pub stats_tags: Vec<String>,
    /// Where the last good configuration of control planes is kept; `None`: nowhere.
    pub state_dir: Option<PathBuf>,
    /// Where `outrider upgrade` asks for another process to take over; `None`: nowhere.
    pub upgrade_socket: Option<PathBuf>,
    /// Take over from the process that is at the other end of standard input.
    pub take_over: bool,
    /// The command line as given, for `/server_info`.
    pub command_line: Vec<String>,
}

impl Default for Options {
    /// The options of an empty command line.
    fn default() -> Self {
        Self {
            config_path: None,
            config_yaml: None,
            mode: Mode::Serve,
            concurrency: None,
            log: LogOptions::default(),
            admin_address_path: None,
            allow_unknown_static_fields: false,
            reject_unknown_dynamic_fields: false,
            ignore_unknown_dynamic_fields: false,
            drain_time: Duration::from_secs(600),
            drain_gradually: true,
            outlive_application: false,
            service_cluster: None,
            service_node: None,
            service_zone: None,
            local_address_ip_version: "v4".into(),
            file_flush_interval: Duration::from_secs(10),
            file_flush_min_size: 64 << 10,
            skip_deprecated_logs: false,
            stats_tags: Vec::new(),
            state_dir: None,
            upgrade_socket: None,
            take_over: false,
            command_line: Vec::new(),
        }
    }
}

/// What the process is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Serve.
    Serve,
    /// Read the configuration, say whether it is good, exit.
    Validate,
    /// Exit when everything is initialised.
    InitOnly,
}

/// The log's options.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// Level of all components.
    pub level: String,
    /// `component:level,...`
    pub component_levels: String,
    /// A file in place of standard error.
    pub path: Option<PathBuf>,
    /// spdlog pattern.
    pub format: Option<String>,
    /// Control characters are escaped.
    pub escape: bool,
}

impl Default for LogOptions {
    /// Level `info`, standard error, the default pattern.
    fn default() -> Self {
        Self {
            level: "info".into(),
            component_levels: String::new(),
            path: None,
            format: None,
            escape: false,
        }
    }
}
