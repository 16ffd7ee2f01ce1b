//! Applications of pods, and their clients.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use outrider_tests::client::{Conn, LIMIT};
use outrider_tests::wait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

use super::net::{Family, Pod};

/// HTTP/1.1.
pub(crate) const HTTP: u16 = 8080;
/// HTTP/2 in clear.
pub(crate) const GRPC: u16 = 8081;
/// The server speaks first.
pub(crate) const FIRST: u16 = 3306;
/// HTTP/1.1 that no sidecar sees.
pub(crate) const FREE: u16 = 2222;
/// Datagrams.
pub(crate) const DATAGRAMS: u16 = 5353;

/// The header that each sidecar adds itself to.
pub(crate) const WAY: &str = "x-way";

/// An application. When this is dropped it is as if it were killed: its sockets close with whatever is on them.
pub(crate) struct App {
    tasks: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl Drop for App {
    fn drop(&mut self) {
        for task in &self.tasks {
            task.abort();
        }
    }
}

impl App {
    /// Serves at all of its ports.
    pub(crate) fn start(pod: &Pod, family: Family) -> Result<Self> {
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        for port in [HTTP, GRPC, FIRST, FREE] {
            let listener = pod.listen(pod.at(family, port))?;
            let mut stopped = stopped.clone();
            tasks.push(tokio::spawn(async move {
                let mut open = JoinSet::new();
                loop {
                    tokio::select! {
                        next = listener.accept() => {
                            let Ok((stream, peer)) = next else { return };
                            let stopped = stopped.clone();
                            // A client that is gone shows in what it read.
                            open.spawn(async move { drop(serve(stream, peer, port, stopped).await) });
                        }
                        _ = stopped.changed() => break,
                    }
                }
                drop(listener);
                while open.join_next().await.is_some() {}
            }));
        }
        let socket = pod.datagrams(pod.at(family, DATAGRAMS))?;
        tasks.push(tokio::spawn(async move {
            let mut byte = [0; 1];
            while let Ok((_, peer)) = socket.recv_from(&mut byte).await {
                // Who does not get it asks in vain.
                let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer).await;
            }
        }));
        Ok(Self { tasks, stop })
    }

    /// As applications end that are told to: no new connections, and each request under way is answered.
    pub(crate) fn end(&self) {
        _ = self.stop.send_replace(true);
        if let Some(datagrams) = self.tasks.last() {
            datagrams.abort();
        }
    }
}

async fn serve(stream: TcpStream, peer: SocketAddr, port: u16, stopped: watch::Receiver<bool>) -> Result<()> {
    match port {
        GRPC => serve_h2(stream, peer).await,
        FIRST => serve_first(stream, peer).await,
        _ => serve_http(stream, peer, stopped).await,
    }
}

/// Who speaks first, and then says what it hears.
async fn serve_first(mut stream: TcpStream, peer: SocketAddr) -> Result<()> {
    stream.write_all(format!("hello {}\n", peer.ip()).as_bytes()).await?;
    let (mut read, mut write) = stream.split();
    tokio::io::copy(&mut read, &mut write).await?;
    Ok(())
}

/// Who asks, as the socket shows it, and by which sidecars.
async fn serve_http(
    mut stream: TcpStream,
    peer: SocketAddr,
    mut stopped: watch::Receiver<bool>,
) -> Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            tokio::select! {
                biased;
                byte = stream.read_u8() => head.push(byte?),
                _ = stopped.changed(), if head.is_empty() => return Ok(()),
            }
            ensure!(head.len() < 64 << 10, "a head without an end");
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let ways: Vec<_> = head.lines().filter_map(|line| line.strip_prefix("x-way: ")).collect();
        let body = format!("{} {}", peer.ip(), ways.join(","));
        let last = if *stopped.borrow() { "connection: close\r\n" } else { "" };
        let answer = format!("HTTP/1.1 200 OK\r\n{last}content-length: {}\r\n\r\n{body}", body.len());
        stream.write_all(answer.as_bytes()).await?;
        if !last.is_empty() {
            return Ok(());
        }
    }
}

