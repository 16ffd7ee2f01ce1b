//! Two sidecars that get their identities by their own agents and their configuration from the real control plane: mutual TLS between them
//! by itself, and nothing else gets in.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use outrider_tests::bootstrap::Bootstrap;
use outrider_tests::ca::Papers;
use outrider_tests::client::{Conn, Response, TlsOptions};
use outrider_tests::control::{Control, Manifests};
use outrider_tests::crowd::{Client, Crowd};
use outrider_tests::identity::{Agent, HTTP2};
use outrider_tests::ports::Lease;
use outrider_tests::proxy::{Kind, Proxy};
use outrider_tests::{binary, wait};

use crate::pod::{ADMIN, HERE, POD, Pod};

/// The port of the application.
const APP: u16 = 8080;
const APP_AT: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(POD, APP));
const ADMIN_AT: SocketAddr = SocketAddr::V4(std::net::SocketAddrV4::new(POD, ADMIN));

const WORLD: &str = "apiVersion: v1
kind: Service
metadata: {name: test, namespace: shop}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, namespace: shop, labels: {app: web, security.istio.io/tlsMode: istio}}
spec:
  serviceAccountName: web
  containers: [{name: web, livenessProbe: {httpGet: {path: /live, port: 8080}}}]
---
apiVersion: v1
kind: Pod
metadata: {name: cart-0, namespace: shop, labels: {app: cart, security.istio.io/tlsMode: istio}}
spec: {serviceAccountName: cart, containers: [{name: cart}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: test-1, namespace: shop, labels: {kubernetes.io/service-name: test}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [10.1.0.1], targetRef: {kind: Pod, name: web-0}}]
";

fn peers(mode: &str) -> String {
    format!(
        "apiVersion: outrider.dev/v1\nkind: PeerPolicy\nmetadata: {{name: all, namespace: shop}}\nspec: {{mtls: {{mode: {mode}}}}}\n"
    )
}

fn allowed(account: &str) -> String {
    format!(
        "apiVersion: outrider.dev/v1\nkind: AuthorizationPolicy\nmetadata: {{name: web, namespace: shop}}\n\
         spec: {{selector: {{matchLabels: {{app: web}}}}, rules: [{{from: [{{principals: [cluster.local/ns/shop/sa/{account}]}}]}}]}}\n"
    )
}

/// The bootstrap of a sidecar: its agent, and a control plane that it speaks to with what the agent gets.
fn bootstrap(
    control: &Control,
    agent: &Agent,
    pod: &str,
    address: Ipv4Addr,
    admin: (Ipv4Addr, u16),
    http: u16,
) -> Result<String> {
    let ads = "dynamic_resources:\n  ads_config: { api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: [ \
               { envoy_grpc: { cluster_name: plane } } ] }\n  cds_config: { ads: {}, resource_api_version: V3 }\n  \
               lds_config: { ads: {}, resource_api_version: V3 }";
    let plane = format!(
        "connect_timeout: 5s\ntype: STATIC\n{HTTP2}load_assignment:\n  cluster_name: plane\n  endpoints:\n  - lb_endpoints:\n    \
         - endpoint: {{ address: {{ socket_address: {{ address: {HERE}, port_value: {} }} }} }}\n\
         transport_socket:\n  name: envoy.transport_sockets.tls\n  typed_config:\n    \
         \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n    \
         common_tls_context:\n      alpn_protocols: [h2]\n      tls_certificate_sds_secret_configs:\n      \
         - {{ name: default, sds_config: {{ resource_api_version: V3, api_config_source: {{ api_type: GRPC, transport_api_version: V3, \
         grpc_services: [ {{ envoy_grpc: {{ cluster_name: sds-grpc }} }} ] }} }} }}\n      \
         validation_context:\n        trusted_ca: {{ filename: {} }}\n        \
         match_typed_subject_alt_names: [ {{ san_type: IP_ADDRESS, matcher: {{ exact: {HERE} }} }} ]\n",
        control.xds(),
        control.ca()?.display()
    );
    let bootstrap = Bootstrap::new()
        .top(ads)
        .top(&agent.extension(""))
        .cluster("sds-grpc", &agent.cluster())
        .cluster("plane", &plane);
    let places = BTreeMap::from([("admin".to_owned(), admin.1.to_string())]);
    let node = format!(
        "node: {{ id: \"sidecar~{address}~{pod}.shop~shop.svc.cluster.local\", cluster: shop, metadata: {{ HTTP_PORT: {http} }} }}"
    );
    let text = bootstrap.render(&places).replace("node: { id: test-node, cluster: test-cluster }", &node);
    let at = |host: Ipv4Addr| format!("address: {host}, port_value: {}", admin.1);
    Ok(text.replace(&at(Ipv4Addr::LOCALHOST), &at(admin.0)))
}

