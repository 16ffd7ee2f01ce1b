//! `outrider-control --store kubernetes` as a process, with a proxy and `outriderctl`.

use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use anyhow::{Context as _, ensure};
use outrider_control::store::kubernetes::status::CONTROLLER;
use outrider_tests::client::Conn;
use outrider_tests::control::{Control, Follower};
use outrider_tests::oracle;
use outrider_tests::ports::Lease;
use outrider_tests::proxy::Kind;
use outrider_tests::upstream::Upstream;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use super::Result;
use super::cluster::{Cluster, eventually};

/// An address of this machine that is not on the loopback: Kubernetes takes no endpoints there.
fn own_address() -> Option<IpAddr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // Nothing is sent.
    socket.connect(("198.51.100.1", 9)).ok()?;
    Some(socket.local_addr().ok()?.ip()).filter(|ip| !ip.is_loopback() && !ip.is_unspecified())
}

/// A port at this address that leads to one on the loopback.
async fn leads(ip: IpAddr, to: u16) -> Result<u16> {
    let listener = TcpListener::bind((ip, 0)).await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((mut from, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut to = TcpStream::connect((Ipv4Addr::LOCALHOST, to)).await?;
                tokio::io::copy_bidirectional(&mut from, &mut to).await
            });
        }
    });
    Ok(port)
}

fn service(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"namespace": "served", "name": name},
        "spec": {"ports": [{"name": "http", "port": 80, "appProtocol": "http"}]}})
}

fn slice(name: &str, ip: IpAddr, port: u16) -> Value {
    json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"namespace": "served", "name": name, "labels": {"kubernetes.io/service-name": name}},
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": [{"name": "http", "port": port, "protocol": "TCP"}]})
}

fn route(name: &str, to: &str) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"namespace": "served", "name": name},
        "spec": {"hostnames": [format!("{name}.example")], "parentRefs": [{"name": "edge"}],
            "rules": [{"backendRefs": [{"name": to, "port": 80}]}]}})
}

/// Waits until the gateway answers for the host of a route: with this text, or when there is none, with "not found".
async fn answers(port: u16, name: &str, text: Option<&str>) -> Result {
    let ask = async || -> Result<(u16, String)> {
        let mut conn = Conn::plain(port).await?;
        conn.send(format!("GET / HTTP/1.1\r\nhost: {name}.example\r\nconnection: close\r\n\r\n")).await?;
        let answer = conn.response("GET").await?;
        Ok((answer.status, answer.text().to_owned()))
    };
    let mut last = String::new();
    let what = format!("{name}.example is answered with {text:?}");
    let outcome = eventually(&what, async || {
        let found = ask().await;
        last = format!("{found:?}");
        Ok(match (&found, text) {
            (Ok((200, found)), Some(text)) if found == text => Some(()),
            (Ok((404, _)), None) => Some(()),
            _ => None,
        })
    })
    .await;
    outcome.context(last)
}

/// The conditions that hold, of our entry in a route's status.
fn holds(live: &Value) -> Vec<&str> {
    let parents = live["status"]["parents"].as_array().into_iter().flatten();
    let ours = parents.filter(|it| it["controllerName"] == CONTROLLER);
    let conditions = ours.flat_map(|it| it["conditions"].as_array().into_iter().flatten());
    conditions.filter(|it| it["status"] == "True").filter_map(|it| it["type"].as_str()).collect()
}

async fn is_accepted(cluster: &Cluster, route: &Value) -> Result {
    eventually("the route is accepted and its references are resolved", async || {
        let live = cluster.get(route).await?;
        let holds = holds(&live);
        Ok((holds.contains(&"Accepted") && holds.contains(&"ResolvedRefs")).then_some(()))
    })
    .await
}

