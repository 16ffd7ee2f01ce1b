//! `outrider upgrade`: asks the proxy beside this process to hand over to another binary.

use std::io::{BufRead as _, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::door::{Answer, Call};

/// How much longer than the new process the old one may take to say that the time is over.
const MORE: Duration = Duration::from_secs(30);

/// Has the proxy that listens on `socket` (its `--upgrade-socket`) hand over to `binary`, which may take `limit` until it is
/// ready. What happens is written to `out`.
///
/// # Errors
/// There is no such proxy, or it goes on itself: why is in the error.
pub fn run(binary: &Path, socket: &Path, limit: Duration, out: &mut impl Write) -> anyhow::Result<bool> {
    let binary = std::path::absolute(binary).with_context(|| format!("--binary {}", binary.display()))?;
    let mut stream = UnixStream::connect(socket).with_context(|| {
        format!(
            "no proxy listens on {}: start it with --upgrade-socket, and give the same path here with --socket",
            socket.display()
        )
    })?;
    stream.set_read_timeout(Some(limit.saturating_add(MORE)))?;
    let timeout_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let mut line = serde_json::to_vec(&Call { binary, timeout_ms })?;
    line.push(b'\n');
    // One that refuses us may do so before it has read this: what it says tells more than that.
    let written = stream.write_all(&line);
    for line in BufReader::new(stream).lines() {
        let line = line.context("the proxy does not say what came of it; its log does")?;
        let answer = serde_json::from_str::<Answer>(&line)
            .context("the proxy says something else than an upgrade's progress")?;
        match answer {
            Answer::Step(text) => writeln!(out, "{text}")?,
            Answer::Done(text) => {
                writeln!(out, "{text}")?;
                return Ok(true);
            }
            Answer::Failed(text) => bail!("no upgrade, the proxy goes on as it was: {text}"),
        }
    }
    written.context("the proxy does not listen")?;
    bail!("the proxy ended without a word about the upgrade; its log tells why")
}
