//! Credentials: service-account tokens that are verified here, and join tokens.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{KeyPair, PublicKeyData as _};
use serde_json::{Value, json};

use super::harness::{HOUR, own, web};
use crate::ca::authority::seconds;
use crate::ca::credential::join;
use crate::ca::credential::jwks::{Jwks, Source};
use crate::ca::credential::{Accounts, CredentialError, Credentials, Shown};
use crate::ca::identity::Workload;
use crate::model::{Key, Kind};
use crate::store::memory::Memory;
use crate::store::{Expect, SharedStore, Write};

/// Who issues tokens: a key, and what is said of it.
pub(super) struct TokenIssuer {
    key: KeyPair,
    id: &'static str,
}

impl TokenIssuer {
    pub(super) fn new(id: &'static str) -> Self {
        Self { key: KeyPair::generate().unwrap(), id }
    }

    /// The public half, as a set of keys.
    pub(super) fn jwks(&self) -> Value {
        let (x, y) = self.key.der_bytes()[1..].split_at(32);
        let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"keys": [
            {"kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.id, "x": text(x), "y": text(y)},
            // Others in the set are no reason to refuse it.
            {"kty": "oct", "kid": "shared", "k": text(b"0123456789abcdef0123456789abcdef")},
        ]})
    }

    pub(super) fn token(&self, claims: &Value) -> String {
        let header = Header { kid: Some(self.id.into()), ..Header::new(Algorithm::ES256) };
        let key = EncodingKey::from_ec_der(self.key.serialized_der());
        jsonwebtoken::encode(&header, claims, &key).unwrap()
    }
}

/// What Kubernetes writes into a token of shop/web.
pub(super) fn claims() -> Value {
    let now = seconds(SystemTime::now());
    json!({
        "iss": "https://issuer.test", "aud": ["istio-ca"], "sub": "system:serviceaccount:shop:web",
        "iat": now, "nbf": now, "exp": now + 3600,
        "kubernetes.io": {"namespace": "shop", "serviceaccount": {"name": "web", "uid": "1"}, "pod": {"name": "web-0"}},
    })
}

pub(super) fn jwks(dir: &Path, keys: &Value) -> Arc<Jwks> {
    let path = dir.join("jwks.json");
    std::fs::write(&path, keys.to_string()).unwrap();
    Jwks::open(Source::File(path), "https://issuer.test", vec!["outrider".into(), "istio-ca".into()]).unwrap()
}

#[tokio::test]
async fn a_token_is_believed_as_its_issuer_wrote_it_and_every_other_has_its_reason() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let issuer = TokenIssuer::new("one");
    let jwks = jwks(dir.path(), &issuer.jwks());
    assert_eq!(jwks.judge(&issuer.token(&claims()), now).await, Ok(web()));
    let with = |change: &dyn Fn(&mut Value)| {
        let mut claims = claims();
        change(&mut claims);
        issuer.token(&claims)
    };
    let late = seconds(now);
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let unsigned = format!("{}.{}.", part(json!({"alg": "none", "kid": "one"})), part(claims()));
    let hs = {
        let header = Header { kid: Some("one".into()), ..Header::new(Algorithm::HS256) };
        let secret = EncodingKey::from_secret(issuer.key.der_bytes());
        jsonwebtoken::encode(&header, &claims(), &secret).unwrap()
    };
    let shared = {
        let header = Header { kid: Some("shared".into()), ..Header::new(Algorithm::HS256) };
        jsonwebtoken::encode(
            &header,
            &claims(),
            &EncodingKey::from_secret(b"0123456789abcdef0123456789abcdef"),
        )
        .unwrap()
    };
    let good = issuer.token(&claims());
    let broken = |at: usize, with: &str| {
        let mut parts: Vec<String> = good.split('.').map(str::to_owned).collect();
        parts[at] = with.to_owned();
        parts.join(".")
    };
    let cases = [
        (with(&|it| it["exp"] = (late - 61).into()), "token_expired"),
        (with(&|it| it["nbf"] = (late + 120).into()), "token_early"),
        (with(&|it| it["iat"] = (late + 120).into()), "token_early"),
        (with(&|it| it["aud"] = json!(["https://kubernetes.default.svc"])), "token_audience"),
        (with(&|it| it["iss"] = "https://elsewhere".into()), "token_issuer"),
        (with(&|it| it["sub"] = "jane".into()), "token_subject"),
        (with(&|it| it["sub"] = "system:serviceaccount:shop:admin".into()), "token_subject"),
        (with(&|it| it["kubernetes.io"]["namespace"] = "bank".into()), "token_subject"),
        (
            with(&|it| {
                it.as_object_mut().unwrap().remove("exp");
            }),
            "token_malformed",
        ),
        (
            with(&|it| {
                it.as_object_mut().unwrap().remove("aud");
            }),
            "token_malformed",
        ),
        (TokenIssuer::new("one").token(&claims()), "token_signature"),
        (TokenIssuer::new("two").token(&claims()), "token_key_unknown"),
        (hs, "token_algorithm"),
        (shared, "token_key_unknown"),
        (broken(2, ""), "token_signature"),
        (broken(1, &part(json!({"sub": "system:serviceaccount:shop:admin"}))), "token_signature"),
        (broken(1, "%%%"), "token_signature"),
        (broken(0, "%%%"), "token_malformed"),
        ("rubbish".to_owned(), "token_malformed"),
        (String::new(), "token_malformed"),
    ];
    for (index, (token, want)) in cases.iter().enumerate() {
        let error = jwks.judge(token, now).await.unwrap_err();
        assert_eq!(error.reason(), *want, "case {index}: {error}");
    }
    let none = jwks.judge(&unsigned, now).await.unwrap_err().reason();
    assert!(["token_malformed", "token_algorithm"].contains(&none), "{none}");
}

