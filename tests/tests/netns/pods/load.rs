//! Clients that ask over and over, on connections that they keep.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Result, ensure};
use outrider_tests::client::Conn;
use outrider_tests::wait;
use tokio::task::JoinSet;

use super::net::{Net, Pod};

/// Some clients of one pod.
pub(crate) struct Load {
    clients: JoinSet<()>,
    tally: Arc<Tally>,
}

#[derive(Default)]
struct Tally {
    done: AtomicU64,
    over: AtomicBool,
    troubles: Mutex<Vec<String>>,
}

impl Tally {
    fn trouble(&self, what: String) {
        self.troubles.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }
}

impl Load {
    /// This many begin to ask the service `shop` at `to`, from the first pod.
    pub(crate) fn start(net: &Arc<Net>, to: SocketAddr, clients: usize) -> Self {
        let tally = Arc::new(Tally::default());
        let mut all = JoinSet::new();
        for _ in 0..clients {
            let (net, tally) = (Arc::clone(net), Arc::clone(&tally));
            all.spawn(async move {
                let mut conn = None;
                let Some(from) = net.pods.first() else { return };
                while !tally.over.load(Relaxed) {
                    match ask(from, to, &mut conn).await {
                        Ok(()) => _ = tally.done.fetch_add(1, Relaxed),
                        Err(error) => {
                            conn = None;
                            tally.trouble(format!("{error:#}"));
                        }
                    }
                }
            });
        }
        Self { clients: all, tally }
    }

    /// So many more requests than now are answered.
    pub(crate) async fn more(&self, requests: u64) -> Result<()> {
        let wanted = self.tally.done.load(Relaxed) + requests;
        wait::until("answers", wait::LIMIT, async || {
            Ok((self.tally.done.load(Relaxed) >= wanted).then_some(()))
        })
        .await
    }

    /// Ends them: not one has been in trouble.
    pub(crate) async fn end(mut self) -> Result<()> {
        self.tally.over.store(true, Relaxed);
        while self.clients.join_next().await.is_some() {}
        let done = self.tally.done.load(Relaxed);
        let troubles = self.tally.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        ensure!(troubles.is_empty(), "{} of {done} requests failed: {troubles:#?}", troubles.len());
        Ok(())
    }
}

async fn ask(from: &Pod, to: SocketAddr, kept: &mut Option<Conn>) -> Result<()> {
    let mut conn = match kept.take() {
        Some(conn) => conn,
        None => Conn::over(from.connect(to).await?)?,
    };
    conn.send("GET / HTTP/1.1\r\nhost: shop\r\n\r\n").await?;
    let answer = conn.response("GET").await?;
    ensure!(answer.status == 200, "{answer:?}");
    if answer.header("connection") != Some("close") {
        *kept = Some(conn);
    }
    Ok(())
}
