//! One type for all byte streams: TCP, Unix sockets, TLS of either side.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper_util::rt::TokioIo;
use outrider_core::stream::Address;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::{client, server};

/// A byte stream. Holds no buffer of its own: plain transports read into the caller's, TLS sessions let
/// go of theirs when they are empty.
#[derive(Debug)]
pub struct IoStream {
    // Bytes that were read ahead of their reader (a PROXY header's neighbour, an upgrade's first bytes).
    prefix: Option<Box<Bytes>>,
    transport: Transport,
}

#[derive(Debug)]
enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    // TLS sessions are large; most connections are one of the above.
    ServerTls(Box<server::TlsStream<IoStream>>),
    ClientTls(Box<client::TlsStream<IoStream>>),
}

/// Does `$call` with `$io` bound to the transport, whichever it is.
macro_rules! on_transport {
    ($stream:expr, $io:ident => $call:expr) => {
        match &mut $stream.transport {
            Transport::Tcp($io) => $call,
            Transport::Unix($io) => $call,
            Transport::ServerTls($io) => $call,
            Transport::ClientTls($io) => $call,
        }
    };
}

impl IoStream {
    /// A stream over a connected TCP socket. Sets `TCP_NODELAY`: a proxy writes whole messages.
    pub fn from_tcp(stream: TcpStream) -> Self {
        // It can fail only on a socket that is dead already; its first read will say so.
        let _ = stream.set_nodelay(true);
        Self { prefix: None, transport: Transport::Tcp(stream) }
    }

    /// A stream over a TCP socket that has `TCP_NODELAY` already.
    pub(crate) fn from_prepared_tcp(stream: TcpStream) -> Self {
        Self { prefix: None, transport: Transport::Tcp(stream) }
    }

    /// A stream over a connected Unix socket.
    pub fn from_unix(stream: UnixStream) -> Self {
        Self { prefix: None, transport: Transport::Unix(stream) }
    }

    /// A stream over a TLS session in which we are the server.
    pub(crate) fn from_server_tls(stream: server::TlsStream<Self>) -> Self {
        Self { prefix: None, transport: Transport::ServerTls(Box::new(stream)) }
    }

    /// A stream over a TLS session in which we are the client.
    pub(crate) fn from_client_tls(stream: client::TlsStream<Self>) -> Self {
        Self { prefix: None, transport: Transport::ClientTls(Box::new(stream)) }
    }

    /// The TCP socket, when there is no TLS over it. Bytes may still be read ahead of it.
    pub fn as_tcp(&self) -> Option<&TcpStream> {
        match &self.transport {
            Transport::Tcp(stream) => Some(stream),
            _ => None,
        }
    }

    /// The Unix socket, when there is no TLS over it.
    pub fn as_unix(&self) -> Option<&UnixStream> {
        match &self.transport {
            Transport::Unix(stream) => Some(stream),
            _ => None,
        }
    }

    /// Takes the TCP socket out.
    ///
    /// # Errors
    /// The stream itself, when it is no plain TCP or when bytes were read ahead of the socket.
    pub fn into_tcp(self) -> Result<TcpStream, Self> {
        match self {
            Self { prefix: None, transport: Transport::Tcp(stream) } => Ok(stream),
            other => Err(other),
        }
    }

    /// Whether the outermost transport is TLS.
    pub fn is_tls(&self) -> bool {
        matches!(self.transport, Transport::ServerTls(_) | Transport::ClientTls(_))
    }

    /// Whether bytes were read ahead that no reader has taken yet.
    pub fn has_prefix(&self) -> bool {
        self.prefix.is_some()
    }

    /// Puts `bytes` before everything that is still to be read.
    pub fn set_prefix(&mut self, bytes: Bytes) {
        let bytes = match self.prefix.take() {
            Some(rest) if bytes.is_empty() => *rest,
            Some(rest) => [bytes, *rest].concat().into(),
            None => bytes,
        };
        self.prefix = (!bytes.is_empty()).then(|| Box::new(bytes));
    }

    /// Our address on the socket underneath.
    pub fn local_addr(&self) -> Address {
        match &self.transport {
            Transport::Tcp(stream) => stream.local_addr().map_or_else(|_| unnamed(), Address::Ip),
            Transport::Unix(stream) => stream.local_addr().map_or_else(|_| unnamed(), |a| unix_address(&a)),
            Transport::ServerTls(stream) => stream.get_ref().0.local_addr(),
            Transport::ClientTls(stream) => stream.get_ref().0.local_addr(),
        }
    }

