//! A proxy process under test, Outrider or the oracle.

use std::{
    fs,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::{Child, Command},
    task::JoinHandle,
};

use crate::{
    binary,
    client::{Conn, Response},
    lock, oracle, wait,
};

/// How long a proxy may take until it is ready.
const START: Duration = Duration::from_secs(30);

/// This variable sets the proxies' log level; all that they print is then kept as `output.log` beside their bootstrap.
const LOG_LEVEL: &str = "OUTRIDER_TEST_LOG";

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The one under test.
    Outrider,
    /// The oracle.
    Envoy,
}

/// A running proxy; its whole process group is killed when this is dropped.
#[derive(Debug)]
pub struct Proxy {
    child: Child,
    lines: Arc<Mutex<Vec<String>>>,
    pipes: Vec<JoinHandle<()>>,
    admin: u16,
    dir: PathBuf,
}

impl Proxy {
    /// Starts Outrider on a bootstrap whose admin is on port `admin`, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready; the message holds all it printed.
    pub async fn outrider(bootstrap: &str, admin: u16) -> Result<Self> {
        Self::start(Kind::Outrider, bootstrap, admin, &[]).await
    }

    /// Starts the oracle, likewise.
    ///
    /// # Errors
    /// As [`Proxy::outrider`], and when there is no oracle.
    pub async fn envoy(bootstrap: &str, admin: u16) -> Result<Self> {
        Self::start(Kind::Envoy, bootstrap, admin, &[]).await
    }

    /// Starts either with further arguments and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready; the message holds all it printed.
    pub async fn start(kind: Kind, bootstrap: &str, admin: u16, more: &[&str]) -> Result<Self> {
        let mut proxy = Self::spawn(kind, bootstrap, admin, more)?;
        match proxy.wait_ready().await {
            Ok(()) => Ok(proxy),
            Err(error) => {
                // What the process says last is on its way through the pipes.
                let _ = proxy.child.start_kill();
                let _ = proxy.exit(Duration::from_secs(5)).await;
                Err(error
                    .context(format!("{kind:?} did not start; its last words:\n{}", proxy.last_words(6))))
            }
        }
    }

    /// Starts either and waits for nothing.
    ///
    /// # Errors
    /// When the binary cannot be had or run.
    pub fn spawn(kind: Kind, bootstrap: &str, admin: u16, more: &[&str]) -> Result<Self> {
        let (binary, name) = match kind {
            Kind::Outrider => (binary::outrider()?, "outrider"),
            Kind::Envoy => (oracle::envoy()?, "envoy"),
        };
        let dir = binary::scratch(name)?;
        let file = dir.join("bootstrap.yaml");
        fs::write(&file, bootstrap)?;
        let mut args = vec!["-c".to_owned(), file.to_string_lossy().into_owned()];
        let fixed = ["--disable-hot-restart", "--concurrency", "1", "--file-flush-interval-msec", "5", "-l"];
        args.extend(fixed.map(str::to_owned));
        args.push(std::env::var(LOG_LEVEL).unwrap_or_else(|_| "info".to_owned()));
        args.extend(more.iter().map(|a| (*a).to_owned()));
        Self::command(&binary, &args, admin, dir)
    }

