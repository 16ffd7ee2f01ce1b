//! Get, List, reflection, health.

use proptest::prelude::*;
use serde_json::Value;
use tonic::Code;

use super::harness::{Harness, apply, get, service};
use crate::api::Selector;
use crate::pb;

async fn names(
    harness: &Harness,
    kind: &str,
    namespace: &str,
    selector: &str,
) -> Result<Vec<String>, tonic::Status> {
    let request =
        pb::ListRequest { kind: kind.into(), namespace: namespace.into(), label_selector: selector.into() };
    let answer = harness.client().await.list(request).await?.into_inner();
    let name = |json: &String| {
        let object: Value = serde_json::from_str(json).unwrap();
        object["metadata"]["name"].as_str().unwrap().to_owned()
    };
    Ok(answer.json.iter().map(name).collect())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lists_are_by_kind_namespace_and_labels() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let mut other = service("far", 80);
    other["metadata"]["namespace"] = "else".into();
    client.apply(apply(&[service("api", 80), service("web", 80), other])).await.unwrap();
    assert_eq!(names(&harness, "svc", "", "").await.unwrap(), ["far", "api", "web"]);
    assert_eq!(names(&harness, "services", "shop", "").await.unwrap(), ["api", "web"]);
    assert_eq!(names(&harness, "", "", "app in (web, far)").await.unwrap(), ["far", "web"]);
    assert_eq!(names(&harness, "svc", "shop", "app!=web,app").await.unwrap(), ["api"]);
    assert_eq!(names(&harness, "svc", "shop", "!app").await.unwrap(), Vec::<String>::new());
    assert_eq!(names(&harness, "svc", "", "app in (a").await.unwrap_err().code(), Code::InvalidArgument);
    let status = names(&harness, "gadgets", "", "").await.unwrap_err();
    assert!(status.message().contains("httproutes"), "{status}");
    let status = get(&mut client, "svc", "none").await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, "Service shop/none does not exist"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_and_health_answer() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::{v1, v1alpha};
    let harness = Harness::start().await;
    let channel = tonic::transport::Endpoint::from_shared(format!("http://{}", harness.address)).unwrap();
    let channel = channel.connect().await.unwrap();
    let mut health = HealthClient::new(channel.clone());
    let poll = async {
        loop {
            let request = HealthCheckRequest { service: "outrider.control.v1.Control".into() };
            if health.check(request).await.unwrap().into_inner().status == 1 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(super::harness::DEADLINE, poll).await.expect("serving once the engine is ready");

    let request = v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1::server_reflection_request::MessageRequest::ListServices(String::new())),
    };
    let mut client = v1::server_reflection_client::ServerReflectionClient::new(channel.clone());
    let mut answers =
        client.server_reflection_info(futures_util::stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert!(format!("{answer:?}").contains("outrider.control.v1.Control"), "{answer:?}");

    let request = v1alpha::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(v1alpha::server_reflection_request::MessageRequest::FileContainingSymbol(
            "outrider.control.v1.Control".into(),
        )),
    };
    let mut client = v1alpha::server_reflection_client::ServerReflectionClient::new(channel);
    let mut answers =
        client.server_reflection_info(futures_util::stream::iter([request])).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    assert!(format!("{answer:?}").contains("FileDescriptorResponse"), "{answer:?}");
}

#[test]
fn selectors_say_what_is_wrong_with_them() {
    for bad in ["a=b=c", "=x", "a in b", "a in (b", "a in (b) c", "a ni (b)", "a b", "a=(b)", "a)"] {
        let error = bad.parse::<Selector>().expect_err(bad);
        assert!(error.to_string().contains("app=web"), "{error}");
    }
}

proptest! {
    #[test]
    fn selectors_never_panic(text in "\\PC{0,60}") {
        let _ = text.parse::<Selector>();
    }

    #[test]
    fn a_selector_of_a_label_means_what_has_it(
        key in "[a-z]{1,8}", value in "[a-z0-9]{0,8}", other in "[A-Z]{1,4}",
    ) {
        let labels = std::collections::BTreeMap::from([(key.clone(), value.clone())]);
        let means = |text: String| text.parse::<Selector>().unwrap().matches(Some(&labels));
        let yes = [
            format!("{key}={value}"),
            format!(" {key} == {value} , {key}"),
            format!("{key} in ({other}, {value})"),
            format!("{key}!={other}"),
        ];
        let no = [format!("{key}!={value}"), format!("{key} notin ({value})"), format!("!{key}")];
        prop_assert!(yes.into_iter().all(means));
        prop_assert!(!no.into_iter().any(means));
    }
}

#[test]
fn credentials_in_routes_are_not_for_everybody() {
    use crate::api::proxies::without_credentials;
    let json = r#"{"virtual_hosts":[{"routes":[{"request_headers_to_add":[{"header":{"key":"authorization","value":"Bearer s3cret"}}],"response_headers_to_add":[{"header":{"key":"a","value":"b"}}]}]}]}"#;
    let shown = without_credentials(json);
    assert!(
        !shown.contains("s3cret") && shown.contains("REDACTED") && shown.contains("authorization"),
        "{shown}"
    );
    assert!(shown.contains(r#""value":"b""#), "{shown}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn before_it_has_read_everything_it_says_so() {
    let harness = Harness::unready().await;
    let mut client = harness.client().await;
    let r#ref = super::harness::reference("svc", "web");
    let explain = pb::ExplainRequest {
        proxy: "sidecar~10.0.0.1~web-0.shop~shop.svc.cluster.local".into(),
        authority: "web".into(),
        ..Default::default()
    };
    let mut clients: Vec<_> = std::iter::repeat_with(|| client.clone()).take(5).collect();
    let [list, watch, write, delete, why] = clients.as_mut_slice() else { unreachable!() };
    // Each waits a moment, all at a time.
    let answers = tokio::join!(
        client.get(pb::GetRequest { r#ref: r#ref.clone() }),
        list.list(pb::ListRequest::default()),
        watch.watch(pb::WatchRequest::default()),
        write.apply(apply(&[service("web", 80)])),
        delete.delete(pb::DeleteRequest { r#ref, ..Default::default() }),
        why.explain(explain),
    );
    let errors = [
        answers.0.unwrap_err(),
        answers.1.unwrap_err(),
        answers.2.unwrap_err(),
        answers.3.unwrap_err(),
        answers.4.unwrap_err(),
        answers.5.unwrap_err(),
    ];
    for status in errors {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
    }
    assert!(harness.store.list().await.unwrap().records.is_empty());
}
