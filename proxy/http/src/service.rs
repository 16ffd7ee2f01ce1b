//! Questions of the proxy's own: a request to a cluster, and the whole answer.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, Request, StatusCode, request, response};
use http_body::Body as _;
use outrider_config::model::JwksRetries;
use outrider_core::rng::{self, Rng as _};
use outrider_upstream::stats::ResponseKind;
use outrider_upstream::{AcquireContext, Event, Incoming, PickContext, UpstreamBody, WorkerCluster};

use crate::headers::names::GRPC_STATUS;

/// As the requests of Envoy's own client are counted.
const KIND: ResponseKind = ResponseKind { internal: Some(true), retried: false, canary: false };
/// What stands before a message of gRPC: whether it is compressed, and its length.
const FRAME: usize = 5;

/// A whole answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) head: response::Parts,
    pub(crate) body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

/// There is no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServiceError {
    #[error("there is no such cluster")]
    NoCluster,
    #[error("{0}")]
    Upstream(String),
    #[error("no answer in time")]
    Timeout,
    #[error("more than {0} bytes")]
    TooLarge(usize),
    #[error("status {0}, or no gRPC")]
    NotGrpc(StatusCode),
    #[error("gRPC status {0}")]
    Status(String),
    #[error("not one message of gRPC, uncompressed")]
    Framing,
    #[error("{0}")]
    Message(#[from] outrider_proto::prost::DecodeError),
}

/// Sends `request`, whose `host` header says the authority, to `cluster`, and reads the answer. `limit` is for all of it, `largest`
/// the most bytes of a body that are taken.
///
/// # Errors
/// There is no answer in time, or it is too large.
pub(crate) async fn ask(
    cluster: &WorkerCluster,
    request: Request<UpstreamBody>,
    limit: Option<Duration>,
    largest: usize,
) -> Result<Answer, ServiceError> {
    let exchange = exchange(cluster, request, largest);
    let Some(limit) = limit else { return exchange.await };
    match tokio::time::timeout(limit, exchange).await {
        Ok(answer) => answer,
        Err(_) => {
            let counts = cluster.shared.stats();
            counts.upstream_rq_timeout().inc();
            counts.count_response(StatusCode::GATEWAY_TIMEOUT.as_u16(), KIND);
            Err(ServiceError::Timeout)
        }
    }
}

/// [`ask`], again and again as `retries` say, after answers of 5xx and where there is none. `limit` is for all tries.
///
/// # Errors
/// The last try had no answer in time, or it is too large.
pub(crate) async fn ask_again(
    cluster: &WorkerCluster,
    head: &request::Parts,
    body: &Bytes,
    (limit, retries): (Option<Duration>, Option<JwksRetries>),
    largest: usize,
) -> Result<Answer, ServiceError> {
    let request = || {
        let body = if body.is_empty() { UpstreamBody::Empty } else { UpstreamBody::Full(body.clone()) };
        Request::from_parts(head.clone(), body)
    };
    let Some(retries) = retries else {
        return ask(cluster, request(), limit, largest).await;
    };
    let end = limit.map(|limit| Instant::now() + limit);
    let (mut left, mut wait) = (retries.count, retries.base);
    loop {
        let rest = end.map(|end| end.saturating_duration_since(Instant::now()));
        let limit = rest.map_or(retries.most, |rest| rest.min(retries.most));
        let answer = ask(cluster, request(), Some(limit), largest).await;
        let again = match &answer {
            Ok(answer) => answer.head.status.is_server_error(),
            Err(error) => matches!(error, ServiceError::Upstream(_) | ServiceError::Timeout),
        };
        let most = u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).max(1);
        let pause = Duration::from_millis(rng::with(|rng| rng.below(most)));
        if !again || left == 0 || end.is_some_and(|end| Instant::now() + pause >= end) {
            return answer;
        }
        left -= 1;
        tokio::time::sleep(pause).await;
        wait = wait.saturating_mul(2).min(retries.most);
    }
}

async fn exchange(
    cluster: &WorkerCluster,
    request: Request<UpstreamBody>,
    largest: usize,
) -> Result<Answer, ServiceError> {
    let counts = cluster.shared.stats();
    let unavailable = || counts.count_response(StatusCode::SERVICE_UNAVAILABLE.as_u16(), KIND);
    let host = match cluster.pick(&PickContext::default()) {
        Ok(host) => host,
        Err(error) => {
            unavailable();
            return Err(ServiceError::Upstream(error.to_string()));
        }
    };
    let authority = request.headers().get(HOST).cloned();
    let context = AcquireContext {
        sni_from: authority.as_ref().and_then(|host| host.to_str().ok()),
        ..AcquireContext::default()
    };
    let failed = |error: String| {
        host.count_response(None);
        cluster.shared.report(&host, Event::ConnectFailed);
        unavailable();
        ServiceError::Upstream(error)
    };
    let mut lease = match cluster.acquire(&host, &context).await {
        Ok(lease) => lease,
        Err(error) => return Err(failed(error.to_string())),
    };
    cluster.shared.report(&host, Event::Connected);
    let response = match lease.send(request).await {
        Ok(response) => response,
        Err(error) => return Err(failed(error.to_string())),
    };
    let status = response.status().as_u16();
    cluster.shared.report(&host, Event::Response(status));
    host.count_response(Some(status));
    counts.count_response(status, KIND);
    let mut guard = lease.into_guard();
    let (head, body) = response.into_parts();
    let (body, trailers) = read(body, largest).await?;
    guard.finished();
    Ok(Answer { head, body, trailers })
}

