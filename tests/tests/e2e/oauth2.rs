//! Tokens of requests, of a server that gives them to clients. The same is asked of the oracle where there is one.

use anyhow::{Context, Result, ensure};
use outrider_tests::{
    bootstrap::Bootstrap,
    client::{Conn, Response},
    oracle,
    proxy::{Kind, Proxy},
    reply::Reply,
    upstream::Upstream,
    wait,
};

use crate::start::places;

const TYPE: &str = "type.googleapis.com/envoy.extensions";

fn kinds() -> Vec<Kind> {
    if oracle::envoy().is_ok() { vec![Kind::Outrider, Kind::Envoy] } else { vec![Kind::Outrider] }
}

/// Answers tell the token of their request.
fn bootstrap() -> Bootstrap {
    let manager = format!(
        "stat_prefix: main\nhttp_filters:\n- name: injector\n  typed_config:\n    \
         \"@type\": {TYPE}.filters.http.credential_injector.v3.CredentialInjector\n    credential:\n      name: oauth2\n      typed_config:\n        \
         \"@type\": {TYPE}.http.injected_credentials.oauth2.v3.OAuth2\n        \
         token_endpoint: {{ uri: \"http://auth.test:81/token?x=1\", cluster: auth, timeout: 20s }}\n        scopes: [ \"a b\", \"c&d\" ]\n        \
         client_credentials: {{ client_id: \"me:1\", client_secret: {{ name: secret }}, auth_type: URL_ENCODED_BODY }}\n        \
         endpoint_params: [ {{ name: \"au d\", value: \"x=y\" }} ]\n        token_fetch_retry_interval: 1s\n\
         - name: router\n  typed_config: {{ \"@type\": {TYPE}.filters.http.router.v3.Router }}\n\
         route_config: {{ virtual_hosts: [ {{ name: all, domains: [ \"*\" ], routes: [ {{ match: {{ prefix: / }}, direct_response: {{ status: 200 }}, \
         response_headers_to_add: [ {{ header: {{ key: x-seen, value: \"%REQ(authorization)%\" }} }} ] }} ] }} ] }}\n"
    );
    let secret = "generic_secret: { secret: { inline_string: \"hush&\" } }\n";
    Bootstrap::new().http("main", &manager).hosts("auth", &["auth"], "").secret("secret", secret)
}

fn token(text: &str, seconds: u32) -> Reply {
    Reply::text(&format!(r#"{{"access_token":"{text}","token_type":"bearer","expires_in":{seconds}}}"#))
}

async fn ask(port: u16) -> Result<Response> {
    let mut conn = Conn::plain(port).await?;
    conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    conn.response("GET").await
}

async fn sees(port: u16, wanted: &str) -> Result<()> {
    wait::until(&format!("the token {wanted:?}"), wait::LIMIT, async || {
        Ok(ask(port).await?.header("x-seen").filter(|seen| *seen == wanted).map(drop))
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_is_asked_for_replaced_in_time_and_kept_while_its_server_is_ill() -> Result<()> {
    for kind in kinds() {
        life(kind).await.with_context(|| format!("{kind:?}"))?;
    }
    Ok(())
}

async fn life(kind: Kind) -> Result<()> {
    const STATS: &str = "http.main.credential_injector.oauth2";
    let (server, diary, script) = Upstream::http("auth").await?;
    let bootstrap = bootstrap();
    let (mut places, _leases) = places(&bootstrap)?;
    places.insert("auth".to_owned(), server.address().port().to_string());
    let port = places["main"].parse()?;
    // At first there is none: requests are turned away.
    script.set(&[Reply::status(503)], &[]);
    let proxy = Proxy::start(kind, &bootstrap.render(&places), places["admin"].parse()?, &[]).await?;
    proxy.wait_stat(&format!("{STATS}.token_fetch_failed_on_bad_response_code"), |n| n > 0).await?;
    let refused = ask(port).await?;
    ensure!(refused.status == 401 && refused.text() == "Failed to inject credential.", "{refused:?}");
    // It is asked for again, and soon replaced.
    script.set(&[token("one", 2)], &[]);
    sees(port, "Bearer one").await?;
    script.set(&[token("two", 20)], &[]);
    sees(port, "Bearer two").await?;
    let seen = diary.since(0);
    let first = seen.first().context("nothing was asked")?;
    let asked = String::from_utf8_lossy(&first.body).into_owned();
    ensure!(
        asked
            == "grant_type=client_credentials&client_id=me%3A1&client_secret=hush%26&scope=a%20b%20c%26d&au%20d=x%3Dy",
        "{asked}"
    );
    ensure!(first.method == "POST" && first.path == "/token?x=1", "{first:?}");
    ensure!(first.header("host") == Some("auth.test:81"), "{first:?}");
    ensure!(first.header("content-type") == Some("application/x-www-form-urlencoded"), "{first:?}");
    // The server is ill: the token stays, until it is over.
    script.set(&[Reply::status(500)], &[]);
    let failed = format!("{STATS}.token_fetch_failed_on_bad_response_code");
    let before = proxy.stat(&failed).await?.unwrap_or(0);
    proxy.wait_stat(&failed, |n| n > before).await?;
    ensure!(ask(port).await?.header("x-seen") == Some("Bearer two"), "it stays");
    if kind == Kind::Outrider {
        // Envoy would send it for ever.
        wait::until("the end of the token", wait::LIMIT, async || {
            Ok((ask(port).await?.status == 401).then_some(()))
        })
        .await?;
    }
    script.set(&[token("three", 1000)], &[]);
    sees(port, "Bearer three").await
}
