//! Upstreams: servers that answer as scripted and write down what they saw.

mod h1;
pub(crate) mod h2;
mod tcp;

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use anyhow::Result;
use rustls::ServerConfig;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

pub use self::tcp::TcpScript;
use crate::{
    ca,
    io::Io,
    record::{Diary, TlsSeen},
    reply::Script,
};

/// What an upstream speaks.
#[derive(Clone, Debug)]
pub enum Speaks {
    /// HTTP: h2 when agreed by ALPN or begun with its preface, else HTTP/1.
    Http,
    /// Bare TCP.
    Tcp(TcpScript),
}

/// A running upstream; it stops when dropped.
#[derive(Debug)]
pub struct Upstream {
    name: String,
    address: SocketAddr,
    accepts: JoinHandle<()>,
    connections: Arc<AtomicUsize>,
}

/// What every connection of an upstream needs.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) name: String,
    pub(crate) diary: Diary,
    pub(crate) script: Script,
    pub(crate) connection: usize,
    pub(crate) tls: Option<TlsSeen>,
}

impl Upstream {
    /// Starts an upstream on a port of its own.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn start(
        name: &str,
        speaks: Speaks,
        tls: Option<Arc<ServerConfig>>,
        diary: &Diary,
        script: &Script,
    ) -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let connections = Arc::new(AtomicUsize::new(0));
        let place = Place {
            name: name.to_owned(),
            diary: diary.clone(),
            script: script.clone(),
            connection: 0,
            tls: None,
        };
        let count = Arc::clone(&connections);
        let accepts = tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let place = Place { connection: count.fetch_add(1, Ordering::Relaxed), ..place.clone() };
                tokio::spawn(serve(tcp, tls.clone(), speaks.clone(), place));
            }
        });
        Ok(Self { name: name.to_owned(), address, accepts, connections })
    }

    /// Starts a plain HTTP upstream with a diary and a script of its own.
    ///
    /// # Errors
    /// When no port can be bound.
    pub async fn http(name: &str) -> Result<(Self, Diary, Script)> {
        let (diary, script) = (Diary::default(), Script::default());
        let upstream = Self::start(name, Speaks::Http, None, &diary, &script).await?;
        Ok((upstream, diary, script))
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// How many connections it accepted so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepts.abort();
    }
}

async fn serve(tcp: TcpStream, tls: Option<Arc<ServerConfig>>, speaks: Speaks, mut place: Place) {
    // Small writes are meant as they are; a socket without the option is merely slower.
    let _ = tcp.set_nodelay(true);
    let (io, h2) = match tls {
        None => {
            let preface = matches!(speaks, Speaks::Http) && begins_with_preface(&tcp).await;
            (Io::Plain(tcp), preface)
        }
        Some(config) => {
            // A handshake that fails is the proxy's to report.
            let Ok(stream) = TlsAcceptor::from(config).accept(tcp).await else { return };
            let seen = tls_seen(stream.get_ref().1);
            let h2 = seen.alpn.as_deref() == Some("h2");
            place.tls = Some(seen);
            (Io::Tls(Box::new(stream.into())), h2)
        }
    };
    match speaks {
        Speaks::Tcp(script) => tcp::serve(io, script, place).await,
        Speaks::Http if h2 => h2::serve(io, place).await,
        Speaks::Http => h1::serve(io, place).await,
    }
}

async fn begins_with_preface(tcp: &TcpStream) -> bool {
    let mut first = [0; 3];
    matches!(tcp.peek(&mut first).await, Ok(3) if &first == b"PRI")
}

fn tls_seen(connection: &rustls::ServerConnection) -> TlsSeen {
    TlsSeen {
        sni: connection.server_name().map(str::to_owned),
        alpn: connection.alpn_protocol().map(|p| String::from_utf8_lossy(p).into_owned()),
        version: connection.protocol_version().map_or_else(String::new, |v| format!("{v:?}")),
        peer: connection
            .peer_certificates()
            .and_then(|chain| chain.first())
            .map(|leaf| ca::names_of(leaf))
            .unwrap_or_default(),
    }
}
