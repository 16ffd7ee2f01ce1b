//! The client of handshakes. It prints one JSON object when it is done.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::task::JoinSet;

use super::TlsClient;
use crate::drivers::{Ask, Papers, percentiles};
use crate::say;
use crate::tls::{Asker, close};

/// How long one request may take, with its handshake.
const DEADLINE: Duration = Duration::from_secs(10);

/// Asks until time is up; the first failure ends it.
pub(super) async fn run(args: TlsClient) -> Result<()> {
    let TlsClient { client, certs, leaf, path, keep } = args;
    let papers = Papers { dir: certs, leaf: Some(leaf) };
    let ask = Ask { path, papers: Some(papers), ..Ask::default() };
    let asker = Arc::new(Asker::new(client.port, &ask)?);
    let start = Instant::now();
    let end = start + Duration::from_secs(client.seconds);
    let mut tasks = JoinSet::new();
    for number in 0..client.connections {
        tasks.spawn(asks(Arc::clone(&asker), source(number), keep, end));
    }
    let mut latencies = Vec::new();
    while let Some(done) = tasks.join_next().await {
        latencies.extend(done??);
    }
    let requests = latencies.len();
    let (p50, p99) = percentiles(latencies.into_iter());
    say!(
        "{}",
        json!({"requests": requests, "bytes": 0, "errors": 0, "seconds": start.elapsed().as_secs_f64(),
               "p50_us": p50, "p99_us": p99})
    );
    Ok(())
}

/// An address for each client: those that have closed a connection hold its port for a minute, and of one address
/// there are not enough ports for that.
fn source(number: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(Ipv4Addr::LOCALHOST.to_bits() + 1 + number)
}

/// The latencies of one client: from before the handshake, if there is one, to the end of the answer.
async fn asks(asker: Arc<Asker>, source: Ipv4Addr, keep: bool, end: Instant) -> Result<Vec<u32>> {
    let mut latencies = Vec::new();
    let mut kept = None;
    let mut now = Instant::now();
    while now < end {
        let exchange = async {
            let mut stream = match kept.take() {
                Some(stream) => stream,
                None => asker.connect(source).await?,
            };
            asker.request(&mut stream).await?;
            anyhow::Ok(stream)
        };
        let stream = tokio::time::timeout(DEADLINE, exchange).await.context("no answer in time")??;
        latencies.push(u32::try_from(now.elapsed().as_micros()).unwrap_or(u32::MAX));
        if keep {
            kept = Some(stream);
        } else {
            tokio::time::timeout(DEADLINE, close(stream)).await.context("not closed in time")?;
        }
        now = Instant::now();
    }
    Ok(latencies)
}
