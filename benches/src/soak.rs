//! `soak`: minutes of load with connections opening and closing. No request may fail, memory must not grow.

use std::fs;
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};
use bytes::Bytes;
use http::Request;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::certs::Certs;
use crate::cli::SoakArgs;
use crate::config::{Edge, Plan, Shape};
use crate::helpers::block_on;
use crate::process::{Process, free_port};
use crate::proxies::Kind;
use crate::say;
use crate::tools::Tools;
use crate::upstream::{BODY, HelperServer, Nginx};

/// How often memory is read.
const SAMPLE: Duration = Duration::from_secs(5);
/// How long one exchange may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// Growth after warm-up that is too little to tell a leak from a page touched for the first time, kB.
const NOISE: f64 = 512.0;
/// The ways of loading, with the number of clients that do each at a time.
const WAYS: [(Way, usize); 4] = [(Way::KeepAlive, 8), (Way::Close, 4), (Way::Http2, 4), (Way::Tcp, 4)];

/// What one client does, over and over.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// HTTP/1.1: some hundred requests on a connection, then close it.
    KeepAlive,
    /// HTTP/1.1 with `connection: close`: one request on a connection.
    Close,
    /// h2: five requests at a time on a connection, then close it.
    Http2,
    /// TCP: send, half-close, read everything back.
    Tcp,
}

/// What the clients count.
#[derive(Debug, Default)]
struct Counts {
    stop: AtomicBool,
    requests: AtomicU64,
    connections: AtomicU64,
    failed: AtomicU64,
    /// The first few failures, in words.
    failures: Mutex<Vec<String>>,
}

/// The ports of the proxy under test.
#[derive(Debug, Clone, Copy)]
struct Ports {
    http1: u16,
    http2: u16,
    tcp: u16,
}

/// Runs the soak and fails when it did not pass.
pub(crate) fn run(args: &SoakArgs) -> Result<()> {
    let kind = Kind::parse(&args.proxy).ok_or_else(|| anyhow!("no proxy {}", args.proxy))?;
    let tools = Tools::prepare(&args.common, &[kind])?;
    let proxy = tools.proxies.first().ok_or_else(|| anyhow!("no {kind} to soak"))?;
    let dir = tools.work_dir()?;
    let certs = Certs::create(&dir.join("certs"))?;
    let nginx = Nginx::start(&tools.nginx, &tools.load_cpus, &dir.join("nginx"))?;
    let echo = HelperServer::start("echo", &tools.load_cpus, &dir)?;
    let ports = Ports { http1: free_port()?, http2: free_port()?, tcp: free_port()? };
    let edges = vec![
        Edge { listen: ports.http1, upstream: nginx.http1, shape: Shape::ToHttp1 { h2_down: false } },
        Edge { listen: ports.http2, upstream: nginx.http1, shape: Shape::ToHttp1 { h2_down: true } },
        Edge { listen: ports.tcp, upstream: echo.port, shape: Shape::Tcp { bulk: false } },
    ];
    let plan = Plan { admin: free_port()?, edges, extra_clusters: 0, certs: &certs };
    let mut process = proxy.start(&plan, &tools.proxy_cpu, &dir, "soak")?;
    let total = Duration::from_secs_f64((args.minutes * 60.0).max(10.0));
    say!("soaking {kind} ({}) for {:.1} minutes", proxy.version, total.as_secs_f64() / 60.0);

    let counts = Arc::new(Counts::default());
    let clients = {
        let counts = Arc::clone(&counts);
        thread::spawn(move || block_on(drive(ports, counts)))
    };
    let files_before = open_files(&process);
    let samples = watch(&mut process, &counts, total);
    counts.stop.store(true, Ordering::Relaxed);
    clients.join().map_err(|_| anyhow!("the clients panicked"))??;
    let samples = samples?;
    thread::sleep(Duration::from_secs(1));
    let after = process.memory()?;
    say!(
        "after the load: {} kB resident, {} open files (before it: {files_before})",
        after.rss,
        open_files(&process)
    );
    fs::write(
        tools.out.join(format!("soak-{kind}.json")),
        serde_json::to_vec_pretty(&serde_json::json!({
            "proxy": proxy.version, "rss_kb_each_5_s": samples.iter().map(|&(_, rss)| rss).collect::<Vec<_>>(),
            "requests": counts.requests.load(Ordering::Relaxed),
            "connections": counts.connections.load(Ordering::Relaxed),
            "failed": counts.failed.load(Ordering::Relaxed),
        }))?,
    )?;
    judge(&samples, &counts, total, args.max_slope)
}