    /// The peer's address on the socket underneath; an unnamed one when the peer is gone.
    pub fn peer_addr(&self) -> Address {
        match &self.transport {
            Transport::Tcp(stream) => stream.peer_addr().map_or_else(|_| unnamed(), Address::Ip),
            Transport::Unix(stream) => stream.peer_addr().map_or_else(|_| unnamed(), |a| unix_address(&a)),
            Transport::ServerTls(stream) => stream.get_ref().0.peer_addr(),
            Transport::ClientTls(stream) => stream.get_ref().0.peer_addr(),
        }
    }

    /// Makes the coming close of the socket underneath an abortive one (RST instead of FIN).
    pub fn reset_on_close(&self) {
        match &self.transport {
            Transport::Tcp(stream) => {
                let _ = socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO));
            }
            Transport::Unix(_) => {}
            Transport::ServerTls(stream) => stream.get_ref().0.reset_on_close(),
            Transport::ClientTls(stream) => stream.get_ref().0.reset_on_close(),
        }
    }

    fn poll_prefix(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        let Some(prefix) = &mut self.prefix else { return false };
        let n = prefix.len().min(buf.remaining());
        buf.put_slice(prefix.get(..n).unwrap_or_default());
        prefix.advance(n);
        if prefix.is_empty() {
            self.prefix = None;
        }
        true
    }
}

impl AsyncRead for IoStream {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.prefix.is_some() && this.poll_prefix(buf) {
            return Poll::Ready(Ok(()));
        }
        on_transport!(this, io => Pin::new(io).poll_read(cx, buf))
    }
}

impl AsyncWrite for IoStream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        on_transport!(self.get_mut(), io => Pin::new(io).poll_write(cx, buf))
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        on_transport!(self.get_mut(), io => Pin::new(io).poll_write_vectored(cx, bufs))
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        // TLS gathers the slices into one record while it encrypts them.
        true
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        on_transport!(self.get_mut(), io => Pin::new(io).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match ready!(on_transport!(self.get_mut(), io => Pin::new(io).poll_shutdown(cx))) {
            // The peer went first: there is nothing left to shut.
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Poll::Ready(Ok(())),
            other => Poll::Ready(other),
        }
    }
}

impl hyper::rt::Read for IoStream {
    #[inline]
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: hyper::rt::ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        // hyper's cursor is filled without initialising it first by hyper-util's adapter alone.
        hyper::rt::Read::poll_read(Pin::new(&mut TokioIo::new(self.get_mut())), cx, buf)
    }
}

impl hyper::rt::Write for IoStream {
    #[inline]
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(self, cx, buf)
    }

    #[inline]
    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write_vectored(self, cx, bufs)
    }

    #[inline]
    fn is_write_vectored(&self) -> bool {
        AsyncWrite::is_write_vectored(self)
    }

    #[inline]
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(self, cx)
    }

    #[inline]
    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(self, cx)
    }
}

fn unnamed() -> Address {
    Address::Pipe(Arc::from(""))
}

/// A Unix socket's address: its path, `@name` when abstract, empty when unnamed.
pub(crate) fn unix_address(address: &tokio::net::unix::SocketAddr) -> Address {
    if let Some(path) = address.as_pathname() {
        return Address::Pipe(path.to_string_lossy().as_ref().into());
    }
    match address.as_abstract_name() {
        Some(name) => Address::Pipe(format!("@{}", String::from_utf8_lossy(name)).into()),
        None => unnamed(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    async fn pair() -> (IoStream, TcpStream) {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (IoStream::from_tcp(listener.accept().await.unwrap().0), client)
    }

    #[tokio::test]
    async fn a_prefix_is_read_before_the_socket_and_keeps_it_from_being_taken_out() {
        let (mut stream, mut client) = pair().await;
        client.write_all(b"world").await.unwrap();
        stream.set_prefix(Bytes::from_static(b"lo "));
        stream.set_prefix(Bytes::from_static(b"hel"));
        let mut stream = stream.into_tcp().unwrap_err();
        let mut text = [0; 11];
        stream.read_exact(&mut text).await.unwrap();
        assert_eq!(&text, b"hello world");
        assert!(stream.into_tcp().is_ok());
    }

    #[tokio::test]
    async fn addresses_are_those_of_the_socket() {
        let (stream, client) = pair().await;
        assert_eq!(stream.peer_addr(), Address::Ip(client.local_addr().unwrap()));
        assert_eq!(stream.local_addr(), Address::Ip(client.peer_addr().unwrap()));
        assert!(stream.as_tcp().unwrap().nodelay().unwrap());
    }

    #[test]
    fn a_stream_is_small() {
        assert!(size_of::<IoStream>() <= 56, "{}", size_of::<IoStream>());
    }
}