#[test]
fn keys_that_are_none_are_refused_and_plain_http_is() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    for (text, part) in [
        ("rubbish", "want a JWKS"),
        (r#"{"keys": []}"#, "no public key"),
        (r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#, "no public key"),
    ] {
        std::fs::write(&path, text).unwrap();
        let error = format!("{:#}", Jwks::open(Source::File(path.clone()), "i", Vec::new()).unwrap_err());
        assert!(error.contains(part) && error.contains("jwks.json"), "{error}");
    }
    assert!("http://keys.example.com/jwks".parse::<Source>().unwrap_err().contains("https"));
    assert!("http://127.0.0.1:1/jwks".parse::<Source>().is_ok());
    assert!("ftp://a/jwks".parse::<Source>().is_err());
}

/// What an issuer says of its keys over HTTP, and how often it was asked.
#[derive(Clone, Default)]
struct Said {
    /// Nothing: it is broken.
    keys: Arc<Mutex<Option<Value>>>,
    asked: Arc<AtomicUsize>,
}

impl Said {
    /// Keys of its address, which is asked at most that often because of unknown ones.
    async fn serve(&self, at_most: Duration) -> Arc<Jwks> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let source: Source = format!("http://{}/jwks", listener.local_addr().unwrap()).parse().unwrap();
        let this = self.clone();
        tokio::spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                let mut head = [0; 2048];
                let _ = socket.read(&mut head).await.unwrap();
                this.asked.fetch_add(1, Ordering::SeqCst);
                let keys = this.keys.lock().unwrap().clone();
                let (status, body) = match keys {
                    Some(keys) => ("200 OK", keys.to_string()),
                    None => ("500 Internal Server Error", String::new()),
                };
                let answer = format!(
                    "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
                    body.len()
                );
                socket.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Jwks::open_with(source, "https://issuer.test", vec!["istio-ca".into()], at_most).unwrap()
    }

    fn says(&self, keys: Option<Value>) {
        *self.keys.lock().unwrap() = keys;
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

#[tokio::test]
async fn keys_of_an_address_are_read_again_when_a_new_one_signs() {
    let (one, two, now) = (TokenIssuer::new("one"), TokenIssuer::new("two"), SystemTime::now());
    let said = Said::default();
    said.says(Some(one.jwks()));
    let jwks = said.serve(Duration::ZERO).await;
    // Nothing was asked yet: the first token asks.
    assert_eq!(jwks.judge(&one.token(&claims()), now).await, Ok(web()));
    assert_eq!(jwks.judge(&one.token(&claims()), now).await, Ok(web()));
    assert_eq!(said.asked(), 1);
    said.says(Some(two.jwks()));
    // All pods of a node come at once: one asks, and all have the answer.
    let token = two.token(&claims());
    let judged = futures_util::future::join_all((0..8).map(|_| jwks.judge(&token, now))).await;
    assert_eq!(judged, vec![Ok(web()); 8]);
    assert_eq!(said.asked(), 2);
}

#[tokio::test]
async fn who_sends_rubbish_makes_us_ask_no_address_without_end() {
    let (one, two, now) = (TokenIssuer::new("one"), TokenIssuer::new("two"), SystemTime::now());
    let said = Said::default();
    said.says(Some(one.jwks()));
    let jwks = said.serve(Duration::MAX).await;
    assert_eq!(jwks.judge(&one.token(&claims()), now).await, Ok(web()));
    for _ in 0..3 {
        let error = jwks.judge(&two.token(&claims()), now).await.unwrap_err();
        assert_eq!(error.reason(), "token_key_unknown");
    }
    assert_eq!(said.asked(), 1);

    // One that does not answer is asked once for all who wait.
    let said = Said::default();
    let jwks = said.serve(Duration::MAX).await;
    let token = one.token(&claims());
    let judged = futures_util::future::join_all((0..8).map(|_| jwks.judge(&token, now))).await;
    assert!(
        judged.iter().all(|it| it.as_ref().is_err_and(|it| it.reason() == "credential_unavailable")),
        "{judged:?}"
    );
    assert_eq!(said.asked(), 1);
}

/// A join token of shop/web in a store.
pub(super) async fn join_token(store: &SharedStore, uses: u32, expires: SystemTime) -> String {
    let secret = join::new_secret("shop").unwrap();
    let expires = chrono::DateTime::from_timestamp(seconds(expires), 0).unwrap().to_rfc3339();
    let object = json!({
        "apiVersion": "outrider.dev/v1", "kind": "JoinToken", "metadata": {"namespace": "shop", "name": secret.name},
        "spec": {"serviceAccount": "web", "hash": secret.hash, "expires": expires, "uses": uses},
    });
    let key = Key::new(Kind::JoinToken, "shop", &secret.name);
    let json = Some(object.to_string().into());
    store.commit(vec![Write { key, expect: Expect::Absent, json }]).await.unwrap();
    secret.token
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_join_token_is_good_as_often_as_it_says_however_many_come_at_once() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let ca = Arc::new(own(dir.path(), now).unwrap());
    let store: SharedStore = Arc::new(Memory::default());
    let token = join_token(&store, 5, now + HOUR).await;
    let credentials = Arc::new(Credentials::new(Accounts::Nobody, Arc::clone(&store)));
    let mut tasks = Vec::new();
    for _ in 0..30 {
        let (credentials, ca, token) = (Arc::clone(&credentials), Arc::clone(&ca), token.clone());
        tasks.push(tokio::spawn(async move {
            let proven = credentials.prove(Shown::Join(&token), &ca, now).await?;
            assert_eq!(proven.workload, web());
            credentials.spend(proven.ticket.unwrap(), now).await
        }));
    }
    let mut good = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(()) => good += 1,
            Err(error) => assert_eq!(error, CredentialError::Join),
        }
    }
    assert_eq!(good, 5);
    assert!(store.list().await.unwrap().records.is_empty(), "the last use deletes it");
}

