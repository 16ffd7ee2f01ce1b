//! A strict little HTTP/1 reader, for both sides: it keeps names, case and order as they stood on the wire.

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncRead, AsyncReadExt};

/// The head of a message.
#[derive(Clone, Debug, Default)]
pub struct Head {
    /// Request or status line, without its line end.
    pub start: String,
    /// Header fields, untouched but for the white space around values.
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The first value of a header, whatever the case of its name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, v)| v.as_str())
    }

    /// Whether a header has this token in its comma-separated value.
    #[must_use]
    pub fn has_token(&self, name: &str, token: &str) -> bool {
        self.headers
            .iter()
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .any(|(_, v)| v.split(',').any(|t| t.trim().eq_ignore_ascii_case(token)))
    }

    /// How the body that follows is framed; `None` when nothing in the head says so.
    #[must_use]
    pub fn framing(&self) -> Option<Framing> {
        if self.has_token("transfer-encoding", "chunked") {
            return Some(Framing::Chunked);
        }
        self.header("content-length").and_then(|v| v.parse().ok()).map(Framing::Length)
    }
}

/// How a body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is none.
    None,
    /// After so many bytes.
    Length(usize),
    /// With the last chunk.
    Chunked,
    /// With the connection.
    Close,
}

impl Framing {
    /// A word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Length(_) => "length",
            Self::Chunked => "chunked",
            Self::Close => "close",
        }
    }
}

/// Reads messages from a connection.
#[derive(Debug)]
pub struct Reader<R> {
    /// The connection.
    pub io: R,
    buffer: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// A reader at the start of a connection.
    pub const fn new(io: R) -> Self {
        Self { io, buffer: Vec::new() }
    }

    /// Takes what was read ahead.
    pub fn take_buffer(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.buffer)
    }

    /// Reads more into the buffer.
    ///
    /// # Errors
    /// The connection's.
    pub async fn fill(&mut self) -> Result<bool> {
        Ok(self.io.read_buf(&mut self.buffer).await? > 0)
    }

    async fn line(&mut self) -> Result<Option<String>> {
        loop {
            if let Some(at) = self.buffer.iter().position(|b| *b == b'\n') {
                let mut line: Vec<u8> = self.buffer.drain(..=at).collect();
                line.pop();
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(Some(String::from_utf8_lossy(&line).into_owned()));
            }
            if !self.fill().await? {
                if self.buffer.is_empty() {
                    return Ok(None);
                }
                bail!("closed in the middle of a line: {:?}", String::from_utf8_lossy(&self.buffer));
            }
        }
    }

    async fn fields(&mut self) -> Result<Vec<(String, String)>> {
        let mut fields = Vec::new();
        loop {
            let line = self.line().await?.context("closed in the middle of the header fields")?;
            if line.is_empty() {
                return Ok(fields);
            }
            let (name, value) = line.split_once(':').with_context(|| format!("no colon in {line:?}"))?;
            fields.push((name.to_owned(), value.trim().to_owned()));
        }
    }

    /// Reads a head; `None` when the connection closed before its first byte.
    ///
    /// # Errors
    /// When the connection breaks or what comes is no head.
    pub async fn head(&mut self) -> Result<Option<Head>> {
        let Some(start) = self.line().await? else { return Ok(None) };
        Ok(Some(Head { start, headers: self.fields().await? }))
    }

    /// Reads a body into `body` (which holds what came before an error too) and answers with its trailers.
    ///
    /// # Errors
    /// When the connection breaks before the body is whole.
    pub async fn body(&mut self, framing: Framing, body: &mut Vec<u8>) -> Result<Vec<(String, String)>> {
        match framing {
            Framing::None => Ok(Vec::new()),
            Framing::Length(length) => {
                self.take(length, body).await?;
                Ok(Vec::new())
            }
            Framing::Close => {
                while self.fill().await? {}
                body.append(&mut self.buffer);
                Ok(Vec::new())
            }
            Framing::Chunked => loop {
                let line = self.line().await?.context("closed before the last chunk")?;
                let digits = line.split(';').next().unwrap_or_default().trim();
                let size =
                    usize::from_str_radix(digits, 16).with_context(|| format!("bad chunk size {line:?}"))?;
                if size == 0 {
                    return self.fields().await;
                }
                self.take(size, body).await?;
                self.line().await?.context("closed after a chunk")?;
            },
        }
    }

    async fn take(&mut self, length: usize, body: &mut Vec<u8>) -> Result<()> {
        let mut left = length;
        loop {
            let now = left.min(self.buffer.len());
            body.extend(self.buffer.drain(..now));
            left -= now;
            if left == 0 {
                return Ok(());
            }
            if !self.fill().await? {
                bail!("closed {left} bytes before the end of the body");
            }
        }
    }
}
