//! A pod of the demo: an application and its sidecar, in a network namespace of their own or side by side on the loopback.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::{OpenOptionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command};

use anyhow::{Context as _, bail, ensure};

use super::child::{Child, Stop, until};
use super::network::{self, Space};
use super::part::{COMMAND, MYSELF, NONE};
use super::plane::Plane;

/// The user that a sidecar is, where capture has to know its connections from those of the application.
pub(super) const PROXY: u32 = 1337;
/// The port of the applications in their namespaces.
pub(super) const PORT: u16 = 8080;
/// The port of the admin interface there.
pub(super) const ADMIN: u16 = 15000;
const BOOTSTRAP: &str = include_str!("mesh/sidecar.yaml");

/// What a pod's processes are reached by.
#[derive(Clone, Debug)]
pub(super) struct Place {
    /// The pod's address.
    pub(super) address: Ipv4Addr,
    /// The port of the application.
    pub(super) application: u16,
    /// The port of the sidecar's admin interface.
    pub(super) admin: u16,
    /// The sidecar's explicit HTTP listener on 127.0.0.1.
    pub(super) http: u16,
    /// Without capture: where the sidecar listens for clients.
    pub(super) inbound: Option<SocketAddr>,
}

/// A pod.
#[derive(Debug)]
pub(super) struct Pod {
    name: String,
    place: Place,
    space: Space,
    sidecar: Option<Child>,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    application: Child,
    folder: PathBuf,
}

/// A process that holds a namespace: it ends when its standard input does, so nothing stays even if the demo is killed.
pub(super) fn holder(folder: &Path) -> anyhow::Result<(Child, Space)> {
    let mut command = isolated()?;
    command.args([COMMAND, "hold"]);
    let mut child = Child::spoken_to("fabric", command, folder)?;
    let output = child.process.stdout.take().context("a holder without output")?;
    ready(&mut child, &mut BufReader::new(output))?;
    let space = Space::of(child.process.id())?;
    Ok((child, space))
}

/// This program in namespaces of its own.
fn isolated() -> anyhow::Result<Command> {
    let mut command = Command::new("unshare");
    command.args(["--net", "--mount", "--"]).arg(std::env::current_exe()?);
    Ok(command)
}

fn ready(child: &mut Child, output: &mut BufReader<ChildStdout>) -> anyhow::Result<()> {
    let mut line = String::new();
    output.read_line(&mut line)?;
    ensure!(line == "ready\n", "a part of the demo did not start: {}", child.last_words());
    Ok(())
}

impl Pod {
    /// Starts the application; in a namespace of its own if there is a fabric to plug it into. `hosts`: the names that it knows.
    pub(super) fn start(
        name: &str,
        place: Place,
        fabric: Option<&Space>,
        hosts: &Path,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let own = folder.join(name);
        fs::create_dir(&own)?;
        let (mut command, address, hosts) = if fabric.is_some() {
            (isolated()?, format!("0.0.0.0:{}", place.application), hosts.to_string_lossy().into_owned())
        } else {
            let address = format!("{}:{}", place.address, place.application);
            (Command::new(MYSELF), address, NONE.to_owned())
        };
        command.args([COMMAND, "app", name, &address, &hosts]);
        let mut application = Child::spoken_to(&format!("{name}-application"), command, folder)?;
        let input = application.process.stdin.take().context("an application without input")?;
        let output = application.process.stdout.take().context("an application without output")?;
        let mut output = BufReader::new(output);
        ready(&mut application, &mut output)?;
        let space = match fabric {
            Some(fabric) => {
                let space = Space::of(application.process.id())?;
                network::plug(fabric, &space, name, place.address)?;
                space
            }
            None => Space::here(),
        };
        let (name, folder) = (name.to_owned(), folder.to_owned());
        Ok(Self { name, place, space, sidecar: None, input, output, application, folder })
    }

    /// Leads all connections of the pod, from it and to it, to its sidecar.
    pub(super) fn capture(&self) -> anyhow::Result<()> {
        let admin = ADMIN.to_string();
        self.space.run(MYSELF, &["capture", "apply", "--exclude-inbound-ports", &admin])?;
        Ok(())
    }

