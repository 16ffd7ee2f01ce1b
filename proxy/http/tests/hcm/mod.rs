//! A connection manager on a real socket, a raw client, and an upstream that tells what it got.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::allow_attributes_without_reason,
    clippy::allow_attributes
)]

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use outrider_config::convert;
use outrider_config::model;
use outrider_core::ConnInfo;
use outrider_core::stats::Registry;
use outrider_core::stream::Address;
use outrider_http::routing::RouteSlot;
use outrider_http::{HcmShared, HcmWorker};
use outrider_net::drain::DrainController;
use outrider_net::handler::{ConnectionHandler, Downstream};
use outrider_net::io::IoStream;
use outrider_proto::Descriptors;
use outrider_proto::load::{self, ParseOptions};
use outrider_telemetry::access_log::{self, LogFiles};
use outrider_upstream::{ClusterManager, WorkerClusters};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// A connection manager that listens.
pub(crate) struct Proxy {
    pub(crate) address: SocketAddr,
    pub(crate) registry: Registry,
    pub(crate) drain: DrainController,
    files: LogFiles,
    log: std::path::PathBuf,
}

/// Runs `test` on a worker's runtime.
pub(crate) fn on_worker<F: Future<Output = ()>>(test: impl FnOnce() -> F) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        tokio::time::timeout(Duration::from_secs(30), test()).await.expect("the test came to its end");
    });
}

impl Proxy {
    /// Starts one with `fields` (YAML, flow or block at column 0) in its configuration, and the routes that all tests share.
    pub(crate) async fn start(fields: &str) -> Self {
        Self::with_fault(fields, "").await
    }