/// Samples memory until the time is up; a proxy that ends is a failure.
fn watch(process: &mut Process, counts: &Counts, total: Duration) -> Result<Vec<(f64, f64)>> {
    let start = Instant::now();
    let mut samples = Vec::new();
    let mut next = SAMPLE;
    while start.elapsed() < total {
        thread::sleep(next.saturating_sub(start.elapsed()).min(total.saturating_sub(start.elapsed())));
        next += SAMPLE;
        process.check_alive()?;
        let rss = process.memory()?.rss as f64;
        let minutes = start.elapsed().as_secs_f64() / 60.0;
        samples.push((minutes, rss));
        if samples.len() % 6 == 0 {
            say!(
                "{minutes:>6.1} min  {rss:>8.0} kB  {:>11} requests  {:>9} connections  {} failed",
                counts.requests.load(Ordering::Relaxed),
                counts.connections.load(Ordering::Relaxed),
                counts.failed.load(Ordering::Relaxed)
            );
        }
    }
    Ok(samples)
}

/// Prints the summary and decides. The first fifth (a minute at least, half the run at most) is warm-up.
fn judge(samples: &[(f64, f64)], counts: &Counts, total: Duration, max_slope: f64) -> Result<()> {
    let minutes = total.as_secs_f64() / 60.0;
    let warm = (minutes * 0.2).max(1.0).min(minutes * 0.5);
    let steady: Vec<(f64, f64)> = samples.iter().copied().filter(|(at, _)| *at >= warm).collect();
    let values = || steady.iter().map(|&(_, rss)| rss);
    let (Some(&(_, first)), Some(&(_, last))) = (steady.first(), steady.last()) else {
        bail!("too short: no sample after warm-up");
    };
    let slope = slope(&steady);
    let failed = counts.failed.load(Ordering::Relaxed);
    say!(
        "{} requests on {} connections, {failed} failed",
        counts.requests.load(Ordering::Relaxed),
        counts.connections.load(Ordering::Relaxed)
    );
    say!(
        "RSS after {warm:.1} min of warm-up: first {first:.0} kB, min {:.0}, max {:.0}, last {last:.0}; slope {slope:+.1} kB/min (at most {max_slope})",
        values().fold(f64::INFINITY, f64::min),
        values().fold(0.0, f64::max),
    );
    for failure in counts.failures.lock().map(|f| f.clone()).unwrap_or_default() {
        say!("failed: {failure}");
    }
    if failed > 0 {
        bail!("soak failed: {failed} requests failed");
    }
    if slope > max_slope && slope * (minutes - warm) > NOISE {
        bail!("soak failed: memory grows by {slope:.1} kB per minute");
    }
    say!("soak passed");
    Ok(())
}

/// The least-squares slope of y over x.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let (mean_x, mean_y) =
        (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let covariance: f64 = points.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    let variance: f64 = points.iter().map(|(x, _)| (x - mean_x).powi(2)).sum();
    if variance > 0.0 { covariance / variance } else { 0.0 }
}

fn open_files(process: &Process) -> usize {
    fs::read_dir(format!("/proc/{}/fd", process.pid())).map_or(0, Iterator::count)
}

/// Runs all clients until they are told to stop.
async fn drive(ports: Ports, counts: Arc<Counts>) -> Result<()> {
    let mut tasks = tokio::task::JoinSet::new();
    for (way, clients) in WAYS {
        for seed in 0..clients {
            tasks.spawn(client(way, ports, Arc::clone(&counts), seed));
        }
    }
    while let Some(done) = tasks.join_next().await {
        done?;
    }
    Ok(())
}

