//! Service-account tokens that are verified here, with keys from a file or an address (JWKS, RFC 7517).

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};
use arc_swap::ArcSwap;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, JwkSet, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use tokio::sync::{Mutex, OwnedMutexGuard};

use super::super::authority::seconds;
use super::super::identity::Workload;
use super::CredentialError;

/// The most bytes of a set of keys.
const LARGEST: usize = 1024 * 1024;
/// The most keys.
const MOST: usize = 100;
/// How often an address is asked.
const INTERVAL: Duration = Duration::from_secs(300);
/// How often a file is looked at, and an address that did not answer is asked again.
const SOON: Duration = Duration::from_secs(5);
/// How often an address is asked at most because of a key that is not known. Longer than [`LIMIT`].
const AT_MOST: Duration = Duration::from_secs(10);
/// How long an answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How far clocks may differ, in seconds.
const LEEWAY: i64 = 60;

/// Where keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a file.
    File(PathBuf),
    /// At an address: https, or http on this host.
    Url(http::Uri),
}

/// The keys, and what tokens must say.
pub struct Jwks {
    source: Source,
    issuer: String,
    audiences: Vec<String>,
    keys: ArcSwap<Vec<Known>>,
    /// Held while an address is asked.
    fetches: Arc<Mutex<Fetches>>,
    /// As [`AT_MOST`].
    at_most: Duration,
    stamp: std::sync::Mutex<Option<SystemTime>>,
    client: Option<Client<hyper_rustls::HttpsConnector<HttpConnector>, Empty<bytes::Bytes>>>,
}

/// What became of asking an address.
#[derive(Debug, Default)]
struct Fetches {
    /// When it was last asked, or had last answered.
    asked: Option<Instant>,
    /// When keys of it were last put in force.
    taken: Option<Instant>,
}

/// One key.
struct Known {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// What is read of a token.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    iat: Option<i64>,
    #[serde(rename = "kubernetes.io")]
    kubernetes: Option<Bound>,
}

#[derive(Deserialize)]
struct Bound {
    namespace: Option<String>,
    serviceaccount: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

impl FromStr for Source {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        if !text.contains("://") {
            return Ok(Self::File(text.into()));
        }
        let uri: http::Uri = text.parse().map_err(|error| format!("{text:?}: {error}"))?;
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
        let here = host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|it| it.is_loopback());
        match uri.scheme_str() {
            Some("https") => Ok(Self::Url(uri)),
            Some("http") if here => Ok(Self::Url(uri)),
            Some("http") => {
                Err(format!("{text:?}: whoever is on the way could put in keys of their own; use https"))
            }
            _ => Err(format!("{text:?}: want a file, or an https URL")),
        }
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(uri) => uri.fmt(f),
        }
    }
}

impl Jwks {
    /// Keys of a source. Those of a file are read at once; an address is asked by [`Jwks::watch`].
    ///
    /// # Errors
    /// When a file is wrong, or there are no authorities to verify an address with.
    pub fn open(source: Source, issuer: &str, audiences: Vec<String>) -> anyhow::Result<Arc<Self>> {
        Self::open_with(source, issuer, audiences, AT_MOST)
    }

    /// As [`Jwks::open`], with how often an address is asked at most because of a key that is not known.
    pub(in crate::ca) fn open_with(
        source: Source,
        issuer: &str,
        audiences: Vec<String>,
        at_most: Duration,
    ) -> anyhow::Result<Arc<Self>> {
        let client = match &source {
            Source::File(_) => None,
            Source::Url(uri) => Some(client(uri)?),
        };
        let this = Self {
            source,
            issuer: issuer.to_owned(),
            audiences,
            keys: ArcSwap::default(),
            fetches: Arc::default(),
            at_most,
            stamp: std::sync::Mutex::new(None),
            client,
        };
        if let Source::File(path) = &this.source {
            this.read_file(path).context("--token-jwks")?;
        }
        Ok(Arc::new(this))
    }

    /// Whose token this is.
    ///
    /// # Errors
    /// Why it is not believed.
    pub async fn judge(self: &Arc<Self>, token: &str, now: SystemTime) -> Result<Workload, CredentialError> {
        let began = Instant::now();
        match self.judge_now(token, now) {
            Err(CredentialError::UnknownKey(_) | CredentialError::Unavailable(_))
                if self.fetch_for_unknown(began).await =>
            {
                self.judge_now(token, now)
            }
            judged => judged,
        }
    }

