//! An upstream on every loopback address at once: it answers each request with one word and counts connections.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The upstream.
#[derive(Debug)]
pub(super) struct Hosts {
    /// Its port, on 127.0.0.0/8.
    pub(super) port: u16,
    accepted: Arc<Mutex<HashMap<IpAddr, u64>>>,
    accepts: JoinHandle<()>,
}

impl Hosts {
    /// Starts it with its word.
    pub(super) async fn start(word: &str) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)).await?;
        let port = listener.local_addr()?.port();
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{word}", word.len());
        let answer: Arc<[u8]> = answer.into_bytes().into();
        let accepted = Arc::<Mutex<HashMap<IpAddr, u64>>>::default();
        let counts = accepted.clone();
        let accepts = tokio::spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                if let Ok(local) = socket.local_addr() {
                    *counts.lock().unwrap_or_else(PoisonError::into_inner).entry(local.ip()).or_default() +=
                        1;
                }
                // A connection that breaks is the proxy's to report.
                tokio::spawn(serve(socket, answer.clone()));
            }
        });
        Ok(Self { port, accepted, accepts })
    }

    /// Connections accepted so far, by address.
    pub(super) fn accepted(&self) -> HashMap<IpAddr, u64> {
        self.accepted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

async fn serve(mut socket: TcpStream, answer: Arc<[u8]>) -> Result<()> {
    socket.set_nodelay(true)?;
    let mut read = Vec::new();
    while socket.read_buf(&mut read).await? > 0 {
        while let Some(end) = read.windows(4).position(|end| end == b"\r\n\r\n") {
            read.drain(..end + 4);
            socket.write_all(&answer).await?;
        }
    }
    Ok(())
}
