//! The bundled clients. Each prints one JSON object when it is done.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream as StdTcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::Client;
use crate::drivers::percentiles;
use crate::say;

/// Bytes of one round trip.
const MESSAGE: usize = 64;

/// Round trips on every connection until time is up.
pub(super) async fn ping(client: Client) -> Result<()> {
    let start = Instant::now();
    let end = start + Duration::from_secs(client.seconds);
    let mut tasks = JoinSet::new();
    for _ in 0..client.connections {
        tasks.spawn(ping_connection(client.port, end));
    }
    let (mut latencies, mut errors) = (Vec::new(), 0_u64);
    while let Some(done) = tasks.join_next().await {
        match done? {
            (seen, Ok(())) => latencies.extend(seen),
            (seen, Err(_)) => {
                latencies.extend(seen);
                errors += 1;
            }
        }
    }
    let requests = latencies.len();
    let (p50, p99) = percentiles(latencies.into_iter());
    say!(
        "{}",
        json!({"requests": requests, "bytes": 0, "errors": errors, "seconds": start.elapsed().as_secs_f64(),
               "p50_us": p50, "p99_us": p99})
    );
    Ok(())
}

/// The latencies seen, and how the connection ended.
async fn ping_connection(port: u16, end: Instant) -> (Vec<u32>, Result<()>) {
    let mut latencies = Vec::new();
    let result = async {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        socket.set_nodelay(true)?;
        let message = [0x5a; MESSAGE];
        let mut answer = [0; MESSAGE];
        let mut now = Instant::now();
        while now < end {
            socket.write_all(&message).await?;
            socket.read_exact(&mut answer).await?;
            if answer != message {
                bail!("the echo differs from what was sent");
            }
            let then = Instant::now();
            latencies.push(u32::try_from((then - now).as_micros()).unwrap_or(u32::MAX));
            now = then;
        }
        Ok(())
    }
    .await;
    (latencies, result)
}

/// Reads from every connection until time is up.
pub(super) async fn pull(client: Client) -> Result<()> {
    let start = Instant::now();
    let end = start + Duration::from_secs(client.seconds);
    let mut tasks = JoinSet::new();
    for _ in 0..client.connections {
        tasks.spawn(pull_connection(client.port, end));
    }
    let (mut bytes, mut errors) = (0_u64, 0_u64);
    while let Some(done) = tasks.join_next().await {
        match done? {
            Ok(read) => bytes += read,
            Err(_) => errors += 1,
        }
    }
    say!(
        "{}",
        json!({"requests": 0, "bytes": bytes, "errors": errors, "seconds": start.elapsed().as_secs_f64(),
               "p50_us": 0.0, "p99_us": 0.0})
    );
    Ok(())
}

async fn pull_connection(port: u16, end: Instant) -> Result<u64> {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    let mut buffer = vec![0; 256 * 1024];
    let mut total = 0_u64;
    while Instant::now() < end {
        let read = socket.read(&mut buffer).await?;
        if read == 0 {
            bail!("the stream ended early");
        }
        total += u64::try_from(read)?;
    }
    Ok(total)
}

/// Opens connections one after the other, does one request on each, says `ready` and waits for the end of stdin.
pub(super) fn idle(client: Client) -> Result<()> {
    let mut held = Vec::new();
    for index in 0..client.connections {
        let socket = idle_connection(client.port).with_context(|| format!("connection {index}"))?;
        held.push(socket);
    }
    say!("ready");
    let mut rest = Vec::new();
    std::io::stdin().read_to_end(&mut rest)?;
    // A connection that the proxy closed meanwhile was not idle: reading tells.
    for socket in &mut held {
        socket.set_nonblocking(true)?;
        match socket.read(&mut [0; 1]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => bail!("an idle connection was closed"),
        }
    }
    Ok(())
}

fn idle_connection(port: u16) -> Result<StdTcpStream> {
    let mut socket = StdTcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(Duration::from_secs(10)))?;
    socket.write_all(b"GET / HTTP/1.1\r\nhost: bench\r\n\r\n")?;
    let mut seen = Vec::new();
    let mut buffer = [0; 1024];
    while !seen.ends_with(crate::upstream::BODY.as_bytes()) {
        let read = socket.read(&mut buffer)?;
        let Some(data) = buffer.get(..read).filter(|data| !data.is_empty()) else { bail!("closed early") };
        seen.extend_from_slice(data);
    }
    if !seen.starts_with(b"HTTP/1.1 200") {
        bail!("not a 200");
    }
    Ok(socket)
}