    fn judge_now(&self, token: &str, now: SystemTime) -> Result<Workload, CredentialError> {
        let header = jsonwebtoken::decode_header(token).map_err(|error| self.words(&error))?;
        let keys = self.keys.load();
        if keys.is_empty() {
            return Err(CredentialError::Unavailable(format!("there are no keys yet from {}", self.source)));
        }
        let named = header.kid.as_deref();
        let unknown =
            || CredentialError::UnknownKey(named.unwrap_or("without a name").chars().take(256).collect());
        let mut fitting = keys.iter().filter(|it| named.is_none() || it.id.as_deref() == named).peekable();
        fitting.peek().ok_or_else(unknown)?;
        let mut fitting = fitting.filter(|it| it.algorithms.contains(&header.alg)).peekable();
        fitting.peek().ok_or_else(|| CredentialError::Algorithm(format!("{:?}", header.alg)))?;
        let mut last = CredentialError::Signature;
        for known in fitting {
            let mut rules = Validation::new(header.alg);
            rules.set_audience(&self.audiences);
            rules.set_issuer(&[&self.issuer]);
            rules.set_required_spec_claims(&["exp", "iss", "aud", "sub"]);
            rules.validate_nbf = true;
            rules.leeway = LEEWAY.unsigned_abs();
            match jsonwebtoken::decode::<Claims>(token, &known.key, &rules) {
                Ok(it) => return workload(&it.claims, now),
                Err(error) => last = self.words(&error),
            }
            // Without a name each key is tried; only a wrong signature says nothing about the others.
            if last != CredentialError::Signature {
                break;
            }
        }
        Err(last)
    }

    fn words(&self, error: &jsonwebtoken::errors::Error) -> CredentialError {
        match error.kind() {
            ErrorKind::ExpiredSignature => CredentialError::Expired,
            ErrorKind::ImmatureSignature => CredentialError::Early("nbf"),
            ErrorKind::InvalidAudience => CredentialError::Audience(self.audiences.join(", ")),
            ErrorKind::InvalidIssuer => CredentialError::Issuer(self.issuer.clone()),
            ErrorKind::InvalidSignature => CredentialError::Signature,
            ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => {
                CredentialError::Algorithm("none, or no name of an algorithm".into())
            }
            _ => CredentialError::Malformed(error.to_string().chars().take(256).collect()),
        }
    }

    /// Follows the source. Never ends.
    pub async fn watch(self: Arc<Self>) {
        loop {
            let outcome = match &self.source {
                Source::File(path) => {
                    let new = std::fs::metadata(path).and_then(|it| it.modified()).ok();
                    let same = *self.stamp.lock().unwrap_or_else(PoisonError::into_inner) == new;
                    if same { Ok(SOON) } else { self.read_file(path).map(|()| SOON) }
                }
                Source::Url(_) => {
                    let fetches = Arc::clone(&self.fetches).lock_owned().await;
                    self.fetch(fetches).await.map(|()| INTERVAL)
                }
            };
            let rest = outcome.unwrap_or_else(|error| {
                tracing::warn!(source = %self.source, error = format!("{error:#}"), "the keys of tokens could not be read; those before stay");
                SOON
            });
            tokio::time::sleep(rest).await;
        }
    }

    /// Asks again because a key was not known to a judgement that began at a moment. Whether there are others now.
    async fn fetch_for_unknown(self: &Arc<Self>, began: Instant) -> bool {
        if self.client.is_none() {
            return false;
        }
        let fetches = Arc::clone(&self.fetches).lock_owned().await;
        // Somebody else's answer, for which this one waited, has all there is to know; so has the lack of one.
        if fetches.taken.is_some_and(|taken| taken >= began) {
            return true;
        }
        if fetches.asked.is_some_and(|asked| asked.elapsed() < self.at_most) {
            return false;
        }
        // A task of its own: others wait for the answer when the one who asked goes away.
        let this = Arc::clone(self);
        tokio::spawn(async move { this.fetch(fetches).await }).await.is_ok_and(|fetched| fetched.is_ok())
    }

    /// Asks. Who comes in between waits for this answer, and asks no more.
    async fn fetch(&self, mut fetches: OwnedMutexGuard<Fetches>) -> anyhow::Result<()> {
        fetches.asked = Some(Instant::now());
        let fetched = self.fetch_now().await;
        let now = Some(Instant::now());
        fetches.asked = now;
        if fetched.is_ok() {
            fetches.taken = now;
        }
        fetched
    }

    async fn fetch_now(&self) -> anyhow::Result<()> {
        let (Source::Url(uri), Some(client)) = (&self.source, &self.client) else { return Ok(()) };
        let asked = async {
            let answer = client.get(uri.clone()).await?;
            ensure!(answer.status().is_success(), "it answered {}", answer.status());
            let body = Limited::new(answer.into_body(), LARGEST).collect().await;
            Ok(body.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes())
        };
        let body = tokio::time::timeout(LIMIT, asked)
            .await
            .with_context(|| format!("no answer within {LIMIT:?}"))??;
        self.take(&body)
    }

