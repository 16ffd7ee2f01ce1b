//! The demo's applications: an HTTP server that knows nothing of any mesh, and says who its sidecar tells it has called; and a client.
//!
//! It is told what to do by lines on standard input, and answers each by one line.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream, ToSocketAddrs as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::Relaxed};
use std::time::Duration;

use anyhow::{Context as _, bail};

use super::http;

/// The longest head of a request.
const LONGEST: u64 = 64 << 10;
/// How long a connection may be idle.
const IDLE: Duration = Duration::from_secs(300);
/// The requests of the client end within this time.
const PATIENCE: Duration = Duration::from_secs(20);

/// What it is told to do wrong.
#[derive(Debug, Default)]
struct Fault {
    on: AtomicBool,
    asked: AtomicU32,
}

impl Fault {
    /// Whether this request fails: every second one, from the first on.
    fn strikes(&self) -> bool {
        self.on.load(Relaxed) && self.asked.fetch_add(1, Relaxed).is_multiple_of(2)
    }
}

/// Serves until standard input ends. `hosts`: a file that this process (and what enters its mount namespace) has as `/etc/hosts`.
pub(super) fn run(name: &str, address: &str, hosts: Option<&str>) -> anyhow::Result<bool> {
    if let Some(hosts) = hosts {
        rustix::mount::mount_bind(hosts, "/etc/hosts").context("giving the pod names of its own")?;
    }
    let listener = TcpListener::bind(address).with_context(|| format!("listening at {address}"))?;
    let fault = Arc::new(Fault::default());
    let (served, named) = (Arc::clone(&fault), name.to_owned());
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            let (fault, name) = (Arc::clone(&served), named.clone());
            std::thread::spawn(move || drop(serve(&stream, &name, &fault)));
        }
    });
    let mut out = std::io::stdout().lock();
    writeln!(out, "ready")?;
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let words: Vec<&str> = line.split(' ').collect();
        let answer = match words.as_slice() {
            ["fault", "on"] => {
                fault.asked.store(0, Relaxed);
                fault.on.store(true, Relaxed);
                "ok".to_owned()
            }
            ["fault", "off"] => {
                fault.on.store(false, Relaxed);
                "ok".to_owned()
            }
            ["get", to, host, path] => match get(to, host, path) {
                Ok(answer) => format!("{} {}", answer.status, answer.body.trim().replace('\n', " ")),
                Err(error) => format!("error {error:#}").replace('\n', " "),
            },
            _ => bail!("told something that it does not know: {line}"),
        };
        writeln!(out, "{answer}")?;
        out.flush()?;
    }
    Ok(true)
}

/// A request by name, as any client makes it.
fn get(to: &str, host: &str, path: &str) -> anyhow::Result<http::Answer> {
    let address = to.to_socket_addrs().with_context(|| format!("looking {to} up"))?.next();
    let stream = TcpStream::connect_timeout(&address.context("the name has no address")?, PATIENCE)?;
    http::get(stream, host, path, PATIENCE)
}

/// Answers requests on a connection.
fn serve(stream: &TcpStream, name: &str, fault: &Fault) -> anyhow::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let (mut reader, mut writer) = (BufReader::new(stream), stream);
    loop {
        let mut head = String::new();
        let mut limited = reader.by_ref().take(LONGEST);
        while limited.read_line(&mut head)? > 2 {}
        if !head.ends_with("\r\n\r\n") {
            return Ok(());
        }
        let path = head.split(' ').nth(1).unwrap_or("?").to_owned();
        let (status, body) = if fault.strikes() {
            ("503 Service Unavailable", format!("{name}: out of order\n"))
        } else {
            ("200 OK", format!("{name} answers {path} to {}\n", caller(&head).unwrap_or("somebody")))
        };
        let length = body.len();
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain\r\ncontent-length: {length}\r\n\r\n{body}"
        );
        writer.write_all(answer.as_bytes())?;
    }
}

/// Who called, as the sidecar writes it into `x-forwarded-client-cert`.
fn caller(head: &str) -> Option<&str> {
    let line = head.lines().find(|line| line.to_ascii_lowercase().starts_with("x-forwarded-client-cert:"))?;
    line.split([';', ',', ' ']).find_map(|part| part.strip_prefix("URI="))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_is_who_the_sidecar_says() {
        let head = "GET / HTTP/1.1\r\nX-Forwarded-Client-Cert: By=spiffe://a;Hash=00;URI=spiffe://b\r\n\r\n";
        assert_eq!(caller(head), Some("spiffe://b"));
        assert_eq!(caller("GET /?URI=spiffe://b HTTP/1.1\r\nhost: a\r\n\r\n"), None);
    }

    #[test]
    fn every_second_request_fails_while_the_fault_is_on() {
        let fault = Fault::default();
        assert!(!fault.strikes());
        fault.on.store(true, Relaxed);
        assert_eq!([(); 4].map(|()| fault.strikes()), [true, false, true, false]);
    }
}
