//! A connection manager with its router on a real socket, and upstreams that follow a script.
//!
//! The configuration is a bootstrap as users write it. `UPSTREAM` in it stands for the upstream's port, `OTHER` for
//! the second one's, `CLOSED` for a port that nobody listens on.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::rc::Rc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use outrider_config::{convert, model};
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
use outrider_proto::pb::envoy::config::bootstrap::v3::Bootstrap;
use outrider_telemetry::access_log::LogFiles;
use outrider_upstream::{ClusterManager, WorkerClusters};

/// How long anything may take before a test fails.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// What an upstream does with one request.
#[derive(Debug, Clone)]
pub(crate) enum Act {
    /// Answers with these bytes and keeps the connection.
    Answer(String),
    /// Answers with these bytes and closes the connection.
    AnswerAndClose(String),
    /// Closes without an answer.
    Close,
    /// Answers after the head, without reading the body, and closes once the proxy does.
    AnswerEarly(String),
    /// Never answers.
    Hang,
    /// Answers, then echoes bytes.
    Echo(String),
}

impl Act {
    /// A response of `status` with `body`.
    pub(crate) fn status(status: u16, body: &str) -> Self {
        Self::with(status, "", body)
    }

    /// The same with header lines (each with its line end).
    pub(crate) fn with(status: u16, headers: &str, body: &str) -> Self {
        let len = body.len();
        Self::Answer(format!("HTTP/1.1 {status} X\r\ncontent-length: {len}\r\n{headers}\r\n{body}"))
    }
}

/// A request as an upstream saw it.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// The request line and the header lines.
    pub(crate) head: String,
    /// The body, chunks taken apart.
    pub(crate) body: String,
}

impl Seen {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

/// An upstream: each request takes the next act of the script, the last one for ever.
#[derive(Debug)]
pub(crate) struct Upstream {
    /// Where it listens.
    pub(crate) port: u16,
    seen: Receiver<Seen>,
}

impl Upstream {
    /// Starts one.
    pub(crate) fn start(script: impl IntoIterator<Item = Act>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let script = Arc::new(Mutex::new(script.into_iter().collect::<VecDeque<_>>()));
        let (tell, seen) = channel();
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                let (script, tell) = (script.clone(), tell.clone());
                std::thread::spawn(move || serve(&stream, &script, &tell));
            }
        });
        Self { port, seen }
    }

    /// The next request that it saw.
    pub(crate) fn next(&self) -> Seen {
        self.seen.recv_timeout(PATIENCE).expect("a request")
    }

    /// Whether it saw no other request up to now.
    pub(crate) fn is_quiet(&self) -> bool {
        self.seen.try_recv().is_err()
    }
}

fn serve(mut stream: &TcpStream, script: &Mutex<VecDeque<Act>>, tell: &Sender<Seen>) -> Option<()> {
    let mut buffer = Vec::new();
    loop {
        let head = read_head(stream, &mut buffer)?;
        let act = {
            let mut script = script.lock().unwrap();
            if script.len() > 1 { script.pop_front()? } else { script.front()?.clone() }
        };
        if let Act::AnswerEarly(answer) = &act {
            let _ = tell.send(Seen { head, body: String::new() });
            stream.write_all(answer.as_bytes()).ok()?;
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            return None;
        }
        let body = read_body(stream, &head, &mut buffer)?;
        let _ = tell.send(Seen { head, body });
        match act {
            Act::Answer(answer) => stream.write_all(answer.as_bytes()).ok()?,
            Act::AnswerAndClose(answer) => {
                stream.write_all(answer.as_bytes()).ok()?;
                return stream.shutdown(Shutdown::Both).ok();
            }
            Act::Close => return stream.shutdown(Shutdown::Both).ok(),
            Act::Hang => {
                let _ = stream.read(&mut [0]);
                return None;
            }
            Act::Echo(answer) => {
                stream.write_all(answer.as_bytes()).ok()?;
                let mut piece = [0; 1024];
                loop {
                    let read = stream.read(&mut piece).ok().filter(|read| *read > 0)?;
                    stream.write_all(&piece[..read]).ok()?;
                }
            }
            Act::AnswerEarly(_) => {}
        }
    }
}

fn read_head(mut stream: &TcpStream, buffer: &mut Vec<u8>) -> Option<String> {
    loop {
        if let Some(end) = buffer.windows(4).position(|part| part == b"\r\n\r\n") {
            let head: Vec<u8> = buffer.drain(..end + 4).collect();
            return String::from_utf8(head).ok();
        }
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).ok().filter(|read| *read > 0)?;
        buffer.extend_from_slice(&piece[..read]);
    }
}

