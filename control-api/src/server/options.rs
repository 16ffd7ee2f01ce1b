//! The command line of `outrider-control`.

use std::net::SocketAddr;
use std::path::PathBuf;

use crate::api::auth::AuthArgs;
use crate::ca::CaArgs;
use crate::ca::identity::TrustDomain;
use crate::server::WebhookArgs;
use crate::status::StatusArgs;

/// The control plane of Outrider: services, routes and policies in Kubernetes shape, served as xDS.
///
/// Proxies connect to the xDS port and say who they are by their node id (sidecar~IP~POD.NAMESPACE~DOMAIN or router~...).
/// Operators connect to the API port with outriderctl.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "outrider-control", version, args_conflicts_with_subcommands = true)]
pub struct Options {
    /// Something else than serving.
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Where proxies connect (xDS over gRPC)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15010")]
    pub xds: SocketAddr,

    /// Where operators and outriderctl connect (gRPC)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15020")]
    pub api: SocketAddr,

    /// A folder of manifests that is followed: what is in it goes before what the store has
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,

    /// Keep what is applied in this folder (an embedded database), and what belongs to this control plane: its
    /// certificate, tokens, the audit log. Without it and without --store, what is applied is gone with the process
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,

    /// Where else what is applied is kept, as `Place::parse` reads it.
    #[arg(
        long,
        value_name = "STORE",
        help = "Keep what is applied elsewhere: etcd://HOST:PORT[,HOST:PORT...][/PREFIX][?ca=FILE&cert=FILE&key=FILE], \
                kubernetes[?context=NAME&kubeconfig=FILE], or memory"
    )]
    pub store: Option<String>,

    /// Where every write is written down, a line of JSON each [default: DATA-DIR/audit.log, else standard error]
    #[arg(long, value_name = "FILE")]
    pub audit_log: Option<PathBuf>,

    /// Proxies that may be connected at a time; those of one workload's identity are half of them at most
    #[arg(long, value_name = "NUMBER", default_value_t = 20_000)]
    pub max_proxies: usize,

    /// Different scopes of proxies (namespaces, Gateways, declared dependencies) that may be connected at a time: each
    /// is worked out anew with each change
    #[arg(long, value_name = "NUMBER", default_value_t = crate::engine::SCOPES)]
    pub max_scopes: usize,

    /// TLS, tokens and roles.
    #[command(flatten)]
    pub auth: AuthArgs,

    /// Workloads' identities.
    #[command(flatten)]
    pub ca: CaArgs,

    /// Sidecars of pods.
    #[command(flatten)]
    pub injection: WebhookArgs,

    /// The page for browsers.
    #[command(flatten)]
    pub status: StatusArgs,
}

/// What it can do besides serving.
#[derive(Clone, Debug, clap::Subcommand)]
pub enum Command {
    /// Print the definitions of our kinds for Kubernetes (YAML)
    Crds,
    /// Make the next root of this control plane's own authority. It is in the trust bundle at once, signs when everybody has it, and
    /// the one before goes when its last certificate has ended
    RotateCa {
        /// The data directory of the control plane, which may run
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Its trust domain
        #[arg(long, value_name = "NAME", default_value = "cluster.local")]
        trust_domain: TrustDomain,
    },
    /// Take former roots of this control plane's own authority out of the trust bundle now, rather than when the last certificate under
    /// them has ended. Refused while there may be such certificates, unless it is forced
    DropCaRoot {
        /// The data directory of the control plane, which may run
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Its trust domain
        #[arg(long, value_name = "NAME", default_value = "cluster.local")]
        trust_domain: TrustDomain,
        /// Although certificates under them may be valid: whoever has one is cut off until it has another
        #[arg(long)]
        force: bool,
    },
}
