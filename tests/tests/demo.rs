//! `outrider demo`: what it prints is what a newcomer believes, so each line of it is asked for here; and that it leaves nothing behind.

use std::io::{BufRead as _, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use outrider_tests::binary;
use rustix::process::{Pid, Signal, kill_process};

/// A folder for temporary files, which another user (a sidecar) can get to; the path is short, as there are sockets in it.
struct Temporary(PathBuf);

impl Temporary {
    fn new(label: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("outrider-test-{}-{label}", std::process::id()));
        std::fs::create_dir(&path)?;
        Ok(Self(path))
    }

    /// That nothing is in it, and that nobody runs who was started with something of it.
    fn is_left_alone(&self) -> Result<()> {
        let left: Vec<_> = std::fs::read_dir(&self.0)?.flatten().map(|it| it.path()).collect();
        ensure!(left.is_empty(), "left behind: {left:?}");
        let own = self.0.to_string_lossy();
        for process in std::fs::read_dir("/proc")?.flatten() {
            // Whoever ends meanwhile has no command line.
            let line = std::fs::read(process.path().join("cmdline")).unwrap_or_default();
            let line = String::from_utf8_lossy(&line).replace('\0', " ");
            ensure!(!line.contains(&*own), "still running: {line}");
        }
        Ok(())
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn start(args: &[&str], temporary: &Path) -> Result<Child> {
    let mut command = Command::new(binary::outrider()?);
    command.arg("demo").args(args).env("TMPDIR", temporary);
    command.env("OUTRIDER_CONTROL_BIN", binary::control()?).env("OUTRIDERCTL_BIN", binary::outriderctl()?);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command.spawn().context("starting the demo")
}

/// Runs all steps; gives what was printed.
fn once(args: &[&str], label: &str) -> Result<String> {
    let temporary = Temporary::new(label)?;
    let output = start(&[args, &["--once"]].concat(), &temporary.0)?.wait_with_output()?;
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}\n{said}\n{failed}", output.status);
    temporary.is_left_alone()?;
    Ok(said)
}

/// That the lines are there, in this order; `*` stands for anything within a line.
fn follow(said: &str, wanted: &[&str]) -> Result<()> {
    let mut lines = said.lines();
    for want in wanted {
        let fits = |line: &str| {
            let mut rest = line.trim();
            want.split('*').all(|part| match rest.find(part) {
                Some(at) => {
                    rest = rest.get(at + part.len()..).unwrap_or_default();
                    true
                }
                None => false,
            })
        };
        ensure!(lines.any(fits), "{want:?} is missing, or not in its place:\n{said}");
    }
    Ok(())
}

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

/// The lines that both forms have behind those about the wire.
fn common() -> Vec<String> {
    [
        "a stranger without a certificate who asks the cart in clear: *",
        "proves *mutual TLS alone",
        "Traffic is shifted from v1 to v2, live",
        "asked *100 % to v1, 0 % to v2; then 40 requests",
        "came 40 answers of v1, 0 of v2, 0 failed",
        "asked *50 % to v1, 50 % to v2; then 40 requests",
        "came * 0 failed",
        "asked *0 % to v1, 100 % to v2; then 40 requests",
        "came 0 answers of v1, 40 of v2, 0 failed",
        "A fault is injected, and retried away",
        "came 10 failed",
        "asked *TrafficPolicy cart: up to 3 retries on 5xx; 20 requests",
        "came 0 failed; the sidecar of web counted * requests that a retry saved",
        "A policy denies, and says why",
        "came GET /admin: 403 RBAC: access denied",
        "came log: GET /admin 403 from=@ *why=rbac_access_denied_matched_policy*policy[cart-read-only]",
        "came GET /orders: 200",
        "The control plane is killed, and nothing is lost",
        "came 40 answers, 0 failed; GET /admin is still answered 403",
        "asked *the control plane is started again; HTTPRoute cart: 100 % to v1",
        "came v1 answers, 0 failed on the way",
        "All 7 steps passed.",
    ]
    .map(|line| line.replace('@', WEB).replacen("came ", "came*", 1))
    .to_vec()
}

#[test]
fn without_namespaces_all_but_capture_is_shown() -> Result<()> {
    let said = once(&["--loopback"], "loopback")?;
    let called = format!("came*200 cart-v1 answers /whoami to {WEB}");
    let logged = format!("came*log: GET /whoami 200 from={WEB} tls=TLSv1.*");
    let begin = [
        "Explicit ports on the loopback, without capture",
        "An application calls another one by its name",
        "came*200 cart-v1 answers /orders",
        "Who calls is known, and by a certificate",
        called.as_str(),
        logged.as_str(),
        "Between the sidecars all is encrypted",
        "came*200; * bytes passed the relay, the secret not among them",
    ];
    let common = common();
    follow(&said, &begin.into_iter().chain(common.iter().map(String::as_str)).collect::<Vec<_>>())
}

#[test]
fn with_namespaces_the_wire_is_listened_in_on() -> Result<()> {
    let tried = Command::new("unshare").args(["--net", "--mount", "--", "nft", "list", "ruleset"]).output();
    if !tried.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: network namespaces need root, unshare, ip and nft");
        return Ok(());
    }
    let said = once(&[], "namespaces")?;
    let called = format!("came*200 cart-v1 answers /whoami to {WEB}");
    let begin = [
        "Each pod is a network namespace, and its traffic is captured.",
        "An application calls another one by its name",
        "came*200 cart-v1 answers /orders",
        "came* connections to port 80 in the stats of web's sidecar",
        "Who calls is known, and by a certificate",
        called.as_str(),
        "Between the pods all is encrypted",
        "came*200; within web's pod the secret was read in * packets",
        "came*on the bridge * packets with * bytes passed, the secret in 0 of them",
    ];
    let common = common();
    follow(&said, &begin.into_iter().chain(common.iter().map(String::as_str)).collect::<Vec<_>>())
}

#[test]
fn an_interrupted_demo_leaves_nothing_behind() -> Result<()> {
    for early in [true, false] {
        let temporary = Temporary::new(if early { "early" } else { "late" })?;
        let mut child = start(&["--loopback"], &temporary.0)?;
        let mut output = BufReader::new(child.stdout.take().context("no output")?);
        let until = if early { "2. " } else { "The mesh goes on" };
        let mut said = String::new();
        while !said.lines().next_back().unwrap_or_default().starts_with(until) {
            ensure!(output.read_line(&mut said)? > 0, "it ended: {said}");
        }
        let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw).context("no process")?;
        kill_process(pid, Signal::INT)?;
        output.read_to_string(&mut said)?;
        ensure!(child.wait()?.success(), "{said}");
        temporary.is_left_alone()?;
    }
    Ok(())
}

#[test]
fn the_simple_form_needs_no_control_plane() -> Result<()> {
    let lease = std::net::TcpListener::bind(("127.0.0.1", 0))?;
    let port = lease.local_addr()?.port().min(u16::MAX - 2).to_string();
    drop(lease);
    let output =
        Command::new(binary::outrider()?).args(["demo", "--simple", "--once", "--port", &port]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    follow(&said, &["GET /hello*200", "GET /flaky*200", "cluster.plain.upstream_rq_retry: 2"])
}
