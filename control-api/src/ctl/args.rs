//! The command line.

use std::collections::BTreeSet;
use std::path::PathBuf;

use clap::parser::ValueSource;
use clap::{ArgMatches, Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use outrider_inject::settings::{Capture, Version};

use crate::api::auth::Role;
use crate::model::own::Duration;

/// Exit codes, as `--help` shows them.
const EXIT_CODES: &str = "\
Exit codes:
  0  done
  1  refused, or not found; `diff`: there are differences; `problems`: there are some
  2  wrong usage
  3  the control plane was not reached, or did not let us in
  4  `diff` failed

Connection: flags go before the environment, and that before the configuration file (~/.config/outrider/config.yaml):

  current: dev
  contexts:
    dev: {server: 127.0.0.1:15020, insecureLoopback: true}
    prod: {server: control.example.com:15020, ca: /etc/outrider/ca.pem, tokenFile: /etc/outrider/token, namespace: shop}";

/// Shows and changes what Outrider's control plane serves to proxies.
#[derive(Clone, Debug, Parser)]
#[command(name = "outriderctl", version, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub(super) struct Cli {
    /// How the control plane is reached.
    #[command(flatten)]
    pub(super) connection: Connection,

    /// The namespace that is meant [default: the context's, else `default`]
    #[arg(short, long, global = true, value_name = "NAMESPACE", env = "OUTRIDER_NAMESPACE")]
    pub(super) namespace: Option<String>,

    /// When to use colours
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(super) color: Color,

    /// What to do.
    #[command(subcommand)]
    pub(super) command: Command,
}

/// How the control plane is reached.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Connection")]
pub(super) struct Connection {
    /// The control plane's API [default: 127.0.0.1:15020]
    #[arg(long, global = true, value_name = "HOST:PORT", env = "OUTRIDER_SERVER")]
    pub(super) server: Option<String>,
    /// Authorities (PEM) that the server's certificate is verified with [default: the system's]
    #[arg(long, global = true, value_name = "FILE", env = "OUTRIDER_CA")]
    pub(super) ca: Option<PathBuf>,
    /// The name in the server's certificate [default: the host of --server]
    #[arg(long, global = true, value_name = "NAME", env = "OUTRIDER_SERVER_NAME")]
    pub(super) server_name: Option<String>,
    /// A token; other users of this host may see it, rather use --token-file
    #[arg(long, global = true, value_name = "TOKEN", env = "OUTRIDER_TOKEN", hide_env_values = true)]
    pub(super) token: Option<String>,
    /// A file with a token
    #[arg(long, global = true, value_name = "FILE", env = "OUTRIDER_TOKEN_FILE")]
    pub(super) token_file: Option<PathBuf>,
    /// A client certificate (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "OUTRIDER_CERT")]
    pub(super) cert: Option<PathBuf>,
    /// The key of --cert (PEM)
    #[arg(long, global = true, value_name = "FILE", env = "OUTRIDER_KEY")]
    pub(super) key: Option<PathBuf>,
    /// On the control plane's own host: take its CA and its administrator's token from its data directory
    #[arg(long, global = true, value_name = "DIR", env = "OUTRIDER_DATA_DIR")]
    pub(super) data_dir: Option<PathBuf>,
    /// Without TLS, to a control plane in its development mode on this host
    #[arg(long, global = true)]
    pub(super) insecure_loopback: bool,
    /// The configuration file [default: ~/.config/outrider/config.yaml]
    #[arg(long, global = true, value_name = "FILE", env = "OUTRIDER_CONFIG")]
    pub(super) config: Option<PathBuf>,
    /// Which of the configuration file's contexts [default: its `current`]
    #[arg(long, global = true, value_name = "NAME", env = "OUTRIDER_CONTEXT")]
    pub(super) context: Option<String>,
    /// How long an answer may take, in seconds
    #[arg(long, global = true, value_name = "SECONDS", default_value_t = 30)]
    pub(super) timeout: u64,
    /// Which of these are flags, rather than from the environment.
    #[arg(skip)]
    pub(super) flags: Flags,
}

/// What stands in the command line itself, by the names of options.
#[derive(Clone, Debug, Default)]
pub(super) struct Flags(BTreeSet<String>);

impl Flags {
    /// Those of a command line.
    pub(super) fn of(matches: &ArgMatches) -> Self {
        let flagged = |id: &&clap::Id| matches.value_source(id.as_str()) == Some(ValueSource::CommandLine);
        Self(matches.ids().filter(flagged).map(ToString::to_string).collect())
    }

    /// These.
    #[cfg(test)]
    pub(super) fn these(names: &[&str]) -> Self {
        Self(names.iter().map(ToString::to_string).collect())
    }

    /// Whether an option is there, by the name of its field.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains(name)
    }
}

/// How far a command goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum DryRun {
    /// The control plane says what would be done
    Server,
    /// The same: only the control plane can tell
    Client,
    /// It is done
    None,
}

/// When to use colours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Color {
    /// On a terminal, unless NO_COLOR is set
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

