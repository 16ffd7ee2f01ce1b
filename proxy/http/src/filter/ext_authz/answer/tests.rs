//! What answers mean.

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
    for (code, want) in [(401, Some(401)), (100, None), (0, None), (999, None), (-1, None), (70_000, None)] {
        let status = Some(HttpStatus { code });
        let reply = pb::DeniedHttpResponse { status, ..pb::DeniedHttpResponse::default() };
        let answer = Answer::of_grpc(response(7, Some(HttpResponse::DeniedResponse(reply))));
        assert_eq!(answer.status.map(|status| status.as_u16()), want, "{code}");
    }
}

#[expect(deprecated, reason = "the older field is read")]
fn options() -> Vec<HeaderValueOption> {
    let append = |value| Some(BoolValue { value });
    vec![
        HeaderValueOption { append: append(true), ..option("c", 2) },
        HeaderValueOption { append: append(false), ..option("d", 0) },
        option("e", 3),
        option("b", 1),
        option("a", 0),
    ]
}

#[test]
fn a_request_is_changed_as_the_older_field_says() {
    let found: Vec<_> =
        request_changes(options()).into_iter().map(|change| (change.name, change.joins)).collect();
    let want = [("d", false), ("e", false), ("b", false), ("a", false), ("c", true)];
    assert_eq!(found, want.map(|(name, joins)| (name.to_owned(), joins)));
}

#[test]
fn a_reply_has_what_is_set() {
    assert_eq!(names(&local_headers(options())), ["d", "e", "b", "a"]);
}

#[test]
fn a_response_is_changed_as_either_field_says() {
    use AppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};
    let mut odd = false;
    let found = response_changes(options(), &mut odd);
    assert_eq!(names(&found), ["c", "a", "d", "b", "e"]);
    let actions: Vec<_> = found.iter().map(|change| change.action).collect();
    assert_eq!(
        actions,
        [AppendIfExistsOrAdd, AppendIfExistsOrAdd, OverwriteIfExistsOrAdd, AddIfAbsent, OverwriteIfExists]
    );
    assert!(!odd);
    assert_eq!(response_changes(vec![option("a", 99)], &mut odd).len(), 1);
    assert!(odd, "a number that has no name");
}

fn http_service(client: &[&str]) -> AuthzHttp {
    let list = |names: &[&str]| names.iter().map(|name| StringMatcher::exact(*name)).collect();
    AuthzHttp {
        cluster: "c".into(),
        authority: "a".into(),
        timeout: None,
        path: outrider_config::model::AuthzPath::Prefix("".into()),
        retries: None,
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
    assert_eq!(names(&refused.local), [":status", "x-up", "x-more", "x-good", "x-meta", "location"]);
    assert!(refused.remove.is_empty() && refused.request.is_empty());
    assert_eq!((refused.status.map(|it| it.as_u16()), &refused.body[..]), (Some(401), &b"body"[..]));
    let listed = Answer::of_http(&http_service(&["x-good"]), http_answer(401));
    assert_eq!(names(&listed.local), [":status", "x-good", "location"]);
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
        decision(TYPED, "DENIED", StatusCode::FORBIDDEN, &[change]),
        r#"{"checkResult":"DENIED","statusCode":403,"responseHeaders":[{"key":"x-a","value":"\"v\""}]}"#
    );
    assert_eq!(decision(PLAIN, "OK", StatusCode::OK, &[]), r#"{"check_result":"OK","status_code":200}"#);
}
