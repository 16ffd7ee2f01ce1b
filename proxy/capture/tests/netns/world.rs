//! Two network namespaces with a wire between them: a pod, and what is outside of it.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::thread::{
    Gid, LinkNameSpaceType, Uid, move_into_link_name_space, set_thread_gid, set_thread_groups, set_thread_uid,
};
use socket2::{Domain, Socket, Type};

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);
/// After how long nothing is taken to come any more.
pub(crate) const NOTHING: Duration = Duration::from_secs(2);
/// A user that is not the proxy.
pub(crate) const USER: u32 = 1000;
/// The proxy.
pub(crate) const PROXY: u32 = 1337;

/// Addresses of one family.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Net {
    pub(crate) pod: IpAddr,
    pub(crate) outside: IpAddr,
    pub(crate) loopback: IpAddr,
    pub(crate) inbound: IpAddr,
}

pub(crate) const NETS: [Net; 2] = [
    Net {
        pod: IpAddr::V4(Ipv4Addr::new(10, 77, 0, 2)),
        outside: IpAddr::V4(Ipv4Addr::new(10, 77, 0, 1)),
        loopback: IpAddr::V4(Ipv4Addr::LOCALHOST),
        inbound: IpAddr::V4(Ipv4Addr::new(127, 0, 0, 6)),
    },
    Net {
        pod: IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 2)),
        outside: IpAddr::V6(Ipv6Addr::new(0xfd77, 0, 0, 0, 0, 0, 0, 1)),
        loopback: IpAddr::V6(Ipv6Addr::LOCALHOST),
        inbound: IpAddr::V6(Ipv6Addr::new(0, 0, 0, 0, 0, 0, 0, 6)),
    },
];

/// A namespace; it goes with this.
pub(crate) struct Namespace(Child);

impl Drop for Namespace {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Namespace {
    pub(crate) fn new() -> Result<Self> {
        let mut command = Command::new("unshare");
        command.args(["--net", "--", "sleep", "3600"]);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let namespace = Self(command.spawn().context("unshare")?);
        let own = std::fs::read_link("/proc/self/ns/net")?;
        let deadline = Instant::now() + LIMIT;
        while std::fs::read_link(namespace.path()).is_ok_and(|it| it == own) {
            ensure!(Instant::now() < deadline, "no namespace came");
            std::thread::yield_now();
        }
        namespace.run("ip link set lo up")?;
        Ok(namespace)
    }

    pub(crate) fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }

    /// Runs it on a thread in there, as this user and group.
    pub(crate) fn as_owner<T: Send>(
        &self,
        (uid, gid): (u32, u32),
        work: impl FnOnce() -> T + Send,
    ) -> Result<T> {
        let file = File::open(self.path())?;
        let outcome = std::thread::scope(|scope| {
            let inside = scope.spawn(|| -> io::Result<T> {
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                if (uid, gid) != (0, 0) {
                    set_thread_groups(&[])?;
                    set_thread_gid(Gid::from_raw(gid))?;
                    set_thread_uid(Uid::from_raw(uid))?;
                }
                Ok(work())
            });
            inside.join()
        });
        Ok(outcome.map_err(|_| anyhow::anyhow!("a thread fell"))??)
    }

    pub(crate) fn inside<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T> {
        self.as_owner((0, 0), work)
    }

