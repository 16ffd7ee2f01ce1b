//! CSDS: what came from control planes and what became of it, over gRPC (`envoy.service.status.v3`).
//!
//! Envoy tells the same in `/config_dump` alone; gRPC's own xDS clients serve this, and tools such as `grpcdebug` read it.
//! It is served on the admin interface over HTTP/2 without TLS.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, header};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use outrider_proto::Descriptors;
use outrider_proto::pb::envoy::admin::v3::{ClientResourceStatus, UpdateFailureState};
use outrider_proto::pb::envoy::config::core::v3::Node;
use outrider_proto::pb::envoy::service::status::v3::client_config::GenericXdsConfig;
use outrider_proto::pb::envoy::service::status::v3::{
    ClientConfig, ClientStatusRequest, ClientStatusResponse, ConfigStatus,
};
use outrider_proto::pb::google::protobuf::{Any, Timestamp};
use outrider_proto::prost::Message as _;
use outrider_xds::Kind;

use crate::control::Control;
use crate::dynamic::{Missing, Record, Version};

use super::dynamic_dump::redacted;

const SERVICE: &str = "/envoy.service.status.v3.ClientStatusDiscoveryService/";

/// The longest request that is taken, bytes: it says little.
const MAX_REQUEST: usize = 64 * 1024;

/// gRPC's numbers of outcomes.
const OK: u8 = 0;
const INVALID_ARGUMENT: u8 = 3;
const UNIMPLEMENTED: u8 = 12;

/// Whether a request is gRPC's.
pub(super) fn is_grpc(request: &Request<Incoming>) -> bool {
    let of = request.headers().get(header::CONTENT_TYPE).map(HeaderValue::as_bytes);
    *request.method() == Method::POST && of.is_some_and(|of| of.starts_with(b"application/grpc"))
}

/// Answers a call.
pub(super) fn answer(control: &Arc<Control>, request: Request<Incoming>) -> Response<Answers> {
    let end = match request.uri().path().strip_prefix(SERVICE) {
        Some("StreamClientStatus" | "FetchClientStatus") => None,
        _ => Some((UNIMPLEMENTED, "there is no such method here")),
    };
    let once = request.uri().path().ends_with("FetchClientStatus");
    let answers = Answers {
        control: control.clone(),
        requests: request.into_body(),
        read: BytesMut::new(),
        once,
        end,
        ended: false,
    };
    let mut response = Response::new(answers);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

/// One answer for each request, and gRPC's trailers.
pub(super) struct Answers {
    control: Arc<Control>,
    requests: Incoming,
    read: BytesMut,
    /// After the first answer there is no other.
    once: bool,
    end: Option<(u8, &'static str)>,
    ended: bool,
}

impl Answers {
    /// The next request that is there as a whole.
    fn next(&mut self) -> Option<Result<ClientStatusRequest, &'static str>> {
        let [compressed, a, b, c, d] = *self.read.first_chunk::<5>()?;
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if compressed != 0 {
            return Some(Err("compressed messages are not taken"));
        }
        if length > MAX_REQUEST {
            return Some(Err("the request is too long"));
        }
        if self.read.len() < 5 + length {
            return None;
        }
        self.read.advance(5);
        let message = self.read.split_to(length);
        Some(ClientStatusRequest::decode(&*message).map_err(|_| "the request is malformed"))
    }

    fn take(&mut self, request: &ClientStatusRequest) -> Result<Bytes, &'static str> {
        if !request.node_matchers.is_empty() {
            return Err("node_matchers are for control planes: there is one node here");
        }
        let response = ClientStatusResponse { config: vec![config(&self.control, request)] };
        let mut frame = BytesMut::with_capacity(5 + response.encoded_len());
        frame.put_u8(0);
        frame.put_u32(u32::try_from(response.encoded_len()).unwrap_or(u32::MAX));
        frame.extend_from_slice(&response.encode_to_vec());
        Ok(frame.freeze())
    }
}

