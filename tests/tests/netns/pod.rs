//! A second network namespace, as a Pod has one, with a wire to the first.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener as Std};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use outrider_tests::binary;
use outrider_tests::proxy::Proxy;
use outrider_tests::wait;
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::run;

/// The address of this end of the wire.
pub(crate) const HERE: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 2);
/// The Pod's.
pub(crate) const POD: Ipv4Addr = Ipv4Addr::new(10, 1, 0, 1);
/// The port of its proxy's admin interface, which is not redirected.
pub(crate) const ADMIN: u16 = 15000;

/// The namespace; it goes with this.
pub(crate) struct Pod {
    child: Child,
}

impl Drop for Pod {
    fn drop(&mut self) {
        // The wire would go with the namespace, but some time later.
        let _ = run("ip", &["link", "delete", "here"]);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Pod {
    /// Makes one, in which all that arrives is redirected to a sidecar.
    pub(crate) async fn start() -> Result<Self> {
        let pod = Self::bare().await?;
        pod.run("nft", &["add", "table", "ip", "nat"])?;
        pod.run("nft", &["add chain ip nat arriving { type nat hook prerouting priority -100 ; }"])?;
        let rule = format!("add rule ip nat arriving tcp dport != {ADMIN} redirect to :15006");
        pod.run("nft", &[&rule])?;
        Ok(pod)
    }

    /// Makes one without any rules.
    pub(crate) async fn bare() -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sleep", "3600"]).stdin(Stdio::null());
        let pod = Self { child: command.spawn()? };
        let own = std::fs::read_link("/proc/self/ns/net")?;
        wait::until("a namespace", wait::LIMIT, async || {
            Ok(std::fs::read_link(pod.namespace()).ok().filter(|it| *it != own).map(drop))
        })
        .await?;
        run("ip", &["link", "add", "here", "type", "veth", "peer", "name", "there"])?;
        run("ip", &["link", "set", "there", "netns", &pod.child.id().to_string()])?;
        run("ip", &["address", "add", &format!("{HERE}/24"), "dev", "here"])?;
        run("ip", &["link", "set", "here", "up"])?;
        pod.run("ip", &["link", "set", "lo", "up"])?;
        pod.run("ip", &["address", "add", &format!("{POD}/24"), "dev", "there"])?;
        pod.run("ip", &["link", "set", "there", "up"])?;
        Ok(pod)
    }

    fn namespace(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.child.id()).into()
    }

    fn run(&self, program: &str, args: &[&str]) -> Result<()> {
        let pid = self.child.id().to_string();
        run("nsenter", &[&["-t", &pid, "-n", "--", program], args].concat())
    }

    /// A proxy in it.
    pub(crate) fn proxy(&self, bootstrap: &str) -> Result<Proxy> {
        self.proxy_with(bootstrap, &[])
    }

    /// A proxy in it, with further flags.
    pub(crate) fn proxy_with(&self, bootstrap: &str, more: &[&str]) -> Result<Proxy> {
        let dir = binary::scratch("pod")?;
        let file = dir.join("bootstrap.yaml");
        std::fs::write(&file, bootstrap)?;
        let (pid, file) = (self.child.id().to_string(), file.to_string_lossy().into_owned());
        let outrider = binary::outrider()?.to_string_lossy().into_owned();
        let args =
            ["-t", &pid, "-n", "--", &outrider, "-c", &file, "--concurrency", "1", "--disable-hot-restart"];
        let args: Vec<_> = args.iter().chain(more).map(|&arg| arg.to_owned()).collect();
        Proxy::command("nsenter".as_ref(), &args, ADMIN, dir)
    }

    /// A socket in it.
    fn listen(&self, port: u16) -> Result<TcpListener> {
        let namespace = File::open(self.namespace())?;
        // The thread is in the other namespace from then on; the socket stays where it was made.
        let bound = std::thread::spawn(move || -> Result<Std> {
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
            Ok(Std::bind((POD, port))?)
        });
        let bound = bound.join().ok().context("the thread fell")??;
        bound.set_nonblocking(true)?;
        Ok(TcpListener::from_std(bound)?)
    }

    /// The Pod's application: it answers with who asks, as its sidecar told it. It listens until the task is aborted.
    pub(crate) fn application(&self, port: u16) -> Result<JoinHandle<()>> {
        let listener = self.listen(port)?;
        Ok(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                // A client that is gone shows in what it read.
                tokio::spawn(async { drop(answer(stream).await) });
            }
        }))
    }
}

/// Answers requests on a connection.
pub(crate) async fn answer(mut stream: TcpStream) -> Result<()> {
    loop {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
            ensure!(head.len() < 64 << 10, "a head without an end");
        }
        let head = String::from_utf8_lossy(&head).to_lowercase();
        let value = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        let mut body = vec![0; value("content-length").and_then(|it| it.parse().ok()).unwrap_or(0)];
        stream.read_exact(&mut body).await?;
        let who = value("x-forwarded-client-cert").unwrap_or("nobody");
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{who}", who.len());
        stream.write_all(answer.as_bytes()).await?;
    }
}
