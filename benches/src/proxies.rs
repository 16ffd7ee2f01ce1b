//! The three proxies: how each is started and what it is given.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Result;

use crate::config::{Plan, envoy, haproxy};
use crate::process::{Process, Spawn};

/// A proxy under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// This project.
    Outrider,
    /// The reference.
    Envoy,
    /// The fast peer.
    Haproxy,
}

impl Kind {
    /// All of them, in the order of the table.
    pub(crate) const ALL: [Kind; 3] = [Kind::Outrider, Kind::Envoy, Kind::Haproxy];

    /// The name on the command line and in the table.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Outrider => "outrider",
            Kind::Envoy => "envoy",
            Kind::Haproxy => "haproxy",
        }
    }

    /// The reverse of [`Kind::name`].
    pub(crate) fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A proxy that can be started.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    /// Which one.
    pub(crate) kind: Kind,
    /// Its binary.
    pub(crate) program: PathBuf,
    /// What it says about its version.
    pub(crate) version: String,
    /// What runs it, with options; its own command line follows.
    pub(crate) wrapper: Option<Vec<String>>,
}

impl Proxy {
    /// Starts it on one CPU with one worker and waits until the first listener of the plan accepts.
    ///
    /// `label` names the configuration and the log in `dir`.
    pub(crate) fn start(&self, plan: &Plan<'_>, cpu: &str, dir: &Path, label: &str) -> Result<Process> {
        let stem = format!("{label}-{}", self.kind);
        let (file, text) = match self.kind {
            Kind::Haproxy => (dir.join(format!("{stem}.cfg")), haproxy::config(plan)),
            Kind::Envoy | Kind::Outrider => (dir.join(format!("{stem}.yaml")), envoy::bootstrap(plan)),
        };
        fs::write(&file, text)?;
        let file = file.display().to_string();
        let mut args: Vec<String> = match self.kind {
            Kind::Haproxy => vec!["-db".into(), "-f".into(), file],
            Kind::Envoy | Kind::Outrider => {
                let words = ["--concurrency", "1", "--disable-hot-restart", "--log-level", "error", "-c"];
                words.iter().map(|&w| w.to_owned()).chain([file]).collect()
            }
        };
        let mut program = self.program.clone();
        if let Some((wrapper, options)) = self.wrapper.as_deref().and_then(<[String]>::split_first) {
            let own = std::mem::replace(&mut program, wrapper.into()).display().to_string();
            args.splice(0..0, options.iter().cloned().chain([own]));
        }
        let mut process = Process::spawn(Spawn {
            name: self.kind.name(),
            program: &program,
            args,
            cpus: cpu,
            log: dir.join(format!("{stem}.log")),
            piped: false,
        })?;
        for edge in &plan.edges {
            process.wait_listening(edge.listen, Duration::from_secs(60))?;
        }
        Ok(process)
    }
}
