//! The admission webhook: Kubernetes' API server asks it which sidecar a new pod gets ([`outrider_inject::review`]).
//!
//! Whether a pod waits for an answer is the deployer's choice (`failurePolicy`): with `Fail` there is no pod without its sidecar.
//! [`publish`] makes the webhook's certificate known to the API server, and the control plane's to the sidecars.

mod args;
mod certificate;
mod publish;
#[cfg(test)]
mod tests;

use std::convert::Infallible;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use arc_swap::ArcSwap;
pub use args::WebhookArgs;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use outrider_inject::review::{self, Answer};
use outrider_inject::settings::{Settings, Version};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_rustls::TlsAcceptor;

use certificate::Generation;
use publish::Publisher;

/// Connections at a time; more wait in the kernel. API servers are few, and keep theirs.
const CONNECTIONS: usize = 128;
/// Questions that are read and answered at a time.
const AT_ONCE: usize = 16;
/// The longest question, in bytes: what the API server takes of a client itself.
const LONGEST: usize = 3 << 20;
/// How long a handshake, or a request's body, may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a connection may be silent between two requests, or in the middle of a request's head.
const SILENCE: Duration = Duration::from_secs(30);
/// How long the start waits for Kubernetes, each time that it asks.
const FIRST: Duration = Duration::from_secs(5);
/// How long accepting rests when there are no file descriptors left.
const REST: Duration = Duration::from_millis(100);

/// What questions are answered with.
struct Shared {
    settings: Settings,
    certificate: ArcSwap<Generation>,
    permits: Semaphore,
    /// A pod was injected: its namespace may be a new one.
    injected: Notify,
}

/// Starts the webhook, if one is asked for. `own_ca`: what clients verify this control plane with, where that was made here.
///
/// # Errors
/// When there is no Kubernetes, the address is in use, or the settings are wrong.
pub(super) async fn start(
    args: &WebhookArgs,
    kubernetes: Option<&kube::Client>,
    own_ca: Option<PathBuf>,
    leaving: &watch::Receiver<bool>,
) -> anyhow::Result<()> {
    let Some(address) = args.webhook else { return Ok(()) };
    let client = kubernetes.context(
        "--webhook: the API server knows the webhook by a certificate that is written to its configuration; that needs --store kubernetes",
    )?;
    let mut settings = args.settings()?;
    if settings.kubernetes_version.is_none() {
        settings.kubernetes_version = version(client).await;
    }
    let certificate = Generation::new(&args.names()).context("--webhook: a certificate")?;
    let listener = TcpListener::bind(address).await.with_context(|| format!("--webhook {address}"))?;
    tracing::info!(webhook = %listener.local_addr()?, "pods get sidecars");
    let trust = args.inject_ca.clone().or(own_ca);
    if trust.is_none() {
        tracing::info!(
            config_map = settings.trust_config_map,
            "without --inject-ca, the config map by which sidecars verify this control plane is made by somebody else in each namespace"
        );
    }
    let shared = Arc::new(Shared {
        settings,
        certificate: ArcSwap::from_pointee(certificate),
        permits: Semaphore::new(AT_ONCE),
        injected: Notify::new(),
    });
    let mut publisher = Publisher::new(client.clone(), args, trust, Arc::clone(&shared));
    // Before anything else is served, as who is ready is asked; but proxies do not wait for an API server that is away.
    if tokio::time::timeout(FIRST, publisher.turn()).await.is_err() {
        tracing::warn!("Kubernetes does not answer yet; the webhook is made known to it later");
    }
    tokio::spawn(publisher.run());
    tokio::spawn(serve(listener, shared, leaving.clone()));
    Ok(())
}

/// The version of Kubernetes, when it can be asked.
async fn version(client: &kube::Client) -> Option<Version> {
    let asked = tokio::time::timeout(FIRST, client.apiserver_version()).await;
    let version = match asked {
        Ok(Ok(info)) => format!("{}.{}", info.major, info.minor).parse::<Version>(),
        Ok(Err(error)) => Err(error.to_string()),
        Err(_) => Err(format!("no answer within {FIRST:?}")),
    };
    match version {
        Ok(version) => Some(version),
        Err(error) => {
            tracing::warn!(error, "Kubernetes' version is not known; sidecars are native, as from 1.29 on");
            None
        }
    }
}

/// Accepts until the control plane leaves.
async fn serve(listener: TcpListener, shared: Arc<Shared>, leaving: watch::Receiver<bool>) {
    let connections = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = super::gone(leaving.clone()) => return,
        };
        match accepted {
            Ok((socket, _)) => {
                drop(tokio::spawn(converse(socket, Arc::clone(&shared), leaving.clone(), permit)))
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the webhook could not be accepted");
                tokio::time::sleep(REST).await;
            }
        }
    }
}

/// One connection.
async fn converse(
    socket: TcpStream,
    shared: Arc<Shared>,
    leaving: watch::Receiver<bool>,
    _permit: OwnedSemaphorePermit,
) {
    let _ = socket.set_nodelay(true);
    let acceptor = TlsAcceptor::from(shared.certificate.load().config());
    let stream = match tokio::time::timeout(PATIENCE, acceptor.accept(socket)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(%error, "a TLS handshake with the webhook failed");
            return;
        }
        Err(_) => return,
    };
    let shared = &*shared;
    let service =
        service_fn(move |request| async move { Ok::<_, Infallible>(respond(shared, request).await) });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(SILENCE);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = super::gone(leaving) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a connection to the webhook ended");
    }
}

async fn respond(shared: &Shared, request: Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, kind, body) = match answer(shared, request).await {
        Ok(body) => (StatusCode::OK, "application/json", body),
        Err((status, reason)) => (status, "text/plain", reason),
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

async fn answer(shared: &Shared, request: Request<Incoming>) -> Result<String, (StatusCode, String)> {
    if request.uri().path() != "/inject" {
        return Err((StatusCode::NOT_FOUND, "there is /inject\n".to_owned()));
    }
    if request.method() != Method::POST {
        return Err((StatusCode::METHOD_NOT_ALLOWED, "want POST\n".to_owned()));
    }
    // Never closed. What waits here has read nothing yet.
    let _permit = shared.permits.acquire().await;
    let body = tokio::time::timeout(PATIENCE, Limited::new(request.into_body(), LONGEST).collect()).await;
    let body = match body {
        Ok(Ok(body)) => body.to_bytes(),
        Ok(Err(error)) => {
            return Err((StatusCode::PAYLOAD_TOO_LARGE, format!("{error}; want {LONGEST} bytes at most\n")));
        }
        Err(_) => return Err((StatusCode::REQUEST_TIMEOUT, "the question came too slowly\n".to_owned())),
    };
    let Answer { review, namespace, outcome } = review::answer(&body, &shared.settings)
        .map_err(|error| (StatusCode::BAD_REQUEST, format!("{error}\n")))?;
    tracing::debug!(namespace, ?outcome, "a pod was looked at");
    if outcome == Some(outrider_inject::Outcome::Injected) {
        shared.injected.notify_one();
    }
    Ok(review.to_string())
}
