//! A cluster: etcd and kube-apiserver on loopback, and who we are there.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail, ensure};
use k8s_openapi::api::core::v1::Namespace;
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Client;
use kube::api::{Api, Patch, PatchParams, PostParams};
use outrider_control::store::kubernetes::{Kubernetes, Options, crds};
use outrider_control::store::{Store as _, StoreError};
use outrider_tests::ports::Lease;
use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::{Result, published};

/// How long anything may take; the machine may be busy.
pub(crate) const LIMIT: Duration = Duration::from_secs(120);

/// Which release: that of tests/interop/kube-apiserver/go.mod.
const VERSION: &str = "v1.34.4";

/// Where cargo builds.
fn target() -> &'static Path {
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().unwrap_or(tmp)
}

/// The API server: from an earlier run, or built when it is required. `None`: left out.
pub(crate) fn program() -> Result<Option<PathBuf>> {
    let dir = target().join("go");
    // Another version is another program.
    let program = dir.join(format!("kube-apiserver-{VERSION}"));
    if std::env::var_os("OUTRIDER_REQUIRE_KUBE").is_none() {
        return Ok(program.is_file().then_some(program));
    }
    fs::create_dir_all(&dir)?;
    let lock = File::create(dir.join("kube.lock"))?;
    lock.lock()?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/interop/kube-apiserver");
    let status = std::process::Command::new("go")
        .args([
            "build",
            "-trimpath",
            &format!("-ldflags=-s -w -X k8s.io/component-base/version.gitVersion={VERSION}"),
            "-o",
        ])
        .arg(&program)
        .arg(".")
        .current_dir(source)
        .status()
        .context("go cannot be run")?;
    ensure!(status.success(), "go build of kube-apiserver: {status}");
    Ok(Some(program))
}

/// A running cluster. It ends with this.
pub(crate) struct Cluster {
    program: PathBuf,
    dir: PathBuf,
    port: Lease,
    etcd: Lease,
    _peer: Lease,
    server: Option<Child>,
    _etcd: Child,
    /// The administrator.
    pub(crate) admin: Client,
}

/// Tokens, users and groups.
const TOKENS: &str = "admin-token,admin,1,\"system:masters\"\n\
    control-token,system:serviceaccount:outrider-system:outrider-control,2,\"system:serviceaccounts,system:serviceaccounts:outrider-system\"\n";

fn spawn(program: &Path, args: &[String], log: &Path) -> Result<Child> {
    let log = File::options().create(true).append(true).open(log)?;
    let mut command = Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).kill_on_drop(true);
    command.spawn().with_context(|| format!("start {}", program.display()))
}