async fn read(mut body: Incoming, largest: usize) -> Result<(Vec<u8>, Option<HeaderMap>), ServiceError> {
    let (mut data, mut trailers) = (Vec::new(), None);
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let frame = frame.map_err(|error| ServiceError::Upstream(error.to_string()))?;
        match frame.into_data() {
            Ok(bytes) if data.len() + bytes.len() <= largest => data.extend_from_slice(&bytes),
            Ok(_) => return Err(ServiceError::TooLarge(largest)),
            Err(frame) => trailers = frame.into_trailers().ok(),
        }
    }
    Ok((data, trailers))
}

/// `message` as gRPC sends it.
pub(crate) fn framed(message: &impl outrider_proto::prost::Message) -> Vec<u8> {
    let length = message.encoded_len();
    let mut frame = Vec::with_capacity(FRAME + length);
    frame.push(0);
    frame.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend_from_slice(&message.encode_to_vec());
    frame
}

impl Answer {
    /// An answer without trailers.
    #[cfg(test)]
    pub(crate) const fn of(head: response::Parts, body: Vec<u8>) -> Self {
        Self { head, body, trailers: None }
    }

    /// The one message of a gRPC call that went well.
    ///
    /// # Errors
    /// It did not, or it is no message of this type.
    pub(crate) fn message<M: outrider_proto::prost::Message + Default>(&self) -> Result<M, ServiceError> {
        let is_grpc = self
            .head
            .headers
            .get(CONTENT_TYPE)
            .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"));
        if self.head.status != StatusCode::OK || !is_grpc {
            return Err(ServiceError::NotGrpc(self.head.status));
        }
        // A call that ends with its head says so there.
        let said = self.trailers.as_ref().unwrap_or(&self.head.headers).get(GRPC_STATUS);
        if said.is_none_or(|status| status != "0") {
            let said = said.map(|status| String::from_utf8_lossy(status.as_bytes()).into_owned());
            return Err(ServiceError::Status(said.unwrap_or_else(|| "is missing".to_owned())));
        }
        let Some(([0, length @ ..], message)) = self.body.split_first_chunk::<FRAME>() else {
            return Err(ServiceError::Framing);
        };
        if u32::from_be_bytes(*length) as usize != message.len() {
            return Err(ServiceError::Framing);
        }
        Ok(M::decode(message)?)
    }
}

#[cfg(test)]
mod tests {
    use outrider_proto::pb::envoy::config::core::v3::HeaderValue;
    use proptest::prelude::*;

    use super::*;

    fn answer(body: Vec<u8>, status: Option<&'static str>) -> Answer {
        let head = http::Response::builder().header(CONTENT_TYPE, "application/grpc+proto");
        let (head, ()) = head.body(()).expect("a response").into_parts();
        let trailers = status.map(|status| {
            let mut trailers = HeaderMap::new();
            trailers.insert(GRPC_STATUS, http::HeaderValue::from_static(status));
            trailers
        });
        Answer { head, body, trailers }
    }

    fn message() -> HeaderValue {
        HeaderValue { key: "k".to_owned(), value: "v".repeat(300), raw_value: Vec::new() }
    }

    #[test]
    fn an_answer_is_one_message_of_a_call_that_went_well() {
        let frame = framed(&message());
        assert_eq!(answer(frame.clone(), Some("0")).message::<HeaderValue>().expect("a message"), message());
        let fails = |body: Vec<u8>, status| answer(body, status).message::<HeaderValue>().is_err();
        assert!(fails(frame.clone(), Some("5")));
        assert!(fails(frame.clone(), None), "broken off");
        assert!(fails([frame.clone(), frame.clone()].concat(), Some("0")), "two messages");
        assert!(fails(Vec::new(), Some("0")), "no message");
        let mut compressed = frame;
        compressed[0] = 1;
        assert!(fails(compressed, Some("0")));
    }

    proptest! {
        #[test]
        fn no_answer_breaks_it(body: Vec<u8>) {
            let _ = answer(body, Some("0")).message::<HeaderValue>();
        }
    }
}
