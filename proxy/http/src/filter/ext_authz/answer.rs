//! What a service says.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, TE, TRANSFER_ENCODING, UPGRADE};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use outrider_config::model::{AppendAction, AuthzHttp};
use outrider_core::MetadataValue;
use outrider_core::matcher::StringMatcher;
use outrider_proto::pb::envoy::config::core::v3::{
    HeaderValueOption, header_value_option::HeaderAppendAction,
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
                answer.request = changes(ok.headers, &mut answer.odd_actions);
                answer.response = changes(ok.response_headers_to_add, &mut answer.odd_actions);
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
        self.local = changes(headers, &mut self.odd_actions);
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
            said.local = picked(&headers, client, AppendAction::AppendIfExistsOrAdd);
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

/// The changes of `messages`; `odd` when there is one of a kind that nobody knows, which overwrites, as in Envoy.
#[expect(deprecated, reason = "services still write the older field, and Envoy takes it")]
fn changes(messages: Vec<HeaderValueOption>, odd: &mut bool) -> Vec<Change> {
    let mut found = Vec::with_capacity(messages.len());
    for HeaderValueOption { header, append, append_action, keep_empty_value: _ } in messages {
        let header = header.unwrap_or_default();
        let joins = append.is_some();
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
        let value = header.value.into_bytes();
        found.push(Change { name: header.key, value, action, joins });
    }
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

/// A decision that nobody heeds, as protobuf's JSON has `ShadowDecision`.
pub(super) fn decision(said: &str, status: StatusCode, headers: &[Change]) -> String {
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
        headers => format!(",\"responseHeaders\":[{}]", headers.join(",")),
    };
    format!("{{\"checkResult\":\"{said}\",\"statusCode\":{}{headers}}}", status.as_u16())
}

#[cfg(test)]
mod tests {
    use outrider_proto::pb::envoy::config::core::v3::HeaderValue as Wire;
    use outrider_proto::pb::envoy::service::auth::v3::check_response::HttpResponse;
    use outrider_proto::pb::google::protobuf::BoolValue;

    use super::*;

    fn response(code: i32, http: Option<HttpResponse>) -> pb::CheckResponse {
        let mut response = pb::CheckResponse { http_response: http, ..pb::CheckResponse::default() };
        response.status.get_or_insert_default().code = code;
        response
    }

    fn option(name: &str, action: i32) -> HeaderValueOption {
        let header = Wire { key: name.to_owned(), value: "v".to_owned(), raw_value: Vec::new() };
        HeaderValueOption { header: Some(header), append_action: action, ..HeaderValueOption::default() }
    }

    #[test]
    fn a_status_decides_whatever_stands_beside_it() {
        let ok = || HttpResponse::OkResponse(pb::OkHttpResponse::default());
        let denied = || HttpResponse::DeniedResponse(pb::DeniedHttpResponse::default());
        let error = || HttpResponse::ErrorResponse(pb::DeniedHttpResponse::default());
        for (code, http, want) in [
            (0, None, Said::Ok),
            (0, Some(ok()), Said::Ok),
            (0, Some(denied()), Said::Ok),
            (7, None, Said::Denied),
            (7, Some(ok()), Said::Denied),
            (7, Some(denied()), Said::Denied),
            (7, Some(error()), Said::Error),
            (-1, None, Said::Denied),
        ] {
            let answer = Answer::of_grpc(response(code, http));
            assert_eq!(answer.said, want, "{code} {answer:?}");
        }
        assert_eq!(Answer::of_grpc(pb::CheckResponse::default()).said, Said::Ok, "nothing is status 0");
    }

    #[test]
    fn a_status_that_ends_no_request_is_none() {
        for (code, want) in
            [(401, Some(401)), (100, None), (0, None), (999, None), (-1, None), (70_000, None)]
        {
            let status = Some(HttpStatus { code });
            let reply = pb::DeniedHttpResponse { status, ..pb::DeniedHttpResponse::default() };
            let answer = Answer::of_grpc(response(7, Some(HttpResponse::DeniedResponse(reply))));
            assert_eq!(answer.status.map(|status| status.as_u16()), want, "{code}");
        }
    }

    #[test]
    #[expect(deprecated, reason = "the older field is read")]
    fn the_older_field_goes_before_the_newer() {
        let append = |value| Some(BoolValue { value });
        let options = vec![
            option("a", 0),
            option("b", 1),
            HeaderValueOption { append: append(true), ..option("c", 2) },
            HeaderValueOption { append: append(false), ..option("d", 0) },
        ];
        let mut odd = false;
        let actions: Vec<_> =
            changes(options, &mut odd).into_iter().map(|change| (change.action, change.joins)).collect();
        assert_eq!(
            actions,
            [
                (AppendAction::AppendIfExistsOrAdd, false),
                (AppendAction::AddIfAbsent, false),
                (AppendAction::AppendIfExistsOrAdd, true),
                (AppendAction::OverwriteIfExistsOrAdd, true),
            ]
        );
        assert!(!odd);
        assert_eq!(changes(vec![option("a", 99)], &mut odd).len(), 1);
        assert!(odd, "a number that has no name");
    }

    fn http_service(client: &[&str]) -> AuthzHttp {
        let list = |names: &[&str]| names.iter().map(|name| StringMatcher::exact(*name)).collect();
        AuthzHttp {
            cluster: "c".into(),
            authority: "a".into(),
            timeout: None,
            path: outrider_config::model::AuthzPath::Prefix("".into()),
            add: Box::default(),
            upstream: list(&["x-up"]),
            upstream_append: list(&["x-more"]),
            client: list(client),
            client_on_success: list(&["x-good"]),
            metadata: list(&["x-meta"]),
        }
    }

    fn http_answer(status: u16) -> service::Answer {
        let mut response = http::Response::builder().status(status);
        for (name, value) in [
            ("x-up", "1"),
            ("x-more", "2"),
            ("x-good", "3"),
            ("x-meta", "4"),
            ("transfer-encoding", "chunked"),
            ("location", "/l"),
            ("x-envoy-auth-headers-to-remove", "a, b ,,c"),
        ] {
            response = response.header(name, value);
        }
        let (head, ()) = response.body(()).expect("a response").into_parts();
        service::Answer::of(head, b"body".to_vec())
    }

    fn names(changes: &[Change]) -> Vec<&str> {
        changes.iter().map(|change| change.name.as_str()).collect()
    }

    #[test]
    fn only_200_over_http_lets_a_request_pass() {
        let said = |status| Answer::of_http(&http_service(&[]), http_answer(status)).said;
        assert_eq!([200, 201, 302, 403, 500, 503].map(said), {
            use Said::{Denied, Error, Ok};
            [Ok, Denied, Denied, Denied, Error, Error]
        });
    }

    #[test]
    fn headers_over_http_go_where_the_lists_say() {
        let passed = Answer::of_http(&http_service(&[]), http_answer(200));
        assert_eq!(names(&passed.request), ["x-up", "x-more"]);
        assert_eq!(names(&passed.response), ["x-good"]);
        assert_eq!(passed.remove, ["a", "b", "c"]);
        assert_eq!(passed.metadata.get("x-meta"), Some(&MetadataValue::Text("4".into())));
        let refused = Answer::of_http(&http_service(&[]), http_answer(401));
        assert_eq!(names(&refused.local), ["x-up", "x-more", "x-good", "x-meta", "location"]);
        assert!(refused.remove.is_empty() && refused.request.is_empty());
        assert_eq!((refused.status.map(|it| it.as_u16()), &refused.body[..]), (Some(401), &b"body"[..]));
        let listed = Answer::of_http(&http_service(&["x-good"]), http_answer(401));
        assert_eq!(names(&listed.local), ["x-good", "location"]);
    }

    #[test]
    fn a_decision_is_told_as_json() {
        let change = Change {
            name: "x-a".to_owned(),
            value: b"\"v\"".to_vec(),
            action: AppendAction::AddIfAbsent,
            joins: false,
        };
        assert_eq!(
            decision("DENIED", StatusCode::FORBIDDEN, &[change]),
            r#"{"checkResult":"DENIED","statusCode":403,"responseHeaders":[{"key":"x-a","value":"\"v\""}]}"#
        );
        assert_eq!(decision("OK", StatusCode::OK, &[]), r#"{"checkResult":"OK","statusCode":200}"#);
    }
}
