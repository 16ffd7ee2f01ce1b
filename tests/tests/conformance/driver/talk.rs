//! Conversations in bytes: what no HTTP library would send.

use std::time::Duration;

use anyhow::Result;
use outrider_tests::client::{Conn, LIMIT, frames};

use super::{
    normal::{raw_lines, show},
    request::Tls,
    world::World,
};

/// For how long a connection is watched before it counts as left open.
const WATCH: Duration = Duration::from_millis(150);

/// One step of a conversation.
#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u8>),
    Read(String),
    Finish,
    Drain,
    Responses(usize),
    Frames(usize),
}

/// A conversation on one connection.
#[derive(Clone, Debug)]
pub(crate) struct Talk {
    listener: String,
    prefix: Vec<u8>,
    tls: Option<Tls>,
    steps: Vec<Step>,
}

/// A conversation with a listener.
pub(crate) fn talk(listener: &str) -> Talk {
    Talk { listener: listener.into(), prefix: Vec::new(), tls: None, steps: Vec::new() }
}

/// These bytes to the listener `main`, then one response, and whether the connection stays.
pub(crate) fn raw(bytes: &str) -> Talk {
    talk("main").send(bytes).responses(1)
}

impl Talk {
    /// Over TLS.
    pub(crate) fn tls(mut self, tls: Tls) -> Self {
        self.tls = Some(tls);
        self
    }

    /// Before all else, and before TLS.
    pub(crate) fn prefix(mut self, bytes: &[u8]) -> Self {
        self.prefix = bytes.to_vec();
        self
    }

    /// Sends bytes.
    pub(crate) fn send(self, bytes: impl AsRef<[u8]>) -> Self {
        self.step(Step::Send(bytes.as_ref().to_vec()))
    }

    /// Reads until the text comes.
    pub(crate) fn read(self, text: &str) -> Self {
        self.step(Step::Read(text.into()))
    }

    /// Ends our direction.
    pub(crate) fn finish(self) -> Self {
        self.step(Step::Finish)
    }

    /// Reads to the end.
    pub(crate) fn drain(self) -> Self {
        self.step(Step::Drain)
    }

    /// Reads so many final responses, then watches whether the connection stays.
    pub(crate) fn responses(mut self, count: usize) -> Self {
        self.steps.retain(|step| !matches!(step, Step::Responses(_)));
        self.step(Step::Responses(count))
    }

    /// Reads frames until their digest has so many lines, then watches whether the connection stays.
    pub(crate) fn frames(self, count: usize) -> Self {
        self.step(Step::Frames(count))
    }

    fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// Holds the conversation; the second value is our own port, the third how many responses came.
    pub(crate) async fn run(&self, world: &World) -> Result<(Vec<String>, u16, usize)> {
        let options = self.tls.as_ref().map(|tls| tls.options(world)).transpose()?;
        let port = world.port(&self.listener)?;
        let conn = Conn::with_prefix(port, &self.prefix, options.as_ref()).await;
        let mut conn = match conn {
            Err(_) if self.tls.is_some() => return Ok((vec!["client TLS refused".into()], 0, 0)),
            other => other?,
        };
        let (mut lines, mut responses) = (Vec::new(), 0);
        for step in &self.steps {
            match step {
                // A peer that is gone shows in the next reading step.
                Step::Send(bytes) => _ = conn.send(bytes).await,
                Step::Finish => _ = conn.finish().await,
                Step::Read(text) => {
                    let want = text.as_bytes();
                    let got = conn.read_until(|all| all.windows(want.len()).any(|w| w == want)).await;
                    lines.push(got.map_or_else(
                        |error| format!("client error: {error:#}"),
                        |got| format!("client read {}", show(&got)),
                    ));
                }
                Step::Drain => {
                    let (got, end) = conn.drain(LIMIT).await;
                    // Bytes that a server never read turn its close into a reset, or not: a race.
                    let end = if got.is_empty() && end == "reset" { "closed" } else { end };
                    lines.push(format!("client read {} then {end}", show(&got)));
                }
                Step::Responses(count) => {
                    let got = conn.read_until(|all| finals(all) >= *count).await;
                    let (rest, end) = conn.drain(WATCH).await;
                    let (text, failed) = match got {
                        Ok(mut got) => {
                            got.extend_from_slice(&rest);
                            (got, None)
                        }
                        Err(error) => (rest, Some(format!("client error: {error:#}"))),
                    };
                    responses += finals(&text);
                    let raw = raw_lines(&text);
                    // How long a server lingers after it said that it closes is its own affair.
                    let announced = raw.iter().any(|line| line == "client raw header connection: close");
                    lines.extend(raw);
                    lines.extend(failed);
                    let end = if announced || end != "open" { "closed" } else { "open" };
                    lines.push(format!("client connection {end}"));
                }
                Step::Frames(count) => {
                    let got = conn.read_until(|all| frames::digest(all).len() >= *count).await;
                    let (rest, end) = conn.drain(WATCH).await;
                    let mut got = got.unwrap_or_default();
                    got.extend_from_slice(&rest);
                    lines.extend(frames::digest(&got).iter().map(|l| format!("client frame: {l}")));
                    lines.push(format!("client connection {}", if end == "open" { end } else { "closed" }));
                }
            }
        }
        let local = conn.local_port();
        Ok((lines, local, responses))
    }
}

/// How many final responses begin in these bytes.
fn finals(bytes: &[u8]) -> usize {
    let text = String::from_utf8_lossy(bytes);
    text.split("HTTP/1.")
        .skip(1)
        .filter(|part| {
            let status = part.get(1..).unwrap_or_default();
            !status.starts_with(" 1") || status.starts_with(" 101")
        })
        .count()
}
