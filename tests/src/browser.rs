//! A real browser, driven by Playwright (`tests/interop/browser`).

use std::{
    env,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::{binary::target_dir, wait};

/// What is needed to run one.
const FILES: [&str; 3] = ["package.json", "package-lock.json", "check.mjs"];

/// How long a look at a page may take.
const LIMIT: Duration = Duration::from_secs(240);

/// A browser, ready to look at pages.
#[derive(Debug)]
pub struct Browser {
    /// Where Playwright is installed.
    dir: PathBuf,
    /// A browser of the system; `None`: Playwright's own.
    binary: Option<PathBuf>,
}

/// Whether a missing browser fails the suite (`OUTRIDER_REQUIRE_BROWSER=1`).
#[must_use]
pub fn required() -> bool {
    env::var_os("OUTRIDER_REQUIRE_BROWSER").is_some_and(|v| v == "1")
}

impl Browser {
    /// Installs Playwright under `target/browser` on first use, and its Chromium where the system has none. `OUTRIDER_BROWSER` names another
    /// binary. Parallel test processes wait for one another.
    ///
    /// # Errors
    /// When it cannot be had: no Node, no network. A suite then says that it leaves something out, unless [`required`].
    pub async fn ready() -> Result<Self> {
        tokio::task::spawn_blocking(install).await?
    }

    /// Looks at a page as `check.mjs` does, with what it is to find there, and keeps a picture of it.
    ///
    /// # Errors
    /// When the page is not as it should be; the message has all that was found.
    pub async fn check(&self, url: &str, screenshot: &Path, expected: &serde_json::Value) -> Result<()> {
        let mut command = tokio::process::Command::new("node");
        command.arg("check.mjs").arg(url).arg(screenshot).arg(expected.to_string()).current_dir(&self.dir);
        if let Some(binary) = &self.binary {
            command.env("OUTRIDER_BROWSER", binary);
        }
        command.kill_on_drop(true).stdin(std::process::Stdio::null());
        let output = wait::within("the browser", LIMIT, async { Ok(command.output().await?) }).await?;
        ensure!(
            output.status.success(),
            "the page is not as it should be:\n{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }
}

fn install() -> Result<Browser> {
    let dir = target_dir()?.join("browser");
    fs::create_dir_all(&dir)?;
    let lock = File::create(dir.join("lock"))?;
    lock.lock()?;
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("interop/browser");
    for file in FILES {
        fs::copy(source.join(file), dir.join(file))
            .with_context(|| format!("{file} of the browser's test"))?;
    }
    let wanted = fs::read(dir.join("package-lock.json"))?;
    let stamp = dir.join("installed");
    if fs::read(&stamp).ok().as_ref() != Some(&wanted) {
        run(&dir, "npm", &["ci", "--no-audit", "--no-fund"])?;
        fs::write(&stamp, &wanted)?;
    }
    let binary = env::var_os("OUTRIDER_BROWSER").filter(|path| !path.is_empty()).map(PathBuf::from);
    let binary = binary.or_else(|| ["chromium", "chromium-browser", "google-chrome"].iter().find_map(found));
    if binary.is_none() {
        run(&dir, "npx", &["playwright", "install", "chromium"])?;
    }
    Ok(Browser { dir, binary })
}

/// A program of the system.
fn found(name: &&str) -> Option<PathBuf> {
    let path: OsString = env::var_os("PATH")?;
    env::split_paths(&path).map(|dir| dir.join(name)).find(|path| path.is_file())
}

fn run(dir: &Path, program: &str, args: &[&str]) -> Result<()> {
    let output = Command::new(program).args(args).current_dir(dir).output();
    let output = output.with_context(|| format!("{program} cannot be run"))?;
    let words = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {} failed: {}", args.join(" "), words.trim());
    Ok(())
}