    /// The same with a fault filter with these settings (YAML, flow) in front of the router, unless they are empty.
    pub(crate) async fn with_fault(fields: &str, settings: &str) -> Self {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let log = std::env::temp_dir().join(format!("outrider-http-{}-{number}.log", std::process::id()));
        let echo = upstream().await;
        let indented = fields.lines().map(|line| format!("          {line}\n")).collect::<String>();
        let fault = match settings {
            "" => String::new(),
            settings => FAULT.replace("SETTINGS", settings),
        };
        let yaml = BOOTSTRAP
            .replace("          FAULT\n", &fault)
            .replace("ECHO_PORT", &echo.port().to_string())
            .replace("LOG_PATH", &log.display().to_string())
            .replace("          FIELDS\n", &indented);
        let model = bootstrap(&yaml);
        let registry = Registry::new();
        let files = LogFiles::new(&registry, 0);
        let clusters = ClusterManager::new(registry.clone());
        for cluster in &model.clusters {
            clusters.add(cluster.clone()).unwrap();
        }
        let model::NetworkFilter::Http(hcm) = &model.listeners[0].filter_chains[0].filter else {
            panic!("a connection manager");
        };
        let scope = registry.scope("listener.test.");
        let model::Routes::Inline(routes) = &hcm.routes else { panic!("inline routes") };
        let routes = RouteSlot::fixed(routes, &clusters, &registry).unwrap();
        let shared =
            HcmShared::build(hcm, &registry, &files, &scope, routes, &model::Node::default()).unwrap();
        let worker = HcmWorker::new(shared, WorkerClusters::new(clusters));
        let drain = DrainController::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let watch = drain.watch();
        tokio::task::spawn_local(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let stream = IoStream::from_tcp(socket);
                let info = Rc::new(info(&stream));
                let downstream = Downstream {
                    stream,
                    info,
                    drain: watch.clone(),
                    buffer_limit: 1 << 20,
                    session: None,
                    metadata: None,
                };
                tokio::task::spawn_local(worker.clone().handle(downstream));
            }
        });
        Self { address, registry, drain, files, log }
    }

    pub(crate) async fn connect(&self) -> Client {
        Client { stream: TcpStream::connect(self.address).await.unwrap(), buffer: Vec::new() }
    }

    /// Sends `request` on a connection of its own and reads one response.
    pub(crate) async fn exchange(&self, request: &str) -> Response {
        let mut client = self.connect().await;
        client.send(request).await;
        client.response().await
    }

    pub(crate) fn stat(&self, name: &str) -> u64 {
        self.registry.value(&format!("http.test.{name}")).unwrap_or(0)
    }

    /// Waits until the stat has the value.
    pub(crate) async fn wait_stat(&self, name: &str, value: u64) {
        let start = Instant::now();
        while self.stat(name) != value {
            assert!(start.elapsed() < DEADLINE, "{name} is {}, not {value}", self.stat(name));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    /// The access log, once it has `lines` lines.
    pub(crate) async fn log(&self, lines: usize) -> Vec<String> {
        let start = Instant::now();
        loop {
            access_log::flush_local();
            self.files.sync();
            let text = std::fs::read_to_string(&self.log).unwrap_or_default();
            let found: Vec<String> = text.lines().map(str::to_owned).collect();
            if found.len() >= lines {
                return found;
            }
            assert!(start.elapsed() < DEADLINE, "the log has {found:?}");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.log);
    }
}

fn info(stream: &IoStream) -> ConnInfo {
    static ID: AtomicU64 = AtomicU64::new(1);
    let (remote, local): (Address, Address) = (stream.peer_addr(), stream.local_addr());
    ConnInfo {
        id: ID.fetch_add(1, Ordering::Relaxed),
        direct_remote: remote.clone(),
        remote,
        direct_local: local.clone(),
        local,
        local_restored: false,
        source: None,
        sni: None,
        tls: None,
        filter_chain: Arc::from(""),
        origin: Default::default(),
        handshake: None,
        reset: Default::default(),
        accepted: Instant::now(),
        termination_details: OnceCell::new(),
        transport_failure: OnceCell::new(),
    }
}

fn bootstrap(yaml: &str) -> model::Bootstrap {
    const NAME: &str = "envoy.config.bootstrap.v3.Bootstrap";
    static DESCRIPTORS: OnceLock<Descriptors> = OnceLock::new();
    let descriptors = DESCRIPTORS.get_or_init(Descriptors::load);
    let loaded = load::parse(descriptors, yaml, "test.yaml", NAME, ParseOptions::default())
        .unwrap_or_else(|problems| panic!("{problems}\n{yaml}"));
    let message = loaded.typed().unwrap();
    let (model, _) = convert::bootstrap(&message, &convert::Options::default());
    model.unwrap_or_else(|problems| panic!("{problems:?}"))
}

const FAULT: &str = r#"          - name: fault
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault, SETTINGS }
"#;

const BOOTSTRAP: &str = r#"
layered_runtime: { layers: [ { name: base, static_layer: { status: { low: 199, high: 600, wide: 100000, fine: 599.5 } } } ] }
static_resources:
  listeners:
  - name: test
    address: { socket_address: { address: 127.0.0.1, port_value: 0 } }
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: test
          FIELDS
          access_log:
          - name: file
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog
              path: "LOG_PATH"
              log_format:
                text_format_source:
                  inline_string: "%RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% %PROTOCOL% %REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)% rx=%BYTES_RECEIVED% tx=%BYTES_SENT%\n"
          http_filters:
          FAULT
          - name: envoy.filters.http.router
            typed_config: { "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }
          route_config:
            validate_clusters: false
            virtual_hosts:
            - name: v
              domains: ["*"]
              routes:
              - { match: { prefix: /direct }, direct_response: { status: 200, body: { inline_string: hello } } }
              - { match: { prefix: /empty }, direct_response: { status: 204 } }
              - { match: { prefix: /redirect }, redirect: { host_redirect: x.y } }
              - { match: { prefix: /nowhere }, route: { cluster: none } }
              - { match: { prefix: /echo }, route: { cluster: echo } }
              - { match: { prefix: /ws }, route: { cluster: echo, timeout: 0s, upgrade_configs: [ { upgrade_type: websocket } ] } }
              - { match: { prefix: /slow }, route: { cluster: echo, timeout: 0s } }
  clusters:
  - name: echo
    type: STATIC
    connect_timeout: 1s
    load_assignment:
      cluster_name: echo
      endpoints:
      - lb_endpoints:
        - endpoint: { address: { socket_address: { address: 127.0.0.1, port_value: ECHO_PORT } } }
"#;

/// An upstream that answers each request with its head and body as the body. `/slow` gets no answer; an `upgrade`
/// gets 101, and then its bytes back.
async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(async move {
                let mut client = Client { stream, buffer: Vec::new() };
                while client.echo().await.is_some() {}
            });
        }
    });
    address
}

