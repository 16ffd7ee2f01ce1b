//! What flags say about TLS and authentication, and what is made where they say nothing.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail};

use super::certificates::{Own, private_folder, write_private};
use super::{Authenticator, CertificateRule, Role, Tls, TlsFiles, Tokens, new_token};

/// How often files are looked at.
const INTERVAL: Duration = Duration::from_secs(5);

/// Connections of one address, unless somebody says otherwise: behind it may be a whole cluster.
const OF_ONE_ADDRESS: usize = 2048;

/// Who may connect, and how.
#[derive(Clone, Debug, Default, clap::Args)]
#[command(next_help_heading = "Security")]
pub struct AuthArgs {
    /// The server's certificate chain (PEM). Without, a CA and a certificate are made in DATA-DIR/tls.
    #[arg(long, value_name = "FILE", requires = "tls_key")]
    pub tls_cert: Option<PathBuf>,
    /// The key of --tls-cert (PEM).
    #[arg(long, value_name = "FILE", requires = "tls_cert")]
    pub tls_key: Option<PathBuf>,
    /// A further name or address for the certificate that is made; may be repeated.
    #[arg(long, value_name = "NAME", conflicts_with = "tls_cert")]
    pub tls_name: Vec<String>,
    /// The authorities (PEM) of clients' certificates. Without, clients show who they are by tokens, and workloads by
    /// certificates of this mesh.
    #[arg(long, value_name = "FILE")]
    pub client_ca: Option<PathBuf>,
    /// Which certificate has which role: uri:PATTERN=ROLE, cn:PATTERN=ROLE or o:PATTERN=ROLE, `*` for anything but a
    /// slash; may be repeated, the first that matches counts.
    /// [default: o:outrider:ROLE=ROLE for reader, operator and admin; proxy for spiffe://TRUST-DOMAIN/ns/*/sa/*]
    #[arg(long, value_name = "RULE", requires = "client_ca")]
    pub client_role: Vec<CertificateRule>,
    /// Tokens: lines of NAME ROLE sha256:HEX (`outriderctl token` makes them). [default: DATA-DIR/tokens/tokens, made at
    /// the first start beside admin.token and proxy.token]. A token with the role proxy is good for any proxy of any namespace: proxy.token
    /// is to begin with. Workloads with certificates of this mesh need none; take its line out when all have one
    #[arg(long, value_name = "FILE")]
    pub tokens: Option<PathBuf>,
    /// Connections of one address at a time, to each of the two ports; more are closed. [default: 2048]
    #[arg(long, value_name = "NUMBER")]
    pub max_connections_per_address: Option<usize>,
    /// For development: no TLS, and everybody is an administrator. All addresses must be on the loopback.
    #[arg(long, conflicts_with_all = ["tls_cert", "client_ca", "tokens"])]
    pub insecure_loopback: bool,
}

/// TLS and authentication as they are in force.
#[derive(Debug)]
pub struct Security {
    /// `None`: in clear, on the loopback.
    pub tls: Option<Arc<Tls>>,
    /// Who is who.
    pub authenticator: Arc<Authenticator>,
    /// Connections of one address, to each port.
    pub of_one_address: usize,
    own: Option<Own>,
    tokens: Option<PathBuf>,
    /// What the file of tokens was when it was read last.
    stamp: Mutex<Option<SystemTime>>,
}

impl AuthArgs {
    /// Reads, and makes where nothing was given, what they name. `listens`: all addresses that will be served.
    ///
    /// # Errors
    /// When a file is wrong, or the insecure mode is asked for beyond the loopback.
    pub fn build(&self, data_dir: Option<&Path>, listens: &[SocketAddr]) -> anyhow::Result<Security> {
        let of_one_address = self.max_connections_per_address.unwrap_or(OF_ONE_ADDRESS);
        if self.insecure_loopback {
            if let Some(open) = listens.iter().find(|address| !address.ip().is_loopback()) {
                bail!(
                    "--insecure-loopback: {open} can be reached from other hosts, and anybody there would be an \
                     administrator; listen on 127.0.0.1, or leave the flag out"
                );
            }
            tracing::warn!(
                "INSECURE: no TLS and no authentication; everybody on this host is an administrator of this control plane"
            );
            let authenticator = Arc::new(Authenticator::insecure());
            return Ok(Security {
                tls: None,
                authenticator,
                of_one_address,
                own: None,
                tokens: None,
                stamp: Mutex::default(),
            });
        }
        let needs = |what: &str| {
            format!(
                "TLS and authentication are on by default, and there is no data directory to make {what} in; give {what} \
                     by flags, or --data-dir, or --insecure-loopback for development on this host"
            )
        };
        let (files, own) = match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => {
                (TlsFiles { certificate: certificate.clone(), key: key.clone(), client_ca: None }, None)
            }
            _ => {
                let folder = data_dir.with_context(|| needs("--tls-cert and --tls-key"))?.join("tls");
                let own = Own::new(folder, &self.tls_name);
                own.ensure()?;
                tracing::info!(ca = %own.ca().display(), "clients verify this server with");
                (own.files(), Some(own))
            }
        };
        let tls = Tls::load(TlsFiles { client_ca: self.client_ca.clone(), ..files })?;
        let tokens = match (&self.tokens, data_dir) {
            (Some(path), _) => Some(path.clone()),
            (None, Some(folder)) => Some(first_tokens(&folder.join("tokens"))?),
            // Certificates alone are enough.
            (None, None) if self.client_ca.is_some() => None,
            (None, None) => bail!(needs("--tokens (or --client-ca)")),
        };
        // Before it is read: what changes from here on is read again.
        let stamp = Mutex::new(tokens.as_deref().and_then(modified));
        let known = tokens.as_deref().map(Tokens::load).transpose()?.unwrap_or_default();
        let rules =
            if self.client_role.is_empty() { CertificateRule::defaults() } else { self.client_role.clone() };
        let authenticator = Arc::new(Authenticator::new(known, rules));
        Ok(Security { tls: Some(Arc::new(tls)), authenticator, of_one_address, own, tokens, stamp })
    }
}

