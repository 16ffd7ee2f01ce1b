//! The load generators: how each is run, and what its output says.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use serde::Deserialize;

use crate::certs::Certs;
use crate::process::{Process, Spawn, tail};
use crate::tools::Tools;
use crate::upstream::spawn_helper;

/// What a load generator did and saw.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Load {
    /// Requests answered (round trips for TCP).
    pub(crate) requests: u64,
    /// Bytes received, where that is the point.
    pub(crate) bytes: u64,
    /// Requests that failed or were answered with anything but success.
    pub(crate) errors: u64,
    /// How long it ran, in seconds.
    pub(crate) seconds: f64,
    /// Median latency, in microseconds.
    pub(crate) p50_us: f64,
    /// 99th percentile of latency, in microseconds.
    pub(crate) p99_us: f64,
}

/// What HTTP/1.1 clients ask for, and who they are.
#[derive(Debug, Clone)]
pub(crate) struct Ask {
    /// The path.
    pub(crate) path: String,
    /// Header lines beside `host`: `name: value`.
    pub(crate) headers: Vec<String>,
    /// Who asks; in clear where nobody does.
    pub(crate) papers: Option<Papers>,
}

impl Default for Ask {
    fn default() -> Self {
        Self { path: "/".to_owned(), headers: Vec::new(), papers: None }
    }
}

/// Who a TLS client is, and whom it trusts.
#[derive(Debug, Clone)]
pub(crate) struct Papers {
    /// The directory of [`Certs`].
    pub(crate) dir: PathBuf,
    /// The leaf that is shown, e.g. `client`; none where there is none.
    pub(crate) leaf: Option<String>,
}

impl Papers {
    /// One of the leaves, or none.
    pub(crate) fn new(certs: &Certs, leaf: Option<&str>) -> Self {
        Self { dir: certs.dir().to_owned(), leaf: leaf.map(str::to_owned) }
    }
}

/// One kind of load on one port.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Driver {
    /// wrk: HTTP/1.1 keep-alive over 32 connections.
    Wrk,
    /// h2load: h2 with prior knowledge, 8 connections of 10 streams, GET.
    H2load,
    /// h2load with a gRPC-framed POST body.
    GrpcH2load,
    /// 64-byte round trips over 32 TCP connections.
    Ping,
    /// Reading as fast as possible from 4 TCP connections.
    Pull,
    /// HTTP/1.1 over mutual TLS, 32 connections at a time.
    Tls {
        /// A connection is for all requests; else for one, after a full handshake.
        keep: bool,
    },
}

/// Connections of wrk and of the TCP round trips.
pub(crate) const CONNECTIONS: u32 = 32;

impl Driver {
    /// Runs the load for some seconds against a loopback port. `ask` is for wrk and the TLS client: the others know.
    pub(crate) fn run(self, tools: &Tools, port: u16, seconds: u64, dir: &Path, ask: &Ask) -> Result<Load> {
        let load = match self {
            Driver::Wrk => wrk(tools, port, seconds, dir, ask)?,
            Driver::H2load => h2load(tools, port, seconds, dir, &[])?,
            Driver::GrpcH2load => {
                let body = dir.join("grpc-request.bin");
                fs::write(&body, grpc_frame(&[7; 32]))?;
                let body = body.display().to_string();
                h2load(
                    tools,
                    port,
                    seconds,
                    dir,
                    &["-d", &body, "-H", "content-type: application/grpc", "-H", "te: trailers"],
                )?
            }
            Driver::Ping => helper("ping", tools, port, seconds, dir, CONNECTIONS, &[])?,
            Driver::Pull => helper("pull", tools, port, seconds, dir, 4, &[])?,
            Driver::Tls { keep } => {
                let Some(Papers { dir: certs, leaf: Some(leaf) }) = &ask.papers else {
                    bail!("no certificate for the TLS client");
                };
                let certs = certs.display().to_string();
                let mut extra = vec!["--certs", &certs, "--leaf", leaf, "--path", &ask.path];
                if keep {
                    extra.push("--keep");
                }
                helper("tls", tools, port, seconds, dir, CONNECTIONS, &extra)?
            }
        };
        if load.requests == 0 && load.bytes == 0 {
            bail!("the load generator got no answer");
        }
        Ok(load)
    }
}

