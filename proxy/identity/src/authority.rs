//! What is asked of the control plane.

use std::path::Path;
use std::time::{Duration, SystemTime};

use outrider_config::model::{AgentCredential, IdentityAgent};
use outrider_control_proto::identity::identity_client::IdentityClient;
use outrider_control_proto::identity::{
    IssueRequest, TrustBundle, WatchTrustBundleRequest, issue_request::Credential,
};
use rcgen::{CertificateParams, DistinguishedName, KeyPair};
use rustls_pki_types::CertificateDer;
use tonic::Streaming;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};

use crate::keep::{Facts, Identity, seconds, time};

/// How long a connection and an answer may take.
const PATIENCE: Duration = Duration::from_secs(15);
/// The largest answer: a chain and all roots of a mesh, bytes.
const LARGEST: usize = 1 << 20;
/// A credential's file is not larger than this, bytes.
const LARGEST_CREDENTIAL: u64 = 64 << 10;

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthorityError {
    /// A file of ours.
    #[error("{path}: {reason}; it is named by {field} of the identity agent")]
    File {
        /// Whose value it is.
        field: &'static str,
        /// Which.
        path: String,
        /// What is wrong.
        reason: String,
    },
    /// The key or the request could not be made.
    #[error("the signing request cannot be made: {0}")]
    Request(#[from] rcgen::Error),
    /// The address or the CA cannot be used.
    #[error("{address}: {reason}")]
    Connect {
        /// The control plane's.
        address: String,
        /// All causes.
        reason: String,
    },
    /// What the control plane said.
    #[error("refused: {code:?}: {message}{}", reason.as_ref().map(|it| format!(" ({it})")).unwrap_or_default())]
    Refused {
        /// gRPC's code.
        code: tonic::Code,
        /// In its words.
        message: String,
        /// The stable word of `outrider-reason`.
        reason: Option<String>,
    },
    /// The answer is not what was asked for.
    #[error("the control plane's answer is not usable: {0}")]
    Answer(String),
}

impl AuthorityError {
    /// Whether the control plane has spoken, so that the same question gets the same answer.
    pub(crate) const fn is_final(&self) -> bool {
        use tonic::Code;
        match self {
            Self::Refused { code, .. } => matches!(
                code,
                Code::Unauthenticated
                    | Code::PermissionDenied
                    | Code::InvalidArgument
                    | Code::FailedPrecondition
            ),
            _ => false,
        }
    }
}

/// A text with all that caused it.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = cause.source();
    }
    text
}

fn refused(status: &tonic::Status) -> AuthorityError {
    let reason = status.metadata().get("outrider-reason").and_then(|it| it.to_str().ok());
    AuthorityError::Refused {
        code: status.code(),
        message: status.message().to_owned(),
        reason: reason.map(str::to_owned),
    }
}

/// A file's text, when it is not too large.
fn text(path: &Path, field: &'static str) -> Result<String, AuthorityError> {
    let wrong = |reason: String| AuthorityError::File { field, path: path.display().to_string(), reason };
    let size = std::fs::metadata(path).map_err(|error| wrong(error.to_string()))?.len();
    if size > LARGEST_CREDENTIAL {
        return Err(wrong(format!("{size} bytes, which no token or CA has")));
    }
    std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))
}

/// The control plane, by its address. Each call makes its own connection: there are two a day, and the files may have changed.
#[derive(Debug)]
pub(crate) struct Authority<'c>(pub(crate) &'c IdentityAgent);

impl Authority<'_> {
    /// A connection; `identity` is shown as the client's certificate.
    async fn connect(&self, identity: Option<&Identity>) -> Result<IdentityClient<Channel>, AuthorityError> {
        let address = &self.0.address;
        let wrong = |error: tonic::transport::Error| AuthorityError::Connect {
            address: address.to_string(),
            reason: causes(&error),
        };
        let scheme = if self.0.ca_file.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .map_err(wrong)?
            .connect_timeout(PATIENCE)
            .http2_keep_alive_interval(Duration::from_secs(30))
            .keep_alive_while_idle(true);
        if let Some(path) = &self.0.ca_file {
            let mut tls =
                ClientTlsConfig::new().ca_certificate(Certificate::from_pem(text(path, "ca_file")?));
            if let Some(name) = &self.0.server_name {
                tls = tls.domain_name(name.to_string());
            }
            if let Some(identity) = identity {
                tls = tls.identity(tonic::transport::Identity::from_pem(&identity.chain, &identity.key));
            }
            endpoint = endpoint.tls_config(tls).map_err(wrong)?;
        }
        // The handshake counts, too.
        let channel = tokio::time::timeout(PATIENCE, endpoint.connect()).await;
        let slow = |_| AuthorityError::Connect {
            address: address.to_string(),
            reason: format!("no connection within {PATIENCE:?}"),
        };
        let channel = channel.map_err(slow)?.map_err(wrong)?;
        Ok(IdentityClient::new(channel).max_decoding_message_size(LARGEST))
    }

    /// Has a new key certified. `present` is the identity in use: where it is still valid it is credential enough, so that a
    /// join token is needed once only; `by_token` has the token used all the same.
    pub(crate) async fn issue(
        &self,
        present: Option<&Identity>,
        by_token: bool,
    ) -> Result<(Identity, TrustBundle), AuthorityError> {
        let present = present.filter(|it| it.not_after > SystemTime::now() && self.0.ca_file.is_some());
        let credential = match (&self.0.credential, present) {
            (AgentCredential::ServiceAccountToken(path), _) => Some(Credential::ServiceAccountToken(
                text(path, "service_account_token_file")?.trim().to_owned(),
            )),
            (AgentCredential::JoinToken(_), Some(_)) if !by_token => None,
            (AgentCredential::JoinToken(path), _) => {
                Some(Credential::JoinToken(text(path, "join_token_file")?.trim().to_owned()))
            }
        };
        // A token speaks for itself: a certificate beside it, of an authority that is no more, would have the connection refused.
        let shown = present.filter(|_| credential.is_none());
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let csr = params.serialize_request(&key)?.der().to_vec();
        let lifetime = self.0.lifetime.map_or(0, |it| u32::try_from(it.as_secs()).unwrap_or(u32::MAX));
        let mut request = tonic::Request::new(IssueRequest { csr, credential, lifetime_seconds: lifetime });
        request.set_timeout(PATIENCE);
        let answer = self.connect(shown).await?.issue(request).await;
        let answer = answer.map_err(|status| refused(&status))?.into_inner();
        let bundle = answer.trust_bundle.ok_or_else(|| AuthorityError::Answer("no trust bundle".into()))?;
        let identity = certified(&key, &answer.chain, answer.renew_at).map_err(AuthorityError::Answer)?;
        Ok((identity, bundle))
    }

    /// The trust bundle, now and whenever it changes.
    pub(crate) async fn watch(
        &self,
        present: Option<&Identity>,
    ) -> Result<Streaming<TrustBundle>, AuthorityError> {
        let present = present.filter(|it| it.not_after > SystemTime::now());
        let mut client = self.connect(present).await?;
        let answer = client.watch_trust_bundle(WatchTrustBundleRequest {}).await;
        Ok(answer.map_err(|status| refused(&status))?.into_inner())
    }
}

