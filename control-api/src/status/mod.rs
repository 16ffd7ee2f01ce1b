//! The status page: what this control plane and its proxies are at, in a browser. Served on an address of its own, for reading
//! alone, with nothing that comes from elsewhere.
//!
//! What proxies count (rates, latencies) and what they have (certificates, generations, the ledger) is asked of those admin
//! interfaces that it was told of, while somebody looks. `overview` makes one picture of all that, `live` makes it anew every
//! two seconds for all who look, `assets/` draws it.

mod access;
mod admin;
mod live;
mod overview;
mod routes;
mod server;
#[cfg(test)]
mod tests;
mod topology;
mod traffic;

use std::net::SocketAddr;

use anyhow::bail;
use tokio::net::TcpListener;

use crate::api::auth::Security;
use access::Access;
pub use admin::AdminTarget;
use live::Live;
pub use overview::Sources;

/// How many admin interfaces may be given.
const ADMINS: usize = 256;

/// Where the status page is, and whom it asks.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Status page")]
pub struct StatusArgs {
    /// Serve a status page for browsers here: topology, proxies, routes, certificates. On a loopback address it is served in clear, and
    /// whoever is on this host may look; elsewhere with TLS, to those who have the role reader (a browser asks for a password,
    /// which is the token)
    #[arg(long, value_name = "ADDRESS")]
    pub status_address: Option<SocketAddr>,
    /// The admin interface of a proxy, of which rates, latencies, certificates, generations and the ledger are asked while somebody
    /// looks: POD.NAMESPACE=HOST:PORT; may be repeated
    #[arg(long, value_name = "PROXY=ADDRESS", requires = "status_address")]
    pub status_admin: Vec<AdminTarget>,
}

impl StatusArgs {
    /// Serves the page for as long as this process lives.
    ///
    /// # Errors
    /// When it would be open to other hosts without a credential, or asks too many.
    pub fn start(&self, listener: TcpListener, security: &Security, sources: Sources) -> anyhow::Result<()> {
        let address = listener.local_addr()?;
        if self.status_admin.len() > ADMINS {
            bail!("--status-admin: {} were given, {ADMINS} is the most", self.status_admin.len());
        }
        let (access, tls) = if address.ip().is_loopback() {
            (Access::Loopback, None)
        } else if let Some(tls) = security.tls.clone() {
            (Access::Credential(security.authenticator.clone()), Some(tls))
        } else {
            bail!(
                "--status-address {address}: without TLS and authentication it may listen on the loopback alone; use 127.0.0.1, or \
                 leave --insecure-loopback out"
            );
        };
        tracing::info!(%address, tls = tls.is_some(), "the status page is served");
        let live = Live::start(sources, self.status_admin.clone());
        tokio::spawn(server::serve(listener, tls, access, live));
        Ok(())
    }
}