    /// Starts the sidecar, which gets its certificate by a join token.
    pub(super) fn join(&mut self, plane: &Plane, account: &str) -> anyhow::Result<()> {
        let own = self.folder.join(&self.name);
        let (token, socket, ca) = (own.join("token"), own.join("sds"), own.join("ca.pem"));
        let mut file = File::options().create(true).truncate(true).write(true).mode(0o600).open(&token)?;
        file.write_all(plane.join_token(account)?.as_bytes())?;
        fs::copy(plane.ca(), &ca)?;
        let (host, port) = plane.xds();
        let metadata = match self.place.inbound {
            None => format!("HTTP_PORT: {}", self.place.http),
            Some(listen) => format!(
                "HTTP_PORT: {}, INBOUND_LISTEN: \"{listen}\", INBOUND_APPLICATION: \"{}:{}\"",
                self.place.http, self.place.address, self.place.application
            ),
        };
        let text = BOOTSTRAP
            .replace("@ADDRESS@", &self.place.address.to_string())
            .replace("@POD@", &self.name)
            .replace("@ACCOUNT@", account)
            .replace("@METADATA@", &metadata)
            .replace("@ADMIN_ADDRESS@", &self.place.address.to_string())
            .replace("@ADMIN_PORT@", &self.place.admin.to_string())
            .replace("@PLANE_ADDRESS@", &host.to_string())
            .replace("@PLANE_PORT@", &port.to_string())
            .replace("@CA@", &ca.to_string_lossy())
            .replace("@TOKEN@", &token.to_string_lossy())
            .replace("@SOCKET@", &socket.to_string_lossy());
        let bootstrap = own.join("bootstrap.yaml");
        fs::write(&bootstrap, text)?;
        let user = self.place.inbound.is_none().then_some(PROXY);
        if user.is_some() {
            for path in [&own, &token, &ca, &bootstrap] {
                chown(path, user, user).with_context(|| path.display().to_string())?;
            }
        }
        let mut command = self.space.command(user, MYSELF);
        command.arg("-c").arg(&bootstrap).args(["--concurrency", "1", "--file-flush-interval-msec", "20"]);
        self.sidecar = Some(Child::start(&format!("{}-sidecar", self.name), command, &self.folder)?);
        Ok(())
    }

    /// Waits until the sidecar has its certificate and its first configuration.
    pub(super) fn is_ready(&mut self, stop: &Stop) -> anyhow::Result<()> {
        let (space, admin) = (&self.space, self.admin());
        let sidecar = self.sidecar.as_mut().context("no sidecar")?;
        until(stop, "a sidecar to be ready", || {
            sidecar.runs()?;
            Ok(space.get(admin, "/ready").ok().filter(|it| it.status == 200).map(drop))
        })
        .with_context(|| sidecar.last_words())
    }

    /// The admin interface.
    pub(super) fn admin(&self) -> SocketAddr {
        (self.place.address, self.place.admin).into()
    }

    /// The port of its sidecar's explicit HTTP listener.
    pub(super) const fn explicit(&self) -> u16 {
        self.place.http
    }

    /// Its address.
    pub(super) const fn address(&self) -> Ipv4Addr {
        self.place.address
    }

    /// Where it is.
    pub(super) const fn space(&self) -> &Space {
        &self.space
    }

    /// The process of the application, in whose namespaces the pod is.
    pub(super) fn process(&self) -> u32 {
        self.application.process.id()
    }

    /// The sum of a counter over all stats that begin and end so.
    pub(super) fn stat(&self, begin: &str, end: &str) -> anyhow::Result<u64> {
        let text = self.space.get(self.admin(), "/stats")?.body;
        let values = text.lines().filter_map(|line| line.split_once(": "));
        let of = values.filter(|(name, _)| name.starts_with(begin) && name.ends_with(end));
        Ok(of.filter_map(|(_, value)| value.parse::<u64>().ok()).sum())
    }

    /// The application asks: by name and nothing else where it is captured, else by its sidecar's explicit port.
    pub(super) fn get(&mut self, host: &str, path: &str) -> anyhow::Result<(u16, String)> {
        let to = match self.place.inbound {
            None => format!("{host}:80"),
            Some(_) => format!("127.0.0.1:{}", self.place.http),
        };
        let answer = self.tell(&format!("get {to} {host} {path}"))?;
        let (status, body) = answer.split_once(' ').unwrap_or((&answer, ""));
        match status.parse() {
            Ok(status) => Ok((status, body.to_owned())),
            Err(_) => bail!("GET http://{host}{path} from {}: {answer}", self.name),
        }
    }

    /// Tells the application to fail every second request, or not any more.
    pub(super) fn fault(&mut self, on: bool) -> anyhow::Result<()> {
        self.tell(if on { "fault on" } else { "fault off" }).map(drop)
    }

    fn tell(&mut self, line: &str) -> anyhow::Result<String> {
        self.input.write_all(format!("{line}\n").as_bytes())?;
        self.input.flush()?;
        let mut answer = String::new();
        self.output.read_line(&mut answer)?;
        ensure!(
            answer.ends_with('\n'),
            "the application of {} is gone: {}",
            self.name,
            self.application.last_words()
        );
        Ok(answer.trim_end().to_owned())
    }
}
