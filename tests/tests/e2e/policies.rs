//! Policies of HTTP filters that narrow: they end the requests that run and that they would refuse, and no others.

use std::net::Ipv4Addr;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest, ext::Protocol};
use outrider_tests::{
    client::{
        Conn,
        http2::{H2, H2Request},
    },
    control_plane::{TYPE, ads, eds_cluster, endpoints, rds_listener, routes},
    record::Diary,
    reply::{Finish, Reply, Script},
    upstream::{Speaks, Upstream},
    wait,
};
use serde_json::{Value, json};

use crate::xds::Mesh;

/// How the policies come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// In the listener, whose filter has rules that let all through before.
    Listener,
    /// In the route table.
    Route,
    /// By themselves (ECDS).
    Extension,
    /// In the listener, which had no such filter before.
    New,
}

const FIRST: &str = "data: 1\n\n";

/// An upstream each for what ends, what tells a first thing and no more, what echoes and what says nothing.
struct Scene {
    ports: [(&'static str, u16); 4],
    _upstreams: Vec<Upstream>,
}

impl Scene {
    async fn new() -> Result<Self> {
        let slow = Reply::status(200).header("content-type", "text/event-stream").body(FIRST);
        let slow = slow.body(&"x".repeat(100)).finish(Finish::Stall(FIRST.len()));
        let script = Script::default();
        let silent = Reply::status(200).finish(Finish::Silence);
        let own = [("slow", slow), ("sockets", Reply::switch("websocket")), ("silent", silent)];
        script.set(&[], &own.map(|(name, reply)| (name.to_owned(), reply)));
        let (mut ports, mut upstreams) =
            ([("web", 0), ("slow", 0), ("sockets", 0), ("silent", 0)], Vec::new());
        for (name, port) in &mut ports {
            let upstream = Upstream::start(name, Speaks::Http, None, &Diary::default(), &script).await?;
            *port = upstream.address().port();
            upstreams.push(upstream);
        }
        Ok(Self { ports, _upstreams: upstreams })
    }

    /// All that the proxy gets; `rules` are those in force.
    fn resources(&self, port: u16, way: Way, rules: &Value) -> Vec<Value> {
        let mut all = Vec::new();
        for (name, port) in self.ports {
            all.extend([eds_cluster(name), endpoints(name, &[port])]);
        }
        let settings = |rules: Option<&Value>| {
            let mut settings = json!({ "@type": format!("{TYPE}extensions.filters.http.rbac.v3.RBAC") });
            if let Some(rules) = rules {
                settings["rules"] = rules.clone();
            }
            settings
        };
        let filter = match way {
            Way::Listener => Some(json!({ "name": "rbac", "typed_config": settings(Some(rules)) })),
            Way::New => rules["policies"]
                .as_object()
                .is_some_and(|policies| !policies.is_empty())
                .then(|| json!({ "name": "rbac", "typed_config": settings(Some(rules)) })),
            Way::Route => Some(json!({ "name": "rbac", "typed_config": settings(None) })),
            Way::Extension => {
                all.push(json!({
                    "@type": format!("{TYPE}config.core.v3.TypedExtensionConfig"), "name": "rbac",
                    "typed_config": settings(Some(rules)),
                }));
                Some(json!({ "name": "rbac", "config_discovery": {
                    "config_source": ads(), "type_urls": [format!("{TYPE}extensions.filters.http.rbac.v3.RBAC")],
                } }))
            }
        };
        let router = json!({
            "name": "router",
            "typed_config": { "@type": format!("{TYPE}extensions.filters.http.router.v3.Router") },
        });
        let filters: Vec<Value> = filter.into_iter().chain([router]).collect();
        let log = "policy=%RESPONSE_CODE_DETAILS%= %REQ(:PATH)%\n";
        all.push(rds_listener(
            "in",
            port,
            "table",
            &json!({
                "http_filters": filters,
                "upgrade_configs": [{ "upgrade_type": "websocket" }],
                "access_log": [{ "name": "stdout", "typed_config": {
                    "@type": format!("{TYPE}extensions.access_loggers.stream.v3.StdoutAccessLog"),
                    "log_format": { "text_format_source": { "inline_string": log } },
                } }],
            }),
        ));
        all.push(self.table(way, rules));
        all
    }

    fn table(&self, way: Way, rules: &Value) -> Value {
        let mut table = routes("table", "web");
        if let Some(routes) = table["virtual_hosts"][0]["routes"].as_array_mut() {
            for (name, _) in self.ports.iter().skip(1) {
                let path = format!("/{name}");
                let to =
                    json!({ "match": { "prefix": path }, "route": { "cluster": name, "timeout": "0s" } });
                routes.insert(0, to);
            }
        }
        if way == Way::Route {
            table["virtual_hosts"][0]["typed_per_filter_config"] = json!({ "rbac": {
                "@type": format!("{TYPE}extensions.filters.http.rbac.v3.RBACPerRoute"),
                "rbac": { "rules": rules },
            } });
        }
        table
    }
}

/// Rules that refuse whom one of `principals` matches, by a policy `no-strangers`.
fn deny(principals: &[Value]) -> Value {
    if principals.is_empty() {
        return json!({ "action": "DENY", "policies": {} });
    }
    json!({ "action": "DENY", "policies": {
        "no-strangers": { "permissions": [{ "any": true }], "principals": principals },
    } })
}

fn user(name: &str) -> Value {
    json!({ "header": { "name": "x-user", "string_match": { "exact": name } } })
}

/// Asks for what never ends, and reads its begin.
async fn endless(mut conn: Conn, user: &str) -> Result<Conn> {
    conn.send(format!("GET /slow HTTP/1.1\r\nhost: test\r\nx-user: {user}\r\n\r\n")).await?;
    let begin = conn.read_until(|all| all.ends_with(FIRST.as_bytes())).await?;
    ensure!(begin.starts_with(b"HTTP/1.1 200 "), "{:?}", String::from_utf8_lossy(&begin));
    Ok(conn)
}

async fn socket(mut conn: Conn, user: &str) -> Result<Conn> {
    let head = format!("GET /sockets HTTP/1.1\r\nhost: test\r\nx-user: {user}\r\n");
    conn.send(format!("{head}connection: upgrade\r\nupgrade: websocket\r\n\r\n")).await?;
    ensure!(conn.response("GET").await?.status == 101);
    echo(&mut conn).await?;
    Ok(conn)
}

async fn echo(conn: &mut Conn) -> Result<()> {
    conn.send("hello").await?;
    let back = conn.read_until(|all| all.len() >= 5).await?;
    ensure!(back == b"hello", "{back:?}");
    Ok(())
}

async fn closed(mut conn: Conn) -> Result<()> {
    let (rest, end) = conn.drain(wait::LIMIT).await;
    ensure!(end != "open" && rest.is_empty(), "{end}: {:?}", String::from_utf8_lossy(&rest));
    Ok(())
}

/// A WebSocket over HTTP/2 (RFC 8441).
struct H2Socket {
    stream: SendStream<Bytes>,
    back: RecvStream,
    _send: SendRequest<Bytes>,
}

impl H2Socket {
    async fn open(port: u16, user: &str) -> Result<Self> {
        let (send, connection) = h2::client::handshake(Conn::plain(port).await?.reader.io).await?;
        tokio::spawn(async move { _ = connection.await });
        let mut send = send.ready().await?;
        // The proxy's settings are here when its first answer is.
        let first = http::Request::get("http://test/").body(())?;
        ensure!(send.send_request(first, true)?.0.await?.status() == 200);
        let request = http::Request::builder().method("CONNECT").uri("http://test/sockets");
        let request = request.header("x-user", user).extension(Protocol::from_static("websocket")).body(())?;
        let (response, stream) = send.clone().ready().await?.send_request(request, false)?;
        let response = wait::within("a tunnel", wait::LIMIT, async { Ok(response.await?) }).await?;
        ensure!(response.status() == 200, "{response:?}");
        let mut socket = Self { stream, back: response.into_body(), _send: send };
        socket.echo().await?;
        Ok(socket)
    }

    async fn echo(&mut self) -> Result<()> {
        self.stream.send_data(Bytes::from_static(b"h"), false)?;
        let back = wait::within("an echo", wait::LIMIT, async { Ok(self.back.data().await) }).await?;
        let back = back.context("the tunnel has ended")??;
        self.back.flow_control().release_capacity(back.len())?;
        ensure!(&*back == b"h", "{back:?}");
        Ok(())
    }

    /// Waits until it has ended, in whatever way.
    async fn closed(mut self) -> Result<()> {
        wait::within("the tunnel's end", wait::LIMIT, async {
            while let Some(Ok(more)) = self.back.data().await {
                ensure!(more.is_empty(), "{more:?}");
            }
            Ok(())
        })
        .await
    }
}

impl Mesh {
    /// So many requests run behind the listener.
    async fn running(&self, count: u64) -> Result<()> {
        self.proxy.wait_stat("http.in.downstream_rq_active", |active| active == count).await.map(drop)
    }

    async fn ended(&self, reason: &str, count: u64) -> Result<()> {
        let stat = format!("http.in.outrider.closed_by_update.{reason}");
        self.proxy.wait_stat(&stat, |ended| ended == count).await.map(drop)
    }
}

/// A gRPC call over HTTP/2 that has got its response's head, and is refused then.
async fn call_is_reset(h2: &mut H2) -> Result<()> {
    let call = H2Request {
        method: "POST".into(),
        scheme: "http".into(),
        authority: "test".into(),
        path: "/slow".into(),
        headers: vec![("x-user".into(), "eve".into()), ("content-type".into(), "application/grpc".into())],
        body: Some(vec![Bytes::from_static(b"\0\0\0\0\0")]),
        ..H2Request::default()
    };
    let response = h2.request(&call).await?;
    ensure!(response.status == 200 && FIRST.as_bytes().starts_with(&response.body), "{response:?}");
    ensure!(response.end.starts_with("reset "), "{response:?}");
    Ok(())
}

#[tokio::test]
async fn a_policy_that_tightens_ends_what_it_refuses_and_one_that_widens_ends_nothing() -> Result<()> {
    for way in [Way::Listener, Way::Route, Way::Extension] {
        tightens_and_widens(way).await.with_context(|| format!("{way:?}"))?;
    }
    Ok(())
}

async fn tightens_and_widens(way: Way) -> Result<()> {
    let scene = Scene::new().await?;
    let with = |port: u16, principals: &[Value]| scene.resources(port, way, &deny(principals));
    let Some(mut mesh) = Mesh::start(true, |port| with(port, &[user("mallory")])).await? else {
        return Ok(());
    };
    let port = mesh.port;
    mesh.answers("200 web").await?;
    let plain = async || Conn::plain(port).await;
    let (eve, _alice) = (endless(plain().await?, "eve").await?, endless(plain().await?, "alice").await?);
    let (eve_socket, mut socket_stays) =
        (socket(plain().await?, "eve").await?, socket(plain().await?, "alice").await?);
    let (eve_tunnel, mut tunnel_stays) =
        (H2Socket::open(port, "eve").await?, H2Socket::open(port, "alice").await?);
    let mut waiting = plain().await?;
    waiting.send("GET /silent HTTP/1.1\r\nhost: test\r\nx-user: eve\r\n\r\n").await?;
    let mut h2 = H2::start(plain().await?).await?;
    let answered = mesh.proxy.stat("http.in.downstream_rq_2xx").await?.unwrap_or(0);
    let tightens = async {
        mesh.running(8).await?;
        // The call has its head.
        mesh.proxy.wait_stat("http.in.downstream_rq_2xx", |count| count > answered).await?;
        mesh.plane.serve("2", &with(port, &[user("mallory"), user("eve")])).await
    };
    tokio::try_join!(call_is_reset(&mut h2), tightens)?;
    mesh.ended("rbac", 5).await?;
    closed(eve).await?;
    closed(eve_socket).await?;
    eve_tunnel.closed().await?;
    let refusal = waiting.response("GET").await?;
    ensure!(refusal.status == 403 && refusal.text() == "RBAC: access denied", "{refusal:?}");
    for path in ["/slow", "/sockets", "/silent"] {
        let line = format!("policy=rbac_access_denied_matched_policy[no-strangers]= {path}");
        mesh.proxy.wait_log(&line).await?;
    }
    // The others know nothing of it, and what widens ends nobody.
    mesh.running(3).await?;
    echo(&mut socket_stays).await?;
    tunnel_stays.echo().await?;
    mesh.plane.serve("3", &with(port, &[])).await?;
    let mut mallory = plain().await?;
    wait::until("an open door", wait::LIMIT, async || {
        mallory.send("GET / HTTP/1.1\r\nhost: test\r\nx-user: mallory\r\n\r\n").await?;
        Ok((mallory.response("GET").await?.status == 200).then_some(()))
    })
    .await?;
    mesh.running(3).await?;
    echo(&mut socket_stays).await?;
    tunnel_stays.echo().await?;
    mesh.ended("rbac", 5).await
}

#[tokio::test]
async fn a_first_policy_ends_what_it_refuses_of_what_was_there_before_it() -> Result<()> {
    let scene = Scene::new().await?;
    let with = |port: u16, principals: &[Value]| scene.resources(port, Way::New, &deny(principals));
    let Some(mut mesh) = Mesh::start(true, |port| with(port, &[])).await? else { return Ok(()) };
    let port = mesh.port;
    mesh.answers("200 web").await?;
    let from = async |last: u8| Conn::from(Ipv4Addr::new(127, 0, 0, last), port).await;
    let (gone, _stays) = (endless(from(2).await?, "eve").await?, endless(from(3).await?, "eve").await?);
    let gone_socket = socket(from(2).await?, "alice").await?;
    let (mut stays_socket, eve_socket) =
        (socket(from(3).await?, "alice").await?, socket(from(3).await?, "eve").await?);
    // What is known of a connection is enough for the one, and of an upgrade the head is always there.
    let source = json!({ "direct_remote_ip": { "address_prefix": "127.0.0.2", "prefix_len": 32 } });
    mesh.plane.serve("2", &with(port, std::slice::from_ref(&source))).await?;
    closed(gone).await?;
    closed(gone_socket).await?;
    mesh.ended("rbac", 2).await?;
    mesh.running(3).await?;
    // From here on the connection manager has a policy: of requests of before, nothing else is known.
    mesh.plane.serve("3", &with(port, &[source, user("eve")])).await?;
    closed(eve_socket).await?;
    mesh.ended("rbac", 3).await?;
    mesh.ended("rbac_request_not_kept", 1).await?;
    mesh.running(1).await?;
    echo(&mut stays_socket).await
}

#[tokio::test]
async fn rules_that_only_log_or_count_and_a_route_that_goes_end_nothing() -> Result<()> {
    let scene = Scene::new().await?;
    let way = Way::Listener;
    let Some(mut mesh) = Mesh::start(true, |port| scene.resources(port, way, &deny(&[]))).await? else {
        return Ok(());
    };
    let port = mesh.port;
    mesh.answers("200 web").await?;
    let mut conn = socket(Conn::plain(port).await?, "eve").await?;
    let mut logs = deny(&[user("eve")]);
    logs["action"] = json!("LOG");
    mesh.plane.serve("2", &scene.resources(port, way, &logs)).await?;
    mesh.plane.acknowledged("2", true, wait::LIMIT).await?;
    let mut counts = scene.resources(port, way, &deny(&[]));
    for listener in &mut counts {
        let filter = "/filter_chains/0/filters/0/typed_config/http_filters/0/typed_config";
        if let Some(filter) = listener.pointer_mut(filter) {
            filter["shadow_rules"] = deny(&[user("eve")]);
        }
    }
    mesh.plane.serve("3", &counts).await?;
    mesh.plane.acknowledged("3", true, wait::LIMIT).await?;
    for table in &mut counts {
        if table["name"] == "table" {
            *table = routes("table", "web");
            table["virtual_hosts"][0]["routes"] = json!([]);
        }
    }
    mesh.plane.serve("4", &counts).await?;
    mesh.answers("404 ").await?;
    echo(&mut conn).await?;
    mesh.running(1).await?;
    mesh.ended("rbac", 0).await
}
