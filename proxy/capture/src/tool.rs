//! The tools that do it: `nft`, `iptables-restore`, `ip`. What they say on standard error is part of the error.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::process::{Command, Stdio};

use crate::options::Problems;

/// Why capture was not set up, taken away or looked at.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// What was asked for does not work.
    #[error("{0}")]
    Options(#[from] Problems),
    /// There is no such program.
    #[error("there is no {0} here")]
    Missing(String),
    /// The program said no.
    #[error("{command}: {said}{}", hint(said))]
    Failed {
        /// What was run.
        command: String,
        /// What it said on standard error, or how it ended.
        said: String,
    },
    /// The program could not be run.
    #[error("{command}: {source}")]
    Run {
        /// What was run.
        command: String,
        /// Why not.
        source: io::Error,
    },
    /// Nothing that could do it.
    #[error("neither nftables nor iptables can be used here:\n{0}")]
    NoBackend(String),
    /// What a program said was not understood.
    #[error("{command} said what was not understood: {what}")]
    Odd {
        /// What was run.
        command: String,
        /// What was odd.
        what: String,
    },
    /// The namespace could not be entered, or a socket not be had.
    #[error("{what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// Why it failed.
        source: io::Error,
    },
}

fn hint(said: &str) -> &'static str {
    if said.contains("not permitted") || said.contains("Permission denied") {
        " (it needs CAP_NET_ADMIN in the network namespace; in a pod: capabilities.add [NET_ADMIN], or the CNI form)"
    } else {
        ""
    }
}

/// Runs a program and gives what it wrote to standard output.
pub(crate) fn run(program: &str, args: &[&str], input: &str) -> Result<String, Error> {
    let command = std::iter::once(program).chain(args.iter().copied()).collect::<Vec<_>>().join(" ");
    let failed = |source| Error::Run { command: command.clone(), source };
    let spawned = Command::new(program)
        .args(args)
        .env("PATH", path())
        .env("LC_ALL", "C")
        .stdin(if input.is_empty() { Stdio::null() } else { Stdio::piped() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = match spawned {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(Error::Missing(program.to_owned()));
        }
        other => other.map_err(failed)?,
    };
    if let Some(mut stdin) = child.stdin.take() {
        // Who does not read to the end says why.
        let _ = stdin.write_all(input.as_bytes());
    }
    let output = child.wait_with_output().map_err(failed)?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let said = if said.is_empty() { output.status.to_string() } else { said };
    Err(Error::Failed { command, said })
}

/// Where programs are looked for: container runtimes run plugins with little of a path.
fn path() -> OsString {
    let mut path = std::env::var_os("PATH").unwrap_or_default();
    if !path.is_empty() {
        path.push(":");
    }
    path.push("/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin");
    path
}
