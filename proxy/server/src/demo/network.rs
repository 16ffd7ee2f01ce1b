//! Network namespaces: one for each pod, and one that joins them by a bridge. The host's own is left alone.

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::child::finish;
use super::http::{self, Answer};
use super::part::{COMMAND, MYSELF, NONE};

/// The address of the bridge, where the control plane is.
pub(super) const BRIDGE: Ipv4Addr = Ipv4Addr::new(10, 88, 0, 1);
/// How long one answer may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Where something of the demo runs: in the namespace of a process, or where the demo itself does.
#[derive(Debug)]
pub(super) struct Space(Option<(u32, File)>);

impl Space {
    /// Where the demo itself runs.
    pub(super) const fn here() -> Self {
        Self(None)
    }

    /// The namespace of a process.
    pub(super) fn of(process: u32) -> anyhow::Result<Self> {
        let path = format!("/proc/{process}/ns/net");
        Ok(Self(Some((process, File::open(&path).context(path)?))))
    }

    /// The same once more.
    pub(super) fn again(&self) -> anyhow::Result<Self> {
        Ok(match &self.0 {
            Some((process, file)) => Self(Some((*process, file.try_clone()?))),
            None => Self(None),
        })
    }

    /// A command that runs in it, as a user.
    pub(super) fn command(&self, user: Option<u32>, program: &str) -> Command {
        let namespace = self.0.as_ref().map_or_else(|| NONE.to_owned(), |(process, _)| process.to_string());
        let user = user.map_or_else(|| NONE.to_owned(), |user| user.to_string());
        let mut command = Command::new(MYSELF);
        command.arg0("outrider").args([COMMAND, "enter", &namespace, &user, program]);
        command
    }

    /// Runs a program in it to its end.
    pub(super) fn run(&self, program: &str, args: &[&str]) -> anyhow::Result<String> {
        let mut command = self.command(None, program);
        command.args(args);
        finish(command)
    }

    /// Does something in it. Sockets stay where they were made.
    pub(super) fn within<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        let Some((_, file)) = &self.0 else { return work() };
        std::thread::scope(|scope| {
            let inside = scope.spawn(move || {
                // This thread alone is there, and ends with it.
                move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))?;
                work()
            });
            inside.join().map_err(|_| anyhow!("a thread of the demo fell"))?
        })
    }

    /// A connection out of it.
    pub(super) fn connect(&self, to: SocketAddr) -> anyhow::Result<TcpStream> {
        self.within(|| {
            TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("connecting to {to}"))
        })
    }

    /// A request out of it.
    pub(super) fn get(&self, to: SocketAddr, path: &str) -> anyhow::Result<Answer> {
        http::get(self.connect(to)?, &to.to_string(), path, PATIENCE)
    }
}

/// Makes the bridge in a namespace.
pub(super) fn bridge(fabric: &Space) -> anyhow::Result<()> {
    fabric.run("ip", &["link", "set", "lo", "up"])?;
    fabric.run("ip", &["link", "add", "mesh", "type", "bridge"])?;
    fabric.run("ip", &["address", "add", &format!("{BRIDGE}/24"), "dev", "mesh"])?;
    fabric.run("ip", &["link", "set", "mesh", "up"])?;
    Ok(())
}

/// Gives a pod's namespace an address and a wire to the bridge.
pub(super) fn plug(fabric: &Space, pod: &Space, name: &str, address: Ipv4Addr) -> anyhow::Result<()> {
    let process =
        pod.0.as_ref().map(|(process, _)| process.to_string()).context("a pod without a namespace")?;
    fabric.run("ip", &["link", "add", name, "type", "veth", "peer", "name", "eth0", "netns", &process])?;
    fabric.run("ip", &["link", "set", name, "master", "mesh", "up"])?;
    pod.run("ip", &["link", "set", "lo", "up"])?;
    pod.run("ip", &["address", "add", &format!("{address}/24"), "dev", "eth0"])?;
    pod.run("ip", &["link", "set", "eth0", "up"])?;
    pod.run("ip", &["route", "add", "default", "via", &BRIDGE.to_string()])?;
    Ok(())
}
