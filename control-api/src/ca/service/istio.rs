//! `istio.v1.auth.IstioCertificateService`, which Istio's agents speak: the token comes as a bearer token, the answer is PEM.

use std::fmt::Write as _;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use prost_types::value::Kind;
use tonic::{Request, Response, Status};

use super::{Asked, CertificateService, Refusal, peer_of, shown_by};
use crate::ca::IssueError;
use crate::ca::credential::{CredentialError, Shown, join};
use crate::pb::istio as pb;

#[tonic::async_trait]
impl pb::istio_certificate_service_server::IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<pb::IstioCertificateRequest>,
    ) -> Result<Response<pb::IstioCertificateResponse>, Status> {
        let peer = peer_of(&request);
        let authorization = request.metadata().get("authorization").cloned();
        let pb::IstioCertificateRequest { csr, validity_duration, metadata } = request.into_inner();
        if let Err(refusal) = judge_metadata(metadata.as_ref()) {
            return Err(self.refuse(refusal, &peer).await);
        }
        let lifetime = match u64::try_from(validity_duration) {
            Ok(0) => None,
            Ok(seconds) => Some(Duration::from_secs(seconds)),
            Err(_) => {
                return Err(self.refuse(IssueError::TooShort(Duration::ZERO).into(), &peer).await);
            }
        };
        let chain = peer.chain.clone();
        let token = match authorization.as_ref().map(|it| bearer(it.as_bytes())) {
            Some(None) => {
                let form = "the authorization metadata has another form than \"Bearer TOKEN\"";
                return Err(self.refuse(CredentialError::Malformed(form.into()).into(), &peer).await);
            }
            Some(token) => token,
            None => None,
        };
        let shown = match token {
            Some(token) if token.starts_with(join::PREFIX) => Shown::Join(token),
            Some(token) => Shown::Account(token),
            None => shown_by(&chain),
        };
        let given = self.issue(Asked { csr: csr.into_bytes(), shown, lifetime, peer }).await?;
        let mut cert_chain: Vec<String> = given.signed.chain.iter().map(|it| pem(it)).collect();
        // Agents take the last entry for what they verify peers with, as a text: all roots stand in it.
        cert_chain.push(given.bundle.roots.iter().map(|it| pem(it)).collect());
        Ok(Response::new(pb::IstioCertificateResponse { cert_chain }))
    }
}

/// What agents say beside the request: a signer that is meant, and whom they act for. Neither is granted here.
fn judge_metadata(metadata: Option<&prost_types::Struct>) -> Result<(), Refusal> {
    for (name, value) in metadata.iter().flat_map(|it| &it.fields) {
        let empty = match &value.kind {
            None | Some(Kind::NullValue(_)) => true,
            Some(Kind::StringValue(text)) => text.is_empty(),
            Some(_) => false,
        };
        if !empty {
            let reason = match name.as_str() {
                "CertSigner" => "there is one signer here; leave ISTIO_META_CERT_SIGNER out",
                "ImpersonatedIdentity" => "nobody gets a certificate for somebody else here",
                _ => "it is not known; leave it out",
            };
            return Err(Refusal::Metadata(name.chars().take(64).collect(), reason));
        }
    }
    Ok(())
}

fn bearer(header: &[u8]) -> Option<&str> {
    let (scheme, token) = header.split_at_checked(7)?;
    let token = std::str::from_utf8(token.trim_ascii()).ok()?;
    (scheme.eq_ignore_ascii_case(b"bearer ") && !token.is_empty()).then_some(token)
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let mut out = String::with_capacity(text.len() + text.len() / 64 + 64);
    out.push_str("-----BEGIN CERTIFICATE-----\n");
    for (index, letter) in text.chars().enumerate() {
        if index > 0 && index % 64 == 0 {
            out.push('\n');
        }
        out.push(letter);
    }
    let _ = writeln!(out, "\n-----END CERTIFICATE-----");
    out
}