pub(crate) async fn a_control_plane_on_kubernetes_serves_writes_and_restarts(
    cluster: &mut Cluster,
) -> Result {
    let Some(ip) = own_address() else {
        writeln!(std::io::stderr(), "LEFT OUT: this machine has no address but the loopback's")?;
        return Ok(());
    };
    cluster.namespace("served").await?;
    let (one, _diary, _script) = Upstream::http("one").await?;
    let (two, _diary, _script) = Upstream::http("two").await?;
    let (one, two) = (leads(ip, one.address().port()).await?, leads(ip, two.address().port()).await?);
    let port = Lease::new()?;
    let class = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass",
        "metadata": {"name": "outrider"}, "spec": {"controllerName": CONTROLLER}});
    let gateway = json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"namespace": "served", "name": "edge"}, "spec": {"gatewayClassName": "outrider",
            "listeners": [{"name": "web", "port": port.port(), "protocol": "HTTP"}]}});
    for value in [class, gateway.clone(), service("web"), slice("web", ip, one), route("first", "web")] {
        cluster.apply(value).await?;
    }

    let mut control = Control::start(&["--store", &cluster.argument()]).await?;
    let outcome = serves(cluster, &mut control, (ip, one, two), port.port(), &gateway).await;
    outcome.with_context(|| control.process().output())
}

/// All that a control plane does, with each proxy that there is.
async fn serves(
    cluster: &Cluster,
    control: &mut Control,
    (ip, one, two): (IpAddr, u16, u16),
    port: u16,
    gateway: &Value,
) -> Result {
    let mut kinds = vec![Kind::Outrider];
    match oracle::envoy() {
        Ok(_) => kinds.push(Kind::Envoy),
        Err(error) => writeln!(std::io::stderr(), "LEFT OUT: Envoy as the data plane: {error:#}")?,
    }
    for (round, kind) in kinds.into_iter().enumerate() {
        let proxy = Follower::gateway(kind, round == 0, &[control.xds()], "served/edge").await?;
        answers(port, "first", Some("one")).await.with_context(|| proxy.proxy.output())?;
        is_accepted(cluster, &route("first", "web")).await?;

        // Other endpoints, and a second service.
        cluster.apply(slice("web", ip, two)).await?;
        answers(port, "first", Some("two")).await?;
        cluster.apply(service("api")).await?;
        cluster.apply(slice("api", ip, one)).await?;

        // What is applied here is there, and served, and has a status; the answer's version is the one that it has there.
        let name = format!("applied-{round}");
        let file = std::env::temp_dir().join(format!("outrider-{}-{name}.json", std::process::id()));
        std::fs::write(&file, route(&name, "api").to_string())?;
        let (done, text) = control.ctl(&["apply", "-f", &file.to_string_lossy()]).await?;
        std::fs::remove_file(&file)?;
        ensure!(done && text.contains("created"), "{text}");
        let live = cluster.get(&route(&name, "api")).await?;
        ensure!(live["metadata"]["managedFields"][0]["manager"] == "outrider", "{live}");
        ensure!(live["spec"]["hostnames"] == json!([format!("{name}.example")]), "{live}");
        answers(port, &name, Some("one")).await?;
        is_accepted(cluster, &route(&name, "api")).await?;
        // A bad one is refused, and says where.
        let mut bad = route("bad", "api");
        bad["spec"]["rules"][0]["matches"] = json!([{"path": {"value": "nope"}}]);
        std::fs::write(&file, bad.to_string())?;
        let (done, text) = control.ctl(&["apply", "-f", &file.to_string_lossy()]).await?;
        std::fs::remove_file(&file)?;
        ensure!(!done && text.contains("spec.rules[0].matches[0].path"), "{text}");

        // It dies; what changes meanwhile is served by the one that comes after it, and what was there goes on.
        control.kill().await?;
        answers(port, "first", Some("two")).await?;
        cluster.apply(route("meanwhile", "web")).await?;
        cluster.delete(&route(&name, "api")).await?;
        control.restart().await?;
        answers(port, "meanwhile", Some("two")).await?;
        answers(port, &name, None).await?;
        answers(port, "first", Some("two")).await?;
        is_accepted(cluster, &route("meanwhile", "web")).await?;
        cluster.delete(&route("meanwhile", "web")).await?;
        cluster.apply(slice("web", ip, one)).await?;
    }
    eventually("the gateway's status counts the one route that is left", async || {
        let live = cluster.get(gateway).await?;
        let listeners = live["status"]["listeners"].as_array().cloned().unwrap_or_default();
        Ok((listeners.len() == 1 && listeners[0]["attachedRoutes"] == 1).then_some(()))
    })
    .await
}
