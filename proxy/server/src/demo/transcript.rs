//! What the demo prints: for each step what was asked, what came back, and what that proves.

use std::io::Write as _;

/// Numbers the steps.
#[derive(Debug, Default)]
pub(super) struct Transcript {
    steps: usize,
}

impl Transcript {
    /// A step begins.
    pub(super) fn step(&mut self, title: &str) -> anyhow::Result<()> {
        self.steps += 1;
        print(&format!("\n{}. {title}\n", self.steps))
    }

    /// What is done.
    pub(super) fn asked(&self, text: &str) -> anyhow::Result<()> {
        line("asked", text)
    }

    /// What came of it.
    pub(super) fn came(&self, text: &str) -> anyhow::Result<()> {
        line("came", text)
    }

    /// What is known from it.
    pub(super) fn proves(&self, text: &str) -> anyhow::Result<()> {
        line("proves", text)
    }

    /// How many steps there were.
    pub(super) const fn steps(&self) -> usize {
        self.steps
    }
}

fn line(label: &str, text: &str) -> anyhow::Result<()> {
    print(&format!("   {label:<7} {text}\n"))
}

/// Prints at once.
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}