impl Body for Answers {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        loop {
            if this.ended {
                return Poll::Ready(None);
            }
            if let Some((status, message)) = this.end {
                this.ended = true;
                return Poll::Ready(Some(Ok(Frame::trailers(trailers(status, message)))));
            }
            let outcome = this.next().map(|request| request.and_then(|request| this.take(&request)));
            match outcome {
                Some(Ok(frame)) => {
                    this.end = this.once.then_some((OK, ""));
                    return Poll::Ready(Some(Ok(Frame::data(frame))));
                }
                Some(Err(why)) => {
                    this.end = Some((INVALID_ARGUMENT, why));
                    continue;
                }
                None => {}
            }
            match std::task::ready!(Pin::new(&mut this.requests).poll_frame(cx)) {
                Some(Ok(frame)) => {
                    if let Some(data) = frame.data_ref() {
                        this.read.extend_from_slice(data);
                    }
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None if this.read.is_empty() => this.end = Some((OK, "")),
                None => this.end = Some((INVALID_ARGUMENT, "the request is cut short")),
            }
        }
    }
}

fn trailers(status: u8, message: &'static str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(status)));
    if !message.is_empty() {
        trailers.insert("grpc-message", HeaderValue::from_static(message));
    }
    trailers
}

/// All that came from control planes, and what was asked for and did not come.
fn config(control: &Control, request: &ClientStatusRequest) -> ClientConfig {
    let contents = (!request.exclude_resource_contents).then(Descriptors::load);
    let mut resources = Vec::new();
    for kind in Kind::ALL {
        let records = control.records.of(kind);
        let known = |name: &str| records.iter().any(|(known, _)| **known == *name);
        let missing = control.subscriptions.missing(kind);
        let missing: Vec<_> = missing.into_iter().filter(|(name, _)| !known(name)).collect();
        resources.extend(records.iter().map(|(name, record)| one(kind, name, record, contents.as_ref())));
        resources.extend(missing.into_iter().map(|(name, state)| absent(kind, &name, state)));
    }
    ClientConfig {
        node: Node::decode(&*control.model.node.wire).ok(),
        generic_xds_configs: resources,
        ..ClientConfig::default()
    }
}

/// What became of a resource, with its content, secrets redacted, if there are descriptors to read it by.
fn one(kind: Kind, name: &str, record: &Record, contents: Option<&Descriptors>) -> GenericXdsConfig {
    let status = match record {
        Record { error: Some(_), .. } => ClientResourceStatus::Nacked,
        _ => ClientResourceStatus::Acked,
    };
    let config_status = if record.error.is_some() { ConfigStatus::Error } else { ConfigStatus::Synced };
    // What waits has been accepted.
    let version = record.active.as_ref().or(record.warming.as_ref());
    let content = |version: &Version| {
        if version.body.is_empty() {
            return None;
        }
        // What cannot be read cannot be shown to be free of secrets: it is left out.
        let value = redacted(contents?, kind, &version.body)?.encode_to_vec();
        Some(Any { type_url: kind.type_url().to_owned(), value })
    };
    GenericXdsConfig {
        type_url: kind.type_url().to_owned(),
        name: name.to_owned(),
        version_info: version.map(|version| version.version.to_string()).unwrap_or_default(),
        xds_config: version.and_then(content),
        last_updated: version.map(|version| time(version.at)),
        config_status: config_status.into(),
        client_status: status.into(),
        error_state: record.error.as_ref().map(|refused| UpdateFailureState {
            failed_configuration: content(&refused.version),
            last_update_attempt: Some(time(refused.version.at)),
            details: refused.details.clone(),
            version_info: refused.version.version.to_string(),
        }),
        is_static_resource: false,
    }
}

fn absent(kind: Kind, name: &str, state: Missing) -> GenericXdsConfig {
    let (status, config) = match state {
        Missing::Requested => (ClientResourceStatus::Requested, ConfigStatus::NotSent),
        Missing::TimedOut => (ClientResourceStatus::Timeout, ConfigStatus::NotSent),
        Missing::Absent => (ClientResourceStatus::DoesNotExist, ConfigStatus::Synced),
    };
    GenericXdsConfig {
        type_url: kind.type_url().to_owned(),
        name: name.to_owned(),
        client_status: status.into(),
        config_status: config.into(),
        ..GenericXdsConfig::default()
    }
}

fn time(at: SystemTime) -> Timestamp {
    let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(since.subsec_nanos()).unwrap_or(0),
    }
}
