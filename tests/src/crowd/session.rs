//! One connection of a client in a crowd.

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use h2::{RecvStream, SendStream, client::SendRequest};
use http::Request;
use tokio::task::JoinHandle;

use super::Client;
use crate::{
    client::{Conn, TlsOptions},
    h1::Head,
    reply::grpc_frame,
};

/// Requests at a time on an HTTP/2 connection.
const AT_A_TIME: usize = 4;

/// What an echo sends.
const WORD: &[u8] = b"is there anybody";

/// What becomes of the connection after an exchange that did not fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// It takes more.
    GoesOn,
    /// It takes no more: the proxy said so with the answer.
    Ends,
    /// It was gone, in good order, before the exchange began.
    Lost,
}

/// A connection.
pub(super) enum Session {
    Http1(Conn),
    Http2(Http2),
    Grpc(Http2),
    Stream { connection: Http2, send: SendStream<Bytes>, body: RecvStream },
    Socket(Conn),
}

pub(super) struct Http2 {
    send: SendRequest<Bytes>,
    driver: JoinHandle<()>,
}

impl Drop for Http2 {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Session {
    pub(super) async fn open(client: Client, port: u16, tls: Option<&TlsOptions>) -> Result<Self> {
        let mut conn = Conn::with_prefix(port, b"", tls).await?;
        Ok(match client {
            Client::Http1 => Self::Http1(conn),
            Client::Http2 => Self::Http2(Http2::new(conn).await?),
            Client::Grpc => Self::Grpc(Http2::new(conn).await?),
            Client::GrpcStream => {
                let mut connection = Http2::new(conn).await?;
                let mut ready = connection.send.clone().ready().await?;
                let (response, send) = ready.send_request(call("Chat")?, false)?;
                let response = response.await?;
                ensure!(response.status() == 200, "the stream was answered {}", response.status());
                connection.send = ready;
                Self::Stream { connection, send, body: response.into_body() }
            }
            Client::WebSocket => {
                let upgrade = "GET /ws HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                               sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
                conn.send(upgrade).await?;
                let response = conn.response("GET").await?;
                ensure!(response.status == 101, "the upgrade was answered {}", response.status);
                Self::Socket(conn)
            }
        })
    }

    /// One exchange, or what counts as one: four requests on HTTP/2.
    pub(super) async fn exchange(&mut self) -> Result<Next> {
        match self {
            Self::Http1(conn) => http1(conn).await,
            Self::Http2(connection) => connection.gets().await,
            Self::Grpc(connection) => connection.unary().await,
            Self::Stream { connection, send, body } => {
                if connection.driver.is_finished() {
                    return Ok(Next::Lost);
                }
                send.send_data(Bytes::from_static(WORD), false)?;
                let mut back = Vec::new();
                while back.len() < WORD.len() {
                    let Some(piece) = body.data().await else { bail!("the stream was ended") };
                    let piece = piece?;
                    body.flow_control().release_capacity(piece.len())?;
                    back.extend_from_slice(&piece);
                }
                ensure!(back == WORD, "the stream brought {back:?}");
                Ok(Next::GoesOn)
            }
            Self::Socket(conn) => {
                conn.send(WORD).await?;
                let back = conn.read_until(|all| all.len() >= WORD.len()).await?;
                ensure!(!back.is_empty(), "the WebSocket was closed");
                ensure!(back == WORD, "the WebSocket brought {back:?}");
                Ok(Next::GoesOn)
            }
        }
    }
}

async fn http1(conn: &mut Conn) -> Result<Next> {
    conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    let response = conn.response("GET").await?;
    let what = format!("{} {:?}", response.status, response.text());
    ensure!(response.status == 200 && response.end == "complete", "answered {what}");
    let head = Head { start: String::new(), headers: response.headers };
    Ok(if head.has_token("connection", "close") { Next::Ends } else { Next::GoesOn })
}

impl Http2 {
    async fn new(conn: Conn) -> Result<Self> {
        let (send, connection) = h2::client::handshake(conn.reader.io).await?;
        // The connection's error is told to each stream.
        let driver = tokio::spawn(async move { _ = connection.await });
        Ok(Self { send, driver })
    }

    /// Whether it takes another request; a peer that said GOAWAY, or has closed, takes none.
    async fn takes_more(&mut self) -> bool {
        !self.driver.is_finished() && self.send.clone().ready().await.is_ok()
    }

    async fn gets(&mut self) -> Result<Next> {
        let mut answers = Vec::new();
        for _ in 0..AT_A_TIME {
            if !self.takes_more().await {
                break;
            }
            let (answer, _) = self.send.send_request(Request::get("http://test/").body(())?, true)?;
            answers.push(answer);
        }
        if answers.is_empty() {
            return Ok(Next::Lost);
        }
        for answer in answers {
            let answer = answer.await?;
            let status = answer.status();
            let mut body = answer.into_body();
            while let Some(piece) = body.data().await {
                body.flow_control().release_capacity(piece?.len())?;
            }
            ensure!(status == 200, "answered {status}");
        }
        Ok(if self.takes_more().await { Next::GoesOn } else { Next::Ends })
    }

    async fn unary(&mut self) -> Result<Next> {
        if !self.takes_more().await {
            return Ok(Next::Lost);
        }
        let message = grpc_frame("is there anybody");
        let (answer, mut send) = self.send.send_request(call("Ask")?, false)?;
        send.send_data(message.clone(), true)?;
        let answer = answer.await?;
        let status = answer.status();
        let mut body = answer.into_body();
        let mut back = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece?;
            body.flow_control().release_capacity(piece.len())?;
            back.extend_from_slice(&piece);
        }
        let trailers = body.trailers().await?.context("no trailers")?;
        let code = trailers.get("grpc-status").context("no grpc-status")?;
        ensure!(status == 200 && code == "0" && back == message, "answered {status} {code:?} {back:?}");
        Ok(if self.takes_more().await { Next::GoesOn } else { Next::Ends })
    }
}

fn call(method: &str) -> Result<Request<()>> {
    let request = Request::post(format!("http://test/crowd.Echo/{method}"));
    Ok(request.header("content-type", "application/grpc").header("te", "trailers").body(())?)
}
