//! A control plane: go-control-plane in a process of its own (`tests/interop/xds-server`), built on first use.

use std::{
    collections::BTreeMap,
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    process::{Child, ChildStdin, Command},
    sync::mpsc,
};

use crate::{binary::target_dir, bootstrap::Bootstrap, wait};

/// Begins the type URL of every resource.
pub const TYPE: &str = "type.googleapis.com/envoy.";

/// A running control plane. It ends with this.
#[derive(Debug)]
pub struct ControlPlane {
    /// Where it listens.
    pub address: SocketAddr,
    stdin: ChildStdin,
    /// What it prints: read all the time, lest it waits for a reader.
    lines: mpsc::UnboundedReceiver<String>,
    /// The last response of each stream and type.
    sent: BTreeMap<(u64, String), Sent>,
    _child: Child,
}

#[derive(Debug)]
struct Sent {
    nonce: String,
    version: String,
    acknowledged: bool,
}

/// Builds the program. Parallel test processes wait for one another.
fn program() -> Result<PathBuf> {
    let dir = target_dir()?.join("go");
    std::fs::create_dir_all(&dir)?;
    let lock = File::create(dir.join("lock"))?;
    lock.lock()?;
    let program = dir.join("xds-server");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/xds-server");
    let built = std::process::Command::new("go")
        .args(["build", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(source)
        .output();
    let built = built.context("go cannot be run")?;
    ensure!(built.status.success(), "go build: {}", String::from_utf8_lossy(&built.stderr).trim());
    Ok(program)
}

impl ControlPlane {
    /// Starts one. `None`, with the reason on standard error, where it cannot be built (no Go, no network), unless
    /// `OUTRIDER_REQUIRE_GO=1`.
    ///
    /// # Errors
    /// It does not start.
    pub async fn start() -> Result<Option<Self>> {
        let program = match tokio::task::spawn_blocking(program).await? {
            Ok(program) => program,
            Err(why) if std::env::var_os("OUTRIDER_REQUIRE_GO").is_some() => return Err(why),
            Err(why) => {
                use std::io::Write;
                writeln!(std::io::stderr(), "skipped, there is no control plane: {why:#}")?;
                return Ok(None);
            }
        };
        let mut command = Command::new(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn()?;
        let stdin = child.stdin.take().context("its standard input")?;
        let mut lines = BufReader::new(child.stdout.take().context("its standard output")?).lines();
        let first =
            wait::within("the control plane", wait::LIMIT, async { Ok(lines.next_line().await?) }).await?;
        let (tell, told) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        let first: Value = serde_json::from_str(&first.context("it ended")?)?;
        let address = first["address"].as_str().context("no address")?.parse()?;
        Ok(Some(Self { address, stdin, lines: told, sent: BTreeMap::new(), _child: child }))
    }

    async fn tell(&mut self, command: &Value) -> Result<()> {
        Ok(self.stdin.write_all(format!("{command}\n").as_bytes()).await?)
    }

    /// Serves these resources, and no others, from now on.
    ///
    /// # Errors
    /// It is gone.
    pub async fn serve(&mut self, version: &str, resources: &[Value]) -> Result<()> {
        self.tell(&json!({ "version": version, "resources": resources })).await
    }

    /// Ends all connections and listens no more.
    ///
    /// # Errors
    /// It is gone.
    pub async fn stop(&mut self) -> Result<()> {
        self.tell(&json!({ "do": "stop" })).await?;
        self.event("the stop", |line| line["event"] == "stopped").await.map(drop)
    }

    /// Listens again.
    ///
    /// # Errors
    /// It is gone.
    pub async fn resume(&mut self) -> Result<()> {
        self.tell(&json!({ "do": "start" })).await
    }

    /// The next event of which this is true; others are passed over.
    ///
    /// # Errors
    /// None comes in time.
    pub async fn event(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let lines = &mut self.lines;
        wait::within(what, wait::LIMIT, async {
            loop {
                let line = lines.recv().await.context("the control plane ended")?;
                let line: Value = serde_json::from_str(&line)?;
                if wanted(&line) {
                    return Ok(line);
                }
            }
        })
        .await
    }

    /// Waits until what is served under `version` has been sent and all that was sent since the last call is
    /// acknowledged: in state of the world, of each type that is subscribed to; in delta, of one at least.
    ///
    /// # Errors
    /// It takes longer than `limit`, or something is refused.
    pub async fn acknowledged(&mut self, version: &str, delta: bool, limit: Duration) -> Result<()> {
        let sent = &mut self.sent;
        let lines = &mut self.lines;
        let what = format!("the acknowledgement of version {version}");
        wait::within(&what, limit, async {
            loop {
                let line = lines.recv().await.context("the control plane ended")?;
                let line: Value = serde_json::from_str(&line)?;
                let text = |field: &str| line[field].as_str().unwrap_or_default().to_owned();
                let of = (line["stream"].as_u64().unwrap_or(0), text("type"));
                match line["event"].as_str() {
                    Some("response") => {
                        let response =
                            Sent { nonce: text("nonce"), version: text("version"), acknowledged: false };
                        sent.insert(of, response);
                    }
                    Some("request") => {
                        ensure!(text("error").is_empty(), "version {version} was refused: {}", text("error"));
                        if let Some(known) = sent.get_mut(&of).filter(|known| known.nonce == text("nonce")) {
                            known.acknowledged = true;
                        }
                    }
                    Some("closed") => sent.retain(|(stream, _), _| *stream != of.0),
                    _ => {}
                }
                let mut of_it = sent.values().map(|response| response.version == version);
                let all_sent =
                    if delta { of_it.any(|is| is) } else { !sent.is_empty() && of_it.all(|is| is) };
                if all_sent && sent.values().all(|response| response.acknowledged) {
                    return Ok(());
                }
            }
        })
        .await
        .with_context(|| format!("sent, and acknowledged or not: {:?}", self.sent))
    }

    /// The text of the next refusal.
    ///
    /// # Errors
    /// None comes in time.
    pub async fn refusal(&mut self) -> Result<String> {
        let refuses = |line: &Value| line["error"].as_str().is_some_and(|error| !error.is_empty());
        let line = self.event("a refusal", refuses).await?;
        Ok(line["error"].as_str().unwrap_or_default().to_owned())
    }
}

/// A bootstrap that follows the control plane on the port `@{plane}` by ADS; `more` goes into `cds_config` and `lds_config`.
#[must_use]
pub fn follower(delta: bool, more: &str) -> Bootstrap {
    let api = if delta { "DELTA_GRPC" } else { "GRPC" };
    Bootstrap::new()
        .top(&format!(
            "dynamic_resources:\n  ads_config: {{ api_type: {api}, transport_api_version: V3, grpc_services: [ \
             {{ envoy_grpc: {{ cluster_name: plane }} }} ] }}\n  \
             cds_config: {{ ads: {{}}, resource_api_version: V3{more} }}\n  \
             lds_config: {{ ads: {{}}, resource_api_version: V3{more} }}"
        ))
        .hosts(
            "plane",
            &["plane"],
            "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \
             \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    \
             explicit_http_config: { http2_protocol_options: {} }",
        )
}

/// `ads: {}`
#[must_use]
pub fn ads() -> Value {
    json!({ "ads": {}, "resource_api_version": "V3" })
}

/// A cluster whose endpoints come by ADS.
#[must_use]
pub fn eds_cluster(name: &str) -> Value {
    json!({
        "@type": format!("{TYPE}config.cluster.v3.Cluster"), "name": name, "type": "EDS", "connect_timeout": "1s",
        "eds_cluster_config": { "eds_config": ads() },
    })
}

/// The endpoints of a cluster, on loopback.
#[must_use]
pub fn endpoints(cluster: &str, ports: &[u16]) -> Value {
    let one = |port: &u16| json!({ "endpoint": { "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } } } });
    let all: Vec<Value> = ports.iter().map(one).collect();
    json!({
        "@type": format!("{TYPE}config.endpoint.v3.ClusterLoadAssignment"), "cluster_name": cluster,
        "endpoints": [{ "lb_endpoints": all }],
    })
}

/// A listener on loopback whose connection manager takes the table `routes` by ADS; `more` goes into the connection
/// manager.
#[must_use]
pub fn rds_listener(name: &str, port: u16, routes: &str, more: &Value) -> Value {
    let mut manager = json!({
        "@type": format!("{TYPE}extensions.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": name,
        "rds": { "route_config_name": routes, "config_source": ads() },
        "http_filters": [{
            "name": "router", "typed_config": { "@type": format!("{TYPE}extensions.filters.http.router.v3.Router") },
        }],
    });
    if let (Value::Object(manager), Value::Object(more)) = (&mut manager, more) {
        manager.extend(more.clone());
    }
    listener(name, port, &json!([{ "filters": [{ "name": "manager", "typed_config": manager }] }]))
}

/// A listener on loopback with these filter chains.
#[must_use]
pub fn listener(name: &str, port: u16, chains: &Value) -> Value {
    json!({
        "@type": format!("{TYPE}config.listener.v3.Listener"), "name": name,
        "address": { "socket_address": { "address": "127.0.0.1", "port_value": port } },
        "filter_chains": chains,
    })
}

/// A table that sends all to one cluster.
#[must_use]
pub fn routes(name: &str, cluster: &str) -> Value {
    json!({
        "@type": format!("{TYPE}config.route.v3.RouteConfiguration"), "name": name,
        "virtual_hosts": [{
            "name": "all", "domains": ["*"],
            "routes": [{ "match": { "prefix": "/" }, "route": { "cluster": cluster, "timeout": "0s" } }],
        }],
    })
}
