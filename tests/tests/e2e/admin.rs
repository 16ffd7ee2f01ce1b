//! The admin interface: who may change what, and what it never shows.

use std::fs;

use anyhow::Result;
use outrider_tests::{
    binary,
    bootstrap::{Bootstrap, hcm_filter, indent},
    ca::Papers,
    client::{Conn, TlsOptions},
};

use crate::start::{ALL, Stage, simple};

#[tokio::test]
async fn what_changes_state_needs_post() -> Result<()> {
    let stage = Stage::new(&simple()).await?;
    for path in [
        "/quitquitquit",
        "/healthcheck/fail",
        "/healthcheck/ok",
        "/reset_counters",
        "/drain_listeners",
        "/logging?level=debug",
    ] {
        let response = stage.proxy.admin(path).await?;
        assert_eq!(response.status, 405, "GET {path}: {}", response.text());
    }
    assert_eq!(stage.proxy.admin("/ready").await?.status, 200, "none of them did anything");
    assert_eq!(stage.get("/x").await?.status, 200);
    Ok(())
}

#[tokio::test]
async fn the_log_level_can_be_changed() -> Result<()> {
    let stage = Stage::new(&simple()).await?;
    let response = stage.proxy.admin_post("/logging?level=debug").await?;
    assert_eq!(response.status, 200);
    assert!(response.text().contains("debug"), "{}", response.text());
    assert_eq!(stage.proxy.admin_post("/logging?level=loud").await?.status, 400);
    Ok(())
}

#[tokio::test]
async fn private_keys_are_never_shown() -> Result<()> {
    let papers = Papers::new(&binary::scratch("papers")?)?;
    let key = papers.pem("server.key")?;
    let secret = key.lines().nth(1).expect("a key has lines").to_owned();
    let tls = format!(
        "- transport_socket:\n    name: envoy.transport_sockets.tls\n    typed_config:\n      \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\n      common_tls_context:\n        tls_certificates:\n        - certificate_chain: {{ inline_string: {} }}\n          private_key: {{ inline_string: {} }}\n  filters:\n{}",
        quoted(&papers.pem("server.pem")?),
        quoted(&key),
        indent(2, &hcm_filter("main", ALL))
    );
    let bootstrap =
        Bootstrap::new().listener("main", &format!("filter_chains:\n{tls}")).hosts("up", &["up"], "");
    let stage = Stage::new(&bootstrap).await?;
    assert_eq!(stage.proxy.admin_post("/logging?level=trace").await?.status, 200);
    let options = TlsOptions::new(&papers, "server.test")?;
    let mut conn = Conn::with_prefix(stage.port("main"), b"", Some(&options)).await?;
    conn.send("GET /direct HTTP/1.1\r\nhost: t\r\n\r\n").await?;
    assert_eq!(conn.response("GET").await?.status, 200, "the key works");
    for page in ["/config_dump", "/certs", "/compat", "/listeners?format=json", "/clusters?format=json"] {
        let text = stage.proxy.admin(page).await?.text();
        assert!(!text.contains(&secret), "{page} shows a private key");
        if page == "/config_dump" {
            assert!(text.contains("[redacted]"), "{page} says that it hides something: {text}");
        }
    }
    assert!(!stage.proxy.output().contains(&secret), "the log shows a private key");
    Ok(())
}

fn quoted(pem: &str) -> String {
    format!("\"{}\"", pem.replace('\n', "\\n"))
}

#[tokio::test]
async fn the_ledger_is_served() -> Result<()> {
    let stage = Stage::new(&simple()).await?;
    let response = stage.proxy.admin("/compat").await?;
    assert_eq!(response.status, 200);
    assert!(!response.text().is_empty());
    Ok(())
}

#[tokio::test]
async fn access_logs_reach_their_file() -> Result<()> {
    let stage = Stage::new(&simple()).await?;
    assert_eq!(stage.get("/logged").await?.status, 200);
    let file = format!("{}/access.log", stage.places["dir"]);
    outrider_tests::wait::until("the log line", outrider_tests::wait::LIMIT, async || {
        let text = fs::read_to_string(&file).unwrap_or_default();
        Ok(text.contains("GET /logged HTTP/1.1 200 - via_upstream").then_some(()))
    })
    .await
}