#[tokio::test]
async fn join_tokens_that_are_wrong_or_late_are_refused() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let ca = own(dir.path(), now).unwrap();
    let store: SharedStore = Arc::new(Memory::default());
    let token = join_token(&store, 5, now + HOUR).await;
    let credentials = Credentials::new(Accounts::Nobody, Arc::clone(&store));
    let (front, secret) = token.rsplit_once('.').unwrap();
    for wrong in [
        format!("{front}."),
        format!("{front}.{secret}x"),
        format!("{front}.AAAA"),
        format!("{front}.{secret}.more"),
        token.replace("shop", "bank"),
        token.replace("outrider_join", "outrider"),
        "outrider_join.../../etc.a.b".to_owned(),
        String::new(),
    ] {
        let error = credentials.prove(Shown::Join(&wrong), &ca, now).await.unwrap_err();
        assert_eq!(error, CredentialError::Join, "{wrong}");
    }
    let late = credentials.prove(Shown::Join(&token), &ca, now + HOUR * 2).await.unwrap_err();
    assert_eq!(late, CredentialError::Expired);
    // It ends between the look and the use.
    let proven = credentials.prove(Shown::Join(&token), &ca, now).await.unwrap();
    assert_eq!(proven.workload, Workload::new("shop", "web").unwrap());
    let error = credentials.spend(proven.ticket.unwrap(), now + HOUR * 2).await.unwrap_err();
    assert_eq!(error, CredentialError::Expired);
    assert_eq!(credentials.prove(Shown::Nothing, &ca, now).await.unwrap_err(), CredentialError::Missing);
    let error = credentials.prove(Shown::Account("a.b.c"), &ca, now).await.unwrap_err();
    assert_eq!(error, CredentialError::NoAccounts);
    let error = credentials.prove(Shown::Account(&"a".repeat(20_000)), &ca, now).await.unwrap_err();
    assert_eq!(error.reason(), "token_too_large");
}
