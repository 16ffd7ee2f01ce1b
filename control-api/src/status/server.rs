//! The HTTP server: the page, one picture, and pictures for as long as somebody looks.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use futures_util::StreamExt as _;
use http::header::{self, HeaderName, HeaderValue};
use http::{Method, Response, StatusCode, request::Parts};
use http_body::Frame;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio_stream::wrappers::WatchStream;
use tonic::transport::server::Connected as _;

use super::access::{Access, Refused};
use super::live::Live;
use crate::api::auth::{Bounds, Identity, Peer, Tls, incoming};

/// Connections at a time.
const CONNECTIONS: usize = 64;
/// How long the head of a request may take.
const HEAD: Duration = Duration::from_secs(10);
/// The most that a connection buffers.
const BUFFER: usize = 64 << 10;
/// Headers of a request.
const HEADERS: usize = 64;
/// How long a connection lives; a page that looks longer connects anew by itself.
const LONGEST: Duration = Duration::from_secs(3600);
/// How long one picture may take.
const PATIENCE: Duration = Duration::from_secs(20);

/// Nothing comes from elsewhere, nothing in the page is a script or a style but what is served here, and nobody frames it.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
                      base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// What is served as it is: path, type, content.
static ASSETS: [(&str, &str, &str); 6] = [
    ("/", "text/html; charset=utf-8", include_str!("assets/index.html")),
    ("/status.css", "text/css; charset=utf-8", include_str!("assets/status.css")),
    ("/status.js", "text/javascript; charset=utf-8", include_str!("assets/status.js")),
    ("/graph.js", "text/javascript; charset=utf-8", include_str!("assets/graph.js")),
    ("/dom.js", "text/javascript; charset=utf-8", include_str!("assets/dom.js")),
    ("/favicon.svg", "image/svg+xml", include_str!("assets/favicon.svg")),
];

/// The body of an answer.
type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Serves for ever.
pub(super) async fn serve(listener: TcpListener, tls: Option<Arc<Tls>>, access: Access, live: Arc<Live>) {
    let mut connections = incoming(listener, tls, Bounds::new(CONNECTIONS, CONNECTIONS));
    while let Some(connection) = connections.next().await {
        let Ok(connection) = connection else { continue };
        let (peer, access, live) = (connection.connect_info(), access.clone(), Arc::clone(&live));
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let (peer, access, live) = (peer.clone(), access.clone(), Arc::clone(&live));
            // What a request brings is not read.
            let (head, _) = request.into_parts();
            async move { Ok::<_, Infallible>(answer(&head, &peer, &access, &live).await) }
        });
        tokio::spawn(async move {
            let served = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .max_headers(HEADERS)
                .max_buf_size(BUFFER)
                .serve_connection(TokioIo::new(connection), service);
            if let Ok(Err(error)) = tokio::time::timeout(LONGEST, served).await {
                tracing::debug!(%error, "a connection to the status page ended");
            }
        });
    }
}

/// Answers one request.
pub(super) async fn answer(head: &Parts, peer: &Peer, access: &Access, live: &Live) -> Response<Body> {
    let who = match access.judge(head, peer) {
        Ok(who) => who,
        Err(refused) => return turned_away(refused),
    };
    let path = head.uri.path();
    if let Some((_, kind, content)) = ASSETS.iter().copied().find(|(name, ..)| *name == path) {
        return text(StatusCode::OK, kind, content);
    }
    match path {
        "/api/overview" => picture(live).await,
        "/api/live" if head.method == Method::GET => pictures(live, who),
        _ => text(StatusCode::NOT_FOUND, "text/plain; charset=utf-8", "there is no such page; go to /\n"),
    }
}

/// Says why somebody may not look.
fn turned_away(Refused { status, words }: Refused) -> Response<Body> {
    let mut response = text(status, "text/plain; charset=utf-8", format!("{words}\n"));
    if status == StatusCode::UNAUTHORIZED {
        let challenge = HeaderValue::from_static("Basic realm=\"outrider-control: the password is a token\"");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    if status == StatusCode::METHOD_NOT_ALLOWED {
        response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
    }
    response
}

/// One picture of now.
async fn picture(live: &Live) -> Response<Body> {
    let mut pictures = live.look();
    let made = tokio::time::timeout(PATIENCE, pictures.wait_for(|it| !it.is_empty())).await;
    match made {
        Ok(Ok(json)) => text(StatusCode::OK, "application/json", json.clone()),
        Ok(Err(_)) | Err(_) => {
            text(StatusCode::SERVICE_UNAVAILABLE, "text/plain; charset=utf-8", "the picture takes too long\n")
        }
    }
}

/// Pictures as they are made, as server-sent events, until the credential of whoever looks has ended.
/// <https://html.spec.whatwg.org/multipage/server-sent-events.html>
fn pictures(live: &Live, who: Option<Identity>) -> Response<Body> {
    let ended = async move {
        match who {
            Some(who) => drop(who.ended().await),
            None => std::future::pending().await,
        }
    };
    let events = WatchStream::new(live.look()).filter_map(|json| {
        let frame = (!json.is_empty()).then(|| Ok::<_, Infallible>(Frame::data(event(&json))));
        std::future::ready(frame)
    });
    let body = StreamBody::new(events.take_until(ended));
    response(StatusCode::OK, "text/event-stream", body.boxed_unsync())
}

/// An event; JSON as it is written here has no line's end in it.
fn event(json: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(json.len() + 8);
    out.put_slice(b"data: ");
    out.put_slice(json);
    out.put_slice(b"\n\n");
    out.freeze()
}

fn text(status: StatusCode, kind: &'static str, content: impl Into<Bytes>) -> Response<Body> {
    response(status, kind, Full::new(content.into()).boxed_unsync())
}

fn response(status: StatusCode, kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let fields: [(HeaderName, &'static str); 7] = [
        (header::CONTENT_TYPE, kind),
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
        (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
    ];
    for (name, value) in fields {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
