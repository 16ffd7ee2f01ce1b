//! What a service says.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use outrider_config::model::{AppendAction, AuthzHttp};
use outrider_core::MetadataValue;
use outrider_core::matcher::StringMatcher;
use outrider_proto::pb::envoy::config::core::v3::{
    HeaderValue as Wire, HeaderValueOption, header_value_option::HeaderAppendAction,
};
use outrider_proto::pb::envoy::service::auth::v3 as pb;
use outrider_proto::pb::envoy::r#type::v3::HttpStatus;
use outrider_proto::pb::google::protobuf::{ListValue, Struct, Value, value::Kind};

use crate::headers::names::{KEEP_ALIVE, PROXY_CONNECTION};
use crate::service;

/// Headers that a service that speaks HTTP names here are removed from the request.
const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");
/// Headers of a refusal that clients get beside those of a list.
const WITH_LIST: [&str; 3] = ["content-length", "www-authenticate", "location"];

/// The decision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Said {
    Ok,
    Denied,
    /// There is none.
    Error,
}

/// An answer of either kind of service.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) said: Said,
    /// Changes of the request, in order.
    pub(super) request: Vec<Change>,
    /// Headers that are removed from it, behind those.
    pub(super) remove: Vec<String>,
    /// Parameters of its query that are set, and those that are removed.
    pub(super) query_set: Vec<(String, String)>,
    pub(super) query_remove: Vec<String>,
    /// Changes of the response to a request that passed.
    pub(super) response: Vec<Change>,
    /// Headers of the reply to a request that did not.
    pub(super) local: Vec<Change>,
    /// That reply's status and body.
    pub(super) status: Option<StatusCode>,
    pub(super) body: Bytes,
    /// Dynamic metadata.
    pub(super) metadata: BTreeMap<Arc<str>, MetadataValue>,
    /// There are changes of a kind that nobody knows.
    pub(super) odd_actions: bool,
}

/// A change of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Change {
    /// As the service wrote it.
    pub(super) name: String,
    pub(super) value: Vec<u8>,
    pub(super) action: AppendAction,
    /// The older field asked for it: what is appended gets into the value that is there, and there must be one.
    pub(super) joins: bool,
}

impl Change {
    fn of(header: Option<Wire>, action: AppendAction, joins: bool) -> Self {
        let header = header.unwrap_or_default();
        Self { name: header.key, value: header.value.into_bytes(), action, joins }
    }

    /// The header, unless it is a pseudo header, and its value; `None` for what HTTP cannot carry.
    pub(super) fn field(&self) -> Option<(HeaderName, HeaderValue)> {
        let name = HeaderName::from_bytes(self.name.as_bytes()).ok()?;
        Some((name, HeaderValue::from_bytes(&self.value).ok()?))
    }

    /// Whether HTTP can carry it.
    pub(super) fn is_valid(&self) -> bool {
        match self.name.strip_prefix(':') {
            Some(name) => matches!(name, "authority" | "method" | "path" | "scheme" | "status"),
            None => self.field().is_some(),
        }
    }
}

impl Answer {
    pub(super) fn new(said: Said) -> Self {
        Self {
            said,
            request: Vec::new(),
            remove: Vec::new(),
            query_set: Vec::new(),
            query_remove: Vec::new(),
            response: Vec::new(),
            local: Vec::new(),
            status: None,
            body: Bytes::new(),
            metadata: BTreeMap::new(),
            odd_actions: false,
        }
    }

    /// Whether it changes the request so that another route may match: what is added beside what is there does not count, as in Envoy.
    pub(super) fn changes_route(&self) -> bool {
        let adds = |change: &Change| change.action == AppendAction::AppendIfExistsOrAdd && !change.joins;
        let only_adds = self.request.iter().all(adds);
        !(only_adds && self.remove.is_empty() && self.query_set.is_empty() && self.query_remove.is_empty())
    }

    /// Whether it changes the request.
    pub(super) fn changes_request(&self) -> bool {
        !(self.request.is_empty()
            && self.remove.is_empty()
            && self.query_set.is_empty()
            && self.query_remove.is_empty())
    }

