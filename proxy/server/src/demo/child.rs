//! Processes that end with the demo, and waiting for what they do.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

/// How long anything may take until the demo gives up.
pub(super) const LIMIT: Duration = Duration::from_secs(30);
/// The pause between two looks.
const PERIOD: Duration = Duration::from_millis(30);

/// Set when somebody pressed Ctrl-C.
pub(super) type Stop = Arc<AtomicBool>;

/// Looks until there is something.
pub(super) fn until<T>(
    stop: &Stop,
    what: &str,
    mut look: impl FnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + LIMIT;
    loop {
        ensure!(!stop.load(Relaxed), "told to end");
        if let Some(found) = look()? {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "waited {LIMIT:?} in vain for {what}");
        std::thread::sleep(PERIOD);
    }
}

/// A process; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Child {
    name: String,
    log: PathBuf,
    /// The process itself.
    pub(super) process: std::process::Child,
}

impl Drop for Child {
    fn drop(&mut self) {
        // Gone already is as good.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Child {
    /// Starts one, what it prints going to `NAME.log` in a folder. It is out of Ctrl-C's reach: the demo ends it in its own order.
    pub(super) fn start(name: &str, mut command: Command, folder: &Path) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let process = command.process_group(0).spawn().with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), log, process })
    }

    /// Starts one that is spoken to over its standard input and output.
    pub(super) fn spoken_to(name: &str, mut command: Command, folder: &Path) -> anyhow::Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log)?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(out);
        let process = command.process_group(0).spawn().with_context(|| format!("starting {name}"))?;
        Ok(Self { name: name.to_owned(), log, process })
    }

    /// That it runs.
    pub(super) fn runs(&mut self) -> anyhow::Result<()> {
        match self.process.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("{} ended with {status}: {}", self.name, self.last_words()),
        }
    }

    /// The last lines that it printed.
    pub(super) fn last_words(&self) -> String {
        last_lines(&self.log)
    }
}

fn last_lines(log: &Path) -> String {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    lines.get(lines.len().saturating_sub(4)..).unwrap_or_default().join("\n")
}

/// Runs a program to its end, and gives what it printed.
pub(super) fn finish(mut command: Command) -> anyhow::Result<String> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("running {command:?}"))?;
    let said = [output.stdout.as_slice(), output.stderr.as_slice()].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    ensure!(output.status.success(), "{command:?} ended with {}: {said}", output.status);
    Ok(said)
}

/// A folder of the demo's own, which is removed at the end.
#[derive(Debug)]
pub(super) struct Folder(PathBuf);

impl Folder {
    /// A new one, under a name that nobody could have taken before.
    pub(super) fn new() -> anyhow::Result<Self> {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
        let name = format!("outrider-demo-{}-{:x}", std::process::id(), now.as_nanos());
        let path = std::path::absolute(std::env::temp_dir())?.join(name);
        // It must not be there already: that would be somebody else's.
        fs::create_dir(&path).with_context(|| path.display().to_string())?;
        let folder = Self(path);
        // Sidecars are another user.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755))?;
        Ok(folder)
    }

    /// Where it is.
    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// The last lines of all logs in it.
    pub(super) fn last_words(&self) -> String {
        let mut all = String::new();
        for entry in fs::read_dir(&self.0).into_iter().flatten().flatten() {
            let path = entry.path();
            let Some(name) = path.file_name().filter(|_| path.extension().is_some_and(|it| it == "log"))
            else {
                continue;
            };
            let text = last_lines(&path);
            if !text.is_empty() {
                let _ = writeln!(all, "--- {}\n{text}", name.to_string_lossy());
            }
        }
        all
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