/// The body that belongs to `head`; for a response without framing, all that comes.
fn read_body(mut stream: &TcpStream, head: &str, buffer: &mut Vec<u8>) -> Option<String> {
    let mut fill = |buffer: &mut Vec<u8>| {
        let mut piece = [0; 4096];
        let read = stream.read(&mut piece).ok().filter(|read| *read > 0)?;
        buffer.extend_from_slice(&piece[..read]);
        Some(())
    };
    if header(head, "transfer-encoding").is_some_and(|coding| coding.contains("chunked")) {
        let mut body = String::new();
        loop {
            let line_end = loop {
                match buffer.windows(2).position(|part| part == b"\r\n") {
                    Some(end) => break end,
                    None => fill(buffer)?,
                }
            };
            let line = String::from_utf8(buffer[..line_end].to_vec()).ok()?;
            let size = usize::from_str_radix(line.split(';').next()?.trim(), 16).ok()?;
            let whole = line_end + 2 + size + 2;
            while buffer.len() < whole {
                fill(buffer)?;
            }
            let chunk: Vec<u8> = buffer.drain(..whole).collect();
            body.push_str(std::str::from_utf8(&chunk[line_end + 2..line_end + 2 + size]).ok()?);
            if size == 0 {
                return Some(body);
            }
        }
    }
    let length = header(head, "content-length").map_or(0, |length| length.trim().parse().unwrap());
    while buffer.len() < length {
        fill(buffer)?;
    }
    String::from_utf8(buffer.drain(..length).collect()).ok()
}

/// The value of the first header `name` in `head`.
pub(crate) fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// The proxy: a thread with one worker's runtime, which serves a listener's connection manager.
#[derive(Debug)]
pub(crate) struct Proxy {
    port: u16,
    /// Its stats.
    pub(crate) stats: Registry,
}

/// A response as the client saw it.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The status; 0 when the connection ended without one.
    pub(crate) status: u16,
    /// The status line and the header lines.
    pub(crate) head: String,
    /// The body; cut where it broke off.
    pub(crate) body: String,
    /// The response came to its end.
    pub(crate) whole: bool,
}

impl Answer {
    /// A header's value.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        header(&self.head, name)
    }
}

impl Proxy {
    /// Starts a proxy whose one virtual host has `routes` (YAML list items, not indented), before `upstream`.
    pub(crate) fn start(upstream: &Upstream, routes: &str) -> Self {
        Self::with(upstream, None, routes, "", "")
    }

    /// The same with more fields of the virtual host, more clusters and a second upstream.
    pub(crate) fn with(
        upstream: &Upstream,
        other: Option<&Upstream>,
        routes: &str,
        host: &str,
        clusters: &str,
    ) -> Self {
        let yaml = bootstrap(routes, host, clusters)
            .replace("UPSTREAM", &upstream.port.to_string())
            .replace("OTHER", &other.map_or(1, |other| other.port).to_string())
            .replace("CLOSED", &closed_port().to_string());
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let stats = Registry::new();
        let registry = stats.clone();
        std::thread::spawn(move || run(&yaml, listener, &registry));
        Self { port, stats }
    }

    /// A GET of `path` and its answer.
    pub(crate) fn get(&self, path: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: a.com\r\n\r\n"))
    }

    /// A GET of `path` with header lines (each with its line end).
    pub(crate) fn get_with(&self, path: &str, headers: &str) -> Answer {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: a.com\r\n{headers}\r\n"))
    }

    /// A POST to `path` with `body`.
    pub(crate) fn post(&self, path: &str, body: &str) -> Answer {
        let len = body.len();
        self.send(&format!("POST {path} HTTP/1.1\r\nhost: a.com\r\ncontent-length: {len}\r\n\r\n{body}"))
    }

    /// Sends these bytes and reads one response.
    pub(crate) fn send(&self, bytes: &str) -> Answer {
        let mut stream = self.connect();
        stream.write_all(bytes.as_bytes()).unwrap();
        answer(&stream)
    }

    /// A connection to the proxy.
    pub(crate) fn connect(&self) -> TcpStream {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream
    }

    /// Waits until the stat `name` is `want`.
    pub(crate) fn expect(&self, name: &str, want: u64) {
        let start = Instant::now();
        while self.stats.value(name).unwrap_or(0) != want {
            let value = self.stats.value(name);
            assert!(start.elapsed() < PATIENCE, "{name} is {value:?}, not {want}");
            std::thread::yield_now();
        }
    }
}