    /// Starts any binary with any arguments.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn command(binary: &Path, args: &[String], admin: u16, dir: PathBuf) -> Result<Self> {
        let mut command = std::process::Command::new(binary);
        command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.process_group(0);
        let mut command = Command::from(command);
        command.kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("running {}", binary.display()))?;
        let lines = Arc::new(Mutex::new(Vec::new()));
        let mut pipes = Vec::new();
        if let Some(stdout) = child.stdout.take() {
            pipes.push(collect(stdout, &lines));
        }
        if let Some(stderr) = child.stderr.take() {
            pipes.push(collect(stderr, &lines));
        }
        Ok(Self { child, lines, pipes, admin, dir })
    }

    /// The directory with its bootstrap.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// All that it printed so far, stdout and stderr.
    #[must_use]
    pub fn output(&self) -> String {
        lock(&self.lines).join("\n")
    }

    /// The last lines that it printed.
    #[must_use]
    pub fn last_words(&self, lines: usize) -> String {
        let all = lock(&self.lines);
        let short = |line: &String| line.chars().take(600).collect::<String>();
        all.iter().skip(all.len().saturating_sub(lines)).map(short).collect::<Vec<_>>().join("\n")
    }

    async fn wait_ready(&mut self) -> Result<()> {
        let (admin, child) = (self.admin, &mut self.child);
        wait::until("the proxy to be ready", START, async || {
            if let Some(status) = child.try_wait()? {
                bail!("it ended with {status}");
            }
            Ok(fetch(admin, "GET", "/ready").await.ok().filter(|r| r.status == 200).map(drop))
        })
        .await
    }

    /// The port of its admin interface.
    #[must_use]
    pub const fn admin_port(&self) -> u16 {
        self.admin
    }

    /// GETs a path of the admin interface.
    ///
    /// # Errors
    /// When the admin does not answer.
    pub async fn admin(&self, path: &str) -> Result<Response> {
        fetch(self.admin, "GET", path).await
    }

    /// POSTs to a path of the admin interface.
    ///
    /// # Errors
    /// When the admin does not answer.
    pub async fn admin_post(&self, path: &str) -> Result<Response> {
        fetch(self.admin, "POST", path).await
    }

    /// The value of a counter or gauge; `None` when it does not exist (yet).
    ///
    /// # Errors
    /// When the admin does not answer.
    pub async fn stat(&self, name: &str) -> Result<Option<u64>> {
        let text = self.admin("/stats").await?.text();
        Ok(text
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(n, _)| *n == name)
            .and_then(|(_, value)| value.parse().ok()))
    }

    /// Waits until a stat is as wanted, a missing one counting as 0.
    ///
    /// # Errors
    /// When it does not become so in time.
    pub async fn wait_stat(&self, name: &str, wanted: impl Fn(u64) -> bool) -> Result<u64> {
        let what = format!("stat {name}");
        wait::until(&what, wait::LIMIT, async || {
            Ok(self.stat(name).await?.or(Some(0)).filter(|value| wanted(*value)))
        })
        .await
    }

    /// Waits for a line of output that contains `part`, and returns it.
    ///
    /// # Errors
    /// When none comes in time.
    pub async fn wait_log(&self, part: &str) -> Result<String> {
        let what = format!("a log line with {part:?}");
        wait::until(&what, wait::LIMIT, async || {
            Ok(lock(&self.lines).iter().find(|line| line.contains(part)).cloned())
        })
        .await
        .with_context(|| self.output())
    }

    /// Sends a signal to the process.
    ///
    /// # Errors
    /// When it is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        Ok(kill_process(pid.context("the proxy is gone")?, signal)?)
    }

    /// Waits for the process to end, and for all that it printed.
    ///
    /// # Errors
    /// When it does not in time.
    pub async fn exit(&mut self, limit: Duration) -> Result<ExitStatus> {
        let (child, pipes) = (&mut self.child, &mut self.pipes);
        wait::within("the proxy to end", limit, async {
            let status = child.wait().await?;
            for pipe in pipes.drain(..) {
                pipe.await?;
            }
            Ok(status)
        })
        .await
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(pid) = self.pid().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw) {
            // Gone already is as good.
            let _ = kill_process_group(pid, Signal::KILL);
        }
        if std::env::var_os(LOG_LEVEL).is_some() {
            // Only a help for whoever looks for a fault.
            let _ = fs::write(self.dir.join("output.log"), self.output());
        }
    }
}

fn collect(pipe: impl AsyncRead + Unpin + Send + 'static, lines: &Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    let lines = Arc::clone(lines);
    tokio::spawn(async move {
        let mut pipe = BufReader::new(pipe);
        let mut line = Vec::new();
        while matches!(pipe.read_until(b'\n', &mut line).await, Ok(n) if n > 0) {
            lock(&lines).push(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
        }
    })
}

async fn fetch(port: u16, method: &str, path: &str) -> Result<Response> {
    let mut conn = Conn::plain(port).await?;
    let head =
        format!("{method} {path} HTTP/1.1\r\nhost: admin\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    conn.send(head).await?;
    conn.response(method).await
}
