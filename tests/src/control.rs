//! `outrider-control` as a process, a folder of manifests for it, and proxies that follow it.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::{
    binary,
    bootstrap::Bootstrap,
    ports::Lease,
    proxy::{Kind, Proxy},
    wait,
};

/// How long a control plane may take until it serves.
const START: Duration = Duration::from_secs(30);

/// A running control plane: in development mode, without TLS on loopback, or as in production.
#[derive(Debug)]
pub struct Control {
    process: Proxy,
    xds: Lease,
    api: Lease,
    args: Vec<String>,
    /// The data directory of one with TLS.
    data: Option<PathBuf>,
}

impl Control {
    /// Starts one with further arguments and waits until it takes connections.
    ///
    /// # Errors
    /// When it does not; the message holds what it printed.
    pub async fn start(more: &[&str]) -> Result<Self> {
        Self::launch(None, "127.0.0.1", &["--insecure-loopback"], more).await
    }

    /// One with TLS, authentication and an authority, all of its own making, which listens at an address of this machine.
    ///
    /// # Errors
    /// As [`Control::start`].
    pub async fn secure(host: &str, more: &[&str]) -> Result<Self> {
        let data = binary::scratch("control-data")?;
        let dir = data.to_string_lossy().into_owned();
        Self::launch(Some(data), host, &["--data-dir", &dir, "--tls-name", host], more).await
    }

    async fn launch(data: Option<PathBuf>, host: &str, mode: &[&str], more: &[&str]) -> Result<Self> {
        let (xds, api) = (Lease::new()?, Lease::new()?);
        let mut args = vec!["--xds".to_owned(), format!("{host}:{}", xds.port())];
        args.extend(["--api".to_owned(), format!("127.0.0.1:{}", api.port())]);
        args.extend(mode.iter().chain(more).map(|arg| (*arg).to_owned()));
        let process = Self::spawn(&args)?;
        let control = Self { process, xds, api, args, data };
        control.serves().await?;
        Ok(control)
    }

    fn spawn(args: &[String]) -> Result<Proxy> {
        Proxy::command(&binary::control()?, args, 0, binary::scratch("control")?)
    }

    async fn serves(&self) -> Result<()> {
        for address in self.args.iter().filter(|arg| arg.contains(':')).take(2) {
            let what = format!("the control plane to listen at {address}");
            wait::until(&what, START, async || Ok(TcpStream::connect(address.as_str()).await.ok().map(drop)))
                .await
                .with_context(|| self.process.output())?;
        }
        Ok(())
    }

    /// Where proxies connect.
    #[must_use]
    pub const fn xds(&self) -> u16 {
        self.xds.port()
    }

    /// Where operators connect.
    #[must_use]
    pub const fn api(&self) -> u16 {
        self.api.port()
    }

    /// The process.
    #[must_use]
    pub const fn process(&self) -> &Proxy {
        &self.process
    }

    /// Ends it at once, as a machine that loses its power does.
    ///
    /// # Errors
    /// When it is gone already.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.signal(Signal::KILL)?;
        self.process.exit(START).await.map(drop)
    }

    /// Starts it again with the same arguments, on the same ports.
    ///
    /// # Errors
    /// As [`Control::start`].
    pub async fn restart(&mut self) -> Result<()> {
        self.process = Self::spawn(&self.args)?;
        self.serves().await
    }

    /// Runs `outriderctl` against it; gives what it printed, and whether it was content.
    ///
    /// # Errors
    /// When it cannot be run.
    pub async fn ctl(&self, args: &[&str]) -> Result<(bool, String)> {
        let mut command = tokio::process::Command::new(binary::outriderctl()?);
        command.args(["--server", &format!("127.0.0.1:{}", self.api.port())]);
        match &self.data {
            Some(dir) => command.arg("--data-dir").arg(dir),
            None => command.arg("--insecure-loopback"),
        };
        command.args(args);
        command.kill_on_drop(true).stdin(std::process::Stdio::null());
        let output = wait::within("outriderctl", START, async { Ok(command.output().await?) }).await?;
        let text = [output.stdout, output.stderr].concat();
        Ok((output.status.success(), String::from_utf8_lossy(&text).into_owned()))
    }

    /// What its own server certificate is verified with; of one with TLS.
    ///
    /// # Errors
    /// When it has none.
    pub fn ca(&self) -> Result<PathBuf> {
        Ok(self.data.as_ref().context("it speaks no TLS")?.join("tls/ca.pem"))
    }

    /// Makes the next root of its authority.
    ///
    /// # Errors
    /// When that is not possible.
    pub async fn rotate_ca(&self) -> Result<()> {
        let mut command = tokio::process::Command::new(binary::control()?);
        command.args(["rotate-ca", "--data-dir"]).arg(self.data.as_ref().context("it has no authority")?);
        command.kill_on_drop(true).stdin(std::process::Stdio::null());
        let output = wait::within("rotate-ca", START, async { Ok(command.output().await?) }).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        output.status.success().then_some(()).context(said)
    }

    /// Makes a join token for a service account, `namespace/name`.
    ///
    /// # Errors
    /// When the control plane refuses.
    pub async fn join_token(&self, account: &str) -> Result<String> {
        let (namespace, name) = account.split_once('/').context("an account is namespace/name")?;
        let args = ["-n", namespace, "token", "create", "--service-account", name];
        let (good, said) = self.ctl(&args).await?;
        let token = said.lines().find(|line| line.starts_with("outrider_join.")).map(str::to_owned);
        token.filter(|_| good).with_context(|| format!("no join token: {said}"))
    }
}

