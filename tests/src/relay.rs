//! A wire between a client and a server that can be cut: then nothing arrives any more and nobody is told, as when a cable is
//! pulled. It remembers what went over it.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
    task::JoinHandle,
};

use crate::lock;

/// How much of what goes over a wire is remembered, bytes.
const MEMORY: usize = 4 << 20;

/// What went over a wire, both ways, in the order in which it came.
type Seen = Arc<Mutex<Vec<u8>>>;

/// The wire.
#[derive(Debug)]
pub struct Relay {
    port: u16,
    seen: Seen,
    cut: watch::Sender<bool>,
    accepts: JoinHandle<()>,
}

impl Relay {
    /// A wire to a port of this machine.
    ///
    /// # Errors
    /// When there is no port for its near end.
    pub async fn start(to: u16) -> Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let port = listener.local_addr()?.port();
        let (cut, state) = watch::channel(false);
        let seen = Seen::default();
        let sees = Arc::clone(&seen);
        let accepts = tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let to = SocketAddr::from(([127, 0, 0, 1], to));
                tokio::spawn(join(near, to, state.clone(), Arc::clone(&sees)));
            }
        });
        Ok(Self { port, seen, cut, accepts })
    }

    /// What went over it, both ways.
    #[must_use]
    pub fn seen(&self) -> Vec<u8> {
        lock(&self.seen).clone()
    }

    /// Its near end.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Cuts it, or mends it. What was sent meanwhile on connections that are still there arrives then.
    pub fn cut(&self, cut: bool) {
        self.cut.send_replace(cut);
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

async fn join(near: TcpStream, to: SocketAddr, mut cut: watch::Receiver<bool>, seen: Seen) {
    if cut.wait_for(|cut| !cut).await.is_err() {
        return;
    }
    let Ok(far) = TcpStream::connect(to).await else { return };
    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
    tokio::join!(carry(near_in, far_out, cut.clone(), &seen), carry(far_in, near_out, cut, &seen));
}

async fn carry(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut cut: watch::Receiver<bool>,
    seen: &Mutex<Vec<u8>>,
) {
    let mut buffer = vec![0; 16 * 1024];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        if cut.wait_for(|cut| !cut).await.is_err() {
            return;
        }
        let Some(bytes) = buffer.get(..read) else { return };
        {
            let mut seen = lock(seen);
            let room = MEMORY.saturating_sub(seen.len()).min(read);
            seen.extend_from_slice(bytes.get(..room).unwrap_or_default());
        }
        if to.write_all(bytes).await.is_err() {
            return;
        }
    }
    let _ = to.shutdown().await;
}