    fn read_file(&self, path: &PathBuf) -> anyhow::Result<()> {
        let place = || path.display().to_string();
        let meta = std::fs::metadata(path).with_context(place)?;
        *self.stamp.lock().unwrap_or_else(PoisonError::into_inner) = meta.modified().ok();
        ensure!(meta.len() <= LARGEST as u64, "{}: {} bytes; {LARGEST} are the most", place(), meta.len());
        self.take(&std::fs::read(path).with_context(place)?).with_context(place)
    }

    fn take(&self, text: &[u8]) -> anyhow::Result<()> {
        let keys = read_keys(text)?;
        tracing::info!(source = %self.source, keys = keys.len(), "the keys of service-account tokens were read");
        self.keys.store(Arc::new(keys));
        Ok(())
    }
}

impl fmt::Debug for Jwks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Jwks")
            .field("source", &self.source)
            .field("issuer", &self.issuer)
            .finish_non_exhaustive()
    }
}

/// The keys that can sign tokens; others in the set are left out, as RFC 7517 (5) has it.
fn read_keys(text: &[u8]) -> anyhow::Result<Vec<Known>> {
    let set: JwkSet = serde_json::from_slice(text).context("want a JWKS, as in {\"keys\": [...]}")?;
    ensure!(set.keys.len() <= MOST, "{} keys; {MOST} are the most", set.keys.len());
    let mut keys = Vec::new();
    for jwk in &set.keys {
        let algorithms = algorithms(jwk);
        if algorithms.is_empty() || matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
            tracing::debug!(key = ?jwk.common.key_id, "a key that signs no tokens is left out");
            continue;
        }
        let key = DecodingKey::from_jwk(jwk)
            .with_context(|| format!("key {:?}", jwk.common.key_id.as_deref().unwrap_or_default()))?;
        keys.push(Known { id: jwk.common.key_id.clone(), algorithms, key });
    }
    if keys.is_empty() {
        bail!("there is no public key in it that signs tokens (RSA, P-256, P-384 or Ed25519)");
    }
    Ok(keys)
}

/// What a key signs with: by its type, never by what a token says. A shared secret is no public key.
fn algorithms(jwk: &Jwk) -> Vec<Algorithm> {
    use Algorithm::{ES256, ES384, EdDSA, PS256, PS384, PS512, RS256, RS384, RS512};
    let all = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => vec![RS256, RS384, RS512, PS256, PS384, PS512],
        AlgorithmParameters::EllipticCurve(it) => match it.curve {
            EllipticCurve::P256 => vec![ES256],
            EllipticCurve::P384 => vec![ES384],
            _ => Vec::new(),
        },
        AlgorithmParameters::OctetKeyPair(it) if it.curve == EllipticCurve::Ed25519 => vec![EdDSA],
        _ => Vec::new(),
    };
    match jwk.common.key_algorithm.map(|it| it.to_string()) {
        Some(said) => all.into_iter().filter(|it| format!("{it:?}") == said).collect(),
        None => all,
    }
}

/// The service account that claims name; where they name it twice, both must be the same.
fn workload(claims: &Claims, now: SystemTime) -> Result<Workload, CredentialError> {
    if claims.iat.is_some_and(|iat| iat > seconds(now).saturating_add(LEEWAY)) {
        return Err(CredentialError::Early("iat"));
    }
    let wrong = |reason: String| CredentialError::Subject(reason);
    let named = Workload::of_user(&claims.sub).map_err(|error| wrong(error.to_string()))?;
    let bound = claims.kubernetes.as_ref();
    let namespace = bound.and_then(|it| it.namespace.as_deref());
    let account = bound.and_then(|it| Some(it.serviceaccount.as_ref()?.name.as_str()));
    if namespace.is_some_and(|it| it != &*named.namespace) || account.is_some_and(|it| it != &*named.account)
    {
        return Err(wrong("its sub and its kubernetes.io claim differ".into()));
    }
    Ok(named)
}

fn client(
    uri: &http::Uri,
) -> anyhow::Result<Client<hyper_rustls::HttpsConnector<HttpConnector>, Empty<bytes::Bytes>>> {
    let roots = if uri.scheme_str() == Some("https") {
        crate::api::auth::system_roots().with_context(|| format!("--token-jwks {uri}"))?
    } else {
        rustls::RootCertStore::empty()
    };
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector =
        hyper_rustls::HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1();
    Ok(Client::builder(hyper_util::rt::TokioExecutor::new()).build(connector.build()))
}
