//! `outrider wait`: for whoever must not start before the proxy serves.

use std::io::{Read as _, Write as _};
use std::net::{TcpStream, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};

/// How often the proxy is asked.
const PERIOD: Duration = Duration::from_millis(50);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(1);
/// No answer of `/ready` is longer.
const LONGEST: u64 = 64 << 10;

/// Waits until the proxy whose admin interface is at `admin` (`HOST:PORT`) is ready: it has its certificates and its first
/// configuration, and accepts connections.
///
/// # Errors
/// It is not within `limit`; what it said last is in the error.
pub fn run(admin: &str, limit: Duration) -> anyhow::Result<bool> {
    let deadline = Instant::now() + limit;
    loop {
        let said = ask(admin);
        match said {
            Ok((200, _)) => return Ok(true),
            _ if Instant::now() < deadline => std::thread::sleep(PERIOD),
            Ok((status, text)) => {
                bail!(
                    "the proxy at {admin} is not ready after {limit:?}: {status} {}; its log and /clusters, /listeners and \
                     /certs of that address tell what it waits for",
                    text.trim()
                )
            }
            Err(error) => {
                let why = format!(
                    "no proxy answers at {admin} after {limit:?}; is it the address of its admin interface?"
                );
                return Err(error).context(why);
            }
        }
    }
}

/// The status and body of `/ready`.
fn ask(admin: &str) -> anyhow::Result<(u16, String)> {
    let address = admin.to_socket_addrs()?.next().context("the name has no address")?;
    let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /ready HTTP/1.1\r\nhost: {admin}\r\nconnection: close\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer)?;
    let answer = String::from_utf8_lossy(&answer);
    let (head, body) = answer.split_once("\r\n\r\n").context("no HTTP answer")?;
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Ok((status.context("no HTTP status")?, body.to_owned()))
}
