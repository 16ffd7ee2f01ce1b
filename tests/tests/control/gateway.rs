//! A Gateway with real clients: whose a host is, TLS by server name, TLS towards backends, shares that lead nowhere.

use anyhow::{Context, Result, ensure};
use outrider_tests::ca::Papers;
use outrider_tests::client::{Conn, Response, TlsOptions};
use outrider_tests::control::{Control, Follower, Manifests, service};
use outrider_tests::ports::Lease;
use outrider_tests::proxy::Kind;
use outrider_tests::record::Diary;
use outrider_tests::reply::Script;
use outrider_tests::upstream::{Speaks, Upstream};
use outrider_tests::{binary, wait};

use crate::proxies;

/// The gateway: one listener for any host, and two with TLS that share a port.
const GATEWAY: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: { name: outrider }
spec: { controllerName: outrider.dev/gateway-controller }
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: { name: edge, namespace: shop }
spec:
  gatewayClassName: outrider
  listeners:
    - { name: web, port: HTTP, protocol: HTTP }
    - { name: wild, port: TLS, protocol: HTTPS, hostname: "*.wild.test", tls: { certificateRefs: [ { name: wild } ] } }
    - { name: alt, port: TLS, protocol: HTTPS, hostname: alt.test, tls: { certificateRefs: [ { name: alt } ] } }
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: web, namespace: shop }
spec:
  parentRefs: [ { name: edge, sectionName: web }, { name: edge, sectionName: wild } ]
  rules:
    - backendRefs: [ { name: one, port: 80 } ]
    - matches: [ { path: { value: /moved } } ]
      filters: [ { type: RequestRedirect, requestRedirect: { scheme: https } } ]
    - matches: [ { path: { value: /half } } ]
      backendRefs: [ { name: one, port: 80 }, { name: nowhere, port: 80 } ]
    - matches: [ { path: { value: /secure } } ]
      backendRefs: [ { name: secure, port: 80 } ]
    - matches: [ { path: { value: /wrong } } ]
      backendRefs: [ { name: wrong, port: 80 } ]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: { name: alt, namespace: shop }
spec:
  parentRefs: [ { name: edge, sectionName: alt } ]
  rules: [ { backendRefs: [ { name: two, port: 80 } ] } ]
"#;

/// A policy for TLS towards a service, by the test authority.
fn backend_tls(name: &str, hostname: &str) -> String {
    format!(
        "---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\n\
         metadata: {{ name: {name}, namespace: shop }}\nspec:\n  \
         targetRefs: [ {{ group: \"\", kind: Service, name: {name} }} ]\n  \
         validation: {{ hostname: {hostname}, caCertificateRefs: [ {{ group: \"\", kind: ConfigMap, name: ca }} ] }}\n"
    )
}

/// The certificates, as operators keep them.
fn secrets(papers: &Papers) -> Result<String> {
    let quoted = |file: &str| -> Result<String> { Ok(serde_json::to_string(&papers.pem(file)?)?) };
    let mut out = format!(
        "apiVersion: v1\nkind: ConfigMap\nmetadata: {{ name: ca, namespace: shop }}\ndata: {{ ca.crt: {} }}\n",
        quoted("ca.pem")?
    );
    for name in ["wild", "alt"] {
        out += &format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata: {{ name: {name}, namespace: shop }}\ntype: kubernetes.io/tls\n\
             stringData: {{ tls.crt: {}, tls.key: {} }}\n",
            quoted(&format!("{name}.pem"))?,
            quoted(&format!("{name}.key"))?
        );
    }
    Ok(out)
}

async fn ask(port: u16, tls: Option<&TlsOptions>, host: &str, path: &str) -> Result<Response> {
    let mut conn = Conn::with_prefix(port, b"", tls).await?;
    conn.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await?;
    conn.response("GET").await
}

async fn comes(
    port: u16,
    tls: Option<&TlsOptions>,
    (host, path): (&str, &str),
    wanted: impl Fn(&Response) -> bool,
) -> Result<()> {
    wait::until(&format!("the wanted answer of {host}{path}"), wait::LIMIT, async || {
        Ok(ask(port, tls, host, path).await.ok().filter(|it| wanted(it)).map(drop))
    })
    .await
    .with_context(|| format!("{host}{path}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_serves_each_host_by_its_own_listener() -> Result<()> {
    let papers = Papers::new(&binary::scratch("papers")?)?;
    let (one, _diary, _script) = Upstream::http("one").await?;
    let (two, _diary, _script) = Upstream::http("two").await?;
    let tls = Some(papers.server("upstream", &[], false)?);
    let secure = Upstream::start("secure", Speaks::Http, tls, &Diary::default(), &Script::default()).await?;
    for kind in proxies() {
        run(kind, &papers, &[("one", &one), ("two", &two), ("secure", &secure), ("wrong", &secure)]).await?;
    }
    Ok(())
}

async fn run(kind: Kind, papers: &Papers, services: &[(&str, &Upstream)]) -> Result<()> {
    let (http, https) = (Lease::new()?, Lease::new()?);
    let manifests = Manifests::new()?;
    for (name, upstream) in services {
        manifests.write(name, &service("shop", name, 80, "http", &[upstream.address().port()]))?;
    }
    let policies = backend_tls("secure", "upstream.test") + &backend_tls("wrong", "other.test");
    manifests.write("secrets", &(secrets(papers)? + &policies))?;
    let ports = [("port: HTTP", http.port()), ("port: TLS", https.port())];
    let gateway = ports.iter().fold(GATEWAY.to_owned(), |text, (mark, port)| {
        text.replace(&format!("{mark},"), &format!("port: {port},"))
    });
    manifests.write("gateway", &gateway)?;
    let control = Control::start(&["--manifests", &manifests.dir().to_string_lossy()]).await?;
    let _follower = Follower::gateway(kind, true, &[control.xds()], "shop/edge").await?;
    let (port, tls_port) = (http.port(), https.port());

    comes(port, None, ("any.test", "/"), |it| it.text() == "one").await?;
    let moved = ask(port, None, "any.test", "/moved").await?;
    ensure!(moved.header("location") == Some("https://any.test/moved"), "{moved:?}");
    let (mut served, mut rejected) = (0, 0);
    for _ in 0..60 {
        match ask(port, None, "any.test", "/half").await?.status {
            200 => served += 1,
            500 => rejected += 1,
            other => anyhow::bail!("{other} of a share that leads nowhere"),
        }
    }
    ensure!(served > 5 && rejected > 5, "{kind:?}: {served} served, {rejected} rejected");
    comes(port, None, ("any.test", "/secure"), |it| it.status == 200 && it.text() == "secure").await?;
    comes(port, None, ("any.test", "/wrong"), |it| it.status == 503).await?;

    let (wild, alt) = (TlsOptions::new(papers, "a.wild.test")?, TlsOptions::new(papers, "alt.test")?);
    comes(tls_port, Some(&wild), ("a.wild.test", "/"), |it| it.text() == "one").await?;
    comes(tls_port, Some(&alt), ("alt.test", "/"), |it| it.text() == "two").await?;
    // Who came in by one name does not reach the routes of another.
    for (tls, host, status) in [
        (&alt, "a.wild.test", 421),
        (&wild, "alt.test", 421),
        (&alt, "nobody.test", 404),
        (&wild, "b.wild.test", 200),
    ] {
        let answer = ask(tls_port, Some(tls), host, "/").await?;
        ensure!(answer.status == status, "{kind:?}: {host}: {answer:?}");
    }
    Ok(())
}