/// Reads one response from `stream`.
pub(crate) fn answer(stream: &TcpStream) -> Answer {
    let mut buffer = Vec::new();
    let Some(head) = read_head(stream, &mut buffer) else {
        return Answer { status: 0, head: String::new(), body: String::new(), whole: false };
    };
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    let kept = buffer.clone();
    match read_body(stream, &head, &mut buffer) {
        Some(body) => Answer { status, head, body, whole: true },
        None => {
            let body = String::from_utf8_lossy(if buffer.is_empty() { &kept } else { &buffer }).into_owned();
            Answer { status, head, body, whole: false }
        }
    }
}

fn closed_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

fn indent(text: &str, by: usize) -> String {
    text.trim_matches('\n').lines().map(|line| format!("{:by$}{line}\n", "")).collect()
}

fn bootstrap(routes: &str, host: &str, clusters: &str) -> String {
    let (routes, host) = (indent(routes, 14), indent(host, 14));
    let clusters = indent(clusters, 2);
    format!(
        r#"
static_resources:
  listeners:
  - name: l
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: in
          internal_address_config: {{cidr_ranges: [{{address_prefix: 127.0.0.0, prefix_len: 8}}]}}
          use_remote_address: true
          upgrade_configs: [{{upgrade_type: websocket}}]
          http_filters:
          - name: r
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
          route_config:
            name: table
            validate_clusters: false
            virtual_hosts:
            - name: v
              domains: ["*"]
{host}
              routes:
{routes}
  clusters:
  - name: up
    load_assignment:
      cluster_name: up
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: UPSTREAM}}}}}}}}]}}]
  - name: dead
    load_assignment:
      cluster_name: dead
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: CLOSED}}}}}}}}]}}]
  - name: empty
    load_assignment: {{cluster_name: empty}}
{clusters}
"#
    )
}

fn run(yaml: &str, listener: TcpListener, registry: &Registry) {
    let descs = Descriptors::load();
    let loaded =
        load::parse(&descs, yaml, "test", "envoy.config.bootstrap.v3.Bootstrap", ParseOptions::default());
    let message: Bootstrap = loaded.expect("the test's YAML is right").typed().unwrap();
    let (bootstrap, _) = convert::bootstrap(&message, &convert::Options::default());
    let bootstrap = bootstrap.unwrap_or_else(|problems| panic!("{problems:#?}"));
    let manager = ClusterManager::new(registry.clone());
    for cluster in &bootstrap.clusters {
        manager.add(cluster.clone()).unwrap();
    }
    let filter = bootstrap.listeners[0].filter_chains[0].filter.clone();
    let model::NetworkFilter::Http(config) = filter else { panic!("no connection manager") };
    let scope = registry.scope("listener.test.");
    let files = LogFiles::default();
    let model::Routes::Inline(routes) = &config.routes else { panic!("inline routes") };
    let routes = RouteSlot::fixed(routes, &manager, registry).expect("routes");
    let shared = HcmShared::build(&config, registry, &files, &scope, routes, &model::Node::default())
        .expect("a connection manager");
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default()).unwrap();
    runtime.block_on(async move {
        let worker = HcmWorker::new(shared, WorkerClusters::new(manager));
        listener.set_nonblocking(true).unwrap();
        let listener = tokio::net::TcpListener::from_std(listener).unwrap();
        let drain = DrainController::new();
        while let Ok((stream, peer)) = listener.accept().await {
            let info = Rc::new(info(peer, stream.local_addr().unwrap()));
            let stream = IoStream::from_tcp(stream);
            let downstream = Downstream {
                stream,
                info,
                drain: drain.watch(),
                buffer_limit: 1 << 20,
                session: None,
                metadata: None,
            };
            tokio::task::spawn_local(worker.clone().handle(downstream));
        }
    });
}

fn info(peer: SocketAddr, local: SocketAddr) -> ConnInfo {
    ConnInfo {
        id: 1,
        remote: Address::Ip(peer),
        direct_remote: Address::Ip(peer),
        local: Address::Ip(local),
        direct_local: Address::Ip(local),
        local_restored: false,
        source: None,
        sni: None,
        tls: None,
        filter_chain: "".into(),
        origin: Default::default(),
        handshake: None,
        reset: Default::default(),
        accepted: Instant::now(),
        termination_details: std::cell::OnceCell::new(),
        transport_failure: std::cell::OnceCell::new(),
    }
}
