//! Asks a service.

use std::rc::Rc;
use std::sync::OnceLock;

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_LENGTH, CONTENT_TYPE, EXPECT, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request};
use outrider_config::model::{AuthzGrpc, AuthzHttp, AuthzPath, AuthzService, HeaderMutation};
use outrider_proto::pb::envoy::service::auth::v3 as pb;
use outrider_upstream::{UpstreamBody, WorkerCluster, WorkerClusters};

use super::answer::{Answer, Said};
use super::attributes::{self, PARTIAL_BODY};
use super::{ExtAuthz, Plan, Sent};
use crate::filter::RequestCx;
use crate::filter::header_mutation::change_fields;
use crate::headers::append_joined;
use crate::headers::names::{KEEP_ALIVE, PROXY_CONNECTION};
use crate::router::{GRPC_TIMEOUT, RequestContext};
use crate::service::{self, ServiceError};
use crate::stream::Stream;

const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";
const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");
const TRAILERS: HeaderValue = HeaderValue::from_static("trailers");
/// The most bytes of an answer where the service's settings do not say it.
const LARGEST_MESSAGE: usize = 4 << 20;
/// The most bytes of a body of a service that speaks HTTP.
const LARGEST_BODY: usize = 1 << 20;
/// Headers of one connection, which are not passed to another.
const OF_CONNECTION: [HeaderName; 7] =
    [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE, EXPECT];

impl ExtAuthz {
    /// The service's answer; where there is none, that it is an error.
    pub(super) async fn ask(&self, cx: &mut RequestCx<'_>, plan: Plan, sent: Option<Sent>) -> Answer {
        let clusters = cx.stream.hcm.clusters.clone();
        let name = match plan.service(&self.settings) {
            AuthzService::Grpc(service) => &service.cluster,
            AuthzService::Http(service) => &service.cluster,
        };
        let asked = match self.cluster(&clusters, name) {
            None => Err(ServiceError::NoCluster),
            Some(cluster) => match plan.service(&self.settings) {
                AuthzService::Grpc(service) => {
                    let message = attributes::check(&self.settings, cx, plan.extensions.clone(), sent);
                    by_grpc(service, &cluster, message).await
                }
                AuthzService::Http(service) => match self.request_like(service, cx, sent) {
                    Ok(request) => by_http(service, &cluster, request).await,
                    Err(error) => Err(error),
                },
            },
        };
        asked.unwrap_or_else(|error| {
            tracing::debug!(cluster = %name, "the authorization service gives no answer: {error}");
            Answer::new(Said::Error)
        })
    }

    /// The cluster named `name` on this worker. Its place is looked for once.
    fn cluster(&self, clusters: &WorkerClusters, name: &str) -> Option<Rc<WorkerCluster>> {
        let slot = self.slots.any(name, OnceLock::new);
        if let Some(slot) = slot.get() {
            return clusters.get(slot);
        }
        let found = clusters.slot(name)?;
        clusters.get(slot.get_or_init(|| found))
    }