    /// The answer of a service that speaks gRPC (Envoy: `GrpcClientImpl::onSuccess`).
    #[expect(deprecated, reason = "Envoy still looks at the older place of dynamic metadata first")]
    pub(super) fn of_grpc(message: pb::CheckResponse) -> Self {
        use pb::check_response::HttpResponse;
        let pb::CheckResponse { status, dynamic_metadata, http_response } = message;
        let allowed = status.is_none_or(|status| status.code == 0);
        let mut metadata = dynamic_metadata;
        let mut answer = match (allowed, http_response) {
            (true, Some(HttpResponse::OkResponse(ok))) => {
                metadata = ok.dynamic_metadata.or(metadata);
                let mut answer = Self::new(Said::Ok);
                answer.request = request_changes(ok.headers);
                answer.response = response_changes(ok.response_headers_to_add, &mut answer.odd_actions);
                answer.remove = ok.headers_to_remove;
                answer.query_set =
                    ok.query_parameters_to_set.into_iter().map(|it| (it.key, it.value)).collect();
                answer.query_remove = ok.query_parameters_to_remove;
                answer
            }
            (true, _) => Self::new(Said::Ok),
            (false, Some(HttpResponse::ErrorResponse(reply))) => Self::new(Said::Error).replying(reply),
            (false, Some(HttpResponse::DeniedResponse(reply))) => Self::new(Said::Denied).replying(reply),
            (false, other) => {
                if let Some(HttpResponse::OkResponse(ok)) = other {
                    metadata = ok.dynamic_metadata.or(metadata);
                }
                Self::new(Said::Denied)
            }
        };
        answer.metadata = metadata.map(members).unwrap_or_default();
        answer
    }

    fn replying(mut self, reply: pb::DeniedHttpResponse) -> Self {
        let pb::DeniedHttpResponse { status, headers, body } = reply;
        self.local = local_headers(headers);
        self.status = status.and_then(|HttpStatus { code }| final_status(u16::try_from(code).ok()?));
        self.body = Bytes::from(body);
        self
    }

    /// The answer of a service that speaks HTTP (Envoy: `RawHttpClientImpl::toResponse`).
    pub(super) fn of_http(service: &AuthzHttp, answer: service::Answer) -> Self {
        let service::Answer { head, body, .. } = answer;
        if head.status.is_server_error() {
            return Self::new(Said::Error);
        }
        let mut headers = head.headers;
        for name in [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, TE, TRANSFER_ENCODING, UPGRADE] {
            headers.remove(name);
        }
        let remove = names_of(&headers);
        headers.remove(TO_REMOVE);
        let mut said = Self::new(Said::Denied);
        said.metadata = headers
            .iter()
            .filter(|&(name, _)| any(&service.metadata, name))
            .map(|(name, value)| {
                let value = String::from_utf8_lossy(value.as_bytes());
                (Arc::from(name.as_str()), MetadataValue::Text(Arc::from(&*value)))
            })
            .collect();
        if head.status != StatusCode::OK {
            let client = |name: &HeaderName| match &*service.client {
                [] => *name != HOST,
                list => any(list, name) || WITH_LIST.contains(&name.as_str()),
            };
            // Its status counts as one of its headers, as in Envoy; who makes the reply leaves it out.
            said.local = vec![Change {
                name: ":status".to_owned(),
                value: head.status.as_str().as_bytes().to_vec(),
                action: AppendAction::AppendIfExistsOrAdd,
                joins: false,
            }];
            said.local.extend(picked(&headers, client, AppendAction::AppendIfExistsOrAdd));
            said.status = final_status(head.status.as_u16());
            said.body = Bytes::from(body);
            return said;
        }
        said.said = Said::Ok;
        said.remove = remove;
        let set = |name: &HeaderName| any(&service.upstream, name);
        said.request = picked(&headers, set, AppendAction::OverwriteIfExistsOrAdd);
        let append = |name: &HeaderName| any(&service.upstream_append, name);
        said.request.extend(picked(&headers, append, AppendAction::AppendIfExistsOrAdd));
        let client = |name: &HeaderName| any(&service.client_on_success, name);
        said.response = picked(&headers, client, AppendAction::AppendIfExistsOrAdd);
        said
    }
}

/// A status that can end a request.
fn final_status(code: u16) -> Option<StatusCode> {
    StatusCode::from_u16(code).ok().filter(|status| (200..600).contains(&status.as_u16()))
}

fn any(list: &[StringMatcher], name: &HeaderName) -> bool {
    list.iter().any(|matcher| matcher.matches(name.as_str()))
}

fn picked(headers: &HeaderMap, wanted: impl Fn(&HeaderName) -> bool, action: AppendAction) -> Vec<Change> {
    let wanted = headers.iter().filter(|&(name, _)| wanted(name));
    let change = |(name, value): (&HeaderName, &HeaderValue)| Change {
        name: name.as_str().to_owned(),
        value: value.as_bytes().to_vec(),
        action,
        joins: false,
    };
    wanted.map(change).collect()
}

fn names_of(headers: &HeaderMap) -> Vec<String> {
    let lists = headers.get_all(TO_REMOVE).iter().filter_map(|list| list.to_str().ok());
    let names = lists.flat_map(|list| list.split(',')).map(str::trim).filter(|name| !name.is_empty());
    names.map(str::to_owned).collect()
}

