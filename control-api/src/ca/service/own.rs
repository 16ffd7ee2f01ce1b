//! `outrider.identity.v1.Identity`.

use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use futures_util::{Stream, StreamExt as _};
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};

use super::super::identity::TrustDomain;
use super::super::{Bundle, SHORTEST};
use super::{Asked, CertificateService, Given, peer_of, shown_by};
use crate::ca::credential::Shown;
use crate::pb::identity as pb;
use crate::pb::identity::issue_request::Credential;

#[tonic::async_trait]
impl pb::identity_server::Identity for CertificateService {
    async fn issue(&self, request: Request<pb::IssueRequest>) -> Result<Response<pb::IssueResponse>, Status> {
        let peer = peer_of(&request);
        let pb::IssueRequest { csr, credential, lifetime_seconds } = request.into_inner();
        let chain = peer.chain.clone();
        let shown = match &credential {
            Some(Credential::JoinToken(token)) => Shown::Join(token),
            Some(Credential::ServiceAccountToken(token)) => Shown::Account(token),
            None => shown_by(&chain),
        };
        let lifetime = (lifetime_seconds > 0).then(|| Duration::from_secs(lifetime_seconds.into()));
        let given = CertificateService::issue(self, Asked { csr, shown, lifetime, peer }).await?;
        let Given { signed, identity, bundle } = given;
        let domain = self.domain()?;
        let chain = signed.chain.iter().map(|it| it.to_vec()).collect();
        let renew_at = renew_at(signed.not_before, signed.not_after, random()?);
        Ok(Response::new(pb::IssueResponse {
            chain,
            trust_bundle: Some(bundle_of(&domain, &bundle)),
            identity,
            not_before: signed.not_before,
            not_after: signed.not_after,
            renew_at,
        }))
    }

    type WatchTrustBundleStream = Pin<Box<dyn Stream<Item = Result<pb::TrustBundle, Status>> + Send>>;

    async fn watch_trust_bundle(
        &self,
        request: Request<pb::WatchTrustBundleRequest>,
    ) -> Result<Response<Self::WatchTrustBundleStream>, Status> {
        let ca = self.parts.ca.as_ref().map_err(|it| super::Refusal::NoAuthority(*it).status())?;
        let peer = peer_of(&request);
        // A workload may stay; of anybody else the connection ends, as of all who do not say who they are.
        if ca.recognise(&peer.chain, SystemTime::now()).is_ok() {
            peer.introduced.store(true, Ordering::Relaxed);
        }
        // So it does of who got a certificate over this connection. Others take no place from them.
        let (places, most) = if peer.introduced.load(Ordering::Relaxed) {
            (&self.parts.watchers, super::WATCHERS)
        } else {
            (&self.parts.strangers, super::STRANGERS)
        };
        let permit = std::sync::Arc::clone(places).try_acquire_owned().map_err(|_| {
            Status::resource_exhausted(format!("{most} follow the trust bundle already, the most allowed"))
        })?;
        let domain = ca.domain().clone();
        let mut leaving = self.parts.leaving.clone();
        let bundles = WatchStream::new(ca.bundle())
            .map(move |bundle| {
                let _held = &permit;
                Ok(bundle_of(&domain, &bundle))
            })
            .take_until(async move {
                let _ = leaving.wait_for(|leaving| *leaving).await;
            });
        Ok(Response::new(Box::pin(bundles)))
    }
}

impl CertificateService {
    fn domain(&self) -> Result<TrustDomain, Status> {
        let ca = self.parts.ca.as_ref().map_err(|it| super::Refusal::NoAuthority(*it).status())?;
        Ok(ca.domain().clone())
    }
}

fn bundle_of(domain: &TrustDomain, bundle: &Bundle) -> pb::TrustBundle {
    pb::TrustBundle {
        trust_domain: domain.to_string(),
        roots: bundle.roots.iter().map(|it| it.to_vec()).collect(),
    }
}

/// Half-way through a life, give or take a tenth of it; `random` says where. There is a minute left in any case.
fn renew_at(not_before: i64, not_after: i64, random: u8) -> i64 {
    let life = (not_after - not_before).max(0);
    let at = not_before + life * (2 * 255 + i64::from(random)) / (5 * 255);
    let earliest = not_before + super::super::authority::BACKDATE.as_secs().cast_signed();
    let last = not_after - (SHORTEST.as_secs() / 10).cast_signed();
    at.max(earliest).min(last.max(earliest))
}

fn random() -> Result<u8, Status> {
    let mut byte = [0; 1];
    aws_lc_rs::rand::fill(&mut byte).map_err(|_| Status::internal("no random numbers"))?;
    let [byte] = byte;
    Ok(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renewals_are_about_half_way_and_spread() {
        let day = 24 * 3600;
        let all: Vec<_> = (0..=255).map(|it| renew_at(1000, 1000 + day, it)).collect();
        assert_eq!((all[0], all[255]), (1000 + day * 2 / 5, 1000 + day * 3 / 5));
        assert!(all.windows(2).all(|it| it[0] < it[1]));
        // A life that is almost over.
        assert_eq!(renew_at(1000, 1100, 0), 1060);
    }
}