/// The identity that a chain gives a key.
fn certified(key: &KeyPair, chain: &[Vec<u8>], renew_at: i64) -> Result<Identity, String> {
    let leaf = chain.first().ok_or("no certificate")?;
    let facts = Facts::of(&CertificateDer::from(leaf.as_slice()))?;
    if facts.public_key != rcgen::PublicKeyData::subject_public_key_info(key) {
        return Err("the certificate is for another key".into());
    }
    if facts.not_after <= SystemTime::now() {
        return Err("the certificate has expired already; compare the clocks".into());
    }
    Ok(Identity {
        key: key.serialize_pem(),
        chain: pems(chain),
        name: facts.name,
        renew_at: within(time(renew_at), facts.not_before, facts.not_after),
        not_before: facts.not_before,
        not_after: facts.not_after,
    })
}

/// When to renew: what was said, if it is in the certificate's life, else its half.
fn within(said: SystemTime, from: SystemTime, to: SystemTime) -> SystemTime {
    if said > from && said < to {
        return said;
    }
    from + Duration::from_secs(seconds(to).saturating_sub(seconds(from)) / 2)
}

/// Certificates as PEM, one after the other.
pub(crate) fn pems(ders: &[Vec<u8>]) -> String {
    let config = pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF);
    ders.iter().map(|der| pem::encode_config(&pem::Pem::new("CERTIFICATE", der.clone()), config)).collect()
}

#[cfg(test)]
mod tests {
    use rcgen::SanType;

    use super::*;

    /// A certificate for a key, that ends in so many hours.
    fn certificate(key: &KeyPair, uri: &str, hours: i64) -> Vec<u8> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        let now = SystemTime::now();
        params.not_before = (now - Duration::from_secs(7200)).into();
        let length = Duration::from_secs(hours.unsigned_abs() * 3600);
        params.not_after = if hours < 0 { now - length } else { now + length }.into();
        params.self_signed(key).unwrap().der().to_vec()
    }

    const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

    #[test]
    fn an_answer_that_is_not_for_our_key_or_no_longer_good_is_not_used() {
        let (key, other) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
        let good = certified(&key, &[certificate(&key, WEB, 6)], 0).unwrap();
        assert_eq!(good.name, WEB);
        // Nothing was said of when to renew: half-way.
        let life = seconds(good.not_after) - seconds(good.not_before);
        assert_eq!(seconds(good.renew_at), seconds(good.not_before) + life / 2);
        for (chain, wanted) in [
            (vec![], "no certificate"),
            (vec![vec![1, 2, 3]], "no certificate"),
            (vec![certificate(&other, WEB, 6)], "another key"),
            (vec![certificate(&key, WEB, -1)], "expired"),
        ] {
            let error = certified(&key, &chain, 0).unwrap_err();
            assert!(error.contains(wanted), "{error}");
        }
    }

    #[test]
    fn files_that_are_wrong_are_named_with_their_field() {
        let dir = tempfile::tempdir().unwrap();
        let missing = text(&dir.path().join("token"), "join_token_file").unwrap_err().to_string();
        assert!(missing.contains("/token: ") && missing.contains("join_token_file"), "{missing}");
        let large = dir.path().join("large");
        std::fs::write(&large, vec![b'a'; LARGEST_CREDENTIAL as usize + 1]).unwrap();
        assert!(text(&large, "ca_file").unwrap_err().to_string().contains("65537 bytes"));
    }

    #[tokio::test]
    async fn who_is_not_there_is_told_with_the_address() {
        let config = IdentityAgent {
            // Nobody listens at port 1 of the loopback.
            address: "127.0.0.1:1".into(),
            ca_file: None,
            server_name: None,
            credential: AgentCredential::JoinToken("/nowhere/token".into()),
            socket: "/nowhere/sds".into(),
            state_dir: None,
            lifetime: None,
        };
        let error = Authority(&config).watch(None).await.unwrap_err();
        assert!(error.to_string().starts_with("127.0.0.1:1: ") && !error.is_final(), "{error}");
        let error = Authority(&config).issue(None, false).await.map(drop).unwrap_err();
        assert!(error.to_string().contains("/nowhere/token"), "{error}");
    }
}