/// Changes of a request. The newer field that says how is not looked at, and what is set comes before what is appended (measured on
/// Envoy 1.40).
#[expect(deprecated, reason = "services still write the older field, and Envoy looks at it alone")]
fn request_changes(messages: Vec<HeaderValueOption>) -> Vec<Change> {
    let change = |HeaderValueOption { header, append, .. }: HeaderValueOption| {
        let joins = append.is_some_and(|append| append.value);
        let action =
            if joins { AppendAction::AppendIfExistsOrAdd } else { AppendAction::OverwriteIfExistsOrAdd };
        Change::of(header, action, joins)
    };
    let mut found: Vec<Change> = messages.into_iter().map(change).collect();
    found.sort_by_key(|change| change.joins);
    found
}

/// Headers of a reply. Those that are to be appended have nothing to be appended to, and are left out (measured on Envoy 1.40).
#[expect(deprecated, reason = "services still write the older field, and Envoy looks at it alone")]
fn local_headers(messages: Vec<HeaderValueOption>) -> Vec<Change> {
    let set = |message: &HeaderValueOption| !message.append.is_some_and(|append| append.value);
    let messages = messages.into_iter().filter(set);
    messages.map(|message| Change::of(message.header, AppendAction::AppendIfExistsOrAdd, false)).collect()
}

/// Changes of a response, in the order in which they are made; `odd` when there is one of a kind that nobody knows, which
/// overwrites, as in Envoy.
#[expect(deprecated, reason = "services still write the older field, and Envoy takes it")]
fn response_changes(messages: Vec<HeaderValueOption>, odd: &mut bool) -> Vec<Change> {
    let mut found = Vec::with_capacity(messages.len());
    for HeaderValueOption { header, append, append_action, keep_empty_value: _ } in messages {
        let action = match (append, HeaderAppendAction::try_from(append_action)) {
            (Some(append), _) if append.value => AppendAction::AppendIfExistsOrAdd,
            (Some(_), _) | (None, Ok(HeaderAppendAction::OverwriteIfExistsOrAdd)) => {
                AppendAction::OverwriteIfExistsOrAdd
            }
            (None, Ok(HeaderAppendAction::AppendIfExistsOrAdd)) => AppendAction::AppendIfExistsOrAdd,
            (None, Ok(HeaderAppendAction::AddIfAbsent)) => AppendAction::AddIfAbsent,
            (None, Ok(HeaderAppendAction::OverwriteIfExists)) => AppendAction::OverwriteIfExists,
            (None, Err(_)) => {
                *odd = true;
                AppendAction::OverwriteIfExistsOrAdd
            }
        };
        found.push(Change::of(header, action, false));
    }
    found.sort_by_key(|change| match change.action {
        AppendAction::AppendIfExistsOrAdd => 0,
        AppendAction::OverwriteIfExistsOrAdd => 1,
        AppendAction::AddIfAbsent => 2,
        AppendAction::OverwriteIfExists => 3,
    });
    found
}

/// Dynamic metadata. How deep it can be nested, protobuf's decoder limits.
fn members(message: Struct) -> BTreeMap<Arc<str>, MetadataValue> {
    message.fields.into_iter().map(|(name, it)| (Arc::from(name), value(it))).collect()
}

fn value(message: Value) -> MetadataValue {
    match message.kind {
        None | Some(Kind::NullValue(_)) => MetadataValue::Null,
        Some(Kind::BoolValue(value)) => MetadataValue::Bool(value),
        Some(Kind::NumberValue(number)) => MetadataValue::Number(number),
        Some(Kind::StringValue(text)) => MetadataValue::Text(text.into()),
        Some(Kind::StructValue(message)) => MetadataValue::Map(members(message)),
        Some(Kind::ListValue(ListValue { values })) => {
            MetadataValue::List(values.into_iter().map(value).collect())
        }
    }
}

/// The names of a decision's fields in protobuf's JSON, and as they are written.
pub(super) const TYPED: [&str; 3] = ["checkResult", "statusCode", "responseHeaders"];
pub(super) const PLAIN: [&str; 3] = ["check_result", "status_code", "response_headers"];

/// A decision that nobody heeds, as JSON (measured on Envoy 1.40).
pub(super) fn decision(names: [&str; 3], said: &str, status: StatusCode, headers: &[Change]) -> String {
    let [result, code, list] = names;
    let text = |text: &str| {
        let mut out = Vec::new();
        MetadataValue::Text(text.into()).write_json(&mut out);
        String::from_utf8(out).unwrap_or_default()
    };
    let header = |change: &Change| {
        let (key, value) = (text(&change.name), text(&String::from_utf8_lossy(&change.value)));
        format!("{{\"key\":{key},\"value\":{value}}}")
    };
    let headers: Vec<String> = headers.iter().map(header).collect();
    let headers = match headers.as_slice() {
        [] => String::new(),
        headers => format!(",\"{list}\":[{}]", headers.join(",")),
    };
    format!("{{\"{result}\":\"{said}\",\"{code}\":{}{headers}}}", status.as_u16())
}