/// How objects are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// A table with more columns
    Wide,
    /// JSON
    Json,
    /// YAML
    Yaml,
    /// kind/name
    Name,
}

/// Manifests.
#[derive(Clone, Debug, Default, Args)]
pub(super) struct Files {
    /// A file or folder of manifests (YAML or JSON), or `-` for standard input; may be repeated
    #[arg(short, long = "filename", value_name = "FILE")]
    pub(super) filename: Vec<PathBuf>,
    /// Folders with what is in their folders
    #[arg(short = 'R', long, requires = "filename")]
    pub(super) recursive: bool,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum Command {
    /// Store manifests: all of them, or none when one is wrong
    ///
    /// What a manifest leaves out is not kept from before: the object is as the manifest says. With
    /// metadata.resourceVersion in it, it is stored only if nobody changed the object since.
    Apply {
        #[command(flatten)]
        files: Files,
        /// Say what would be done, with all warnings, and store nothing
        #[arg(long, value_name = "WHERE", num_args = 0..=1, require_equals = true, default_missing_value = "server",
            default_value = "none", hide_default_value = true)]
        dry_run: DryRun,
        /// Print the objects as they are stored
        #[arg(short, long, value_name = "FORMAT")]
        output: Option<Format>,
    },
    /// Delete objects by kind and name, by label, or those in manifests
    Delete {
        /// KIND NAME..., KIND/NAME..., or a KIND with --selector (`all`: all kinds but Secrets, ConfigMaps and those without
        /// namespaces)
        #[arg(value_name = "KIND [NAME]", conflicts_with = "filename")]
        what: Vec<String>,
        #[command(flatten)]
        files: Files,
        /// Those with these labels
        #[arg(short = 'l', long, value_name = "SELECTOR", conflicts_with = "filename")]
        selector: Option<String>,
        /// Say what would be deleted, and delete nothing
        #[arg(long, value_name = "WHERE", num_args = 0..=1, require_equals = true, default_missing_value = "server",
            default_value = "none", hide_default_value = true)]
        dry_run: DryRun,
        /// What does not exist is no error
        #[arg(long)]
        ignore_not_found: bool,
    },
    /// Show objects: KIND, KIND NAME..., KIND/NAME..., KIND,KIND or `all`
    Get {
        /// Kinds and names
        #[arg(value_name = "KIND [NAME]", required = true)]
        what: Vec<String>,
        /// Of all namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        /// Those with these labels, as in `app=web,tier!=cache,env in (a,b),!old`
        #[arg(short = 'l', long, value_name = "SELECTOR")]
        selector: Option<String>,
        /// How to show them [default: a table]
        #[arg(short, long, value_name = "FORMAT")]
        output: Option<Format>,
        /// Then show what changes, until interrupted
        #[arg(short, long)]
        watch: bool,
        /// No first line in tables
        #[arg(long)]
        no_headers: bool,
    },
    /// Show an object with what became of it, for people
    Describe {
        /// KIND NAME... or KIND/NAME...
        #[arg(value_name = "KIND [NAME]", required = true)]
        what: Vec<String>,
    },
    /// Show what applying manifests would change; exit code 1 when there is something
    Diff {
        #[command(flatten)]
        files: Files,
    },
    /// Show changes of a kind of objects as they happen
    Watch {
        /// The kind, or `all`
        kind: String,
        /// Of all namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        /// Those with these labels
        #[arg(short = 'l', long, value_name = "SELECTOR")]
        selector: Option<String>,
        /// One JSON object for each change
        #[arg(short, long, value_name = "FORMAT")]
        output: Option<Format>,
    },
    /// Show the connected proxies, and how far each is with its configuration
    #[command(visible_alias = "ps")]
    ProxyStatus {
        /// One of them: its node id, or POD.NAMESPACE
        proxy: Option<String>,
        /// How to show them [default: a table]
        #[arg(short, long, value_name = "FORMAT")]
        output: Option<Format>,
    },
    /// Show the configuration that a proxy was sent
    #[command(visible_alias = "pc")]
    ProxyConfig {
        /// Of which type
        #[arg(value_enum)]
        kind: ConfigKind,
        /// The proxy: its node id, or POD.NAMESPACE
        proxy: String,
        /// Resources whose name has this in it
        #[arg(long, value_name = "TEXT")]
        name: Option<String>,
        /// How to show them [default: a table]
        #[arg(short, long, value_name = "FORMAT")]
        output: Option<Format>,
    },
    /// Show which route and policy a request would meet at a proxy, and why
    Explain(ExplainArgs),
    /// Show what is wrong with manifests and stored objects that the control plane leaves out; exit code 1 when there is something
    Problems {
        /// How to show them [default: a table]
        #[arg(short, long, value_name = "FORMAT")]
        output: Option<Format>,
    },
    /// Put the sidecar into manifests, and print them
    ///
    /// Pods, and what makes pods: Deployments, StatefulSets, DaemonSets, ReplicaSets, Jobs, CronJobs, and lists of them. All else is
    /// printed as it was written. Done twice it is done once. What a pod's annotations say goes before the settings; the label
    /// `outrider.dev/inject: disabled` leaves a pod out. What became of each object is told on standard error. No control plane is needed.
    Inject(InjectArgs),
    /// Show the kinds that the control plane knows
    ApiResources,
    /// Print a script that completes command lines: `source <(outriderctl completion bash)`
    Completion {
        /// For which shell
        shell: Shell,
    },
    /// What becomes of identities of workloads
    Identity {
        /// What to do
        #[command(subcommand)]
        command: IdentityCommand,
    },
    /// Make a token: for operators and proxies, or by `create` for workloads
    ///
    /// With a name, a token for the API or xDS, and the line by which the control plane knows it. `create`: a join token, by
    /// which a workload without Kubernetes gets its first certificate.
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Token {
        /// A join token
        #[command(subcommand)]
        join: Option<TokenCommand>,
        /// Whose it is, as audit logs will call them
        #[arg(required = true)]
        name: Option<String>,
        /// What they may do: reader, operator, admin or proxy
        #[arg(long, required = true)]
        role: Option<Role>,
    },
    /// Print the version of this program and the name of the control plane
    Version {
        /// This program's alone
        #[arg(long)]
        client: bool,
    },
}

