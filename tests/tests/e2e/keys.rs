//! Keys of tokens that are fetched.

use anyhow::{Result, ensure};
use outrider_tests::bootstrap::Bootstrap;
use outrider_tests::client::{Conn, Response};
use outrider_tests::jwt::Keys;
use outrider_tests::reply::{Finish, Reply};
use outrider_tests::upstream::Upstream;
use outrider_tests::wait;

use crate::start::Stage;

/// All requests need a token, whose keys come from the upstream `keys`.
fn bootstrap(remote: &str) -> Bootstrap {
    let manager = format!(
        "stat_prefix: main\nhttp_filters:\n- name: jwt\n  typed_config:\n    \
         \"@type\": type.googleapis.com/envoy.extensions.filters.http.jwt_authn.v3.JwtAuthentication\n    \
         providers: {{ p: {{ remote_jwks: {{ http_uri: {{ uri: \"http://keys.test/\", cluster: keys, timeout: 60s }}, {remote} }} }} }}\n    \
         rules: [ {{ match: {{ prefix: / }}, requires: {{ provider_name: p }} }} ]\n\
         - name: router\n  typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }}\n\
         route_config: {{ virtual_hosts: [ {{ name: all, domains: [ \"*\" ], routes: [ {{ match: {{ prefix: / }}, route: {{ cluster: up }} }} ] }} ] }}\n"
    );
    Bootstrap::new().http("main", &manager).hosts("up", &["up"], "").hosts("keys", &["keys"], "")
}

async fn ask(stage: &Stage, token: &str) -> Result<Response> {
    let mut conn = Conn::plain(stage.port("main")).await?;
    conn.send(format!("GET / HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {token}\r\n\r\n")).await?;
    conn.response("GET").await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_in_the_background_are_there_before_requests_and_outlive_their_server() -> Result<()> {
    let keys = Keys::new()?;
    let token = keys.token("ES256", r#"{"sub":"amy"}"#)?;
    let (server, diary, script) = Upstream::http("keys").await?;
    script.set(&[Reply::text(&keys.set()?)], &[]);
    let port = server.address().port().to_string();
    let remote = "cache_duration: 1s, async_fetch: { failed_refetch_duration: 0.05s }";
    let stage = Stage::with(&bootstrap(remote), &[("keys", &port)], &[]).await?;
    stage.proxy.wait_stat("http.main.jwt_authn.jwks_fetch_success", |n| n > 0).await?;
    ensure!(!diary.is_empty() && ask(&stage, &token).await?.status == 200, "the keys are there");

    // The server is ill, and long after they should have been replaced the keys still hold.
    script.set(&[Reply::status(503)], &[]);
    stage.proxy.wait_stat("http.main.jwt_authn.jwks_fetch_failed", |n| n > 3).await?;
    ensure!(ask(&stage, &token).await?.status == 200, "the last keys hold while there are no others");

    // It comes back with other keys.
    let others = Keys::new()?;
    script.set(&[Reply::text(&others.set()?)], &[]);
    wait::until("the new keys", wait::LIMIT, async || {
        let answer = ask(&stage, &token).await?;
        Ok((answer.status == 401 && answer.text() == "Jwt verification fails").then_some(()))
    })
    .await?;
    let token = others.token("ES256", r#"{"sub":"amy"}"#)?;
    ensure!(ask(&stage, &token).await?.status == 200, "a token by a new key");
    ensure!(
        stage.proxy.stat("http.main.jwt_authn.outrider.denied.bad_signature").await? > Some(0),
        "counted"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_requests_wait_for_one_fetch_and_whoever_leaves_hinders_nobody() -> Result<()> {
    let keys = Keys::new()?;
    let token = keys.token("RS256", r#"{"sub":"amy"}"#)?;
    let (server, diary, script) = Upstream::http("keys").await?;
    // Nothing is answered until the test says so, and then the fetch is tried again.
    script.set(&[Reply::status(200).finish(Finish::Silence)], &[]);
    let port = server.address().port().to_string();
    let remote = "cache_duration: 1000s, retry_policy: { num_retries: 100, retry_back_off: { base_interval: 0.001s, max_interval: 0.2s } }";
    let stage = Stage::with(&bootstrap(remote), &[("keys", &port)], &[]).await?;
    ensure!(diary.is_empty(), "nobody wanted keys yet");
    let head = format!("GET / HTTP/1.1\r\nhost: test\r\nauthorization: Bearer {token}\r\n\r\n");
    let mut waiting = Vec::new();
    for _ in 0..20 {
        let mut conn = Conn::plain(stage.port("main")).await?;
        conn.send(&head).await?;
        waiting.push(conn);
    }
    wait::until("a fetch", wait::LIMIT, async || Ok((!diary.is_empty()).then_some(()))).await?;
    stage.proxy.wait_stat("http.main.downstream_rq_active", |n| n == 20).await?;
    drop(waiting.drain(..5));
    script.set(&[Reply::text(&keys.set()?)], &[]);
    for mut conn in waiting {
        let answer = conn.response("GET").await?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    ensure!(
        stage.proxy.stat("http.main.jwt_authn.jwks_fetch_success").await? == Some(1),
        "one fetch for all"
    );
    Ok(())
}
