//! The webhook over TLS, as an API server speaks to it, and what an API server verifies it with.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use outrider_inject::Settings;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, watch};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::certificate::{Generation, bundle};
use super::{AT_ONCE, LONGEST, Shared, serve};

const NAME: &str = "outrider-injector.outrider-system.svc";

fn generation() -> Generation {
    Generation::new(&[NAME.to_owned()]).unwrap()
}

/// Connects as an API server that has this `caBundle`.
async fn connect(
    address: std::net::SocketAddr,
    bundle: &str,
    name: &'static str,
) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(bundle.as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(address).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from(name).unwrap(), socket).await
}

/// Sends a request; gives the status line and the body.
async fn ask(stream: &mut TlsStream<TcpStream>, head: &str, body: &[u8]) -> (String, String) {
    let head = format!(
        "{head} HTTP/1.1\r\nhost: {NAME}\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // A server that has seen enough of a body does not read the rest of it.
    let _ = stream.write_all(body).await;
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    let answer = String::from_utf8(answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((answer.as_str(), ""));
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

#[tokio::test]
async fn an_api_server_asks_and_is_answered() {
    let certificate = generation();
    let trusted = bundle(b"", &[certificate.root()], SystemTime::now());
    let shared = Arc::new(Shared {
        settings: Settings::default(),
        certificate: ArcSwap::from_pointee(certificate),
        permits: Semaphore::new(AT_ONCE),
        injected: Notify::new(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (leave, leaving) = watch::channel(false);
    let served = tokio::spawn(serve(listener, Arc::clone(&shared), leaving));

    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": { "uid": "u", "operation": "CREATE", "namespace": "shop", "object": {
            "apiVersion": "v1", "kind": "Pod", "spec": { "containers": [{ "name": "a", "image": "a" }] } } },
    });
    let mut stream = connect(address, &trusted, NAME).await.unwrap();
    let (status, body) = ask(&mut stream, "POST /inject?timeout=10s", review.to_string().as_bytes()).await;
    assert_eq!(status, "HTTP/1.1 200 OK", "{body}");
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((&answer["response"]["allowed"], &answer["response"]["uid"]), (&true.into(), &"u".into()));
    assert!(answer["response"]["patch"].is_string());
    // Whoever makes config maps hears of it.
    tokio::time::timeout(Duration::from_secs(10), shared.injected.notified()).await.unwrap();

    let long = vec![b' '; LONGEST + 1];
    for (head, body, wanted) in [
        ("POST /inject", &b"{}"[..], "400"),
        ("GET /inject", &b""[..], "405"),
        ("POST /", &b""[..], "404"),
        ("POST /inject", long.as_slice(), "413"),
    ] {
        let mut stream = connect(address, &trusted, NAME).await.unwrap();
        let (status, _) = ask(&mut stream, head, body).await;
        assert_eq!(status.split(' ').nth(1), Some(wanted), "{head}: {status}");
    }
    // Another name, or an authority of somebody else.
    assert!(connect(address, &trusted, "outrider-control.outrider-system.svc").await.is_err());
    let other = bundle(b"", &[generation().root()], SystemTime::now());
    assert!(connect(address, &other, NAME).await.is_err());

    leave.send_replace(true);
    tokio::time::timeout(Duration::from_secs(10), served).await.unwrap().unwrap();
}

#[test]
fn a_bundle_has_all_of_ours_and_nothing_else() {
    let now = SystemTime::now();
    let (own, other) = (generation(), generation());
    let alone = bundle(b"", &[own.root()], now);
    let of_other = bundle(b"", &[other.root()], now);
    let both = bundle(of_other.as_bytes(), &[own.root()], now);
    assert_eq!(both, format!("{alone}{of_other}"));
    // Once more changes nothing.
    assert_eq!(bundle(both.as_bytes(), &[own.root()], now), both);
    // The next one of its own is put beside it.
    let next = generation();
    assert_eq!(bundle(both.as_bytes(), &[own.root(), next.root()], now).matches("BEGIN").count(), 3);
    // What has ended goes, and so does what is no authority of a webhook.
    let later = now + Duration::from_secs(7 * 24 * 3600);
    assert_eq!(bundle(of_other.as_bytes(), &[own.root()], later), alone);
    let foreign = rcgen::generate_simple_self_signed(vec!["bank.example.com".to_owned()]).unwrap().cert.pem();
    for there in
        [foreign.as_str(), "rubbish", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"]
    {
        assert_eq!(bundle(there.as_bytes(), &[own.root()], now), alone, "{there}");
    }
    // Processes that started and died are not kept without end.
    let mut all = String::new();
    for _ in 0..70 {
        all = bundle(all.as_bytes(), &[generation().root()], now);
    }
    assert_eq!(all.matches("BEGIN").count(), 64);
}