impl Cluster {
    /// Starts one in a folder of its own.
    pub(crate) async fn start(program: PathBuf) -> Result<Self> {
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("kubernetes-{}", std::process::id()));
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(&dir)?;
        let (etcd, peer, port) = (Lease::new()?, Lease::new()?, Lease::new()?);
        certificates(&dir)?;
        fs::write(dir.join("tokens.csv"), TOKENS)?;
        let url = |port: &Lease| format!("http://127.0.0.1:{}", port.port());
        let args = [
            format!("--data-dir={}", dir.join("etcd").display()),
            format!("--listen-client-urls={}", url(&etcd)),
            format!("--advertise-client-urls={}", url(&etcd)),
            format!("--listen-peer-urls={}", url(&peer)),
            format!("--initial-advertise-peer-urls={}", url(&peer)),
            format!("--initial-cluster=default={}", url(&peer)),
        ];
        let kept = spawn(&outrider_tests::etcd::program()?, &args, &dir.join("etcd.log"))?;
        for name in ["admin", "control"] {
            fs::write(dir.join(name), kubeconfig(&dir, port.port(), name)?.to_string())?;
        }
        let config = Options { context: None, kubeconfig: Some(dir.join("admin")) };
        let admin = client(&config).await?;
        let mut cluster = Self { program, dir, port, etcd, _peer: peer, server: None, _etcd: kept, admin };
        cluster.up().await?;
        Ok(cluster)
    }

    /// Starts the API server and waits until it is ready.
    pub(crate) async fn up(&mut self) -> Result {
        let file = |name: &str| self.dir.join(name).display().to_string();
        let args = [
            format!("--etcd-servers=http://127.0.0.1:{}", self.etcd.port()),
            "--bind-address=127.0.0.1".into(),
            "--advertise-address=127.0.0.1".into(),
            "--endpoint-reconciler-type=none".into(),
            format!("--secure-port={}", self.port.port()),
            format!("--tls-cert-file={}", file("server.crt")),
            format!("--tls-private-key-file={}", file("server.key")),
            format!("--token-auth-file={}", file("tokens.csv")),
            "--authorization-mode=RBAC".into(),
            "--service-cluster-ip-range=10.96.0.0/16".into(),
            "--service-account-issuer=https://kubernetes.default.svc".into(),
            format!("--service-account-key-file={}", file("account.pub")),
            format!("--service-account-signing-key-file={}", file("account.key")),
            // There are no controllers here that would make accounts' tokens or judge priorities.
            "--disable-admission-plugins=ServiceAccount,Priority".into(),
            "--v=1".into(),
        ];
        self.server = Some(spawn(&self.program, &args, &self.dir.join("kube-apiserver.log"))?);
        let admin = self.admin.clone();
        eventually("the API server is ready", async || {
            let request = http::Request::get("/readyz").body(Vec::new())?;
            Ok((admin.request_text(request).await.is_ok_and(|text| text == "ok")).then_some(()))
        })
        .await
        .with_context(|| self.log())
    }

    /// Kills the API server.
    pub(crate) async fn down(&mut self) -> Result {
        if let Some(mut server) = self.server.take() {
            server.kill().await?;
        }
        Ok(())
    }

    /// The end of the API server's log.
    fn log(&self) -> String {
        let text = fs::read_to_string(self.dir.join("kube-apiserver.log")).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Runs `etcdctl`.
    pub(crate) async fn etcdctl(&self, args: &[&str]) -> Result<String> {
        let program = tokio::task::spawn_blocking(outrider_tests::etcd::ctl).await??;
        let mut command = Command::new(program);
        let endpoints = format!("--endpoints=http://127.0.0.1:{}", self.etcd.port());
        command.env("ETCDCTL_API", "3").arg(endpoints).args(args);
        let output = command.output().await?;
        ensure!(output.status.success(), "etcdctl {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    /// The options by which the control plane comes here.
    pub(crate) fn options(&self) -> Options {
        Options { context: Some("test".into()), kubeconfig: Some(self.dir.join("control")) }
    }

    /// The same, as it is said on the command line.
    pub(crate) fn argument(&self) -> String {
        format!("kubernetes?context=test&kubeconfig={}", self.dir.join("control").display())
    }

    /// The administrator's kubeconfig.
    pub(crate) fn administrator(&self) -> PathBuf {
        self.dir.join("admin")
    }

    /// A store, as the service account.
    pub(crate) async fn store(&self) -> Result<Kubernetes> {
        let store = Kubernetes::open(&self.options()).await?;
        store.list().await?;
        Ok(store)
    }

    /// Applies an object as the administrator.
    pub(crate) async fn apply(&self, value: Value) -> Result<Value> {
        let path = path(&value)?;
        let params = PatchParams::apply("test").force();
        let name = value["metadata"]["name"].as_str().context("a name")?.to_owned();
        let request = kube::core::Request::new(path).patch(&name, &params, &Patch::Apply(&value))?;
        self.admin.request(request).await.with_context(|| format!("apply {value}"))
    }

    /// What an object would be if the administrator applied it: judged strictly, and not kept.
    pub(crate) async fn judge(&self, value: &Value) -> Result<Value> {
        let params = PatchParams::apply("test").force().dry_run().validation_strict();
        let name = value["metadata"]["name"].as_str().context("a name")?;
        let request = kube::core::Request::new(path(value)?).patch(name, &params, &Patch::Apply(value))?;
        Ok(self.admin.request(request).await?)
    }

    /// Writes the status of an object as the administrator.
    pub(crate) async fn apply_status(&self, value: Value) -> Result<Value> {
        let name = value["metadata"]["name"].as_str().context("a name")?.to_owned();
        let patch = Patch::Merge(json!({"status": value["status"]}));
        let request = kube::core::Request::new(path(&value)?);
        let request = request.patch_subresource("status", &name, &PatchParams::default(), &patch)?;
        self.admin.request(request).await.with_context(|| format!("status of {value}"))
    }

    /// An object as the administrator sees it.
    pub(crate) async fn get(&self, value: &Value) -> Result<Value> {
        let name = value["metadata"]["name"].as_str().context("a name")?;
        let request = http::Request::get(format!("{}/{name}", path(value)?)).body(Vec::new())?;
        Ok(self.admin.request(request).await?)
    }

    /// Deletes an object as the administrator.
    pub(crate) async fn delete(&self, value: &Value) -> Result {
        let name = value["metadata"]["name"].as_str().context("a name")?;
        let request = http::Request::delete(format!("{}/{name}", path(value)?)).body(Vec::new())?;
        self.admin.request::<Value>(request).await?;
        Ok(())
    }

    /// A new namespace.
    pub(crate) async fn namespace(&self, name: &str) -> Result {
        let namespace: Namespace = serde_json::from_value(json!({"metadata": {"name": name}}))?;
        Api::all(self.admin.clone()).create(&PostParams::default(), &namespace).await?;
        Ok(())
    }

    /// Installs the CRDs of the Gateway API and ours, and waits until all are served.
    pub(crate) async fn install_crds(&self) -> Result {
        let published = tokio::task::spawn_blocking(published::crds).await??;
        let gateway = match published {
            Some(published) => published,
            None => values(crds::gateway_api())?,
        };
        for value in gateway.into_iter().chain(values(crds::own())?) {
            let name = value["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            self.apply(value.clone()).await?;
            eventually(&format!("{name} is established"), async || {
                let found = self.get(&value).await?;
                let conditions = found["status"]["conditions"].as_array().cloned().unwrap_or_default();
                let said = |kind: &str, status: &str| {
                    conditions.iter().find(|it| it["type"] == kind && it["status"] == status)
                };
                if let Some(problem) = said("NonStructuralSchema", "True").or(said("NamesAccepted", "False"))
                {
                    bail!("{name}: {problem}");
                }
                Ok(said("Established", "True").map(|_| ()))
            })
            .await?;
        }
        Ok(())
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            // What is left of it is only disk.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// CRDs as they are sent.
fn values(crds: Vec<CustomResourceDefinition>) -> Result<Vec<Value>> {
    let value = |crd| {
        let mut value = serde_json::to_value(crd)?;
        value["apiVersion"] = "apiextensions.k8s.io/v1".into();
        value["kind"] = "CustomResourceDefinition".into();
        Ok(value)
    };
    crds.into_iter().map(value).collect()
}

async fn client(options: &Options) -> Result<Client> {
    let file = kube::config::Kubeconfig::read_from(options.kubeconfig.as_ref().context("a file")?)?;
    let config =
        kube::Config::from_custom_kubeconfig(file, &kube::config::KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

/// The collection in which an object is.
pub(crate) fn path(value: &Value) -> Result<String> {
    let kind = value["kind"].as_str().context("a kind")?;
    let version = value["apiVersion"].as_str().context("an apiVersion")?;
    let plural = match kind {
        kind if kind.ends_with("Policy") => format!("{}ies", &kind[..kind.len() - 1]),
        kind if kind.ends_with("Class") => format!("{kind}es"),
        kind if kind.ends_with('y') && !kind.ends_with("ay") => format!("{}ies", &kind[..kind.len() - 1]),
        kind => format!("{kind}s"),
    };
    let root = if version.contains('/') { format!("/apis/{version}") } else { format!("/api/{version}") };
    let namespace = value["metadata"]["namespace"].as_str();
    let namespace = namespace.map(|it| format!("/namespaces/{it}")).unwrap_or_default();
    Ok(format!("{root}{namespace}/{}", plural.to_lowercase()))
}

fn certificates(dir: &Path) -> Result {
    use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
    let key = KeyPair::generate()?;
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    authority.distinguished_name.push(rcgen::DnType::CommonName, "test");
    fs::write(dir.join("ca.crt"), authority.self_signed(&key)?.pem())?;
    let issuer = Issuer::new(authority, key);
    let key = KeyPair::generate()?;
    let server = CertificateParams::new(vec!["127.0.0.1".to_owned(), "localhost".to_owned()])?;
    fs::write(dir.join("server.crt"), server.signed_by(&key, &issuer)?.pem())?;
    fs::write(dir.join("server.key"), key.serialize_pem())?;
    let account = KeyPair::generate()?;
    fs::write(dir.join("account.key"), account.serialize_pem())?;
    fs::write(dir.join("account.pub"), account.public_key_pem())?;
    Ok(())
}

/// YAML is a superset of JSON.
fn kubeconfig(dir: &Path, port: u16, name: &str) -> Result<Value> {
    Ok(json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://127.0.0.1:{port}"), "certificate-authority": dir.join("ca.crt")}}],
        "users": [{"name": name, "user": {"token": format!("{name}-token")}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": name}}],
    }))
}

/// Asks again and again until there is an answer.
pub(crate) async fn eventually<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let until = tokio::time::Instant::now() + LIMIT;
    loop {
        if let Some(answer) = ask().await.with_context(|| format!("waiting until {what}"))? {
            return Ok(answer);
        }
        if tokio::time::Instant::now() > until {
            return Err(anyhow!("{what}: not within {LIMIT:?}"));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The error of what must fail.
pub(crate) fn refused<T>(outcome: std::result::Result<T, StoreError>) -> Result<StoreError> {
    outcome.err().ok_or_else(|| anyhow!("it should have been refused"))
}