/// A message in gRPC's framing: not compressed, four bytes of length.
pub(crate) fn grpc_frame(message: &[u8]) -> Vec<u8> {
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    let mut frame = vec![0];
    frame.extend_from_slice(&length.to_be_bytes());
    frame.extend_from_slice(message);
    frame
}

fn wrk(tools: &Tools, port: u16, seconds: u64, dir: &Path, ask: &Ask) -> Result<Load> {
    let mut args =
        vec!["-t1".to_owned(), format!("-c{CONNECTIONS}"), format!("-d{seconds}s"), "--latency".to_owned()];
    args.extend(ask.headers.iter().flat_map(|line| ["-H".to_owned(), line.clone()]));
    args.push(format!("http://127.0.0.1:{port}{}", ask.path));
    let text = run("wrk", &tools.wrk, args, tools, seconds, dir)?;
    parse_wrk(&text).ok_or_else(|| anyhow!("cannot read wrk's output:\n{text}"))
}

fn h2load(tools: &Tools, port: u16, seconds: u64, dir: &Path, extra: &[&str]) -> Result<Load> {
    let log = dir.join("h2load-requests.log");
    let _ = fs::remove_file(&log);
    let mut args = vec![
        "-t1".to_owned(),
        "-c8".to_owned(),
        "-m10".to_owned(),
        format!("-D{seconds}"),
        format!("--log-file={}", log.display()),
    ];
    args.extend(extra.iter().map(|&a| a.to_owned()));
    args.push(format!("http://127.0.0.1:{port}/bench.Echo/Unary"));
    let text = run("h2load", &tools.h2load, args, tools, seconds, dir)?;
    let mut load = parse_h2load(&text).ok_or_else(|| anyhow!("cannot read h2load's output:\n{text}"))?;
    let requests = fs::read_to_string(&log).context("read h2load's log")?;
    (load.p50_us, load.p99_us) = percentiles(requests.lines().filter_map(|line| {
        // Start, status, microseconds to the end of the response.
        line.split('\t').nth(2)?.trim().parse().ok()
    }));
    Ok(load)
}

#[derive(Deserialize)]
struct HelperReport {
    requests: u64,
    bytes: u64,
    errors: u64,
    seconds: f64,
    p50_us: f64,
    p99_us: f64,
}

fn helper(
    name: &str,
    tools: &Tools,
    port: u16,
    seconds: u64,
    dir: &Path,
    connections: u32,
    extra: &[&str],
) -> Result<Load> {
    let (port, length, count) = (port.to_string(), seconds.to_string(), connections.to_string());
    let mut args: Vec<&str> = vec!["--port", &port, "--seconds", &length, "--connections", &count];
    args.extend_from_slice(extra);
    let process = spawn_helper(name, &args, &tools.load_cpus, dir, true)?;
    let (status, text) = process.finish(Duration::from_secs(seconds + 20))?;
    if !status.success() {
        bail!("helper {name} failed: {}", tail(&dir.join(format!("helper-{name}.log"))));
    }
    let HelperReport { requests, bytes, errors, seconds, p50_us, p99_us } =
        serde_json::from_str(&text).with_context(|| format!("output of helper {name}: {text}"))?;
    Ok(Load { requests, bytes, errors, seconds, p50_us, p99_us })
}

/// Runs a generator to its end and returns what it printed.
fn run(
    name: &str,
    program: &Path,
    args: Vec<String>,
    tools: &Tools,
    seconds: u64,
    dir: &Path,
) -> Result<String> {
    let log = dir.join(format!("{name}.log"));
    let process =
        Process::spawn(Spawn { name, program, args, cpus: &tools.load_cpus, log: log.clone(), piped: true })?;
    let (status, text) = process.finish(Duration::from_secs(seconds + 30))?;
    if !status.success() {
        bail!("{name} failed ({status}): {text}{}", tail(&log));
    }
    Ok(text)
}

/// The 50th and the 99th percentile; zeros when there is nothing.
pub(crate) fn percentiles(values: impl Iterator<Item = u32>) -> (f64, f64) {
    let mut values: Vec<u32> = values.collect();
    values.sort_unstable();
    let at = |share: usize| {
        let index = (values.len() * share / 100).min(values.len().saturating_sub(1));
        values.get(index).copied().map_or(0.0, f64::from)
    };
    (at(50), at(99))
}