/// One client: one connection after the other.
async fn client(way: Way, ports: Ports, counts: Arc<Counts>, seed: usize) {
    let mut turn = seed;
    while !counts.stop.load(Ordering::Relaxed) {
        turn += 1;
        let result = match way {
            Way::KeepAlive => keep_alive(ports.http1, 100 + turn % 5 * 100, &counts).await,
            Way::Close => close(ports.http1, &counts).await,
            Way::Http2 => http2(ports.http2, 20 + turn % 5 * 20, &counts).await,
            Way::Tcp => tcp(ports.tcp, 1 + turn % 16 * 5_000, &counts).await,
        };
        counts.connections.fetch_add(1, Ordering::Relaxed);
        if let Err(error) = result {
            counts.failed.fetch_add(1, Ordering::Relaxed);
            if let Ok(mut failures) = counts.failures.lock()
                && failures.len() < 10
            {
                failures.push(format!("{way:?}: {error:#}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // Connections that are closed at once would exhaust the ports of the machine if nothing slowed them.
        if matches!(way, Way::Close | Way::Tcp) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

async fn connect(port: u16) -> Result<TcpStream> {
    let socket = within(TcpStream::connect((Ipv4Addr::LOCALHOST, port))).await.context("connect")?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// A future of I/O, with a deadline.
async fn within<T, E>(work: impl Future<Output = Result<T, E>>) -> Result<T>
where
    anyhow::Error: From<E>,
{
    Ok(tokio::time::timeout(DEADLINE, work).await.context("no answer in time")??)
}

async fn keep_alive(port: u16, requests: usize, counts: &Counts) -> Result<()> {
    let mut socket = connect(port).await?;
    let post =
        format!("POST /soak HTTP/1.1\r\nhost: soak\r\ncontent-length: 4096\r\n\r\n{}", "x".repeat(4096));
    for index in 0..requests {
        if counts.stop.load(Ordering::Relaxed) {
            break;
        }
        let request = if index % 8 == 7 { post.as_str() } else { "GET /soak HTTP/1.1\r\nhost: soak\r\n\r\n" };
        within(http1_exchange(&mut socket, request)).await?;
        counts.requests.fetch_add(1, Ordering::Relaxed);
    }
    Ok(())
}

async fn close(port: u16, counts: &Counts) -> Result<()> {
    let mut socket = connect(port).await?;
    within(http1_exchange(&mut socket, "GET /soak HTTP/1.1\r\nhost: soak\r\nconnection: close\r\n\r\n"))
        .await?;
    let rest = within(socket.read(&mut [0; 16])).await.context("after the last response")?;
    if rest != 0 {
        bail!("bytes after the last response");
    }
    counts.requests.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

/// Sends a request and reads a 200 with the upstream's body.
async fn http1_exchange(socket: &mut TcpStream, request: &str) -> Result<()> {
    socket.write_all(request.as_bytes()).await?;
    let mut seen = Vec::with_capacity(512);
    while !seen.ends_with(BODY.as_bytes()) {
        if socket.read_buf(&mut seen).await? == 0 {
            bail!("closed after {} bytes of response", seen.len());
        }
        if !seen.starts_with(b"HTTP/1.1 200".get(..seen.len().min(12)).unwrap_or_default()) {
            bail!("answered {}", String::from_utf8_lossy(&seen));
        }
    }
    Ok(())
}

async fn http2(port: u16, rounds: usize, counts: &Counts) -> Result<()> {
    let socket = connect(port).await?;
    let (mut client, connection) = within(h2::client::handshake(socket)).await?;
    let driver = tokio::spawn(connection);
    for round in 0..rounds {
        if counts.stop.load(Ordering::Relaxed) {
            break;
        }
        let mut answers = Vec::new();
        for _ in 0..5 {
            client = within(client.ready()).await?;
            let post = round % 8 == 7;
            let method = if post { "POST" } else { "GET" };
            let request =
                Request::builder().method(method).uri(format!("http://127.0.0.1:{port}/soak")).body(())?;
            let (answer, mut send) = client.send_request(request, !post)?;
            if post {
                send.send_data(Bytes::from(vec![b'x'; 4096]), true)?;
            }
            answers.push(answer);
        }
        for answer in answers {
            within(http2_answer(answer)).await?;
            counts.requests.fetch_add(1, Ordering::Relaxed);
        }
    }
    drop(client);
    // The connection ends when its last handle is dropped; how it ends is no request's failure.
    let _ = within(driver).await?;
    Ok(())
}

async fn http2_answer(answer: h2::client::ResponseFuture) -> Result<()> {
    let answer = answer.await?;
    let status = answer.status();
    let mut stream = answer.into_body();
    let mut seen = 0;
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        stream.flow_control().release_capacity(chunk.len())?;
        seen += chunk.len();
    }
    if status != 200 || seen != BODY.len() {
        bail!("answered {status} with {seen} bytes");
    }
    Ok(())
}

async fn tcp(port: u16, size: usize, counts: &Counts) -> Result<()> {
    let mut socket = connect(port).await?;
    let message: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
    let (mut read, mut write) = socket.split();
    let send = async {
        write.write_all(&message).await?;
        write.shutdown().await
    };
    let receive = async {
        let mut seen = Vec::with_capacity(size);
        read.read_to_end(&mut seen).await.map(|_| seen)
    };
    let (_, seen) = within(async { tokio::try_join!(send, receive) }).await?;
    if seen != message {
        bail!("sent {size} bytes, {} came back, or others", seen.len());
    }
    counts.requests.fetch_add(1, Ordering::Relaxed);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slopes() {
        assert!((slope(&[(0.0, 10.0), (1.0, 12.0), (2.0, 14.0)]) - 2.0).abs() < 1e-9);
        assert!(slope(&[(0.0, 5.0), (1.0, 5.0)]).abs() < 1e-9);
        assert!(slope(&[(1.0, 5.0)]).abs() < 1e-9);
    }

    #[test]
    fn growing_memory_and_failures_do_not_pass() {
        let total = Duration::from_secs(600);
        let flat: Vec<(f64, f64)> = (1..=120).map(|i| (f64::from(i) / 12.0, 9_000.0)).collect();
        let growing: Vec<(f64, f64)> = flat.iter().map(|&(at, rss)| (at, rss + at * 500.0)).collect();
        let counts = Counts::default();
        assert!(judge(&flat, &counts, total, 100.0).is_ok());
        assert!(judge(&growing, &counts, total, 100.0).is_err());
        counts.failed.store(1, Ordering::Relaxed);
        assert!(judge(&flat, &counts, total, 100.0).is_err());
    }
}