/// A raw HTTP/1 peer.
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    buffer: Vec<u8>,
}

/// A response as it came.
#[derive(Debug, Clone)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    /// The header `name` of the request that the upstream saw.
    pub(crate) fn seen(&self, name: &str) -> Option<&str> {
        let mut lines = self.body.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(found, _)| *found == name).map(|(_, value)| value)
    }

    pub(crate) fn request_line(&self) -> &str {
        self.body.lines().next().unwrap_or_default()
    }
}

impl Client {
    pub(crate) async fn send(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
    }

    /// Reads one head and the body that it announces; `None` at the connection's end.
    async fn message(&mut self, bodiless: bool) -> Option<(String, String)> {
        let end = self.read_until(b"\r\n\r\n").await?;
        let head = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
        let lower = head.to_ascii_lowercase();
        let length =
            lower.lines().find_map(|line| line.strip_prefix("content-length: ")?.trim().parse().ok());
        let mut body = Vec::new();
        if bodiless {
            return Some((head, String::new()));
        }
        if let Some(length) = length {
            while self.buffer.len() < length {
                self.fill().await?;
            }
            body = self.buffer.drain(..length).collect();
        } else if lower.contains("transfer-encoding: chunked") {
            loop {
                let end = self.read_until(b"\r\n").await?;
                let line = String::from_utf8(self.buffer.drain(..end).collect()).unwrap();
                let size = usize::from_str_radix(line.trim(), 16).unwrap();
                while self.buffer.len() < size + 2 {
                    self.fill().await?;
                }
                body.extend(self.buffer.drain(..size + 2).take(size));
                if size == 0 {
                    break;
                }
            }
        }
        Some((head, String::from_utf8_lossy(&body).into_owned()))
    }

    async fn read_until(&mut self, mark: &[u8]) -> Option<usize> {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|part| part == mark) {
                return Some(at + mark.len());
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> Option<()> {
        let read = tokio::time::timeout(DEADLINE, self.stream.read_buf(&mut self.buffer)).await;
        match read.expect("bytes or the end in time") {
            Ok(n) if n > 0 => Some(()),
            _ => None,
        }
    }

    pub(crate) async fn response(&mut self) -> Response {
        self.read(false).await
    }

    /// The response to a HEAD.
    pub(crate) async fn head_response(&mut self) -> Response {
        self.read(true).await
    }

    async fn read(&mut self, bodiless: bool) -> Response {
        let (head, body) = self.message(bodiless).await.expect("a response before the connection's end");
        let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap();
        Response { status, head, body }
    }

    /// Waits for the connection's end; gives what came before it.
    pub(crate) async fn rest(mut self) -> String {
        while self.fill().await.is_some() {}
        String::from_utf8_lossy(&self.buffer).into_owned()
    }

    async fn echo(&mut self) -> Option<()> {
        let (head, body) = self.message(false).await?;
        if head.contains(" /slow") {
            std::future::pending::<()>().await;
        }
        if head.contains("upgrade: ") {
            let text = format!(
                "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n{head}"
            );
            self.stream.write_all(text.as_bytes()).await.ok()?;
            loop {
                let bytes = std::mem::take(&mut self.buffer);
                self.stream.write_all(&bytes).await.ok()?;
                self.fill().await?;
            }
        }
        let body = format!("{head}{body}");
        let text = format!(
            "HTTP/1.1 200 OK\r\nserver: up\r\nconnection: keep-alive, x-hop\r\nx-hop: 1\r\nkeep-alive: 5\r\n\
             content-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.stream.write_all(text.as_bytes()).await.ok()
    }
}
