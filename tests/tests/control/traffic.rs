//! TrafficPolicies under traffic: what a client and an upstream notice of them, with Outrider and Envoy as data planes.
//!
//! Windows are so long, or so short, that no test depends on how fast it runs.

use anyhow::{Context, Result, ensure};
use outrider_tests::client::{Conn, Response};
use outrider_tests::control::{Control, Follower, Manifests, service};
use outrider_tests::proxy::Kind;
use outrider_tests::record::Diary;
use outrider_tests::reply::{Finish, Reply, Script};
use outrider_tests::upstream::Upstream;
use outrider_tests::wait;

use crate::proxies;
use crate::sidecar::{ask, comes};

/// A service with a policy, its endpoints, and the sidecar of a client.
struct Scene {
    kind: Kind,
    follower: Follower,
    upstreams: Vec<(Upstream, Diary, Script)>,
    manifests: Manifests,
    _control: Control,
}

fn policy(spec: &str) -> String {
    format!(
        "apiVersion: outrider.dev/v1\nkind: TrafficPolicy\nmetadata: {{ name: web, namespace: shop }}\nspec:\n  \
         targetRefs: [ {{ group: \"\", kind: Service, name: web }} ]\n{spec}"
    )
}

impl Scene {
    /// The service `web` has an endpoint for each name, which answers as `answers` says from the start.
    async fn new(kind: Kind, spec: &str, names: &[&str], answers: &[(&str, Reply)]) -> Result<Self> {
        let mut upstreams = Vec::new();
        for name in names {
            let (upstream, diary, script) = Upstream::http(name).await?;
            let answer = answers.iter().find(|(known, _)| known == name);
            if let Some((_, reply)) = answer {
                script.set(std::slice::from_ref(reply), &[]);
            }
            upstreams.push((upstream, diary, script));
        }
        let ports: Vec<u16> = upstreams.iter().map(|(upstream, ..)| upstream.address().port()).collect();
        let manifests = Manifests::new()?;
        manifests.write("web", &service("shop", "web", 80, "http", &ports))?;
        // What tells that everything is there, without a request that a policy would count.
        let (other, diary, script) = Upstream::http("other").await?;
        manifests.write("other", &service("shop", "other", 80, "http", &[other.address().port()]))?;
        manifests.write("policy", &policy(spec))?;
        manifests.write(
            "log",
            "apiVersion: outrider.dev/v1\nkind: Telemetry\nmetadata: { name: log, namespace: shop }\nspec:\n  \
             accessLog: { text: \"%REQ(:AUTHORITY)% %RESPONSE_CODE% flags=%RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%\" }\n",
        )?;
        let control = Control::start(&["--manifests", &manifests.dir().to_string_lossy()]).await?;
        let follower = Follower::sidecar(kind, true, &[control.xds()], "shop").await?;
        comes(follower.http.port(), "other", |it| it.text() == "other").await?;
        upstreams.push((other, diary, script));
        Ok(Self { kind, follower, upstreams, manifests, _control: control })
    }

    async fn get(&self, more: &str) -> Result<Response> {
        ask(self.follower.http.port(), "web", "/", more).await
    }

    fn script(&self, name: &str) -> Result<&Script> {
        let found = self.upstreams.iter().find(|(upstream, ..)| upstream.name() == name);
        found.map(|(.., script)| script).with_context(|| format!("an upstream {name}"))
    }

    /// How many requests of clients (not health checks) an upstream saw.
    fn seen(&self, name: &str) -> usize {
        let of = self.upstreams.iter().find(|(upstream, ..)| upstream.name() == name);
        of.map_or(0, |(_, diary, _)| diary.since(0).iter().filter(|seen| seen.path == "/").count())
    }

