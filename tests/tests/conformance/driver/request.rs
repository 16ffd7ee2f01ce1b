//! Requests.

use anyhow::{Context, Result};
use bytes::Bytes;
use outrider_tests::client::{
    Conn, LIMIT, Response, TlsOptions,
    http2::{H2, H2Request},
};

use super::{
    normal::{field_lines, show},
    world::World,
};

/// The TLS side of a request.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tls {
    /// Server name to ask for and to check.
    pub(crate) name: &'static str,
    /// Ask for none.
    pub(crate) no_sni: bool,
    /// Protocols to offer.
    pub(crate) alpn: &'static [&'static str],
    /// The client certificate to show.
    pub(crate) cert: Option<&'static str>,
    /// TLS 1.2 only.
    pub tls12: bool,
}

impl Tls {
    /// Asks for a server by name.
    pub(crate) fn to(name: &'static str) -> Self {
        Self { name, ..Self::default() }
    }

    /// Shows a certificate.
    pub(crate) fn cert(self, leaf: &'static str) -> Self {
        Self { cert: Some(leaf), ..self }
    }

    /// Offers protocols.
    pub(crate) fn alpn(self, alpn: &'static [&'static str]) -> Self {
        Self { alpn, ..self }
    }

    /// The harness's options.
    pub(crate) fn options(&self, world: &World) -> Result<TlsOptions> {
        let mut options = TlsOptions::new(&world.papers, self.name)?.alpn(self.alpn);
        if let Some(leaf) = self.cert {
            options = options.cert(&world.papers, leaf)?;
        }
        if self.no_sni {
            options = options.without_sni();
        }
        Ok(if self.tls12 { options.only_tls12() } else { options })
    }
}

/// How a request travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    H10,
    H11,
    H2,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Req {
    listener: String,
    version: Version,
    method: String,
    path: String,
    host: Option<String>,
    headers: Vec<(String, String)>,
    body: Option<Vec<String>>,
    chunked: bool,
    trailers: Vec<(String, String)>,
    tls: Option<Tls>,
    prefix: Vec<u8>,
    protocol: Option<String>,
    tunnel: Option<String>,
}

/// A request with this method.
pub(crate) fn req(method: &str, path: &str) -> Req {
    Req {
        listener: "main".into(),
        version: Version::H11,
        method: method.into(),
        path: path.into(),
        host: Some("test.host".into()),
        headers: Vec::new(),
        body: None,
        chunked: false,
        trailers: Vec::new(),
        tls: None,
        prefix: Vec::new(),
        protocol: None,
        tunnel: None,
    }
}

/// A GET.
pub(crate) fn get(path: &str) -> Req {
    req("GET", path)
}

/// A POST with a body of known length.
pub(crate) fn post(path: &str, body: &str) -> Req {
    req("POST", path).piece(body)
}

/// An extended CONNECT over h2 that sends `text` through the tunnel.
pub(crate) fn connect(path: &str, protocol: &str, text: &str) -> Req {
    Req { protocol: Some(protocol.into()), ..req("CONNECT", path).h2().piece(text) }
}

impl Req {
    /// Sends it to another listener than `main`.
    pub(crate) fn to(mut self, listener: &str) -> Self {
        self.listener = listener.into();
        self
    }

    /// Sets the host.
    pub(crate) fn host(mut self, host: &str) -> Self {
        self.host = Some(host.into());
        self
    }

