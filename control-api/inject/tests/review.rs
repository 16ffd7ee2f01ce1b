//! Questions of an API server, and what it is answered.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use base64::Engine as _;
use outrider_inject::review::{Answer, ReviewError, answer};
use outrider_inject::{Outcome, PROXY, Settings, Skip, inject};
use serde_json::{Value, json};

fn asked(operation: &str, namespace: &str, object: &Value) -> Answer {
    let review = json!({
        "apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview",
        "request": {
            "uid": "705ab4f5", "operation": operation, "namespace": namespace, "object": object,
            "kind": { "group": "", "version": "v1", "kind": "Pod" }, "dryRun": false,
        },
    });
    answer(review.to_string().as_bytes(), &Settings::default()).unwrap()
}

/// As the API server shows it: without `metadata.namespace`, which the request has.
fn pod() -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "metadata": { "generateName": "web-5d4f-" },
            "spec": { "containers": [{ "name": "web", "image": "web" }] } })
}

#[test]
fn a_pod_gets_its_sidecar_by_a_patch() {
    let done = asked("CREATE", "shop", &pod());
    assert_eq!((done.outcome, done.namespace.as_str()), (Some(Outcome::Injected), "shop"));
    let response = &done.review["response"];
    assert_eq!((&response["uid"], &response["allowed"]), (&"705ab4f5".into(), &true.into()));
    assert_eq!(response["patchType"], "JSONPatch");
    let patch =
        base64::engine::general_purpose::STANDARD.decode(response["patch"].as_str().unwrap()).unwrap();
    let patch: Value = serde_json::from_slice(&patch).unwrap();
    let paths: Vec<_> = patch.as_array().unwrap().iter().map(|it| it["path"].as_str().unwrap()).collect();
    assert_eq!(paths, ["/metadata/annotations", "/metadata/labels", "/spec/initContainers", "/spec/volumes"]);
    assert!(patch.to_string().contains(PROXY));
}

#[test]
fn what_needs_nothing_is_let_through_without_a_patch() {
    let injected = inject(&pod(), &Settings::default(), None).unwrap().object;
    let mut out = pod();
    out["metadata"]["labels"] = json!({ "outrider.dev/inject": "disabled" });
    for (operation, namespace, object, outcome) in [
        ("CREATE", "shop", &injected, Outcome::Unchanged),
        ("CREATE", "shop", &out, Outcome::Skipped(Skip::OptedOut)),
        ("CREATE", "kube-system", &pod(), Outcome::Skipped(Skip::Namespace)),
        ("UPDATE", "shop", &pod(), Outcome::Unchanged),
        ("DELETE", "shop", &Value::Null, Outcome::Unchanged),
    ] {
        let done = asked(operation, namespace, object);
        assert_eq!(done.outcome, Some(outcome), "{operation} {namespace}");
        assert_eq!(done.review["response"], json!({ "uid": "705ab4f5", "allowed": true }));
    }
}

#[test]
fn a_pod_that_cannot_have_one_is_refused_and_told_why() {
    let mut wrong = pod();
    wrong["metadata"]["annotations"] = json!({ "outrider.dev/concurency": "2" });
    let done = asked("CREATE", "shop", &wrong);
    assert_eq!(done.outcome, None);
    let response = &done.review["response"];
    assert_eq!((&response["allowed"], &response["status"]["code"]), (&false.into(), &422.into()));
    let message = response["status"]["message"].as_str().unwrap();
    assert!(
        message.contains("Pod web-5d4f-*") && message.contains("did you mean outrider.dev/concurrency?"),
        "{message}"
    );
    assert!(response.get("patch").is_none());
    // Also one with a thousand mistakes.
    wrong["metadata"]["annotations"] =
        (0..1000).map(|it| (format!("outrider.dev/x{it}"), Value::from(""))).collect();
    let done = asked("CREATE", "shop", &wrong);
    assert!(done.review.to_string().len() < 8192);
}

#[test]
fn warnings_are_shown_to_whoever_applies() {
    let mut shared = pod();
    shared["spec"]["shareProcessNamespace"] = true.into();
    let done = asked("CREATE", "shop", &shared);
    let warnings = done.review["response"]["warnings"].as_array().unwrap();
    assert!(warnings[0].as_str().unwrap().starts_with("outrider: shareProcessNamespace"), "{warnings:?}");
    assert!(warnings.iter().all(|it| it.as_str().unwrap().len() <= 256));
}

#[test]
fn what_is_no_question_gets_no_answer() {
    let ask = |text: &str| answer(text.as_bytes(), &Settings::default()).unwrap_err();
    assert!(matches!(ask("{"), ReviewError::Json(_)));
    assert!(matches!(ask(&"[".repeat(100_000)), ReviewError::Json(_)));
    for text in [
        "null",
        "{}",
        r#"{"apiVersion":"admission.k8s.io/v1beta1","kind":"AdmissionReview","request":{"uid":"a"}}"#,
        r#"{"apiVersion":"admission.k8s.io/v1","kind":"AdmissionReview"}"#,
    ] {
        assert_eq!(ask(text), ReviewError::Form, "{text}");
    }
}
