//! The admin interface's socket.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{Either, Full};
use hyper::body::Incoming;
use outrider_config::model::{Admin, SocketAddress};
use outrider_core::format::FormatContext;
use outrider_core::matcher::HeadView;
use outrider_core::stream::{Address, ConnInfo, Protocol, StreamInfo};
use outrider_telemetry::access_log::AccessLogger;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};

use super::{connection, csds};
use crate::control::Control;
use crate::upgrade;

/// Connections at once beyond this wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 256;

/// The admin interface's socket, bound.
pub(crate) struct AdminServer {
    socket: Socket,
    logger: AccessLogger,
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// Binds the admin interface, if the bootstrap has one.
///
/// # Errors
/// The address is in use or may not be bound.
pub(crate) fn bind(control: &Control) -> anyhow::Result<Option<AdminServer>> {
    let Some(admin) = &control.model.admin else { return Ok(None) };
    let place = upgrade::admin_place(&admin.address);
    let before = control.listeners.inherited.take(&place, 1).pop_front();
    let opened = match before {
        Some(socket) => adopt(admin, socket),
        None => open(admin),
    };
    let socket = opened.with_context(|| {
        format!("admin.address: {} cannot be listened on: is another process using it?", admin.address)
    })?;
    if control.options.upgrade_socket.is_some() {
        match &socket {
            Socket::Tcp(listener) => control.upgrade.lend_also(place, listener)?,
            Socket::Unix(listener) => control.upgrade.lend_also(place, listener)?,
        }
    }
    let logger = AccessLogger::new(&admin.access_logs, &control.log_files).context("admin.access_log")?;
    let address = match &socket {
        Socket::Tcp(listener) => listener.local_addr()?.to_string(),
        Socket::Unix(_) => admin.address.to_string(),
    };
    tracing::info!("admin address: {address}");
    if let Some(path) = &control.options.admin_address_path {
        std::fs::write(path, &address).with_context(|| format!("--admin-address-path {}", path.display()))?;
    }
    Ok(Some(AdminServer { socket, logger }))
}

/// The socket of the process before this one, which listens already.
fn adopt(admin: &Admin, socket: OwnedFd) -> anyhow::Result<Socket> {
    Ok(if let SocketAddress::Pipe { .. } = &admin.address {
        let listener = std::os::unix::net::UnixListener::from(socket);
        listener.set_nonblocking(true)?;
        Socket::Unix(UnixListener::from_std(listener)?)
    } else {
        let listener = std::net::TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        Socket::Tcp(TcpListener::from_std(listener)?)
    })
}

fn open(admin: &Admin) -> anyhow::Result<Socket> {
    Ok(match &admin.address {
        SocketAddress::Ip(address) => {
            let socket =
                socket2::Socket::new(socket2::Domain::for_address(*address), socket2::Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.set_nonblocking(true)?;
            socket.bind(&(*address).into())?;
            socket.listen(128)?;
            Socket::Tcp(TcpListener::from_std(socket.into())?)
        }
        SocketAddress::Pipe { path, .. } => {
            let _ = std::fs::remove_file(&**path);
            Socket::Unix(UnixListener::bind(&**path)?)
        }
        SocketAddress::Name { .. } => bail!("an IP address or a pipe is needed"),
    })
}

impl AdminServer {
    /// Serves for ever.
    pub(crate) async fn serve(self, control: Arc<Control>) {
        let logger = Arc::new(self.logger);
        let slots = Arc::new(tokio::sync::Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(slot) = slots.clone().acquire_owned().await else { return };
            let accepted: std::io::Result<(Box<dyn Stream>, Address)> = match &self.socket {
                Socket::Tcp(listener) => {
                    listener.accept().await.map(|(s, peer)| (Box::new(s) as _, Address::Ip(peer)))
                }
                Socket::Unix(listener) => {
                    listener.accept().await.map(|(s, _)| (Box::new(s) as _, Address::Pipe("".into())))
                }
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "the admin interface cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            let (control, logger) = (control.clone(), logger.clone());
            tokio::task::spawn_local(async move {
                let answer = |request: Request<Incoming>| {
                    if csds::is_grpc(&request) {
                        csds::answer(&control, request).map(Either::Right)
                    } else {
                        respond(&control, &logger, &peer, &request).map(Either::Left)
                    }
                };
                connection::serve(stream, answer).await;
                drop(slot);
            });
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Unpin {}
impl<T: AsyncRead + AsyncWrite + Unpin> Stream for T {}

fn respond(
    control: &Control,
    logger: &AccessLogger,
    peer: &Address,
    request: &Request<Incoming>,
) -> Response<Full<Bytes>> {
    let target = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let mut info = (!logger.is_empty()).then(|| stream_info(control, peer));
    let response = super::answer(control, request.method(), target).into_response();
    if let Some(info) = &mut info {
        info.response_code = Some(response.status().as_u16());
        info.duration = Some(info.start.elapsed());
        let body = http_body_util::BodyExt::boxed(response.body().clone());
        info.bytes_sent = http_body::Body::size_hint(&body).exact().unwrap_or(0);
        let head =
            HeadView { method: request.method().as_str(), path: target, ..HeadView::of(request.headers()) };
        let view = HeadView::of(response.headers());
        logger.log(&FormatContext {
            request: Some(head),
            response: Some(view),
            log_type: "DownstreamEnd",
            ..FormatContext::of(info)
        });
    }
    response
}

fn stream_info(control: &Control, peer: &Address) -> StreamInfo {
    let local = match control.model.admin.as_ref().map(|admin| &admin.address) {
        Some(SocketAddress::Ip(address)) => Address::Ip(*address),
        _ => Address::Ip(SocketAddr::from(([0, 0, 0, 0], 0))),
    };
    let conn = ConnInfo {
        id: 0,
        remote: peer.clone(),
        direct_remote: peer.clone(),
        local: local.clone(),
        direct_local: local,
        local_restored: false,
        source: None,
        sni: None,
        tls: None,
        filter_chain: "".into(),
        origin: Default::default(),
        handshake: None,
        reset: Default::default(),
        accepted: std::time::Instant::now(),
        termination_details: std::cell::OnceCell::new(),
        transport_failure: std::cell::OnceCell::new(),
    };
    StreamInfo::new(std::rc::Rc::new(conn), Some(Protocol::Http11))
}