    /// Adds a header.
    pub(crate) fn h(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds a piece of body (h1: a chunk, if chunked).
    pub(crate) fn piece(mut self, text: &str) -> Self {
        self.body.get_or_insert_default().push(text.into());
        self
    }

    /// h1: chunked coding.
    pub(crate) const fn chunked(mut self) -> Self {
        self.chunked = true;
        self
    }

    /// Adds a trailer.
    pub(crate) fn trailer(mut self, name: &str, value: &str) -> Self {
        self.trailers.push((name.into(), value.into()));
        self.chunked = true;
        self
    }

    /// Over HTTP/2.
    pub(crate) const fn h2(mut self) -> Self {
        self.version = Version::H2;
        self
    }

    /// As HTTP/1.0.
    pub(crate) const fn http10(mut self) -> Self {
        self.version = Version::H10;
        self
    }

    /// Over TLS.
    pub(crate) fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Sends these bytes first.
    pub(crate) fn prefix(mut self, bytes: &[u8]) -> Self {
        self.prefix = bytes.to_vec();
        self
    }

    /// h1: asks for an upgrade and sends `text` through it.
    pub(crate) fn upgrade(self, protocol: &str, text: &str) -> Self {
        let req = self.h("connection", "Upgrade").h("upgrade", protocol);
        Self { tunnel: Some(text.into()), ..req }
    }

    /// A gRPC call with these messages.
    pub(crate) fn grpc(path: &str, messages: &[&str]) -> Self {
        let frames = messages
            .iter()
            .map(|m| String::from_utf8_lossy(&outrider_tests::reply::grpc_frame(m)).into_owned());
        let req = req("POST", path).h2().h("content-type", "application/grpc").h("te", "trailers");
        Self { body: Some(frames.collect()), ..req }
    }

    /// Sends it and tells what came back; the second value is our own port.
    pub(crate) async fn run(&self, world: &World, ordinal: usize) -> Result<(Vec<String>, u16)> {
        let options = self.tls.as_ref().map(|tls| tls.options(world)).transpose()?;
        let port = world.port(&self.listener)?;
        let label = if ordinal == 0 { "client".to_owned() } else { format!("client[{ordinal}]") };
        let conn = Conn::with_prefix(port, &self.prefix, options.as_ref()).await;
        let conn = match conn {
            Err(_) if self.tls.is_some() => return Ok((vec![format!("{label} TLS refused")], 0)),
            other => other?,
        };
        let local = conn.local_port();
        let mut lines = Vec::new();
        if let Some(facts) = &conn.tls {
            lines.push(format!(
                "{label} TLS {} alpn={} server={}",
                facts.version,
                facts.alpn.as_deref().unwrap_or("-"),
                facts.server.join(",")
            ));
        }
        let response = match self.version {
            Version::H2 => self.run_h2(conn).await,
            _ => self.run_h1(conn).await,
        };
        match response {
            Ok(response) => lines.extend(describe(&label, &response)),
            Err(_) if self.tls.is_some() => lines = vec![format!("{label} TLS refused")],
            Err(error) => lines.push(format!("{label} error: {error:#}")),
        }
        Ok((lines, local))
    }

    async fn run_h1(&self, mut conn: Conn) -> Result<Response> {
        // A proxy that answers early may have closed already; what it said is what counts.
        let _ = conn.send(self.bytes()).await;
        let mut response = conn.response(&self.method).await?;
        if let (Some(text), 101) = (&self.tunnel, response.status) {
            conn.send(text).await?;
            let want = text.as_bytes().to_vec();
            let mut echoed = conn.read_until(|all| all.ends_with(&want)).await?;
            conn.finish().await?;
            let (rest, end) = conn.drain(LIMIT).await;
            echoed.extend_from_slice(&rest);
            response.tunnel = Some(echoed);
            response.closed = Some(end == "closed");
            return Ok(response);
        }
        let says_close = response.header("connection").is_some_and(|v| v.eq_ignore_ascii_case("close"));
        if says_close || self.version == Version::H10 {
            let (_, end) = conn.drain(LIMIT).await;
            response.closed = Some(end != "open");
        }
        Ok(response)
    }

    async fn run_h2(&self, conn: Conn) -> Result<Response> {
        let mut h2 = H2::start(conn).await.context("starting h2")?;
        let request = H2Request {
            method: self.method.clone(),
            scheme: if self.tls.is_some() { "https".into() } else { "http".into() },
            authority: self.host.clone().unwrap_or_default(),
            path: self.path.clone(),
            protocol: self.protocol.clone(),
            headers: self.headers.clone(),
            body: self.body.as_ref().map(|b| b.iter().map(|p| Bytes::from(p.clone())).collect()),
            trailers: self.trailers.clone(),
        };
        let response = h2.request(&request).await;
        h2.close().await;
        response
    }

    fn bytes(&self) -> Vec<u8> {
        let version = if self.version == Version::H10 { "1.0" } else { "1.1" };
        let mut text = format!("{} {} HTTP/{version}\r\n", self.method, self.path);
        let mut field = |name: &str, value: &str| {
            text.push_str(&format!("{name}: {value}\r\n"));
        };
        if let Some(host) = &self.host {
            field("host", host);
        }
        for (name, value) in &self.headers {
            field(name, value);
        }
        let pieces = self.body.as_deref().unwrap_or_default();
        if self.chunked {
            field("transfer-encoding", "chunked");
        } else if self.body.is_some() {
            field("content-length", &pieces.iter().map(String::len).sum::<usize>().to_string());
        }
        text.push_str("\r\n");
        for piece in pieces {
            if self.chunked {
                text.push_str(&format!("{:x}\r\n{piece}\r\n", piece.len()));
            } else {
                text.push_str(piece);
            }
        }
        if self.chunked {
            text.push_str("0\r\n");
            for (name, value) in &self.trailers {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
            text.push_str("\r\n");
        }
        text.into_bytes()
    }
}

/// A response in lines.
fn describe(label: &str, response: &Response) -> Vec<String> {
    let mut lines: Vec<String> = response.interim.iter().map(|i| format!("{label} interim {i}")).collect();
    lines.push(format!("{label} status {} ({})", response.status, response.start));
    lines.extend(field_lines(&format!("{label} header"), &response.headers));
    lines.push(format!("{label} body {} {}", response.framing, show(&response.body)));
    lines.extend(field_lines(&format!("{label} trailer"), &response.trailers));
    lines.push(format!("{label} end {}", response.end));
    if let Some(tunnel) = &response.tunnel {
        lines.push(format!("{label} tunnel {}", show(tunnel)));
    }
    if let Some(closed) = response.closed {
        lines.push(format!("{label} connection {}", if closed { "closed" } else { "open" }));
    }
    lines
}
