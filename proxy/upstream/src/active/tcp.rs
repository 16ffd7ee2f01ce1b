//! Asking by TCP.

use outrider_config::model::TcpProbe;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::probe::{Kept, Search, keep, open};
use super::{Checks, Finding};
use crate::cluster::ClusterShared;
use crate::host::Host;

/// So much of an answer is looked at, bytes: a host cannot make us hold more.
const MOST: usize = 64 * 1024;

pub(super) async fn ask(
    cluster: &ClusterShared,
    checks: &Checks,
    probe: &TcpProbe,
    host: &Host,
    kept: &mut Kept,
) -> Finding {
    let mut io = match std::mem::take(kept) {
        Kept::Tcp(io) => io,
        _ => match open(cluster, host).await {
            Some(io) => io,
            None => return Finding::Broken,
        },
    };
    if probe.receive.is_empty() {
        // That there is a connection is all that was asked.
        return Finding::Well { degraded: false };
    }
    if !probe.send.is_empty() && (io.write_all(&probe.send).await.is_err() || io.flush().await.is_err()) {
        return Finding::Broken;
    }
    let (mut answer, mut search) = (Vec::new(), Search::new(&probe.receive));
    while !search.go_on(&answer) {
        if answer.len() >= MOST {
            return Finding::Broken;
        }
        match io.read_buf(&mut answer).await {
            Ok(0) | Err(_) => return Finding::Broken,
            Ok(_) => {}
        }
    }
    keep(&checks.config, kept, || Kept::Tcp(io));
    Finding::Well { degraded: false }
}

/// Waits until a connection that is kept ends.
pub(super) async fn ended(kept: &mut Kept) {
    let Kept::Tcp(io) = kept else { return std::future::pending().await };
    let mut bytes = [0; 256];
    while matches!(io.read(&mut bytes).await, Ok(1..)) {}
}
