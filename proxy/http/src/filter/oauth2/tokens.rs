//! The exchange of codes and refresh tokens for tokens.

use std::rc::Rc;
use std::sync::OnceLock;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE, HOST};
use http::{HeaderValue, Request, StatusCode, request};
use outrider_core::oauth2::exchange::{ClientAuth, ExchangeError, Grant, Tokens, form};
use outrider_upstream::WorkerCluster;

use super::{Active, OAuth2};
use crate::filter::RequestCx;
use crate::service::{self, ServiceError};

/// The most bytes of an answer.
const LARGEST: usize = 1 << 20;

const FORM: HeaderValue = HeaderValue::from_static("application/x-www-form-urlencoded");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// There are no tokens.
pub(super) enum Failure {
    /// The cluster is not there.
    NoCluster,
    /// The server answers with another status than 200; where there is no answer, the one that stands for that.
    Status(StatusCode),
    /// The answer broke off, or it is too long.
    Cut,
    /// It is no use.
    Answer(ExchangeError),
}

impl Failure {
    /// In Envoy's words, but for what the server answered.
    pub(super) fn reason(&self) -> String {
        match self {
            Self::NoCluster => "Token endpoint cluster not found".to_owned(),
            Self::Status(status) => format!("Failed to get access token: response code: {}", status.as_u16()),
            Self::Cut => "Failed to get access token due to HTTP request failure".to_owned(),
            Self::Answer(error) => error.to_string(),
        }
    }

    /// Whether the server did not take what it was given, or said nothing: users may try it again.
    pub(super) const fn is_refused(&self) -> bool {
        matches!(self, Self::Status(_) | Self::Cut)
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        match error {
            ServiceError::NoCluster => Self::NoCluster,
            ServiceError::Timeout => Self::Status(StatusCode::GATEWAY_TIMEOUT),
            ServiceError::Upstream(_) => Self::Status(StatusCode::SERVICE_UNAVAILABLE),
            _ => Self::Cut,
        }
    }
}

impl OAuth2 {
    /// Gives `grant` for tokens.
    pub(super) async fn exchange(
        &self,
        cx: &RequestCx<'_>,
        active: &Active,
        grant: &Grant<'_>,
    ) -> Result<Tokens, Failure> {
        let endpoint = &active.settings.endpoint;
        let exchanged = match self.cluster(cx, &endpoint.cluster) {
            None => Err(Failure::NoCluster),
            Some(cluster) => ask(&cluster, active, grant).await,
        };
        if let Err(failure) = &exchanged {
            tracing::debug!(cluster = %endpoint.cluster, "no tokens: {}", failure.reason());
        }
        exchanged
    }

    /// The cluster named `name` on this worker. Its place is looked for once.
    fn cluster(&self, cx: &RequestCx<'_>, name: &str) -> Option<Rc<WorkerCluster>> {
        let clusters = &cx.stream.hcm.clusters;
        let slot = self.slots.any(name, OnceLock::new);
        if let Some(slot) = slot.get() {
            return clusters.get(slot);
        }
        let found = clusters.slot(name)?;
        clusters.get(slot.get_or_init(|| found))
    }
}

async fn ask(cluster: &WorkerCluster, active: &Active, grant: &Grant<'_>) -> Result<Tokens, Failure> {
    let settings = &active.settings;
    let body = Bytes::from(form(grant, settings.auth, &settings.client_id, &active.secret));
    let head = head(active, body.len()).ok_or(Failure::Cut)?;
    let endpoint = &settings.endpoint;
    let answer =
        service::ask_again(cluster, &head, &body, (endpoint.timeout, endpoint.retries), LARGEST).await?;
    if answer.head.status != StatusCode::OK {
        return Err(Failure::Status(answer.head.status));
    }
    Tokens::parse(&answer.body, settings.default_lifetime).map_err(Failure::Answer)
}

/// The head of the question; `None` when the client's name cannot be in one.
fn head(active: &Active, length: usize) -> Option<request::Parts> {
    let settings = &active.settings;
    let uri = &settings.endpoint.uri;
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let (mut head, ()) = Request::post(path).body(()).ok()?.into_parts();
    let authority = uri.authority().map_or("", http::uri::Authority::as_str);
    head.headers.insert(HOST, HeaderValue::from_str(authority).ok()?);
    head.headers.insert(CONTENT_TYPE, FORM);
    head.headers.insert(ACCEPT, JSON);
    if settings.auth == ClientAuth::Basic {
        let client = [settings.client_id.as_bytes(), &b":"[..], &active.secret[..]].concat();
        let mut value = HeaderValue::from_str(&format!("Basic {}", STANDARD.encode(client))).ok()?;
        value.set_sensitive(true);
        head.headers.insert(AUTHORIZATION, value);
    }
    head.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    Some(head)
}
