//! Roles over TLS.

use serde_json::json;
use tonic::Code;

use super::harness::{DEADLINE, Harness, apply, get, service};
use crate::api::audit::Audit;
use crate::api::auth::{AuthArgs, Role, Tokens, new_token};
use crate::pb;

/// A control plane with what it makes at the first start, and tokens of all roles.
async fn secured(name: &str) -> (Harness, impl Fn(Role) -> String) {
    let folder = std::env::temp_dir().join(format!("outrider-api-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    let args = AuthArgs::default();
    args.build(Some(&folder), &[]).unwrap();
    let path = folder.join("tokens/tokens");
    let mut text = std::fs::read_to_string(&path).unwrap();
    let tokens: Vec<_> = Role::ALL.iter().map(|role| (*role, new_token("t", *role).unwrap())).collect();
    tokens.iter().for_each(|(_, token)| text.push_str(&format!("{}\n", token.line)));
    std::fs::write(&path, text).unwrap();
    let security = args.build(Some(&folder), &[]).unwrap();
    let harness = Harness::with(security, Audit::memory(), Vec::new()).await;
    let find = move |role| tokens.iter().find(|(it, _)| *it == role).unwrap().1.secret.clone();
    (harness, find)
}

fn secret() -> serde_json::Value {
    json!({
        "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
        "metadata": {
            "name": "cert", "namespace": "shop",
            "annotations": { "kubectl.kubernetes.io/last-applied-configuration": "c2VjcmV0" },
        },
        "data": { "tls.crt": "c2VjcmV0", "tls.key": "c2VjcmV0" },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_role_does_what_it_may_and_no_more() {
    let (harness, token) = secured("roles").await;
    let mut nobody = harness.secure(None).await;
    let status = get(&mut nobody, "svc", "web").await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("--token-file"), "it says what to do: {status}");
    let status = get(&mut harness.secure(Some("outrider_wrong")).await, "svc", "web").await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);

    let mut admin = harness.secure(Some(&token(Role::Admin))).await;
    let mut operator = harness.secure(Some(&token(Role::Operator))).await;
    let mut reader = harness.secure(Some(&token(Role::Reader))).await;
    let mut proxy = harness.secure(Some(&token(Role::Proxy))).await;
    operator.apply(apply(&[service("web", 80)])).await.unwrap();
    assert!(get(&mut reader, "svc", "web").await.is_ok());
    let status = reader.apply(apply(&[service("web", 81)])).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("operator or admin"), "{status}");
    assert_eq!(get(&mut proxy, "svc", "web").await.unwrap_err().code(), Code::PermissionDenied);
    assert_eq!(
        reader.list_proxies(pb::ListProxiesRequest::default()).await.unwrap().into_inner().instance,
        "test"
    );

    // Secrets are an administrator's, and nobody else sees what is in them.
    let status = operator.apply(apply(&[service("web", 82), secret()])).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied, "{status}");
    assert_eq!(get(&mut reader, "svc", "web").await.unwrap()["spec"]["ports"][0]["port"], 80);
    admin.apply(apply(&[secret()])).await.unwrap();
    assert_eq!(get(&mut admin, "secret", "cert").await.unwrap()["data"]["tls.key"], "c2VjcmV0");
    for client in [&mut operator, &mut reader] {
        let shown = get(client, "secret", "cert").await.unwrap();
        assert_eq!(shown["data"]["tls.key"], "REDACTED");
        assert!(!shown.to_string().contains("c2VjcmV0"), "{shown}");
    }

    // A refusal is written when there is time for it.
    let poll = async {
        loop {
            let lines = harness.audit.lines();
            if lines.iter().filter(|line| line["code"] == "PermissionDenied").count() >= 2 {
                return lines;
            }
            tokio::task::yield_now().await;
        }
    };
    let lines = tokio::time::timeout(DEADLINE, poll).await.expect("two lines");
    let mut denied: Vec<_> = lines.iter().filter(|line| line["code"] == "PermissionDenied").collect();
    assert_eq!(denied.len(), 2, "{lines:#?}");
    denied.sort_by_key(|line| line["role"] != "reader");
    assert_eq!((&denied[0]["who"], &denied[0]["role"]), (&json!("t"), &json!("reader")));
    assert!(!format!("{lines:?}").contains("c2VjcmV0"), "no content is in the audit log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_ends_with_the_token_that_it_was_opened_by() {
    let (harness, token) = secured("revoked").await;
    let mut admin = harness.secure(Some(&token(Role::Admin))).await;
    admin.apply(apply(&[secret()])).await.unwrap();
    let request = pb::WatchRequest { kind: "Secret".into(), ..Default::default() };
    let mut events = admin.watch(request).await.unwrap().into_inner();
    let first = tokio::time::timeout(DEADLINE, events.message()).await.expect("an event").unwrap().unwrap();
    assert!(first.json.contains("c2VjcmV0"), "{first:?}");
    harness.security.authenticator.set_tokens(Tokens::default());
    let end = async {
        loop {
            if let Err(status) = events.message().await.map(|it| it.expect("not without a word")) {
                return status;
            }
        }
    };
    let status = tokio::time::timeout(DEADLINE, end).await.expect("it ends");
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");
    assert!(status.message().contains("connect anew"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_needs_no_token_and_reflection_does() {
    use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
    use tonic_reflection::pb::v1::{self, server_reflection_client::ServerReflectionClient};
    let (harness, _) = secured("open").await;
    let channel = harness.channel().await;
    HealthClient::new(channel.clone()).check(HealthCheckRequest::default()).await.unwrap();
    let mut reflection = ServerReflectionClient::new(channel);
    let requests = futures_util::stream::iter([v1::ServerReflectionRequest::default()]);
    let status = reflection.server_reflection_info(requests).await.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
}
