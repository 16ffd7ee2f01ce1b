//! Workloads' credentials at a real API server: TokenReview, and join tokens as objects.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use outrider_control::ca::Ca;
use outrider_control::ca::credential::kubernetes::Reviewer;
use outrider_control::ca::credential::{Accounts, Credentials, Shown, join};
use outrider_control::model::{Key, Kind};
use outrider_control::store::Store as _;
use serde_json::{Value, json};

use super::Result;
use super::cluster::Cluster;

/// A token of a service account, as a kubelet asks for it.
async fn token(cluster: &Cluster, account: &str, audience: &str) -> Result<String> {
    let asked = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest",
        "spec": {"audiences": [audience], "expirationSeconds": 3600}});
    let path = format!("/api/v1/namespaces/mesh/serviceaccounts/{account}/token");
    let request = http::Request::post(path).body(serde_json::to_vec(&asked)?)?;
    let answer: Value = cluster.admin.request(request).await?;
    Ok(answer["status"]["token"].as_str().context("a token")?.to_owned())
}

pub(crate) async fn tokens_are_judged_by_the_server_and_join_tokens_are_counted_in_it(
    cluster: &mut Cluster,
) -> Result {
    cluster.namespace("mesh").await?;
    for name in ["web", "gone"] {
        cluster
            .apply(json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": name, "namespace": "mesh"}}))
            .await?;
    }
    let store = cluster.store().await?;
    let reviewer = Reviewer::new(store.client(), vec!["istio-ca".into()]);
    let credentials = Credentials::new(Accounts::Review(reviewer), Arc::new(store.clone()));
    let dir = tempfile::tempdir()?;
    let now = SystemTime::now();
    let ca = Ca::own(dir.path(), "cluster.local".parse()?, Duration::from_secs(3600), now)?;
    let reason = async |text: &str| match credentials.prove(Shown::Account(text), &ca, now).await {
        Ok(proven) => ca.domain().uri(&proven.workload),
        Err(error) => error.reason().to_owned(),
    };

    let good = token(cluster, "web", "istio-ca").await?;
    ensure!(reason(&good).await == "spiffe://cluster.local/ns/mesh/sa/web");
    // For the API server itself, and for somebody else.
    for audience in ["https://kubernetes.default.svc", "vault"] {
        let said = reason(&token(cluster, "web", audience).await?).await;
        ensure!(said == "token_refused" || said == "token_audience", "{audience}: {said}");
    }
    ensure!(reason("a.b.c").await == "token_refused");
    let (front, _) = good.rsplit_once('.').context("a signature")?;
    ensure!(reason(&format!("{front}.AAAA")).await == "token_refused");
    // An account that is deleted takes its tokens with it.
    let gone = token(cluster, "gone", "istio-ca").await?;
    ensure!(reason(&gone).await == "spiffe://cluster.local/ns/mesh/sa/gone");
    cluster
        .delete(&json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "gone", "namespace": "mesh"}}))
        .await?;
    super::cluster::eventually("the token of a deleted account is refused", async || {
        Ok((reason(&gone).await == "token_refused").then_some(()))
    })
    .await?;

    let secret = join::new_secret("mesh")?;
    cluster
        .apply(json!({"apiVersion": "outrider.dev/v1", "kind": "JoinToken", "metadata": {"name": secret.name, "namespace": "mesh"},
            "spec": {"serviceAccount": "web", "hash": secret.hash, "expires": "2099-01-01T00:00:00Z", "uses": 2}}))
        .await?;
    let key = Key::new(Kind::JoinToken, "mesh", &secret.name);
    for left in [Some(1), None] {
        let proven = credentials.prove(Shown::Join(&secret.token), &ca, now).await?;
        credentials.spend(proven.ticket.context("a ticket")?, now).await?;
        let kept = store.get(&key).await?;
        let uses = kept.map(|it| serde_json::from_slice::<Value>(&it.json)).transpose()?;
        ensure!(uses.and_then(|it| it["spec"]["uses"].as_u64()) == left);
    }
    let error = credentials.prove(Shown::Join(&secret.token), &ca, now).await;
    ensure!(error.is_err_and(|it| it.reason() == "join_token_unknown"));
    Ok(())
}
