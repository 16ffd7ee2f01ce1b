//! Child processes: started pinned, measured through /proc, killed when dropped.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

/// A running child. Dropping it kills it: nothing here has a state worth a graceful end.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    name: String,
    log: PathBuf,
}

/// Memory of a process, kB.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Memory {
    /// Resident set: `VmRSS` of /proc/PID/status.
    pub(crate) rss: u64,
    /// The anonymous part of it (`RssAnon`): what the process itself wrote, without mapped program text.
    pub(crate) anon: u64,
}

/// How to start a child.
#[derive(Debug)]
pub(crate) struct Spawn<'a> {
    /// A name for messages.
    pub(crate) name: &'a str,
    /// The program.
    pub(crate) program: &'a Path,
    /// Its arguments.
    pub(crate) args: Vec<String>,
    /// CPUs as `taskset -c` takes them.
    pub(crate) cpus: &'a str,
    /// Where standard error (and standard output, unless piped) goes.
    pub(crate) log: PathBuf,
    /// Keep stdin and stdout as pipes.
    pub(crate) piped: bool,
}

impl Process {
    /// Starts a child under util-linux's `setpriv` (it dies with this program), `taskset` (its CPUs) and
    /// `prlimit` (open files up to the hard limit); all three exec, so the child's pid is the program's.
    pub(crate) fn spawn(spawn: Spawn<'_>) -> Result<Self> {
        let log = File::create(&spawn.log).with_context(|| format!("create {}", spawn.log.display()))?;
        let nofile = open_files_limit();
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "taskset", "-c", spawn.cpus, "prlimit"])
            .arg(format!("--nofile={nofile}:{nofile}"))
            .arg(spawn.program)
            .args(&spawn.args)
            .stderr(log.try_clone()?);
        if spawn.piped {
            command.stdin(Stdio::piped()).stdout(Stdio::piped());
        } else {
            command.stdin(Stdio::null()).stdout(log);
        }
        let child = command.spawn().with_context(|| format!("start {}", spawn.name))?;
        Ok(Self { child, name: spawn.name.to_owned(), log: spawn.log })
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The child's stdin, when it was piped and not taken before.
    pub(crate) fn take_stdin(&mut self) -> Option<ChildStdin> {
        self.child.stdin.take()
    }

    /// The child's stdout, when it was piped and not taken before.
    pub(crate) fn take_stdout(&mut self) -> Option<std::process::ChildStdout> {
        self.child.stdout.take()
    }

    /// Fails with the end of the log when the child is no longer running.
    pub(crate) fn check_alive(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => Err(anyhow!("{} ended early ({status}):\n{}", self.name, tail(&self.log))),
        }
    }

    /// Waits for the end of a child that ends by itself and returns its status and the text of its stdout.
    pub(crate) fn finish(mut self, deadline: Duration) -> Result<(ExitStatus, String)> {
        let mut text = String::new();
        if let Some(mut out) = self.take_stdout() {
            io::Read::read_to_string(&mut out, &mut text)?;
        }
        let until = Instant::now() + deadline;
        loop {
            if let Some(status) = self.child.try_wait()? {
                return Ok((status, text));
            }
            if Instant::now() > until {
                bail!("{} did not end within {deadline:?}", self.name);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until something accepts connections on a loopback port; fails when the child ends or time runs out.
    pub(crate) fn wait_listening(&mut self, port: u16, deadline: Duration) -> Result<()> {
        let until = Instant::now() + deadline;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        while TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_err() {
            self.check_alive()?;
            if Instant::now() > until {
                bail!("{} does not listen on {port} after {deadline:?}:\n{}", self.name, tail(&self.log));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// CPU time that the process has used, all threads.
    ///
    /// The scheduler's counters (`/proc/PID/task/*/schedstat`, nanoseconds) are exact, but forget threads that have
    /// ended; `/proc/PID/stat` (utime + stime) remembers them, in ticks of 10 ms. The greater of both is right
    /// to 10 ms when threads ended and exact when none did.
    pub(crate) fn cpu(&self) -> Result<Duration> {
        let pid = self.pid();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("read /proc/PID/stat")?;
        let ticks = parse_stat_ticks(&stat).ok_or_else(|| anyhow!("cannot read /proc/{pid}/stat"))?;
        let coarse = Duration::from_millis(ticks * 10);
        let mut exact = Duration::ZERO;
        for task in fs::read_dir(format!("/proc/{pid}/task"))? {
            let path = task?.path().join("schedstat");
            let text = fs::read_to_string(path).unwrap_or_default();
            let nanos = text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or(0);
            exact += Duration::from_nanos(nanos);
        }
        let slack = Duration::from_millis(20);
        Ok(if coarse > exact + slack { coarse } else { exact })
    }

    /// Resident memory now.
    pub(crate) fn memory(&self) -> Result<Memory> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|l| l.strip_prefix(name))?;
            line.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok()
        };
        Ok(Memory {
            rss: field("VmRSS").ok_or_else(|| anyhow!("no VmRSS for {}", self.name))?,
            anon: field("RssAnon").unwrap_or(0),
        })
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when the child has ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// utime + stime (fields 14 and 15 of proc_pid_stat(5)), in ticks of 10 ms (USER_HZ is 100 on Linux's ABI).
fn parse_stat_ticks(stat: &str) -> Option<u64> {
    // The second field is the command's name in parentheses and may hold spaces; count from its end.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user + system)
}

/// The hard limit of open files, but no more than anything here needs.
fn open_files_limit() -> u64 {
    let hard = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    hard.unwrap_or(u64::MAX).min(65_536)
}

/// The last lines of a log file, for error messages.
pub(crate) fn tail(path: &Path) -> String {
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    let from = lines.len().saturating_sub(15);
    lines.get(from..).unwrap_or_default().join("\n")
}

/// A loopback port that was free a moment ago, below the range from which the kernel takes ports for clients.
pub(crate) fn free_port() -> Result<u16> {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let base = 20_000 + (std::process::id() % 50) as u16 * 200;
    for _ in 0..2_000 {
        let port = base + NEXT.fetch_add(1, Ordering::Relaxed) % 2_000;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no free loopback port between {base} and {}", base + 2_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stat_is_read_past_a_name_with_spaces_and_parentheses() {
        let line = "12 (wrk:work) (er 0) S 1 2 3 4 5 6 7 8 9 10 250 50 0 0 20";
        assert_eq!(parse_stat_ticks(line), Some(300));
        assert_eq!(parse_stat_ticks("nonsense"), None);
    }

    #[test]
    fn free_ports_differ() {
        assert_ne!(free_port().unwrap(), free_port().unwrap());
    }
}