    /// Runs a command in there, and gives what it says.
    pub(crate) fn run(&self, line: &str) -> Result<String> {
        let output = Command::new("nsenter")
            .args(["-t", &self.0.id().to_string(), "-n", "--"])
            .args(line.split(' '))
            .output()
            .with_context(|| line.to_owned())?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{line}: {said}");
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// `outrider capture` in there: whether it agreed, and what it said.
    pub(crate) fn capture(&self, line: &str) -> Result<(bool, String)> {
        let output = Command::new("nsenter")
            .args(["-t", &self.0.id().to_string(), "-n", "--"])
            .arg(std::env::current_exe()?)
            .arg("capture")
            .args(line.split_whitespace())
            .output()?;
        let both = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&both).into_owned()))
    }

    pub(crate) fn must(&self, line: &str) -> Result<String> {
        let (agreed, said) = self.capture(line)?;
        ensure!(agreed, "capture {line}: {said}");
        Ok(said)
    }

    /// All that capture could leave behind, without counters.
    pub(crate) fn state(&self) -> Result<String> {
        let mut state = String::new();
        for command in [
            "nft -s list ruleset",
            "iptables-legacy-save",
            "ip6tables-legacy-save",
            "ip -4 rule",
            "ip -6 rule",
            "ip -4 route show table all",
            "ip -6 route show table all",
            "ip -o address show dev lo",
        ] {
            for line in self.run(command)?.lines().filter(|it| !it.starts_with('#')) {
                // These come by themselves, a while after a link is up.
                if line.contains("fe80:") || line.contains("ff00:") {
                    continue;
                }
                // Legacy tables appear, empty, when they are looked at; their chains have counters.
                let line = line.split(" [").next().unwrap_or(line);
                state.push_str(line);
                state.push('\n');
            }
        }
        Ok(state)
    }
}

/// Both, wired.
pub(crate) struct World {
    pub(crate) pod: Namespace,
    pub(crate) outside: Namespace,
}

impl World {
    pub(crate) fn new() -> Result<Self> {
        let world = Self { pod: Namespace::new()?, outside: Namespace::new()? };
        let outside = world.outside.0.id();
        world.pod.run(&format!("ip link add eth0 type veth peer name eth0 netns {outside}"))?;
        for net in NETS {
            let (bits, more) = if net.pod.is_ipv4() { (24, "") } else { (64, " nodad") };
            for (namespace, address) in [(&world.pod, net.pod), (&world.outside, net.outside)] {
                namespace.run(&format!("ip address add {address}/{bits} dev eth0{more}"))?;
            }
        }
        world.pod.run("ip link set eth0 up")?;
        world.outside.run("ip link set eth0 up")?;
        for net in NETS {
            let flag = if net.pod.is_ipv4() { "-4" } else { "-6" };
            world.pod.run(&format!("ip {flag} route add default via {}", net.outside))?;
        }
        Ok(world)
    }
}

/// How a connection is opened.
#[derive(Debug, Clone, Copy)]
pub(crate) struct From {
    pub(crate) owner: (u32, u32),
    /// From this address, which need not be one of the host's if there is a mark.
    pub(crate) bind: Option<IpAddr>,
    pub(crate) mark: u32,
    pub(crate) limit: Duration,
}

impl From {
    pub(crate) const fn owner(uid: u32, gid: u32) -> Self {
        Self { owner: (uid, gid), bind: None, mark: 0, limit: LIMIT }
    }
}

/// Connects, and gives what is said there.
pub(crate) fn ask(namespace: &Namespace, from: From, target: SocketAddr) -> Result<String> {
    let opened = || -> io::Result<Socket> {
        let domain = Domain::for_address(target);
        let socket = Socket::new(domain, Type::STREAM, None)?;
        if from.mark != 0 {
            socket.set_mark(from.mark)?;
            if target.is_ipv4() {
                socket.set_ip_transparent_v4(true)?;
            } else {
                socket.set_ip_transparent_v6(true)?;
            }
        }
        if let Some(address) = from.bind {
            socket.bind(&SocketAddr::new(address, 0).into())?;
        }
        Ok(socket)
    };
    let asked = || -> io::Result<String> {
        let socket = opened()?;
        socket.connect_timeout(&target.into(), from.limit)?;
        socket.set_read_timeout(Some(from.limit))?;
        let mut stream = TcpStream::from(socket);
        // Who never speaks first still gets its packets.
        stream.write_all(b"?")?;
        let mut said = String::new();
        stream.read_to_string(&mut said)?;
        Ok(said)
    };
    namespace.as_owner(from.owner, asked)?.with_context(|| format!("{from:?} to {target}"))
}
