//! The certificate authority of this control plane, and what follows it.

use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use tokio::sync::watch;

use super::Options;
use crate::api::audit::Audit;
use crate::api::auth::Security;
use crate::ca::Ca;
use crate::ca::credential::jwks::Jwks;
use crate::ca::credential::kubernetes::Reviewer;
use crate::ca::credential::{Accounts, Credentials};
use crate::ca::limits::Limits;
use crate::ca::service::CertificateService;
use crate::store::SharedStore;

/// Reads or makes the authority, and starts what follows its files. `kubernetes`: whom tokens are shown to; `shared`: other
/// control planes may use the same store.
pub(super) fn start(
    options: &Options,
    security: &Arc<Security>,
    audit: &Arc<Audit>,
    store: &SharedStore,
    kubernetes: Option<kube::Client>,
    shared: bool,
    leaving: &watch::Receiver<bool>,
) -> anyhow::Result<CertificateService> {
    let args = &options.ca;
    // Also where another authority (--client-ca) speaks for the workloads.
    security.authenticator.set_trust_domain(args.trust_domain.clone());
    let ca = args.build(options.data_dir.as_deref(), shared, SystemTime::now())?;
    match &ca {
        Ok(ca) => {
            tracing::info!(trust_domain = %ca.domain(), "workloads get certificates here");
            take_over(security, ca).context("the roots of workloads")?;
            tokio::spawn(Arc::clone(ca).watch());
            tokio::spawn(follow(Arc::clone(security), Arc::clone(ca)));
        }
        Err(reason) => tracing::info!("{reason}"),
    }
    let audiences = args.audiences();
    let accounts = match (&args.token_jwks, &args.token_issuer, kubernetes) {
        (Some(source), Some(issuer), _) => {
            let jwks = Jwks::open(source.clone(), issuer, audiences)?;
            tokio::spawn(Arc::clone(&jwks).watch());
            Accounts::Jwks(jwks)
        }
        (_, _, Some(client)) => Accounts::Review(Reviewer::new(client, audiences)),
        _ => Accounts::Nobody,
    };
    let credentials = Credentials::new(accounts, Arc::clone(store));
    Ok(CertificateService::new(ca, credentials, Limits::default(), Arc::clone(audit), leaving.clone()))
}

/// Workloads with a certificate under the roots that are believed now may connect.
fn take_over(security: &Security, ca: &Ca) -> anyhow::Result<()> {
    let Some(tls) = &security.tls else { return Ok(()) };
    tls.set_workloads(ca.bundle().borrow().roots.clone())
}

/// Keeps who may connect as the trust bundle is. Never ends.
async fn follow(security: Arc<Security>, ca: Arc<Ca>) {
    let mut bundles = ca.bundle();
    while bundles.changed().await.is_ok() {
        bundles.borrow_and_update();
        if let Err(error) = take_over(&security, &ca) {
            tracing::error!(
                error = format!("{error:#}"),
                "the roots of workloads are not in force for connections here"
            );
        }
    }
}
