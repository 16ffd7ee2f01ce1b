//! One request and its answer, as simple as HTTP can be.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::Context as _;

/// No answer that the demo asks for is longer.
const LONGEST: u64 = 4 << 20;

/// What came back.
#[derive(Debug)]
pub(super) struct Answer {
    /// The status.
    pub(super) status: u16,
    /// The body.
    pub(super) body: String,
}

/// `GET path` on a connection of its own.
pub(super) fn get(
    mut stream: TcpStream,
    host: &str,
    path: &str,
    patience: Duration,
) -> anyhow::Result<Answer> {
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: {host}\r\nuser-agent: demo\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).context("waiting for an answer")?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer came")?;
    let status =
        head.split(' ').nth(1).and_then(|status| status.parse().ok()).context("no HTTP status came")?;
    Ok(Answer { status, body: body.to_owned() })
}
