//! Upstreams and clients that `load` starts as processes of their own, so that they can be pinned and their CPU
//! time is not the harness's. Each is one thread.

mod clients;
mod servers;
mod tls;

use std::future::Future;
use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};

pub(crate) use servers::{echo, grpc};

/// The helpers.
#[derive(Debug, Subcommand)]
pub(crate) enum Helper {
    /// Sends back what it receives.
    Echo(Server),
    /// Sends zeros as fast as they are taken.
    Source(Server),
    /// A gRPC server: answers every call with one message and `grpc-status: 0` in trailers.
    Grpc(Server),
    /// Round trips of 64 bytes, one after the other on each connection.
    Ping(Client),
    /// Reads and discards.
    Pull(Client),
    /// HTTP/1.1 over mutual TLS 1.3 with full handshakes.
    Tls(TlsClient),
    /// Opens connections, does one HTTP/1.1 request on each and holds them until stdin ends.
    Idle(Client),
}

/// Arguments of a server.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Server {
    /// The loopback port to listen on.
    #[arg(long)]
    port: u16,
}

/// Arguments of a client.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Client {
    /// The loopback port to connect to.
    #[arg(long)]
    port: u16,
    /// How many connections.
    #[arg(long)]
    connections: u32,
    /// How long to send.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
}

/// Arguments of the TLS client.
#[derive(Debug, Clone, Args)]
pub(crate) struct TlsClient {
    /// Where to, how many connections at a time, how long.
    #[command(flatten)]
    client: Client,
    /// The directory of certificates and keys.
    #[arg(long)]
    certs: PathBuf,
    /// The name of the leaf to show.
    #[arg(long)]
    leaf: String,
    /// The path to ask for.
    #[arg(long)]
    path: String,
    /// Ask over and over on each connection, instead of once.
    #[arg(long)]
    keep: bool,
}

/// Runs one helper to its end.
pub(crate) fn run(helper: Helper) -> Result<()> {
    match helper {
        Helper::Echo(server) => block_on(async move { echo(servers::listen(server.port)?).await }),
        Helper::Source(server) => {
            block_on(async move { servers::source(servers::listen(server.port)?).await })
        }
        Helper::Grpc(server) => block_on(async move { grpc(servers::listen(server.port)?).await }),
        Helper::Ping(client) => block_on(clients::ping(client)),
        Helper::Pull(client) => block_on(clients::pull(client)),
        Helper::Tls(client) => block_on(tls::run(client)),
        Helper::Idle(client) => clients::idle(client),
    }
}

/// Runs a future on a runtime of one thread.
pub(crate) fn block_on<T>(future: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(future)
}