async fn ask(address: SocketAddr, host: &str, path: &str, tls: Option<&TlsOptions>) -> Result<Response> {
    let mut conn = Conn::at(address, tls).await?;
    conn.send(format!("GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await?;
    conn.response("GET").await
}

/// Two sidecars with what they need.
struct Mesh {
    pod: Pod,
    manifests: Manifests,
    control: Control,
    agents: [Agent; 2],
    client: Proxy,
    server: Proxy,
    /// The explicit listener of the first.
    http: Lease,
    _admin: Lease,
}

impl Mesh {
    async fn start() -> Result<Self> {
        let pod = Pod::start().await?;
        pod.application(APP)?;
        let manifests = Manifests::new()?;
        manifests.write("world", WORLD)?;
        manifests.write("peers", &peers("Strict"))?;
        manifests.write("allowed", &allowed("cart"))?;
        let control =
            Control::secure(&HERE.to_string(), &["--manifests", &manifests.dir().to_string_lossy()]).await?;
        let cart = Agent::new(&control, &HERE.to_string(), "shop/cart").await?;
        let web = Agent::new(&control, &HERE.to_string(), "shop/web").await?;
        let (http, admin) = (Lease::new()?, Lease::new()?);
        let text = bootstrap(&control, &web, "web-0", POD, (POD, ADMIN), 15080)?;
        let server = pod.proxy(&text)?;
        let text =
            bootstrap(&control, &cart, "cart-0", HERE, (Ipv4Addr::LOCALHOST, admin.port()), http.port())?;
        let client = Proxy::start(Kind::Outrider, &text, admin.port(), &[]).await?;
        wait::until("the Pod's sidecar to be ready", wait::LIMIT, async || {
            let ready = ask(ADMIN_AT, "admin", "/ready", None).await;
            Ok(ready.ok().filter(|it| it.status == 200).map(drop))
        })
        .await
        .with_context(|| server.output())?;
        Ok(Self { pod, manifests, control, agents: [cart, web], client, server, http, _admin: admin })
    }

    /// Asks as the first sidecar's application.
    async fn call(&self) -> Result<Response> {
        ask((Ipv4Addr::LOCALHOST, self.http.port()).into(), "test", "/x", None).await
    }

    async fn comes(&self, what: &str, wanted: impl Fn(&Response) -> bool) -> Result<()> {
        let call = async || Ok(self.call().await.ok().filter(|it| wanted(it)).map(drop));
        match wait::until(what, wait::LIMIT, call).await {
            Ok(()) => Ok(()),
            Err(error) => Err(error.context(format!(
                "last: {:?}\nclient: {}\nserver: {}",
                self.call().await,
                self.client.last_words(20),
                self.server.last_words(20)
            ))),
        }
    }

    async fn server_stat(&self, name: &str) -> Result<u64> {
        let text = ask(ADMIN_AT, "admin", "/stats", None).await?.text();
        let value = text.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| *key == name);
        Ok(value.and_then(|(_, value)| value.parse().ok()).unwrap_or(0))
    }
}

/// All of it.
pub(crate) async fn play() -> Result<()> {
    let mesh = Mesh::start().await?;
    let who = "uri=spiffe://cluster.local/ns/shop/sa/cart";
    mesh.comes("an answer over mutual TLS", |it| it.status == 200 && it.text().contains(who)).await?;
    ensure!(mesh.server_stat("listener.0.0.0.0_15006.ssl.handshake").await? > 0, "no handshake was counted");
    one_connection(&mesh).await.context("one connection")?;
    strangers(&mesh).await.context("strangers")?;
    rotation(&mesh).await.context("rotation")?;
    policies(&mesh).await.context("policies")?;
    drop(mesh.pod);
    Ok(())
}

/// HTTP/1.1 of the applications is HTTP/2 between the sidecars: many connections of clients, few of theirs. The application gets HTTP/1.1.
async fn one_connection(mesh: &Mesh) -> Result<()> {
    const REQUESTS: usize = 20;
    let stat = async |name: &str| {
        mesh.client.stat(&format!("cluster.outbound|80||test.shop.svc.cluster.local.{name}")).await
    };
    let before = stat("upstream_cx_total").await?.unwrap_or(0);
    for _ in 0..REQUESTS {
        let answer = mesh.call().await?;
        ensure!(answer.status == 200, "{answer:?}");
    }
    let made = stat("upstream_cx_total").await?.unwrap_or(0) - before;
    // At most one for each worker.
    ensure!(made < 8, "{made} connections for {REQUESTS} requests");
    ensure!(stat("upstream_cx_http2_total").await?.unwrap_or(0) > 0, "no connection is HTTP/2");
    ensure!(stat("upstream_cx_http1_total").await?.unwrap_or(0) == 0, "a connection is HTTP/1.1");
    let inbound = mesh.server_stat("cluster.inbound|8080|http1|.upstream_cx_http1_total").await?;
    ensure!(inbound > 0, "the application was not called in HTTP/1.1");
    Ok(())
}

/// Under `Strict` nobody else gets in, but for the kubelet's probe.
async fn strangers(mesh: &Mesh) -> Result<()> {
    let plain = ask(APP_AT, "test", "/x", None).await;
    ensure!(!plain.as_ref().is_ok_and(|it| it.status != 403), "a client in clear was answered: {plain:?}");
    ensure!(ask(APP_AT, "test", "/live", None).await?.status == 200, "the kubelet's probe");
    let elsewhere = ask((POD, APP + 1).into(), "test", "/live", None).await;
    ensure!(elsewhere.is_err(), "a client in clear was answered at another port: {elsewhere:?}");
    let papers = Papers::new(&binary::scratch("strangers")?)?;
    let nobody = TlsOptions::new(&papers, "web.test")?.alpn(&["istio", "http/1.1"]).blind();
    for tls in [nobody.clone(), nobody.cert(&papers, "client")?] {
        let answer = ask(APP_AT, "test", "/x", Some(&tls)).await;
        ensure!(answer.is_err(), "a stranger was answered: {answer:?}");
    }
    // Who is refused hears of it before it is counted.
    wait::until("the refusals to be counted", wait::LIMIT, async || {
        let counted = mesh.server_stat("listener.0.0.0.0_15006.ssl.fail_verify_error").await?;
        Ok((counted > 0).then_some(()))
    })
    .await
}

/// New certificates on both sides, while requests run.
async fn rotation(mesh: &Mesh) -> Result<()> {
    let clients = [(Client::Http1, 4), (Client::Http2, 2)];
    let mut crowd = Crowd::start(mesh.http.port(), None, &clients, Duration::from_millis(5));
    crowd.round().await?;
    mesh.agents[0].join(&mesh.control, "shop/cart").await?;
    mesh.client.wait_stat("identity.issued", |it| it == 2).await?;
    crowd.round().await?;
    mesh.agents[1].join(&mesh.control, "shop/web").await?;
    wait::until("another certificate of the Pod's", wait::LIMIT, async || {
        Ok((mesh.server_stat("identity.issued").await? == 2).then_some(()))
    })
    .await?;
    crowd.round().await?;
    crowd.leave().await?;
    for (client, _) in clients {
        let tally = crowd.tally(client);
        ensure!(tally.done > 0 && tally.failed == 0, "{client:?}: {tally:?}");
    }
    Ok(())
}

/// Policies see who asks, and what is let in follows them.
async fn policies(mesh: &Mesh) -> Result<()> {
    mesh.manifests.write("allowed", &allowed("somebody-else"))?;
    mesh.comes("a refusal of who is not allowed", |it| it.status == 403).await?;
    mesh.manifests.remove("allowed")?;
    mesh.comes("an answer", |it| it.status == 200).await?;
    mesh.manifests.write("peers", &peers("Permissive"))?;
    wait::until("an answer in clear", wait::LIMIT, async || {
        let answer = ask(APP_AT, "test", "/x", None).await;
        Ok(answer.ok().filter(|it| it.text() == "nobody").map(drop))
    })
    .await?;
    mesh.comes("mutual TLS all the same", |it| it.text().contains("sa/cart")).await?;
    mesh.manifests.write("peers", &peers("Disabled"))?;
    mesh.comes("clear text", |it| it.text() == "nobody").await?;
    mesh.manifests.write("peers", &peers("Strict"))?;
    mesh.comes("mutual TLS again", |it| it.text().contains("sa/cart")).await
}