    /// Waits until twelve answers in a row are all of these, and each of these is among them.
    async fn answered_by(&self, wanted: &[&str]) -> Result<()> {
        let what = format!("{:?}: all answers of {wanted:?} and no others", self.kind);
        wait::until(&what, wait::LIMIT, async || {
            let mut answers = Vec::new();
            for _ in 0..12 {
                answers.push(self.get("").await?.text());
            }
            let no_other = answers.iter().all(|answer| wanted.contains(&answer.as_str()));
            let each = wanted.iter().all(|name| answers.iter().any(|answer| answer == name));
            Ok((no_other && each).then_some(()))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rate_limits_let_so_many_through() -> Result<()> {
    let spec = "  rateLimit: { requests: 3, per: 1h, rules: [ { headers: [ { name: x-user } ], requests: 1, per: 1h } ] }\n";
    for kind in proxies() {
        let scene = Scene::new(kind, spec, &["one"], &[]).await?;
        let mut statuses = Vec::new();
        for _ in 0..5 {
            statuses.push(scene.get("").await?.status);
        }
        ensure!(statuses == [200, 200, 200, 429, 429], "{kind:?}: {statuses:?}");
        ensure!(scene.get("").await?.text() == "local_rate_limited", "{kind:?}: the body");
        ensure!(scene.seen("one") == 3, "{kind:?}: the endpoint saw {} requests", scene.seen("one"));
        scene.follower.proxy.wait_log("web 429 flags=RL local_rate_limited").await?;
        // Whoever has a bucket of his own is not held up by the others.
        for (user, wanted) in [("amy", 200), ("bob", 200), ("amy", 429), ("bob", 429), ("eve", 200)] {
            let status = scene.get(&format!("x-user: {user}\r\n")).await?.status;
            ensure!(status == wanted, "{kind:?}: {user} got {status}");
        }
        // Without the policy there is no limit.
        scene.manifests.remove("policy")?;
        comes(scene.follower.http.port(), "web", |it| it.status == 200).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_endpoint_that_fails_is_left_out() -> Result<()> {
    let spec = "  loadBalancing: { policy: RoundRobin }\n  outlierDetection: { consecutiveErrors: 3, baseEjectionTime: 1h, maxEjectionPercent: 50 }\n";
    for kind in proxies() {
        let bad = ("bad", Reply::status(500));
        let scene = Scene::new(kind, spec, &["good", "bad"], &[bad]).await?;
        scene.answered_by(&["good"]).await?;
        let seen = scene.seen("bad");
        ensure!(seen >= 3, "{kind:?}: left out after {seen} failures");
        scene.answered_by(&["good"]).await?;
        ensure!(scene.seen("bad") == seen, "{kind:?}: it got requests though it was left out");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_checks_take_endpoints_out_and_bring_them_back() -> Result<()> {
    let spec = "  loadBalancing: { policy: RoundRobin }\n  healthCheck: { http: { path: /healthz }, interval: 100ms, timeout: 5s, unhealthyThreshold: 1 }\n";
    for kind in proxies() {
        let sick = ("b", Reply::status(503));
        let scene = Scene::new(kind, spec, &["a", "b"], &[sick]).await?;
        scene.answered_by(&["a"]).await?;
        ensure!(scene.seen("b") == 0, "{kind:?}: a sick endpoint got requests");
        scene.script("b")?.set(&[], &[]);
        scene.answered_by(&["a", "b"]).await?;
        scene.script("a")?.set(&[Reply::status(503)], &[]);
        scene.answered_by(&["b"]).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_sent_again() -> Result<()> {
    let spec =
        "  retries: { on: [ 5xx ], attempts: 2, perTryTimeout: 1h, backoff: { base: 1ms, max: 2ms } }\n";
    for kind in proxies() {
        let scene = Scene::new(kind, spec, &["one"], &[]).await?;
        let failed = Reply::status(503);
        scene.script("one")?.set(&[failed.clone(), failed.clone(), Reply::text("third")], &[]);
        let answer = scene.get("").await?;
        ensure!(answer.text() == "third" && scene.seen("one") == 3, "{kind:?}: {answer:?}");
        // No more than two retries.
        scene.script("one")?.set(&[failed], &[]);
        let answer = scene.get("").await?;
        ensure!(answer.status == 503 && scene.seen("one") == 6, "{kind:?}: {answer:?}");
        scene.follower.proxy.wait_log("web 503 flags=URX via_upstream").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_goes_to_another_endpoint() -> Result<()> {
    let spec = "  loadBalancing: { policy: RoundRobin }\n  retries: { on: [ 5xx ], attempts: 1, backoff: { base: 1ms } }\n";
    for kind in proxies() {
        let bad = ("bad", Reply::status(500));
        let scene = Scene::new(kind, spec, &["good", "bad"], &[bad]).await?;
        for _ in 0..10 {
            let answer = scene.get("").await?;
            ensure!(answer.text() == "good", "{kind:?}: {answer:?}");
        }
        ensure!(scene.seen("bad") > 0, "{kind:?}: the bad one was never tried");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_take_no_longer_than_they_may() -> Result<()> {
    for kind in proxies() {
        let silent = ("one", Reply::status(200).finish(Finish::Silence));
        let scene = Scene::new(kind, "  timeouts: { request: 150ms }\n", &["one"], &[silent]).await?;
        let answer = scene.get("").await?;
        ensure!(answer.status == 504, "{kind:?}: {answer:?}");
        ensure!(answer.text() == "upstream request timeout", "{kind:?}: {answer:?}");
        scene.follower.proxy.wait_log("web 504 flags=UT").await?;

        // Each attempt has its time, and the next one may do better.
        scene.manifests.write(
            "policy",
            &policy(
                "  retries: { on: [ reset ], attempts: 1, perTryTimeout: 150ms, backoff: { base: 1ms } }\n",
            ),
        )?;
        let silent = Reply::status(200).finish(Finish::Silence);
        wait::until("the policy that repeats", wait::LIMIT, async || {
            scene.script("one")?.set(&[silent.clone(), Reply::text("second")], &[]);
            Ok((scene.get("").await?.text() == "second").then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn breakers_refuse_what_is_too_much() -> Result<()> {
    for kind in proxies() {
        let silent = ("one", Reply::status(200).finish(Finish::Silence));
        let spec = "  circuitBreakers: { maxRequests: 1 }\n";
        let scene = Scene::new(kind, spec, &["one"], &[silent]).await?;
        let mut first = Conn::plain(scene.follower.http.port()).await?;
        first.send("GET / HTTP/1.1\r\nhost: web\r\n\r\n").await?;
        wait::until("the first request upstream", wait::LIMIT, async || {
            Ok((scene.seen("one") == 1).then_some(()))
        })
        .await?;
        let answer = scene.get("").await?;
        ensure!(answer.status == 503, "{kind:?}: {answer:?}");
        ensure!(answer.text().contains("overflow"), "{kind:?}: {answer:?}");
        ensure!(answer.header("x-envoy-overloaded") == Some("true"), "{kind:?}: {answer:?}");
        scene.follower.proxy.wait_log("web 503 flags=UO").await?;
        ensure!(scene.seen("one") == 1, "{kind:?}: the endpoint saw what was refused");
        // When the first one is gone, there is room again.
        scene.script("one")?.set(&[], &[]);
        drop(first);
        comes(scene.follower.http.port(), "web", |it| it.text() == "one").await?;
    }
    Ok(())
}