    /// The request to a service that speaks HTTP: the client's head, as far as it is sent, and its body.
    fn request_like(
        &self,
        service: &AuthzHttp,
        cx: &RequestCx<'_>,
        sent: Option<Sent>,
    ) -> Result<Request<Bytes>, ServiceError> {
        if cx.parts.method == Method::CONNECT {
            return Err(ServiceError::Upstream("HTTP has no question about a CONNECT".to_owned()));
        }
        let stream: &Stream = cx.stream;
        let raw = self.settings.raw_headers;
        let mut headers = HeaderMap::new();
        let (mut method, mut path) = (Method::GET, None);
        attributes::each_header(&self.settings, stream, cx.parts, |name, value| match name {
            ":method" => method = cx.parts.method.clone(),
            ":path" => path = std::str::from_utf8(value).ok().map(str::to_owned),
            ":authority" => put(&mut headers, HOST, value, raw),
            name if name.starts_with(':') => {}
            name => {
                if let Ok(name) = HeaderName::from_bytes(name.as_bytes()) {
                    put(&mut headers, name, value, raw);
                }
            }
        });
        for name in OF_CONNECTION {
            headers.remove(name);
        }
        let (body, partial) = sent.map_or((Vec::new(), None), |sent| (sent.bytes, Some(sent.partial)));
        if let Some(partial) = partial {
            let partial = if partial { "true" } else { "false" };
            headers.insert(PARTIAL_BODY, HeaderValue::from_static(partial));
        }
        headers.insert(CONTENT_LENGTH, HeaderValue::from(body.len()));
        for add in &service.add {
            let context = RequestContext { stream, method: &cx.parts.method, uri: &cx.parts.uri };
            change_fields(&mut headers, &HeaderMutation::Set(add.clone()), &context);
        }
        if !headers.contains_key(HOST)
            && let Ok(host) = HeaderValue::from_str(&service.authority)
        {
            headers.insert(HOST, host);
        }
        let path = match &service.path {
            AuthzPath::Fixed(path) => path.to_string(),
            AuthzPath::Prefix(prefix) => format!("{prefix}{}", path.as_deref().unwrap_or("/")),
        };
        let mut request = Request::new(Bytes::from(body));
        *request.method_mut() = method;
        *request.uri_mut() = path.parse::<http::Uri>().map_err(unsendable)?;
        *request.headers_mut() = headers;
        Ok(request)
    }
}

/// Adds a header as it is, or as text, of which one name has one.
fn put(headers: &mut HeaderMap, name: HeaderName, value: &[u8], raw: bool) {
    let text = if raw { None } else { Some(attributes::sanitized(value)) };
    match text {
        Some(text) if headers.contains_key(&name) => append_joined(headers, name, ",", text.as_bytes()),
        Some(text) => {
            if let Ok(value) = HeaderValue::from_bytes(text.as_bytes()) {
                headers.insert(name, value);
            }
        }
        None => {
            if let Ok(value) = HeaderValue::from_bytes(value) {
                headers.append(name, value);
            }
        }
    }
}

async fn by_grpc(
    service: &AuthzGrpc,
    cluster: &WorkerCluster,
    message: pb::CheckRequest,
) -> Result<Answer, ServiceError> {
    let body = UpstreamBody::Full(service::framed(&message).into());
    let mut request = Request::post(METHOD).body(body).map_err(unsendable)?;
    let headers = request.headers_mut();
    headers.insert(HOST, HeaderValue::from_str(&service.authority).map_err(unsendable)?);
    headers.insert(CONTENT_TYPE, GRPC);
    headers.insert(TE, TRAILERS);
    if let Some(limit) = service.timeout {
        let limit = format!("{}m", limit.as_millis().min(99_999_999));
        headers.insert(GRPC_TIMEOUT, HeaderValue::from_str(&limit).map_err(unsendable)?);
    }
    for (name, value) in &service.service.initial_metadata {
        headers.append(name, value.clone());
    }
    let largest = service.longest.and_then(|longest| usize::try_from(longest).ok());
    // The frame's own five bytes are not the message's.
    let largest = largest.unwrap_or(LARGEST_MESSAGE).saturating_add(5);
    let answer = service::ask(cluster, request, service.timeout, largest).await?;
    Ok(Answer::of_grpc(answer.message::<pb::CheckResponse>()?))
}

async fn by_http(
    service: &AuthzHttp,
    cluster: &WorkerCluster,
    request: Request<Bytes>,
) -> Result<Answer, ServiceError> {
    let (head, body) = request.into_parts();
    let times = (service.timeout, service.retries);
    let answer = service::ask_again(cluster, &head, &body, times, LARGEST_BODY).await?;
    Ok(Answer::of_http(service, answer))
}

fn unsendable(error: impl std::fmt::Display) -> ServiceError {
    ServiceError::Upstream(error.to_string())
}
