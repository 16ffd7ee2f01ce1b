//! A real etcd.

use std::{
    env,
    fs::{self, File},
    path::PathBuf,
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::net::TcpStream;

use crate::{binary, ports::Lease, proxy::Proxy, wait};

/// A running etcd with one member.
#[derive(Debug)]
pub struct Etcd {
    client: Lease,
    _peer: Lease,
    _process: Proxy,
}

impl Etcd {
    /// Starts one in a folder of its own.
    ///
    /// # Errors
    /// When there is no etcd, or it does not start.
    pub async fn start() -> Result<Self> {
        let (client, peer, dir) = (Lease::new()?, Lease::new()?, binary::scratch("etcd")?);
        let at = |lease: &Lease| format!("http://127.0.0.1:{}", lease.port());
        let mut args = vec!["--name=one".to_owned(), format!("--data-dir={}", dir.join("data").display())];
        for name in ["listen-client-urls", "advertise-client-urls"] {
            args.push(format!("--{name}={}", at(&client)));
        }
        for name in ["listen-peer-urls", "initial-advertise-peer-urls"] {
            args.push(format!("--{name}={}", at(&peer)));
        }
        args.push(format!("--initial-cluster=one={}", at(&peer)));
        let process = Proxy::command(&program()?, &args, 0, dir)?;
        wait::until("etcd to listen", Duration::from_secs(30), async || {
            Ok(TcpStream::connect(("127.0.0.1", client.port())).await.ok().map(drop))
        })
        .await
        .with_context(|| process.output())?;
        Ok(Self { client, _peer: peer, _process: process })
    }

    /// Where its clients connect.
    #[must_use]
    pub const fn port(&self) -> u16 {
        self.client.port()
    }
}

/// Whether a missing etcd fails the suite (`OUTRIDER_REQUIRE_ETCD=1`).
#[must_use]
pub fn required() -> bool {
    env::var_os("OUTRIDER_REQUIRE_ETCD").is_some_and(|value| value == "1")
}

/// The program: on the path, else from Debian's package, unpacked under `target/etcd` without being root.
///
/// # Errors
/// When it is not there and cannot be had.
pub fn program() -> Result<PathBuf> {
    found("etcd", &["--version"], "etcd-server")
}

/// `etcdctl`, likewise.
///
/// # Errors
/// As [`program`].
pub fn ctl() -> Result<PathBuf> {
    found("etcdctl", &["version"], "etcd-client")
}

fn found(name: &str, version: &[&str], package: &str) -> Result<PathBuf> {
    if Command::new(name).args(version).output().is_ok_and(|it| it.status.success()) {
        return Ok(name.into());
    }
    let dir = binary::target_dir()?.join("etcd");
    fs::create_dir_all(&dir)?;
    let lock = File::create(dir.join("lock"))?;
    lock.lock()?;
    let program = dir.join("root/usr/bin").join(name);
    if !program.is_file() {
        let script = format!("apt-get -q download {package} && dpkg-deb -x {package}_*.deb root");
        let output = Command::new("sh").args(["-c", &script]).current_dir(&dir).output()?;
        ensure!(program.is_file(), "no {name}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(program)
}
