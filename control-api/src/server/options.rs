//! The command line of `outrider-control`.

use std::net::SocketAddr;
use std::path::PathBuf;

/// The control plane of Outrider: services, routes and policies in Kubernetes shape, served as xDS.
#[derive(Clone, Debug, clap::Parser)]
#[command(name = "outrider-control", version)]
pub struct Options {
    /// Where proxies connect (xDS over gRPC)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15010")]
    pub xds: SocketAddr,

    /// Where operators and outriderctl connect (gRPC)
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:15020")]
    pub api: SocketAddr,

    /// A folder of manifests that is followed: what is in it goes before what the store has
    #[arg(long, value_name = "DIR")]
    pub manifests: Option<PathBuf>,

    /// Keep what is applied in this folder (an embedded database)
    #[arg(long, value_name = "DIR", conflicts_with = "store")]
    pub data_dir: Option<PathBuf>,

    /// Keep what is applied elsewhere: etcd://HOST:PORT[,HOST:PORT...][/PREFIX], kubernetes, or memory
    #[arg(long, value_name = "STORE")]
    pub store: Option<String>,

    /// For development: no TLS and no authentication; both addresses must be loopback
    #[arg(long)]
    pub insecure_loopback: bool,

    /// Print the CRDs of the kinds of our own, for `kubectl apply --server-side -f -`, and end
    #[arg(long)]
    pub print_crds: bool,
}