fn parse_wrk(text: &str) -> Option<Load> {
    let line = |needle: &str| text.lines().map(str::trim).find(|l| l.contains(needle));
    let mut words = line(" requests in ")?.split_whitespace();
    let requests = words.next()?.parse().ok()?;
    let seconds = micros(words.nth(2)?.trim_end_matches(','))? / 1e6;
    let percentile = |share: &str| {
        let line = text.lines().map(str::trim).find(|l| l.starts_with(share))?;
        micros(line.split_whitespace().nth(1)?)
    };
    let number_after = |l: &str, word: &str| -> Option<u64> {
        l.split_once(word)?.1.trim_start_matches([':', ' ']).split([',', ' ']).next()?.parse().ok()
    };
    let not_ok = line("Non-2xx or 3xx").and_then(|l| number_after(l, "responses")).unwrap_or(0);
    let socket: u64 = line("Socket errors").map_or(0, |l| {
        ["connect", "read", "write", "timeout"].iter().filter_map(|word| number_after(l, word)).sum()
    });
    Some(Load {
        requests,
        bytes: 0,
        errors: not_ok + socket,
        seconds,
        p50_us: percentile("50%")?,
        p99_us: percentile("99%")?,
    })
}

fn parse_h2load(text: &str) -> Option<Load> {
    let line = |start: &str| text.lines().find_map(|l| l.strip_prefix(start));
    let seconds = micros(line("finished in ")?.split(',').next()?.trim())? / 1e6;
    let count = |l: &str, word: &str| -> Option<u64> {
        let part = l.split(',').find(|part| part.trim().ends_with(word))?;
        part.split_whitespace().next()?.parse().ok()
    };
    let requests = line("requests: ")?;
    let codes = line("status codes: ")?;
    let bad: u64 = ["3xx", "4xx", "5xx"].iter().filter_map(|code| count(codes, code)).sum();
    let lost: u64 =
        ["failed", "errored", "timeout"].iter().filter_map(|word| count(requests, word)).max().unwrap_or(0);
    Some(Load { requests: count(requests, "succeeded")?, errors: bad.max(lost), seconds, ..Load::default() })
}

/// A duration as wrk and h2load print it (`614.00us`, `1.40ms`, `3.10s`, `1.00m`), in microseconds.
fn micros(text: &str) -> Option<f64> {
    let split = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        "m" => 60e6,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRK: &str = "Running 3s test @ http://127.0.0.1:9201/
  1 threads and 32 connections
  Thread Stats   Avg      Stdev     Max   +/- Stdev
    Latency   677.57us  312.47us   8.21ms   95.79%
  Latency Distribution
     50%  614.00us
     99%    1.40ms
  139152 requests in 3.10s, 24.95MB read
  Socket errors: connect 0, read 3, write 0, timeout 1
  Non-2xx or 3xx responses: 12
Requests/sec:  44890.88";

    #[test]
    fn wrk_is_read() {
        let load = parse_wrk(WRK).unwrap();
        assert_eq!((load.requests, load.errors), (139_152, 16));
        assert!((load.seconds - 3.1).abs() < 1e-9);
        assert!((load.p50_us - 614.0).abs() < 1e-9 && (load.p99_us - 1400.0).abs() < 1e-9);
    }

    #[test]
    fn h2load_is_read() {
        let text = "finished in 3.00s, 42916.67 req/s, 5.89MB/s
requests: 128750 total, 128830 started, 128750 done, 128740 succeeded, 10 failed, 4 errored, 0 timeout
status codes: 128740 2xx, 0 3xx, 0 4xx, 6 5xx";
        let load = parse_h2load(text).unwrap();
        assert_eq!((load.requests, load.errors), (128_740, 10));
        assert!((load.seconds - 3.0).abs() < 1e-9);
        assert_eq!(parse_h2load("unable to connect"), None);
    }

    #[test]
    fn percentiles_of_a_hundred_values() {
        assert_eq!(percentiles(0..100), (50.0, 99.0));
        assert_eq!(percentiles(std::iter::empty()), (0.0, 0.0));
    }

    #[test]
    fn a_grpc_frame_has_flag_and_length() {
        assert_eq!(grpc_frame(b"ab"), [0, 0, 0, 0, 2, b'a', b'b']);
    }
}