/// What can be done with identities.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum IdentityCommand {
    /// Believe an identity no longer: it gets no certificate and no configuration, and its connections are closed. `get revocations` shows
    /// those that there are, `delete` gives one back
    Revoke {
        /// The identity, as in spiffe://cluster.local/ns/shop/sa/web
        identity: String,
        /// Why, for people
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
    },
}

/// What can be done with tokens besides.
#[derive(Clone, Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a join token for a service account of the namespace (-n); `get jointokens` shows those that there are, `delete` revokes
    Create {
        /// The service account whose identity the bearer gets
        #[arg(long, value_name = "NAME")]
        service_account: String,
        /// How long it can be used
        #[arg(long, value_name = "DURATION", default_value = "1h")]
        ttl: Duration,
        /// How many certificates can be got with it
        #[arg(long, value_name = "NUMBER", default_value_t = 1)]
        uses: u32,
    },
}

/// A type of configuration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum ConfigKind {
    /// Clusters (CDS)
    #[value(alias = "cluster", alias = "cds")]
    Clusters,
    /// Listeners (LDS)
    #[value(alias = "listener", alias = "lds")]
    Listeners,
    /// Routes (RDS)
    #[value(alias = "route", alias = "rds")]
    Routes,
    /// Endpoints (EDS)
    #[value(alias = "endpoint", alias = "eds")]
    Endpoints,
    /// Secrets (SDS); keys are never shown
    #[value(alias = "secret", alias = "sds")]
    Secrets,
    /// All of them
    All,
}

/// Manifests that get sidecars.
#[derive(Clone, Debug, Args)]
pub(super) struct InjectArgs {
    /// The manifests.
    #[command(flatten)]
    pub(super) files: Files,
    /// What sidecars are like (YAML), as the control plane's --inject-settings; the flags below go before it
    #[arg(long, value_name = "FILE")]
    pub(super) settings: Option<PathBuf>,
    /// The sidecar's image
    #[arg(long, value_name = "IMAGE")]
    pub(super) image: Option<String>,
    /// The control plane's xDS port, as sidecars reach it
    #[arg(long, value_name = "HOST:PORT")]
    pub(super) control_plane: Option<String>,
    /// Who has traffic redirected: init (an init container), cni, or none
    #[arg(long, value_name = "HOW")]
    pub(super) capture: Option<Capture>,
    /// Kubernetes' version: from 1.29 on the sidecar is an init container that stays (a native sidecar) [default: it is newer]
    #[arg(long, value_name = "VERSION")]
    pub(super) kubernetes_version: Option<Version>,
    /// Whether it is, whatever the version
    #[arg(long, value_name = "true|false")]
    pub(super) native_sidecar: Option<bool>,
}

/// A request that is asked about.
#[derive(Clone, Debug, Args)]
pub(super) struct ExplainArgs {
    /// The proxy: its node id, or POD.NAMESPACE
    pub(super) proxy: String,
    /// The request, as in http://web.shop/path?query
    #[arg(value_name = "URL")]
    pub(super) url: String,
    /// Its method
    #[arg(short = 'X', long, default_value = "GET")]
    pub(super) method: String,
    /// A header, as in 'x-user: jane'; may be repeated
    #[arg(short = 'H', long, value_name = "NAME: VALUE")]
    pub(super) header: Vec<String>,
    /// The port that it arrives at [default: that of the URL for captured requests; the explicit HTTP listener of a sidecar
    /// where the URL has none; the first HTTP port of a gateway]
    #[arg(long)]
    pub(super) port: Option<u16>,
    /// What arrives for the application, rather than what it sends
    #[arg(long)]
    pub(super) inbound: bool,
    /// How to show it [default: for people]
    #[arg(short, long, value_name = "FORMAT")]
    pub(super) output: Option<Format>,
}
