//! Real etcds.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use outrider_control::store::{Place, SharedStore, open};
use outrider_tests::etcd;
use outrider_tests::ports::Lease;

use crate::follow::LIMIT;

/// Where etcd is. Without it, tests are left out, unless it is required.
fn binary() -> Option<&'static Path> {
    static BINARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    BINARY.get_or_init(|| found(etcd::program())).as_deref()
}

/// What was looked for; without it, the test is left out, unless it is required.
pub(crate) fn found<E: std::fmt::Display>(program: Result<PathBuf, E>) -> Option<PathBuf> {
    match program {
        Ok(path) => Some(path),
        Err(error) if etcd::required() => panic!("{error:#}"),
        Err(error) => {
            println!("LEFT OUT: {error:#}");
            None
        }
    }
}

/// One member of a cluster.
pub(crate) struct Member {
    pub(crate) address: String,
    command: Command,
    child: Option<Child>,
    /// Its ports stay its own while it is down.
    _ports: [Lease; 2],
    _data: tempfile::TempDir,
}

impl Member {
    fn start(&mut self) {
        self.child = Some(self.command.spawn().unwrap());
    }

    /// As a power loss does.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().unwrap();
            child.wait().unwrap();
        }
    }

    pub(crate) fn restart(&mut self) {
        self.kill();
        self.start();
    }

    /// `STOP` leaves its connections open, and silent: a partition as its peers see it.
    pub(crate) fn signal(&self, signal: &str) {
        let id = self.child.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([&format!("-{signal}"), &id]).status().unwrap().success());
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Files for TLS.
pub(crate) struct Tls {
    pub(crate) ca: String,
    pub(crate) cert: String,
    pub(crate) key: String,
}

/// Starts a cluster; `None` when there is no etcd.
pub(crate) fn cluster(size: usize, tls: Option<&Tls>) -> Option<Vec<Member>> {
    let binary = binary()?;
    let lease = || Lease::new().unwrap();
    let ports: Vec<_> = (0..size).map(|index| (format!("m{index}"), [lease(), lease()])).collect();
    let peers: Vec<_> =
        ports.iter().map(|(name, [_, peer])| format!("{name}=http://127.0.0.1:{}", peer.port())).collect();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let member = |(name, ports): (String, [Lease; 2])| {
        let data = tempfile::tempdir().unwrap();
        let address = format!("127.0.0.1:{}", ports[0].port());
        let client = format!("{scheme}://{address}");
        let peer = format!("http://127.0.0.1:{}", ports[1].port());
        let mut command = Command::new(binary);
        command
            .args(["--name", &name, "--initial-cluster", &peers.join(",")])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--logger", "zap", "--log-level", "panic"])
            .arg("--data-dir")
            .arg(data.path())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(tls) = tls {
            command.arg("--cert-file").arg(&tls.cert).arg("--key-file").arg(&tls.key);
            command.arg("--client-cert-auth").arg("--trusted-ca-file").arg(&tls.ca);
        }
        let mut member = Member { address, command, child: None, _ports: ports, _data: data };
        member.start();
        member
    };
    Some(ports.into_iter().map(member).collect())
}

/// A store in these members; `rest` is what follows the hosts in its address.
pub(crate) async fn store(members: &[Member], rest: &str) -> SharedStore {
    let hosts: Vec<_> = members.iter().map(|member| member.address.as_str()).collect();
    at(&format!("etcd://{}{rest}", hosts.join(","))).await
}

pub(crate) async fn at(address: &str) -> SharedStore {
    open(&Place::parse(address).unwrap()).await.unwrap()
}

/// Waits until a store answers.
pub(crate) async fn until_ready(store: &SharedStore) {
    let end = tokio::time::Instant::now() + LIMIT;
    while let Err(error) = store.list().await {
        assert!(tokio::time::Instant::now() < end, "{error}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
