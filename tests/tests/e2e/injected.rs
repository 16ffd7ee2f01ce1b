//! Credentials of requests, as secrets that come and change. The same is asked of the oracle where there is one.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use outrider_tests::{
    bootstrap::Bootstrap,
    client::{Conn, Response},
    oracle,
    proxy::{Kind, Proxy},
    wait,
};
use serde_json::{Value, json};

use crate::start::places;

const TYPE: &str = "type.googleapis.com/envoy.extensions";

fn kinds() -> Vec<Kind> {
    if oracle::envoy().is_ok() { vec![Kind::Outrider, Kind::Envoy] } else { vec![Kind::Outrider] }
}

/// Answers tell the credential of their request.
fn bootstrap(timeout: &str) -> Bootstrap {
    let manager = format!(
        "stat_prefix: main\nhttp_filters:\n- name: injector\n  typed_config:\n    \
         \"@type\": {TYPE}.filters.http.credential_injector.v3.CredentialInjector\n    credential:\n      name: generic\n      typed_config:\n        \
         \"@type\": {TYPE}.http.injected_credentials.generic.v3.Generic\n        header_value_prefix: \"Bearer \"\n        \
         credential: {{ name: token, sds_config: {{ path_config_source: {{ path: \"@{{dir}}/secret.json\" }}, initial_fetch_timeout: {timeout}, resource_api_version: V3 }} }}\n\
         - name: router\n  typed_config: {{ \"@type\": {TYPE}.filters.http.router.v3.Router }}\n\
         route_config: {{ virtual_hosts: [ {{ name: all, domains: [ \"*\" ], routes: [ {{ match: {{ prefix: / }}, direct_response: {{ status: 200 }}, \
         response_headers_to_add: [ {{ header: {{ key: x-seen, value: \"%REQ(authorization)%\" }} }} ] }} ] }} ] }}\n"
    );
    Bootstrap::new().http("main", &manager)
}

fn secret(name: &str, source: &Value) -> Value {
    json!({
        "@type": format!("{TYPE}.transport_sockets.tls.v3.Secret"), "name": name,
        "generic_secret": { "secret": source },
    })
}

struct Secrets(PathBuf);

impl Secrets {
    /// Puts a secret in the place of what is there, by a move.
    fn put(&self, version: &str, secret: &Value) -> Result<()> {
        let text = json!({ "version_info": version, "resources": [secret] }).to_string();
        let new = self.0.with_extension("new");
        fs::write(&new, text)?;
        Ok(fs::rename(new, &self.0)?)
    }
}

async fn ask(port: u16) -> Result<Response> {
    let mut conn = Conn::plain(port).await?;
    conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    conn.response("GET").await
}

async fn sees(port: u16, wanted: &str) -> Result<()> {
    wait::until(&format!("the credential {wanted:?}"), wait::LIMIT, async || {
        Ok(ask(port).await?.header("x-seen").filter(|seen| *seen == wanted).map(drop))
    })
    .await
}

#[tokio::test]
async fn a_secret_that_changes_is_in_the_next_request_and_a_bad_one_is_not() -> Result<()> {
    for kind in kinds() {
        changes(kind).await.with_context(|| format!("{kind:?}"))?;
    }
    Ok(())
}

async fn changes(kind: Kind) -> Result<()> {
    let bootstrap = bootstrap("15s");
    let (places, _leases) = places(&bootstrap)?;
    let port = places["main"].parse()?;
    let secrets = Secrets(PathBuf::from(&places["dir"]).join("secret.json"));
    secrets.put("1", &secret("token", &json!({ "inline_string": "hush-one" })))?;
    let proxy = Proxy::start(kind, &bootstrap.render(&places), places["admin"].parse()?, &[]).await?;
    let first = ask(port).await?;
    ensure!(
        first.status == 200 && first.header("x-seen") == Some("Bearer hush-one"),
        "the first request has it: {first:?}"
    );
    secrets.put("2", &secret("token", &json!({ "inline_string": "hush-two\n" })))?;
    sees(port, "Bearer hush-two").await?;
    // What cannot be read is refused, and the one in force stays.
    secrets.put("3", &secret("token", &json!({ "filename": "/nonexistent/secret" })))?;
    proxy.wait_stat("sds.token.update_rejected", |count| count > 0).await?;
    ensure!(ask(port).await?.header("x-seen") == Some("Bearer hush-two"), "it stays");
    let dump = proxy.admin("/config_dump").await?.text();
    ensure!(dump.contains("\"token\"") && !dump.contains("hush"), "nobody reads it: {dump}");
    ensure!(proxy.stat("http.main.credential_injector.failed").await?.unwrap_or(0) == 0, "none failed");
    Ok(())
}

#[tokio::test]
async fn without_its_secret_a_listener_turns_requests_away_until_it_comes() -> Result<()> {
    for kind in kinds() {
        late(kind).await.with_context(|| format!("{kind:?}"))?;
    }
    Ok(())
}

async fn late(kind: Kind) -> Result<()> {
    let bootstrap = bootstrap("0.2s");
    let (places, _leases) = places(&bootstrap)?;
    let port = places["main"].parse()?;
    let secrets = Secrets(PathBuf::from(&places["dir"]).join("secret.json"));
    secrets.put("1", &secret("another", &json!({ "inline_string": "x" })))?;
    let proxy = Proxy::start(kind, &bootstrap.render(&places), places["admin"].parse()?, &[]).await?;
    let refused = ask(port).await?;
    ensure!(refused.status == 401 && refused.text() == "Failed to inject credential.", "{refused:?}");
    ensure!(proxy.stat("http.main.credential_injector.failed").await? == Some(1), "it is counted");
    secrets.put("2", &secret("token", &json!({ "inline_string": "late" })))?;
    sees(port, "Bearer late").await
}
