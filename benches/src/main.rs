//! Benchmarks that need whole processes: `load` runs Outrider, Envoy and HAProxy side by side on the same
//! work, `soak` keeps one Outrider busy for minutes and watches its memory, `push` changes the configuration of Outrider and
//! Envoy under load, `control` has the control plane serve many proxies. The micro benchmarks are
//! criterion targets under `benches/`. README.md beside this crate says what each figure means.

mod callgrind;
mod certs;
mod cli;
mod config;
mod control;
mod drivers;
mod helpers;
mod instructions;
mod load;
mod preflight;
mod process;
mod profile;
mod proxies;
mod push;
mod report;
mod scenario;
mod soak;
mod stage;
mod svg;
mod tls;
mod tools;
mod upstream;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser;

/// Writes one line to standard output; a closed pipe ends the program quietly rather than by a panic.
macro_rules! say {
    ($($arg:tt)*) => {{
        use std::io::Write as _;
        if writeln!(std::io::stdout(), $($arg)*).is_err() { std::process::exit(0); }
    }};
}
pub(crate) use say;

fn main() -> ExitCode {
    let result = match cli::Cli::parse().command {
        cli::Command::Load(args) if args.instructions.is_some() => instructions::run(&args),
        cli::Command::Load(args) if args.perf.is_some() => profile::run(&args),
        cli::Command::Load(args) => load::run(&args),
        cli::Command::Soak(args) => soak::run(&args),
        cli::Command::Push(args) => push::run(&args),
        cli::Command::Control(args) => control::run(&args),
        cli::Command::Helper(helper) => helpers::run(helper),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing can be done when standard error is gone, too.
            let _ = writeln!(std::io::stderr(), "error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