impl Security {
    /// What clients verify this server with, when that was made here.
    pub fn ca(&self) -> Option<PathBuf> {
        self.own.as_ref().map(Own::ca)
    }

    /// Looks at the files every few seconds, and takes over what changed; what is wrong is logged, and nothing changes.
    /// Never ends.
    pub async fn watch(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(INTERVAL);
        loop {
            ticks.tick().await;
            let this = Arc::clone(&self);
            // Files are read on a thread that may wait.
            let _ = tokio::task::spawn_blocking(move || this.refresh()).await;
        }
    }

    /// Takes over what changed in the files.
    fn refresh(&self) {
        if let Some(own) = &self.own
            && let Err(error) = own.ensure()
        {
            tracing::error!(error = format!("{error:#}"), "the server's certificate could not be renewed");
        }
        if let Some(tls) = &self.tls {
            match tls.refresh() {
                Ok(true) => tracing::info!("the TLS files changed and are in force"),
                Ok(false) => {}
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the TLS files changed and are wrong; those before stay"
                    );
                }
            }
        }
        let Some(path) = &self.tokens else { return };
        let now = modified(path);
        let mut stamp = self.stamp.lock().unwrap_or_else(PoisonError::into_inner);
        if *stamp != now {
            *stamp = now;
            match Tokens::load(path) {
                Ok(tokens) => {
                    tracing::info!(count = tokens.len(), "the tokens changed");
                    self.authenticator.set_tokens(tokens);
                }
                Err(error) => {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the tokens changed and are wrong; those before stay"
                    );
                }
            }
        }
    }
}

/// When a file was changed last; `None` when that cannot be said.
fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|it| it.modified()).ok()
}

/// The file of tokens in a folder; at the first start it is made, with a token for an administrator and one for proxies.
fn first_tokens(folder: &Path) -> anyhow::Result<PathBuf> {
    private_folder(folder)?;
    let path = folder.join("tokens");
    if path.exists() {
        return Ok(path);
    }
    let mut text =
        "# Who may do what: NAME ROLE sha256:HEX (the hash of the token). Changes are taken over at once.\n"
            .to_owned();
    for role in [Role::Admin, Role::Proxy] {
        let token = new_token(role.name(), role)?;
        write_private(&folder.join(format!("{role}.token")), &format!("{}\n", token.secret))?;
        text.push_str(&token.line);
        text.push('\n');
    }
    // Last: with it there the first start is done.
    write_private(&path, &text)?;
    tracing::info!(folder = %folder.display(), "the first tokens were made: admin.token and proxy.token");
    Ok(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_that_is_revoked_while_the_store_is_opened_is_revoked() {
        let folder = std::env::temp_dir().join(format!("outrider-revoked-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&folder);
        let security = AuthArgs::default().build(Some(&folder), &[]).unwrap();
        let token = std::fs::read_to_string(folder.join("tokens/admin.token")).unwrap();
        let header = format!("Bearer {}", token.trim());
        let known = || security.authenticator.identify(Some(header.as_bytes()), None).is_ok();
        assert!(known());
        // After the files were read, before anybody looks at them again.
        let path = folder.join("tokens/tokens");
        std::fs::write(&path, "# nobody\n").unwrap();
        let later = SystemTime::now() + Duration::from_secs(10);
        std::fs::File::options().append(true).open(&path).unwrap().set_modified(later).unwrap();
        security.refresh();
        assert!(!known(), "the first look finds it");
    }
}
