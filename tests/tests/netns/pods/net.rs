//! Pods on a bridge: each a namespace with addresses of both families.

use std::fs::File;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use outrider_tests::{binary, client::LIMIT, wait};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use socket2::{Domain, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::run;

const BRIDGE: &str = "pods";

/// Of which kind addresses are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    V4,
    V6,
}

/// How connections come to the sidecar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    Redirect,
    Tproxy,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    pub(crate) family: Family,
    pub(crate) mode: Mode,
    pub(crate) backend: &'static str,
}

impl Way {
    /// All there are.
    pub(crate) fn all() -> Vec<Self> {
        let mut all = Vec::new();
        for mode in [Mode::Redirect, Mode::Tproxy] {
            for backend in ["nft", "iptables"] {
                all.extend([Family::V4, Family::V6].map(|family| Self { family, mode, backend }));
            }
        }
        all
    }

    /// The mode, as it is on the command line.
    pub(crate) fn mode(self) -> &'static str {
        match self.mode {
            Mode::Redirect => "redirect",
            Mode::Tproxy => "tproxy",
        }
    }
}

/// Some pods, and the bridge between them; this end of it is a machine without a sidecar.
pub(crate) struct Net {
    pub(crate) pods: Vec<Pod>,
}

/// A namespace; it goes with this.
pub(crate) struct Pod {
    child: Child,
    number: u8,
}

impl Drop for Net {
    fn drop(&mut self) {
        self.pods.clear();
        // It would only be in the way of the next.
        let _ = run("ip", &["link", "delete", BRIDGE]);
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        // The wire would go with the namespace, but some time later.
        let _ = run("ip", &["link", "delete", &self.wire()]);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Net {
    /// This many pods.
    pub(crate) async fn new(pods: u8) -> Result<Self> {
        run("ip", &["link", "add", BRIDGE, "type", "bridge"])?;
        let mut net = Self { pods: Vec::new() };
        run("ip", &["address", "add", "10.77.0.1/24", "dev", BRIDGE])?;
        run("ip", &["-6", "address", "add", "fd77::1/64", "dev", BRIDGE, "nodad"])?;
        run("ip", &["link", "set", BRIDGE, "up"])?;
        for number in 10..10 + pods {
            let pod = Pod::new(number).await?;
            net.pods.push(pod);
        }
        Ok(net)
    }
}

impl Pod {
    async fn new(number: u8) -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sleep", "3600"]).stdin(Stdio::null());
        let pod = Self { child: command.spawn()?, number };
        let own = std::fs::read_link("/proc/self/ns/net")?;
        wait::until("a namespace", wait::LIMIT, async || {
            Ok(std::fs::read_link(pod.namespace()).ok().filter(|it| *it != own).map(drop))
        })
        .await?;
        let (wire, id) = (pod.wire(), pod.child.id().to_string());
        run("ip", &["link", "add", &wire, "type", "veth", "peer", "name", "eth0", "netns", &id])?;
        run("ip", &["link", "set", &wire, "master", BRIDGE])?;
        run("ip", &["link", "set", &wire, "up"])?;
        pod.run(&["ip", "link", "set", "lo", "up"])?;
        let (v4, v6) = (pod.address(Family::V4), pod.address(Family::V6));
        pod.run(&["ip", "address", "add", &format!("{v4}/24"), "dev", "eth0"])?;
        pod.run(&["ip", "-6", "address", "add", &format!("{v6}/64"), "dev", "eth0", "nodad"])?;
        pod.run(&["ip", "link", "set", "eth0", "up"])?;
        pod.run(&["ip", "route", "add", "default", "via", "10.77.0.1"])?;
        pod.run(&["ip", "-6", "route", "add", "default", "via", "fd77::1"])?;
        Ok(pod)
    }

    fn wire(&self) -> String {
        format!("pod{}", self.number)
    }

    fn namespace(&self) -> String {
        format!("/proc/{}/ns/net", self.child.id())
    }

    /// Its address.
    pub(crate) fn address(&self, family: Family) -> IpAddr {
        match family {
            Family::V4 => Ipv4Addr::new(10, 77, 0, self.number).into(),
            Family::V6 => Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, self.number.into()).into(),
        }
    }

    /// A port of its.
    pub(crate) fn at(&self, family: Family, port: u16) -> SocketAddr {
        (self.address(family), port).into()
    }

    /// What begins the command line of whatever runs in it.
    pub(crate) fn enter(&self) -> Vec<String> {
        ["-t", &self.child.id().to_string(), "-n", "--"].map(str::to_owned).into()
    }

    fn run(&self, command: &[&str]) -> Result<()> {
        let enter = self.enter();
        let args: Vec<&str> = enter.iter().map(String::as_str).chain(command.iter().copied()).collect();
        run("nsenter", &args)
    }

    /// `outrider capture` in it, which must agree; what it says.
    pub(crate) async fn capture(&self, args: &[&str]) -> Result<String> {
        let outrider = binary::outrider()?;
        let mut command = tokio::process::Command::new("nsenter");
        command.args(self.enter()).arg(outrider).arg("capture").args(args);
        let output = command.output().await?;
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        ensure!(output.status.success(), "outrider capture {args:?}: {said}");
        Ok(said)
    }

    /// Runs it on a thread in there. What is made there stays there.
    fn inside<T: Send>(&self, work: impl FnOnce() -> io::Result<T> + Send) -> Result<T> {
        let namespace = File::open(self.namespace())?;
        std::thread::scope(|scope| {
            let inside = scope.spawn(|| -> Result<T> {
                move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?;
                Ok(work()?)
            });
            inside.join().ok().context("the thread fell")?
        })
    }

    /// Listens at its address.
    pub(crate) fn listen(&self, address: SocketAddr) -> Result<TcpListener> {
        let socket = self.inside(|| {
            let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())?;
            socket.listen(128)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })?;
        Ok(TcpListener::from_std(socket.into())?)
    }

    /// Connects from in there, as any application does.
    pub(crate) async fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        let socket = self.inside(|| {
            let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })?;
        let socket = TcpSocket::from_std_stream(socket.into());
        wait::within("a connection", LIMIT, async { Ok(socket.connect(to).await?) })
            .await
            .with_context(|| format!("from pod {} to {to}", self.number))
    }

    /// A socket for datagrams.
    pub(crate) fn datagrams(&self, address: SocketAddr) -> Result<tokio::net::UdpSocket> {
        let socket = self.inside(|| {
            let socket = UdpSocket::bind(address)?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        })?;
        Ok(tokio::net::UdpSocket::from_std(socket)?)
    }
}
