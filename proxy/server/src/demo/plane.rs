//! The control plane of the demo, with its authority, and a folder of manifests that it follows.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::child::{Child, Stop, finish, until};
use super::network::Space;
use super::tools::Programs;

/// Where it is reached.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ports {
    /// By proxies.
    pub(super) xds: u16,
    /// By operators.
    pub(super) api: u16,
    /// By browsers.
    pub(super) status: u16,
}

/// The control plane.
#[derive(Debug)]
pub(super) struct Plane {
    programs: Programs,
    space: Space,
    folder: PathBuf,
    host: Ipv4Addr,
    ports: Ports,
    /// Its status page, and the admin interfaces that it asks: `POD.NAMESPACE=HOST:PORT`.
    status: Option<Vec<String>>,
    process: Option<Child>,
}

impl Plane {
    /// One that does not run yet.
    pub(super) fn new(
        programs: Programs,
        space: Space,
        folder: &Path,
        host: Ipv4Addr,
        ports: Ports,
        admins: Vec<String>,
    ) -> anyhow::Result<Self> {
        fs::create_dir(folder.join("manifests"))?;
        let mut help = std::process::Command::new(&programs.control);
        help.arg("--help");
        // The page may not be there in a control plane that was built before it was.
        let status = finish(help)?.contains("--status-address").then_some(admins);
        Ok(Self { programs, space, folder: folder.to_owned(), host, ports, status, process: None })
    }

    /// Starts it, and waits until it serves what it was given.
    pub(super) fn start(&mut self, stop: &Stop) -> anyhow::Result<()> {
        let (host, ports) = (self.host, self.ports);
        let mut command = self.space.command(None, &self.programs.control.to_string_lossy());
        command.arg("--manifests").arg(self.folder.join("manifests"));
        command.arg("--data-dir").arg(self.data());
        command.args(["--xds", &format!("{host}:{}", ports.xds), "--tls-name", &host.to_string()]);
        command.args(["--api", &format!("127.0.0.1:{}", ports.api)]);
        if let Some(admins) = &self.status {
            command.args(["--status-address", &format!("127.0.0.1:{}", ports.status)]);
            command.args(admins.iter().flat_map(|it| ["--status-admin", it.as_str()]));
        }
        let mut process = Child::start("control-plane", command, &self.folder)?;
        until(stop, "the control plane to serve", || {
            process.runs()?;
            let output = self.command(&["problems"]).output()?;
            match output.status.code() {
                Some(0) => Ok(Some(())),
                // Something is wrong with the manifests, which are the demo's own.
                Some(1) => bail!("{}", String::from_utf8_lossy(&output.stdout).trim()),
                _ => Ok(None),
            }
        })
        .with_context(|| process.last_words())?;
        self.process = Some(process);
        Ok(())
    }

    /// Ends it at once, as a machine that loses its power does.
    pub(super) fn kill(&mut self) {
        self.process = None;
    }

    /// Where its status page is, in its own network.
    pub(super) fn page(&self) -> Option<SocketAddr> {
        self.status.as_ref().map(|_| (Ipv4Addr::LOCALHOST, self.ports.status).into())
    }

    /// Where it runs.
    pub(super) const fn space(&self) -> &Space {
        &self.space
    }

    /// Where proxies reach it.
    pub(super) const fn xds(&self) -> (Ipv4Addr, u16) {
        (self.host, self.ports.xds)
    }

    /// The authorities that its own certificate is verified with.
    pub(super) fn ca(&self) -> PathBuf {
        self.data().join("tls/ca.pem")
    }

    /// Runs `outriderctl`, and gives what it printed.
    pub(super) fn ctl(&self, args: &[&str]) -> anyhow::Result<String> {
        finish(self.command(args))
    }

    /// A token by which a workload of the namespace `shop` gets its first certificate.
    pub(super) fn join_token(&self, account: &str) -> anyhow::Result<String> {
        let said = self.ctl(&["-n", "shop", "token", "create", "--service-account", account])?;
        let token = said.lines().find(|line| line.starts_with("outrider_join.")).map(str::to_owned);
        token.with_context(|| format!("no join token: {said}"))
    }

    /// Writes a manifest in one go, as a careful operator does.
    pub(super) fn apply(&self, name: &str, yaml: &str) -> anyhow::Result<()> {
        let folder = self.folder.join("manifests");
        let hidden = folder.join(format!(".{name}.new"));
        fs::write(&hidden, yaml)?;
        Ok(fs::rename(hidden, folder.join(format!("{name}.yaml")))?)
    }

    fn data(&self) -> PathBuf {
        self.folder.join("control")
    }

    fn command(&self, args: &[&str]) -> std::process::Command {
        let mut command = self.space.command(None, &self.programs.ctl.to_string_lossy());
        command.args([
            "--server",
            &format!("127.0.0.1:{}", self.ports.api),
            "--color",
            "never",
            "--data-dir",
        ]);
        command.arg(self.data()).args(args);
        command
    }
}
