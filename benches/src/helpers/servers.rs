//! The bundled upstreams.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::Result;
use bytes::Bytes;
use h2::server::SendResponse;
use http::{HeaderMap, HeaderValue, Request, Response};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::drivers::grpc_frame;

/// A loopback listener with a backlog that a burst of thousands of connections does not fill.
pub(crate) fn listen(port: u16) -> Result<TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(SocketAddr::from((Ipv4Addr::LOCALHOST, port)))?;
    Ok(socket.listen(4096)?)
}

/// Sends back what it receives, on every connection, for ever; half-close is answered by half-close.
pub(crate) async fn echo(listener: TcpListener) -> Result<()> {
    loop {
        let (mut socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        tokio::spawn(async move {
            let mut buffer = vec![0; 16 * 1024];
            while let Ok(read) = socket.read(&mut buffer).await {
                let Some(data) = buffer.get(..read).filter(|data| !data.is_empty()) else { break };
                if socket.write_all(data).await.is_err() {
                    break;
                }
            }
            // Fails only when the peer is gone.
            let _ = socket.shutdown().await;
        });
    }
}

/// Writes zeros to every connection until it closes.
pub(crate) async fn source(listener: TcpListener) -> Result<()> {
    loop {
        let (mut socket, _) = listener.accept().await?;
        tokio::spawn(async move {
            let zeros = vec![0; 256 * 1024];
            while socket.write_all(&zeros).await.is_ok() {}
        });
    }
}

/// A gRPC server over prior-knowledge h2.
pub(crate) async fn grpc(listener: TcpListener) -> Result<()> {
    let answer = Bytes::from(grpc_frame(&[9; 32]));
    loop {
        let (socket, _) = listener.accept().await?;
        socket.set_nodelay(true)?;
        let answer = answer.clone();
        // A connection that fails is the client's to count.
        tokio::spawn(async move {
            let _ = grpc_connection(socket, answer).await;
        });
    }
}

async fn grpc_connection(socket: TcpStream, answer: Bytes) -> Result<(), h2::Error> {
    let mut connection = h2::server::Builder::new().max_concurrent_streams(1000).handshake(socket).await?;
    while let Some(stream) = connection.accept().await {
        let (request, respond) = stream?;
        let answer = answer.clone();
        tokio::spawn(async move {
            let _ = grpc_call(request, respond, answer).await;
        });
    }
    Ok(())
}

/// Reads the whole request, then answers headers, one message and trailers, as a unary call does.
async fn grpc_call(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse<Bytes>,
    answer: Bytes,
) -> Result<(), h2::Error> {
    let mut body = request.into_body();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
    }
    let mut head = Response::new(());
    head.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    let mut send = respond.send_response(head, false)?;
    send.send_data(answer, false)?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    send.send_trailers(trailers)
}
