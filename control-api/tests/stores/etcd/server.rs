//! Real etcds.

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use outrider_control::store::{Place, SharedStore, open};

use crate::follow::LIMIT;

/// Where etcd is: on the path, else Debian's package, unpacked below the target directory. Without it, tests are left out,
/// unless `OUTRIDER_REQUIRE_ETCD` is set.
fn binary() -> Option<&'static Path> {
    static BINARY: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = BINARY.get_or_init(|| {
        let on_path = std::env::var_os("PATH").and_then(|path| {
            std::env::split_paths(&path).map(|dir| dir.join("etcd")).find(|it| it.is_file())
        });
        on_path.or_else(unpacked)
    });
    if found.is_none() {
        assert!(std::env::var_os("OUTRIDER_REQUIRE_ETCD").is_none(), "there is no etcd");
        println!(
            "LEFT OUT: there is no etcd on the path, and Debian's package etcd-server cannot be fetched"
        );
    }
    found.as_deref()
}

fn unpacked() -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("etcd");
    let binary = dir.join("root/usr/bin/etcd");
    if !binary.is_file() {
        std::fs::create_dir_all(&dir).ok()?;
        let script = "apt-get -q download etcd-server && dpkg-deb -x etcd-server_*.deb root";
        let done = Command::new("sh").args(["-c", script]).current_dir(&dir).output().ok()?;
        if !done.status.success() {
            println!("{}", String::from_utf8_lossy(&done.stderr));
        }
    }
    binary.is_file().then_some(binary)
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// One member of a cluster.
pub(crate) struct Member {
    pub(crate) address: String,
    command: Command,
    child: Option<Child>,
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
    let ports: Vec<_> = (0..size).map(|index| (format!("m{index}"), free_port(), free_port())).collect();
    let peers: Vec<_> =
        ports.iter().map(|(name, _, peer)| format!("{name}=http://127.0.0.1:{peer}")).collect();
    let scheme = if tls.is_some() { "https" } else { "http" };
    let member = |(name, port, peer): &(String, u16, u16)| {
        let data = tempfile::tempdir().unwrap();
        let client = format!("{scheme}://127.0.0.1:{port}");
        let peer = format!("http://127.0.0.1:{peer}");
        let mut command = Command::new(binary);
        command
            .args(["--name", name, "--initial-cluster", &peers.join(",")])
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
        let mut member = Member { address: format!("127.0.0.1:{port}"), command, child: None, _data: data };
        member.start();
        member
    };
    Some(ports.iter().map(member).collect())
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
