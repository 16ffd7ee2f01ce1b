//! go-control-plane, in a process of its own (`tests/interop/xds-server`), built on first use.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::OnceLock;

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::soon;

/// The program, or why there is none.
fn program() -> &'static Result<PathBuf, String> {
    static PROGRAM: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/interop/xds-server");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join("xds-server");
        let built = std::process::Command::new("go")
            .args(["build", "-o"])
            .arg(&program)
            .arg(".")
            .current_dir(source)
            .output()
            .map_err(|error| format!("go cannot be run: {error}"))?;
        if built.status.success() {
            Ok(program)
        } else {
            Err(format!("go build failed: {}", String::from_utf8_lossy(&built.stderr)))
        }
    })
}

/// A running control plane.
pub struct GoPlane {
    pub address: std::net::SocketAddr,
    stdin: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
    // Ends with this.
    _child: Child,
}

impl GoPlane {
    /// Starts one; `None`, with the reason on standard error, where there is no Go. With
    /// `OUTRIDER_REQUIRE_GO` set that is a failure.
    pub async fn start() -> Option<Self> {
        let program = match program() {
            Ok(program) => program,
            Err(why) => {
                assert!(std::env::var_os("OUTRIDER_REQUIRE_GO").is_none(), "{why}");
                eprintln!("skipped, there is no go-control-plane here: {why}");
                return None;
            }
        };
        let mut child = Command::new(program)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let stdin = child.stdin.take().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let first = soon("the control plane's address", lines.next_line()).await.unwrap().unwrap();
        let first: Value = serde_json::from_str(&first).unwrap();
        let address = first["address"].as_str().unwrap().parse().unwrap();
        Some(Self { address, stdin, lines, _child: child })
    }

    async fn tell(&mut self, command: Value) {
        self.stdin.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    }

    /// Serves `resources` from now on.
    pub async fn serve(&mut self, version: &str, resources: Vec<Value>) {
        self.tell(json!({"version": version, "resources": resources})).await;
    }

    /// Ends all connections and listens no more.
    pub async fn stop(&mut self) {
        self.tell(json!({"do": "stop"})).await;
        self.line("stopped", |line| line["event"] == "stopped").await;
    }

    /// Listens again.
    pub async fn resume(&mut self) {
        self.tell(json!({"do": "start"})).await;
    }

    /// The next line of which this is true; others are passed over.
    pub async fn line(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        soon(what, async {
            loop {
                let line = self.lines.next_line().await.unwrap().expect("the control plane lives");
                // Shown when the test fails.
                println!("{line}");
                let line: Value = serde_json::from_str(&line).unwrap();
                if wanted(&line) {
                    return line;
                }
            }
        })
        .await
    }

    /// The next request for `kind` (the message's short name).
    pub async fn request(&mut self, kind: &str) -> Value {
        self.line("a request", |line| line["event"] == "request" && line["type"] == kind).await
    }

    /// The next answer to a response: a request of `kind` with a nonce.
    pub async fn answer(&mut self, kind: &str) -> Value {
        let is = |line: &Value| line["event"] == "request" && line["type"] == kind && line["nonce"] != "";
        self.line("an answer", is).await
    }
}

/// A cluster that takes its endpoints from ADS.
pub fn cluster(name: &str, connect_timeout: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
        "name": name,
        "type": "EDS",
        "connect_timeout": connect_timeout,
        "eds_cluster_config": {"eds_config": {"ads": {}}},
    })
}

/// An endpoint of `cluster`.
pub fn endpoint(cluster: &str, port: u16) -> Value {
    let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": cluster,
        "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
    })
}

/// A secret.
pub fn secret(name: &str, text: &str) -> Value {
    json!({
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret",
        "name": name,
        "generic_secret": {"secret": {"inline_string": text}},
    })
}
