//! One request through a proxy before its time is taken: a proxy that answers wrongly has no figure.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::drivers::{Ask, Papers, grpc_frame};
use crate::helpers::block_on;
use crate::tls::{Asker, head};
use crate::upstream::BODY;

/// How long one request may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// An HTTP/1.1 GET is answered 200 with the upstream's body.
pub(crate) fn http1(port: u16, ask: &Ask) -> Result<()> {
    let answer = once(port, ask)?;
    if !answer.starts_with("HTTP/1.1 200") || !answer.ends_with(BODY) {
        bail!("expected a 200 with the upstream's body, got: {answer}");
    }
    Ok(())
}

/// An HTTP/1.1 GET is answered with this status.
pub(crate) fn refused(port: u16, ask: &Ask, status: u16) -> Result<()> {
    let answer = once(port, ask)?;
    if !answer.starts_with(&format!("HTTP/1.1 {status} ")) {
        bail!("expected that {} is refused with {status}, got: {answer}", ask.path);
    }
    Ok(())
}

/// A client that shows no certificate is not answered.
pub(crate) fn demands_certificate(port: u16, ask: &Ask) -> Result<()> {
    let papers = ask.papers.clone().map(|papers| Papers { leaf: None, ..papers });
    // That it fails is what is wanted: when depends on when the alert arrives.
    let answer = once(port, &Ask { papers, ..ask.clone() }).unwrap_or_default();
    if !answer.is_empty() {
        bail!("a client without a certificate was answered: {answer}");
    }
    Ok(())
}

/// All that is answered to one HTTP/1.1 request on a connection of its own.
fn once(port: u16, ask: &Ask) -> Result<String> {
    let request = head(ask, "connection: close\r\n");
    let mut answer = Vec::new();
    if ask.papers.is_none() {
        let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.write_all(request.as_bytes())?;
        socket.read_to_end(&mut answer)?;
    } else {
        let asker = Asker::new(port, ask)?;
        let work = async {
            let mut stream = asker.connect(Ipv4Addr::LOCALHOST).await?;
            stream.write_all(request.as_bytes()).await?;
            stream.flush().await?;
            // It may end without an alert, which is an error to who cares about truncation.
            if let Err(error) = stream.read_to_end(&mut answer).await
                && answer.is_empty()
            {
                return Err(anyhow::Error::from(error));
            }
            anyhow::Ok(())
        };
        block_on(async { tokio::time::timeout(DEADLINE, work).await.context("no answer in time")? })?;
    }
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// A prior-knowledge h2 GET is answered 200 with the upstream's body.
pub(crate) fn http2(port: u16) -> Result<()> {
    let (status, body, _) = exchange(port, Method::GET, &[], None)?;
    if status != 200 || body != BODY.as_bytes() {
        bail!("expected a 200 with the upstream's body, got {status} with {} bytes", body.len());
    }
    Ok(())
}

/// A unary gRPC call is answered by a message and by `grpc-status: 0` in trailers.
pub(crate) fn grpc(port: u16) -> Result<()> {
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    let (status, body, trailers) =
        exchange(port, Method::POST, &headers, Some(Bytes::from(grpc_frame(&[7; 32]))))?;
    let grpc_status = trailers.get("grpc-status").and_then(|value| value.to_str().ok());
    if status != 200 || body != grpc_frame(&[9; 32]) || grpc_status != Some("0") {
        bail!(
            "expected a message and grpc-status 0, got {status}, {} bytes, trailers {trailers:?}",
            body.len()
        );
    }
    Ok(())
}

/// 64 bytes come back as they were sent.
pub(crate) fn echo(port: u16) -> Result<()> {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.write_all(&[0x5a; 64])?;
    let mut answer = [0; 64];
    socket.read_exact(&mut answer).context("no echo")?;
    if answer != [0x5a; 64] {
        bail!("the echo differs from what was sent");
    }
    Ok(())
}

/// Bytes come without being asked for.
pub(crate) fn source(port: u16) -> Result<()> {
    let mut socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.read_exact(&mut [0; 64 * 1024]).context("no data")
}

/// One h2 exchange on a connection of its own: status, body, trailers.
fn exchange(
    port: u16,
    method: Method,
    headers: &[(&str, &str)],
    body: Option<Bytes>,
) -> Result<(u16, Vec<u8>, HeaderMap)> {
    let work = async {
        let socket = tokio::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        let (client, connection) = h2::client::handshake(socket).await?;
        tokio::spawn(connection);
        let mut request = Request::builder().method(method).uri(format!("http://127.0.0.1:{port}/bench"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (response, mut send) = client.ready().await?.send_request(request.body(())?, body.is_none())?;
        if let Some(body) = body {
            send.send_data(body, true)?;
        }
        let response = response.await?;
        let status = response.status().as_u16();
        let mut stream = response.into_body();
        let mut seen = Vec::new();
        while let Some(chunk) = stream.data().await {
            let chunk = chunk?;
            stream.flow_control().release_capacity(chunk.len())?;
            seen.extend_from_slice(&chunk);
        }
        let trailers = stream.trailers().await?.unwrap_or_default();
        Ok((status, seen, trailers))
    };
    block_on(async { tokio::time::timeout(DEADLINE, work).await.context("no answer in time")? })
}