async fn serve_h2(stream: TcpStream, peer: SocketAddr) -> Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(next) = connection.accept().await {
        let (request, mut respond) = next?;
        let ways = request.headers().get_all(WAY).iter().filter_map(|it| it.to_str().ok());
        let message = format!("{} {}", peer.ip(), ways.collect::<Vec<_>>().join(","));
        let head = http::Response::builder().header("content-type", "application/grpc").body(())?;
        let mut body = respond.send_response(head, false)?;
        body.send_data(message.into(), false)?;
        body.send_trailers(HeaderMap::from_iter([(
            http::HeaderName::from_static("grpc-status"),
            HeaderValue::from_static("0"),
        )]))?;
    }
    Ok(())
}

/// Asks by HTTP/1.1 from a pod: the status and the body.
pub(crate) async fn get(from: &Pod, to: SocketAddr, host: &str) -> Result<(u16, String)> {
    let mut conn = Conn::over(from.connect(to).await?)?;
    conn.send(format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n")).await?;
    let answer = conn.response("GET").await?;
    Ok((answer.status, answer.text()))
}

/// Calls as gRPC does: the status, the message, and `grpc-status` in the trailers.
pub(crate) async fn call(from: &Pod, to: SocketAddr) -> Result<(u16, String, String)> {
    let stream = from.connect(to).await?;
    wait::within("an answer", LIMIT, async {
        let (sender, connection) = h2::client::handshake(stream).await?;
        // What breaks it shows in the answer.
        let task = tokio::spawn(async move { drop(connection.await) });
        let mut sender = sender.ready().await?;
        let request = http::Request::post(format!("http://{to}/test.Service/Call"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())?;
        let (response, mut body) = sender.send_request(request, false)?;
        body.send_data(Bytes::from_static(&[0; 5]), true)?;
        let response = response.await?;
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let mut message = Vec::new();
        while let Some(part) = body.data().await {
            let part = part?;
            body.flow_control().release_capacity(part.len())?;
            message.extend_from_slice(&part);
        }
        let trailers = body.trailers().await?.context("no trailers")?;
        let code = trailers.get("grpc-status").and_then(|it| it.to_str().ok()).unwrap_or_default().to_owned();
        task.abort();
        Ok((status, String::from_utf8_lossy(&message).into_owned(), code))
    })
    .await
}

/// Listens to who speaks first, then answers and hears that again: who asked, as the server saw it.
pub(crate) async fn greeting(from: &Pod, to: SocketAddr) -> Result<String> {
    let mut stream = from.connect(to).await?;
    wait::within("a greeting", LIMIT, async {
        let mut line = Vec::new();
        while !line.ends_with(b"\n") {
            line.push(stream.read_u8().await.context("the server says nothing")?);
        }
        stream.write_all(b"thanks").await?;
        let mut echo = [0; 6];
        stream.read_exact(&mut echo).await?;
        ensure!(&echo == b"thanks", "{echo:?}");
        let line = String::from_utf8_lossy(&line);
        Ok(line.trim().strip_prefix("hello ").context("no greeting")?.to_owned())
    })
    .await
}

/// Sends a datagram: who asked, as the server saw it, and who answered.
pub(crate) async fn datagram(from: &Pod, to: SocketAddr, family: Family) -> Result<(String, SocketAddr)> {
    let socket = from.datagrams(from.at(family, 0))?;
    wait::within("a datagram", LIMIT, async {
        socket.send_to(b"?", to).await?;
        let mut buffer = [0; 64];
        let (length, server) = socket.recv_from(&mut buffer).await?;
        let said = buffer.get(..length).unwrap_or_default();
        Ok((String::from_utf8_lossy(said).into_owned(), server))
    })
    .await
}
