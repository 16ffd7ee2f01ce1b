//! Apply and Delete.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::sync::watch;
use tonic::{Code, Request};

use super::harness::{DEADLINE, Harness, apply, get, reference, service};
use crate::ads::Connected;
use crate::api::audit::Audit;
use crate::api::auth::{AuthArgs, Authenticator};
use crate::api::error::problems_of;
use crate::api::{ControlService, Parts};
use crate::engine::Engine;
use crate::model::read_json;
use crate::pb::{self, Outcome};
use crate::source::{Input, Origin, Problems};
use crate::store::gated::Gated;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_applied_can_be_read_with_what_the_server_made() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let mut manifest = service("web", 80);
    manifest["status"] = json!({ "loadBalancer": { "ingress": [{ "ip": "192.0.2.1" }] } });
    let answer = client.apply(apply(&[manifest])).await.unwrap().into_inner();
    assert_eq!(answer.applied[0].outcome(), Outcome::Created);
    let object = get(&mut client, "svc", "web").await.unwrap();
    assert_eq!(object["metadata"]["resourceVersion"], answer.resource_version);
    assert_eq!(object["metadata"]["generation"], 1);
    assert_eq!(object["metadata"]["uid"].as_str().unwrap().len(), 36);
    assert!(object["metadata"]["creationTimestamp"].is_string());
    assert!(
        object["status"].get("loadBalancer").is_none(),
        "a status is not taken from a manifest: {object}"
    );

    // The same again is no write; a change of the content is a new generation, one of a label is not.
    let again = client.apply(apply(&[service("web", 80)])).await.unwrap().into_inner();
    assert_eq!(again.applied[0].outcome(), Outcome::Unchanged);
    assert_eq!(again.resource_version, answer.resource_version);
    let mut labelled = service("web", 80);
    labelled["metadata"]["labels"]["tier"] = json!("front");
    client.apply(apply(&[labelled])).await.unwrap();
    assert_eq!(get(&mut client, "Service", "web").await.unwrap()["metadata"]["generation"], 1);
    let changed = client.apply(apply(&[service("web", 81)])).await.unwrap().into_inner();
    assert_eq!(changed.applied[0].outcome(), Outcome::Configured);
    let after = get(&mut client, "services", "web").await.unwrap();
    assert_eq!(after["metadata"]["generation"], 2);
    assert_eq!(after["metadata"]["uid"], object["metadata"]["uid"]);
    assert_eq!(after["metadata"]["creationTimestamp"], object["metadata"]["creationTimestamp"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_bad_object_stores_nothing_and_all_problems_are_told() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let mut odd = service("odd", 80);
    odd["spec"]["colour"] = json!("blue");
    let nameless = json!({ "apiVersion": "v1", "kind": "Service", "metadata": {} });
    let request = apply(&[service("good", 80), odd, nameless, service("good", 81)]);
    let status = client.apply(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let problems = problems_of(&status);
    let told: Vec<_> = problems.iter().map(|it| (it.source.as_str(), it.field.as_str())).collect();
    assert_eq!(
        told,
        [("file-1.yaml", "spec.colour"), ("file-2.yaml", "metadata.name"), ("file-3.yaml", "")],
        "{problems:#?}"
    );
    assert!(
        status.message().contains("file-1.yaml: Service shop/odd: spec.colour: unknown field"),
        "{status}"
    );
    assert!(harness.store.list().await.unwrap().records.is_empty(), "nothing of a refused request is stored");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_problems_fit_into_trailers_unless_the_client_takes_more() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let bad: Vec<_> =
        (0..300).map(|_| json!({ "apiVersion": "v1", "kind": "Service", "metadata": {} })).collect();
    let status = client.apply(apply(&bad)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("300 problems"), "{status}");
    assert!(status.details().len() < 6000, "{} bytes of details", status.details().len());
    assert!(!problems_of(&status).is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_version_that_is_no_longer_true_is_refused() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let first = client.apply(apply(&[service("web", 80)])).await.unwrap().into_inner();
    let mut mine = service("web", 81);
    mine["metadata"]["resourceVersion"] = json!(first.resource_version);
    client.apply(apply(&[mine.clone()])).await.unwrap();
    let status = client.apply(apply(&[mine, service("other", 80)])).await.unwrap_err();
    assert_eq!(status.code(), Code::Aborted, "{status}");
    assert!(status.message().contains("Service shop/web"), "{status}");
    assert_eq!(get(&mut client, "svc", "other").await.unwrap_err().code(), Code::NotFound);

    let request = pb::DeleteRequest {
        r#ref: reference("svc", "web"),
        resource_version: first.resource_version,
        dry_run: false,
    };
    assert_eq!(client.delete(request).await.unwrap_err().code(), Code::Aborted);
    let request = pb::DeleteRequest { r#ref: reference("svc", "web"), ..Default::default() };
    client.delete(request.clone()).await.unwrap();
    assert_eq!(get(&mut client, "svc", "web").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(client.delete(request).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_says_what_would_be_done_and_does_nothing() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let request = pb::ApplyRequest { dry_run: true, ..apply(&[service("web", 80)]) };
    let answer = client.apply(request).await.unwrap().into_inner();
    assert_eq!(answer.applied[0].outcome(), Outcome::Created);
    assert!(answer.resource_version.is_empty());
    assert!(harness.store.list().await.unwrap().records.is_empty());
    let lines = harness.audit.lines();
    assert!(lines.iter().all(|line| line["dryRun"] == true), "{lines:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_concerns_no_control_plane_is_left_out_and_said() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let deployment =
        json!({ "apiVersion": "apps/v1", "kind": "Deployment", "metadata": { "name": "web" }, "spec": {} });
    let answer = client.apply(apply(&[deployment, service("web", 80)])).await.unwrap().into_inner();
    let outcomes: Vec<_> = answer.applied.iter().map(pb::Applied::outcome).collect();
    assert_eq!(outcomes, [Outcome::Created, Outcome::LeftOut]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_object_of_the_manifests_folder_is_changed_there() {
    let file = read_json("/etc/outrider/web.yaml", service("web", 80).to_string().as_bytes(), "default");
    let args = AuthArgs { insecure_loopback: true, ..Default::default() };
    let security = args.build(None, &[]).unwrap();
    let harness = Harness::with(security, Audit::memory(), vec![file.unwrap().unwrap()]).await;
    let mut client = harness.client().await;
    let status = client.apply(apply(&[service("web", 81)])).await.unwrap_err();
    assert!(status.message().contains("/etc/outrider/web.yaml"), "{status}");
    let request = pb::DeleteRequest { r#ref: reference("svc", "web"), ..Default::default() };
    let status = client.delete(request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("/etc/outrider/web.yaml"), "{status}");
    assert_eq!(get(&mut client, "svc", "web").await.unwrap()["spec"]["ports"][0]["port"], 80);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_who_write_at_a_time_both_get_their_way_or_a_conflict() {
    let harness = Harness::start().await;
    let mut tasks = Vec::new();
    for port in 1..=8u16 {
        let mut client = harness.client().await;
        tasks.push(tokio::spawn(async move {
            client.apply(apply(&[service("web", port), service(&format!("web-{port}"), port)])).await
        }));
    }
    let mut taken = std::collections::BTreeSet::from(["web".to_owned()]);
    for (task, port) in tasks.into_iter().zip(1..) {
        match task.await.unwrap() {
            Ok(_) => taken.extend([format!("web-{port}")]),
            Err(status) => assert_eq!(status.code(), Code::Aborted, "{status}"),
        }
    }
    assert!(taken.len() >= 2, "somebody is the first");
    let listing = harness.store.list().await.unwrap();
    let there: std::collections::BTreeSet<_> =
        listing.records.iter().map(|record| record.key.name.to_string()).collect();
    assert_eq!(there, taken);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_write_leaves_its_lines_in_the_audit_log() {
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    client.apply(apply(&[service("web", 80)])).await.unwrap();
    let _ = client.apply(apply(&[json!({})])).await.unwrap_err();
    let request = pb::DeleteRequest { r#ref: reference("svc", "web"), ..Default::default() };
    client.delete(request).await.unwrap();
    let lines = harness.audit.lines();
    let told: Vec<_> =
        lines.iter().map(|line| (line["verb"].as_str().unwrap(), line["stage"].as_str().unwrap())).collect();
    let expected = [
        ("apply", "requested"),
        ("apply", "done"),
        ("apply", "refused"),
        ("delete", "requested"),
        ("delete", "done"),
    ];
    assert_eq!(told, expected, "{lines:#?}");
    assert_eq!(lines[0]["id"], lines[1]["id"]);
    assert_eq!(lines[1]["objects"][0], json!({ "object": "Service shop/web", "outcome": "created" }));
    assert_eq!(lines[1]["resourceVersion"], 1);
    assert_eq!(lines[1]["who"], "anonymous");
    assert!(lines[1]["peer"].as_str().unwrap().starts_with("127.0.0.1:"));
    assert_eq!(lines[2]["code"], "InvalidArgument");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_client_goes_away_has_its_last_line_all_the_same() {
    let (gated, audit) = (Arc::new(Gated::default()), Arc::new(Audit::memory()));
    let (engine, inputs) = Engine::start(BTreeSet::from([Origin::Store]));
    inputs.send(Input::Reset { origin: Origin::Store, revision: 1, objects: Vec::new() }).await.unwrap();
    let (_leave, leaving) = watch::channel(false);
    let service_of_it = ControlService::new(Parts {
        store: gated.clone(),
        engine,
        connected: Arc::new(Connected::default()),
        audit: Arc::clone(&audit),
        instance: "test".into(),
        problems: Problems::default(),
        leaving,
    });
    gated.hold();
    let mut request = Request::new(apply(&[service("web", 80)]));
    request.extensions_mut().insert(Authenticator::insecure().identify(None, None).unwrap());
    tokio::select! {
        answer = service_of_it.do_apply(request) => panic!("{answer:?}"),
        // The call is dropped here, as it is when a client resets it.
        () = gated.asked() => {}
    }
    gated.pass();
    let lines = async {
        loop {
            let lines = audit.lines();
            if lines.len() >= 2 {
                return lines;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let lines = tokio::time::timeout(DEADLINE, lines).await.unwrap();
    let told: Vec<_> = lines.iter().map(|line| (&line["stage"], &line["id"])).collect();
    assert_eq!(told, [(&json!("requested"), &lines[0]["id"]), (&json!("done"), &lines[0]["id"])]);
    assert_eq!(lines[1]["resourceVersion"], 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_written_that_the_audit_log_does_not_take() {
    let args = AuthArgs { insecure_loopback: true, ..Default::default() };
    let harness = Harness::with(args.build(None, &[]).unwrap(), Audit::broken(), Vec::new()).await;
    let mut client = harness.client().await;
    let status = client.apply(apply(&[service("web", 80)])).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("audit log"), "{status}");
    assert!(harness.store.list().await.unwrap().records.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_stored_and_cannot_be_read_is_not_overwritten() {
    use crate::model::{Key, Kind};
    use crate::store::{Expect, Write};
    let harness = Harness::start().await;
    let mut client = harness.client().await;
    let key = Key::new(Kind::Service, "shop", "web");
    let damaged: bytes::Bytes = "{\"metadata\": {".into();
    let write = Write { key: key.clone(), expect: Expect::Absent, json: Some(damaged.clone()) };
    harness.store.commit(vec![write]).await.unwrap();
    let status = client.apply(apply(&[service("web", 80)])).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss, "{status}");
    assert!(status.message().contains("Service shop/web") && status.message().contains("delete"), "{status}");
    assert_eq!(harness.store.get(&key).await.unwrap().unwrap().json, damaged);
}
