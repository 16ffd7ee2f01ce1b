//! Routes that change while clients ask: nobody loses a request.

use std::time::Duration;

use anyhow::{Result, ensure};
use outrider_tests::control::{Control, Follower, Manifests, service};
use outrider_tests::crowd::{Client, Crowd};
use outrider_tests::reply::Reply;
use outrider_tests::upstream::Upstream;
use outrider_tests::wait;

use crate::proxies;
use crate::sidecar::ask;

/// An HTTPRoute of the service `test`, with these rules.
fn route(rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{ name: test, namespace: shop }}\nspec:\n  \
         parentRefs: [ {{ kind: Service, group: \"\", name: test, port: 80 }} ]\n  rules:\n{rules}"
    )
}

/// Each step: its rules, a request, and what proves that it is in force.
fn steps() -> Vec<(&'static str, &'static str, &'static str, &'static str)> {
    vec![
        (
            "weights: all to the second",
            "  - backendRefs: [ { name: one, port: 80, weight: 0 }, { name: two, port: 80, weight: 1 } ]\n",
            "/",
            "two",
        ),
        (
            "header match",
            "  - matches: [ { headers: [ { name: x-user, value: amy } ] } ]\n    backendRefs: [ { name: one, port: 80 } ]\n  \
             - backendRefs: [ { name: two, port: 80 } ]\n",
            "/ x-user: amy",
            "one",
        ),
        (
            "redirect",
            "  - matches: [ { path: { type: PathPrefix, value: /old } } ]\n    \
             filters: [ { type: RequestRedirect, requestRedirect: { hostname: new.example, statusCode: 302 } } ]\n  \
             - backendRefs: [ { name: one, port: 80 } ]\n",
            "/old",
            "302",
        ),
        (
            "rewrite",
            "  - matches: [ { path: { type: PathPrefix, value: /api } } ]\n    filters: [ { type: URLRewrite, \
             urlRewrite: { path: { type: ReplacePrefixMatch, replacePrefixMatch: /v2 } } } ]\n    \
             backendRefs: [ { name: two, port: 80 } ]\n  - backendRefs: [ { name: one, port: 80 } ]\n",
            "/api/users",
            "two",
        ),
        (
            "mirror",
            "  - filters: [ { type: RequestMirror, requestMirror: { backendRef: { name: two, port: 80 } } } ]\n    \
             backendRefs: [ { name: one, port: 80 } ]\n",
            "/mirrored",
            "one",
        ),
        (
            "a short timeout",
            "  - matches: [ { path: { value: /slow } } ]\n    timeouts: { request: 200ms, backendRequest: 100ms }\n    \
             backendRefs: [ { name: slow, port: 80 } ]\n  - backendRefs: [ { name: two, port: 80 } ]\n",
            "/slow",
            "504",
        ),
        (
            "a long timeout",
            "  - matches: [ { path: { value: /slow } } ]\n    timeouts: { request: 60s, backendRequest: 50s }\n    \
             backendRefs: [ { name: slow, port: 80 } ]\n  - backendRefs: [ { name: two, port: 80 } ]\n",
            "/slow",
            "slow",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn routes_change_under_load_without_a_failed_request() -> Result<()> {
    for kind in proxies() {
        for delta in [true, false] {
            run(kind, delta).await?;
        }
    }
    Ok(())
}

async fn run(kind: outrider_tests::proxy::Kind, delta: bool) -> Result<()> {
    let (one, _diary, _script) = Upstream::http("one").await?;
    let (two, diary, _script) = Upstream::http("two").await?;
    let manifests = Manifests::new()?;
    let (slow, _diary, script) = Upstream::http("slow").await?;
    script.set(&[], &[("slow".to_owned(), Reply::text("slow").after(1000))]);
    let services = [("test", &one), ("one", &one), ("two", &two), ("slow", &slow)];
    for (name, upstream) in services {
        manifests.write(name, &service("shop", name, 80, "http", &[upstream.address().port()]))?;
    }
    let control = Control::start(&["--manifests", &manifests.dir().to_string_lossy()]).await?;
    let follower = Follower::sidecar(kind, delta, &[control.xds()], "shop").await?;
    let port = follower.http.port();
    let mut crowd =
        Crowd::start(port, None, &[(Client::Http1, 4), (Client::Http2, 2)], Duration::from_millis(5));
    crowd.round().await?;
    for (what, rules, request, wanted) in steps() {
        manifests.write("route", &route(rules))?;
        let (path, header) = request.split_once(' ').unwrap_or((request, ""));
        let header = if header.is_empty() { String::new() } else { format!("{header}\r\n") };
        wait::until(what, wait::LIMIT, async || {
            let answer = ask(port, "test", path, &header).await?;
            let mirrored = what != "mirror" || diary.since(0).iter().any(|seen| seen.path == "/mirrored");
            let rewritten = what != "rewrite" || diary.since(0).iter().any(|seen| seen.path == "/v2/users");
            let answers = answer.text() == wanted || answer.status.to_string() == wanted;
            Ok((answers && mirrored && rewritten).then_some(()))
        })
        .await?;
        crowd.round().await?;
    }
    manifests.remove("route")?;
    crowd.round().await?;
    crowd.leave().await?;
    for client in [Client::Http1, Client::Http2] {
        let tally = crowd.tally(client);
        ensure!(tally.done > 0 && tally.failed == 0, "{kind:?} delta {delta} {client:?}: {tally:?}");
    }
    Ok(())
}
