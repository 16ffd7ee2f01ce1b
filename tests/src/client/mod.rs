//! Clients.
//!
//! A [`Conn`] is a connection that sends the bytes it is told to; [`http1`] and [`http2`] put requests on one.

pub mod frames;
pub mod http1;
pub mod http2;
mod tls;

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
};

pub use self::tls::{TlsFacts, TlsOptions};
use crate::{h1::Reader, io::Io, wait};

/// How long a client waits for an answer.
pub const LIMIT: Duration = Duration::from_secs(8);

/// A response, whichever protocol brought it.
#[derive(Clone, Debug, Default)]
pub struct Response {
    /// Status code; 0 when none came.
    pub status: u16,
    /// The whole status line (h1) or the version (h2).
    pub start: String,
    /// Header fields as they came.
    pub headers: Vec<(String, String)>,
    /// The body, without its transfer coding.
    pub body: Vec<u8>,
    /// Trailers.
    pub trailers: Vec<(String, String)>,
    /// Status lines of the informational responses before.
    pub interim: Vec<String>,
    /// `complete`, or what broke it.
    pub end: String,
    /// How the body was framed.
    pub framing: &'static str,
    /// What came back through the tunnel, after an upgrade.
    pub tunnel: Option<Vec<u8>>,
    /// Whether the server closed the connection after it.
    pub closed: Option<bool>,
}

impl Response {
    /// The first value of a header, whatever the case of its name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A connection to a proxy.
#[derive(Debug)]
pub struct Conn {
    /// Reads, with what was read ahead.
    pub reader: Reader<Io>,
    local: SocketAddr,
    /// What the TLS handshake told, on TLS.
    pub tls: Option<TlsFacts>,
}

impl Conn {
    /// Connects to a port of this machine.
    ///
    /// # Errors
    /// When nobody listens.
    pub async fn plain(port: u16) -> Result<Self> {
        Self::with_prefix(port, b"", None).await
    }

    /// Connects from an address of this machine.
    ///
    /// # Errors
    /// When nobody listens, or the address is none of this machine's.
    pub async fn from(source: Ipv4Addr, port: u16) -> Result<Self> {
        let socket = TcpSocket::new_v4()?;
        socket.bind((source, 0).into())?;
        let tcp = socket.connect((Ipv4Addr::LOCALHOST, port).into()).await;
        let tcp = tcp.with_context(|| format!("connecting to port {port} from {source}"))?;
        let local = tcp.local_addr()?;
        Ok(Self { reader: Reader::new(Io::Plain(tcp)), local, tls: None })
    }

    /// Connects, sends `prefix` bare (a PROXY header, say), then shakes hands if TLS is asked for.
    ///
    /// # Errors
    /// When nobody listens, or the handshake fails.
    pub async fn with_prefix(port: u16, prefix: &[u8], tls: Option<&TlsOptions>) -> Result<Self> {
        Self::open((Ipv4Addr::LOCALHOST, port).into(), prefix, tls).await
    }

    /// Connects to any address, and shakes hands if TLS is asked for.
    ///
    /// # Errors
    /// As [`Conn::with_prefix`].
    pub async fn at(address: SocketAddr, tls: Option<&TlsOptions>) -> Result<Self> {
        Self::open(address, b"", tls).await
    }

    /// On a connection that somebody made.
    ///
    /// # Errors
    /// When it is broken already.
    pub fn over(tcp: TcpStream) -> Result<Self> {
        let local = tcp.local_addr()?;
        Ok(Self { reader: Reader::new(Io::Plain(tcp)), local, tls: None })
    }

    async fn open(address: SocketAddr, prefix: &[u8], tls: Option<&TlsOptions>) -> Result<Self> {
        let tcp = wait::within("a connection", LIMIT, async { Ok(TcpStream::connect(address).await?) }).await;
        let mut tcp = tcp.with_context(|| format!("connecting to {address}"))?;
        tcp.set_nodelay(true)?;
        let local = tcp.local_addr()?;
        tcp.write_all(prefix).await?;
        let (io, tls) = match tls {
            None => (Io::Plain(tcp), None),
            Some(options) => {
                let (stream, facts) = wait::within("a TLS handshake", LIMIT, options.connect(tcp)).await?;
                (Io::Tls(Box::new(stream)), Some(facts))
            }
        };
        Ok(Self { reader: Reader::new(io), local, tls })
    }

    /// Our own port, by which a log line of the proxy can be found.
    #[must_use]
    pub const fn local_port(&self) -> u16 {
        self.local.port()
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]> + Send) -> Result<()> {
        self.reader.io.write_all(bytes.as_ref()).await?;
        Ok(self.reader.io.flush().await?)
    }

    /// Ends our direction.
    ///
    /// # Errors
    /// When the connection is gone.
    pub async fn finish(&mut self) -> Result<()> {
        Ok(self.reader.io.shutdown().await?)
    }

    /// Reads until `enough` says so of all that came, or the peer ends.
    ///
    /// # Errors
    /// When neither happens in time, or the connection is reset.
    pub async fn read_until(&mut self, enough: impl Fn(&[u8]) -> bool + Send) -> Result<Vec<u8>> {
        let mut all = self.reader.take_buffer();
        wait::within("bytes from the proxy", LIMIT, async {
            while !enough(&all) && self.reader.io.read_buf(&mut all).await? > 0 {}
            Ok(())
        })
        .await
        .with_context(|| format!("so far: {:?}", String::from_utf8_lossy(&all)))?;
        Ok(all)
    }

    /// Reads to the end of data; the second value says how it ended: `closed`, `reset` or, in time, `open`.
    pub async fn drain(&mut self, limit: Duration) -> (Vec<u8>, &'static str) {
        let mut all = self.reader.take_buffer();
        let end = tokio::time::timeout(limit, async {
            loop {
                match self.reader.io.read_buf(&mut all).await {
                    Ok(0) => return "closed",
                    Ok(_) => {}
                    // rustls reports a TCP end without close_notify as an error; to a client both are an end.
                    Err(e) if e.kind() == std::io::ErrorKind::UnexpectedEof => return "closed",
                    Err(_) => return "reset",
                }
            }
        });
        let end = end.await.unwrap_or("open");
        (all, end)
    }
}
