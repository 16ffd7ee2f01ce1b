//! What users type, and what must not happen by it.

use super::{SHOP, ctl, folder};
use crate::api::tests::harness::Harness;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_with_manifests_is_shown() {
    use crate::source::manifests;
    let harness = Harness::start().await;
    let none = ctl(&harness, "problems", "").await;
    assert_eq!((none.code, none.out.as_str(), none.err.as_str()), (0, "", "nothing is wrong\n"));
    let folder = folder(
        "problems",
        &[(
            "web.yaml",
            "apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: shop}\nspec: {prots: []}\n",
        )],
    );
    let following =
        manifests::start(&folder, harness.inputs.clone(), harness.problems.clone()).await.unwrap();
    let found = ctl(&harness, "problems", "").await;
    assert_eq!(found.code, 1, "{}", found.err);
    assert!(found.out.starts_with("ORIGIN      SOURCE"), "{}", found.out);
    assert!(found.out.contains("Service shop/web") && found.out.contains("spec.prots"), "{}", found.out);
    let json = ctl(&harness, "problems -o json", "").await;
    let json: serde_json::Value = serde_json::from_str(&json.out).unwrap();
    assert_eq!(json["problems"][0]["field"], "spec.prots", "{json}");
    assert_eq!(
        (&json["problems"][0]["origin"], &json["problems"][0]["name"]),
        (&"manifests".into(), &"web".into())
    );
    let other = ctl(&harness, "problems -n other", "").await;
    assert_eq!(other.code, 0, "{}", other.out);
    following.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dry_runs_are_typed_as_for_kubectl() {
    let harness = Harness::start().await;
    for flag in ["--dry-run", "--dry-run=server", "--dry-run=client"] {
        let done = ctl(&harness, &format!("apply -f - {flag}"), SHOP).await;
        assert!(done.out.contains("service/web created (dry run)"), "{flag}: {}{}", done.out, done.err);
    }
    assert!(harness.store.list().await.unwrap().records.is_empty());
    let done = ctl(&harness, "apply -f - --dry-run=none", SHOP).await;
    assert!(done.out.contains("service/web created\n"), "{}", done.out);
    let done = ctl(&harness, "delete svc web -n shop --dry-run=server", "").await;
    assert_eq!(done.out, "service/web deleted (dry run)\n", "{}", done.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_rest_on_is_not_deleted_by_the_way() {
    let harness = Harness::start().await;
    let labels = "labels: {app: web}";
    let manifests = format!(
        "{SHOP}---\napiVersion: v1\nkind: Namespace\nmetadata: {{name: shop, {labels}}}\n---\n\
         apiVersion: v1\nkind: Secret\nmetadata: {{name: key, namespace: shop, {labels}}}\ndata: {{a: c2VjcmV0}}\n"
    );
    let applied = ctl(&harness, "apply -f -", &manifests).await;
    assert_eq!(applied.code, 0, "{}", applied.err);
    let deleted = ctl(&harness, "delete all -l app=web -n shop", "").await;
    assert_eq!(deleted.out, "service/web deleted\n", "{}", deleted.err);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn differences_show_no_secrets() {
    let harness = Harness::start().await;
    let secret = |a: &str| {
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: key, namespace: shop}}\ndata: {{a: {a}, b: c2FtZQ==}}\n"
        )
    };
    let new = ctl(&harness, "diff -f -", &secret("b25l")).await;
    assert_eq!(
        (new.code, new.out.contains("b25l"), new.out.contains(r#"a: "***""#)),
        (1, false, true),
        "{}",
        new.out
    );
    ctl(&harness, "apply -f -", &secret("b25l")).await;
    let differs = ctl(&harness, "diff -f -", &secret("dHdv")).await;
    assert_eq!(differs.code, 1, "{}", differs.err);
    for text in ["b25l", "dHdv", "c2FtZQ"] {
        assert!(!differs.out.contains(text), "{}", differs.out);
    }
    assert!(differs.out.contains("(before)") && differs.out.contains("(after)"), "{}", differs.out);
    assert_eq!(ctl(&harness, "diff -f -", &secret("b25l")).await.code, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_identity_is_revoked_and_given_back() {
    let harness = Harness::start().await;
    let identity = "spiffe://cluster.local/ns/shop/sa/web";
    for _ in 0..2 {
        let done = ctl(&harness, &format!("identity revoke {identity} --reason stolen"), "").await;
        assert!(done.code == 0 && done.out.contains("is revoked"), "{} {}", done.out, done.err);
    }
    let kept = ctl(&harness, "get revocations -n outrider-system -o yaml", "").await;
    assert!(
        kept.out.contains(identity) && kept.out.contains("stolen") && kept.out.contains("web.shop"),
        "{}",
        kept.out
    );
    let done = ctl(&harness, "delete revocations web.shop -n outrider-system", "").await;
    assert_eq!(done.code, 0, "{}", done.err);
    for wrong in ["web", "spiffe://cluster.local/ns/shop", "cluster.local/ns/shop/sa/web"] {
        let done = ctl(&harness, &format!("identity revoke {wrong}"), "").await;
        assert!(done.code == 2 && done.err.contains("in full"), "{wrong}: {} {}", done.code, done.err);
    }
}