/// A folder of manifests.
#[derive(Debug)]
pub struct Manifests {
    dir: PathBuf,
}

impl Manifests {
    /// An empty one.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn new() -> Result<Self> {
        let dir = binary::scratch("manifests")?;
        Ok(Self { dir })
    }

    /// Where it is.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes a file, in one go, as a careful operator does.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, name: &str, yaml: &str) -> Result<()> {
        let hidden = self.dir.join(format!(".{name}.new"));
        fs::write(&hidden, yaml)?;
        Ok(fs::rename(hidden, self.dir.join(format!("{name}.yaml")))?)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// When it is not there.
    pub fn remove(&self, name: &str) -> Result<()> {
        Ok(fs::remove_file(self.dir.join(format!("{name}.yaml")))?)
    }
}

/// A Service with one port, and its endpoints on loopback: a slice for each, since their ports differ.
#[must_use]
pub fn service(namespace: &str, name: &str, port: u16, protocol: &str, endpoints: &[u16]) -> String {
    let mut out = format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{ name: {name}, namespace: {namespace} }}\nspec:\n  \
         ports: [ {{ name: main, port: {port}, appProtocol: {protocol} }} ]\n"
    );
    for endpoint in endpoints {
        let _ = write!(
            out,
            "---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {{ name: {name}-{endpoint}, \
             namespace: {namespace}, labels: {{ kubernetes.io/service-name: {name} }} }}\naddressType: IPv4\n\
             endpoints: [ {{ addresses: [ 127.0.0.1 ], conditions: {{ ready: true }} }} ]\n\
             ports: [ {{ name: main, port: {endpoint}, protocol: TCP }} ]\n"
        );
    }
    out
}

/// A proxy that follows control planes.
#[derive(Debug)]
pub struct Follower {
    /// The proxy.
    pub proxy: Proxy,
    /// A sidecar's explicit HTTP listener.
    pub http: Lease,
    /// Its admin interface.
    pub admin: Lease,
}

impl Follower {
    /// A sidecar in a namespace, which asks the control planes at these ports, and is ready when it has its listeners.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn sidecar(kind: Kind, delta: bool, planes: &[u16], namespace: &str) -> Result<Self> {
        Self::sidecar_at(kind, delta, planes, namespace, (Lease::new()?, Lease::new()?)).await
    }

    /// The same at ports that are known before: of its HTTP listener, by which its Pod is named (`client-PORT`), and of its admin interface.
    ///
    /// # Errors
    /// As [`Follower::sidecar`].
    pub async fn sidecar_at(
        kind: Kind,
        delta: bool,
        planes: &[u16],
        namespace: &str,
        (http, admin): (Lease, Lease),
    ) -> Result<Self> {
        let metadata = format!("HTTP_PORT: {}", http.port());
        let id =
            format!("sidecar~127.0.0.1~client-{}.{namespace}~{namespace}.svc.cluster.local", http.port());
        Self::start(kind, delta, planes, (&id, &metadata), (http, admin)).await
    }

    /// A gateway's proxy.
    ///
    /// # Errors
    /// As [`Follower::sidecar`].
    pub async fn gateway(kind: Kind, delta: bool, planes: &[u16], gateway: &str) -> Result<Self> {
        let (namespace, name) = gateway.split_once('/').context("a gateway is namespace/name")?;
        let id = format!("router~127.0.0.1~{name}-0.{namespace}~{namespace}.svc.cluster.local");
        let metadata = format!("GATEWAY: {gateway}");
        Self::start(kind, delta, planes, (&id, &metadata), (Lease::new()?, Lease::new()?)).await
    }

    async fn start(
        kind: Kind,
        delta: bool,
        planes: &[u16],
        (id, metadata): (&str, &str),
        (http, admin): (Lease, Lease),
    ) -> Result<Self> {
        let api = if delta { "DELTA_GRPC" } else { "GRPC" };
        let names: Vec<String> = planes.iter().map(|port| format!("plane{port}")).collect();
        let hosts: Vec<&str> = names.iter().map(String::as_str).collect();
        let bootstrap = Bootstrap::new()
            .top(&format!(
                "dynamic_resources:\n  ads_config: {{ api_type: {api}, transport_api_version: V3, grpc_services: [ \
                 {{ envoy_grpc: {{ cluster_name: plane }} }} ] }}\n  \
                 cds_config: {{ ads: {{}}, resource_api_version: V3 }}\n  \
                 lds_config: {{ ads: {{}}, resource_api_version: V3 }}"
            ))
            .hosts(
                "plane",
                &hosts,
                "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \
                 \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    \
                 explicit_http_config:\n      http2_protocol_options:\n        \
                 connection_keepalive: { interval: 1s, timeout: 1s }\n",
            );
        let mut places: BTreeMap<String, String> =
            planes.iter().map(|port| (format!("plane{port}"), port.to_string())).collect();
        places.insert("admin".to_owned(), admin.port().to_string());
        let text = bootstrap.render(&places).replace(
            "node: { id: test-node, cluster: test-cluster }",
            &format!("node: {{ id: \"{id}\", cluster: tests, metadata: {{ {metadata} }} }}"),
        );
        let proxy = Proxy::start(kind, &text, admin.port(), &[]).await?;
        Ok(Self { proxy, http, admin })
    }
}
