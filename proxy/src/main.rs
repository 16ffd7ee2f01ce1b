//! The `outrider` binary: the command line, and nothing else.

mod cli;
mod memory;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use outrider_server::upgrade::{client, shepherd};
use outrider_server::{check, demo, serve, wait};

use crate::cli::{Cli, Command};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    // A container runtime calls a plugin by its name, without arguments.
    if std::env::args_os().len() == 1 && outrider_capture::cni::Call::is_ours() {
        let outcome = outrider_capture::cli::plugin(&mut std::io::stdout().lock());
        return if matches!(outcome, Ok(true)) { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // clap's own code for a bad command line is 2; Envoy exits with 1.
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let outcome = match cli.command {
        Some(Command::Check { file, json }) => check::run(&file, json, &mut std::io::stdout().lock()),
        Some(Command::Capture { command }) => {
            outrider_capture::cli::run(command, &mut std::io::stdout().lock())
        }
        Some(Command::Demo { once, loopback, simple, port }) => {
            demo::run(demo::Settings { once, simple, loopback, port }, memory::HOOKS)
        }
        Some(Command::DemoPart { args }) => demo::part(&args),
        Some(Command::Wait { admin, timeout_s }) => {
            wait::run(&admin, std::time::Duration::from_secs(timeout_s))
        }
        Some(Command::Upgrade { binary, socket, timeout_s }) => {
            let limit = std::time::Duration::from_secs(timeout_s);
            client::run(&binary, &socket, limit, &mut std::io::stdout().lock())
        }
        Some(Command::Shepherd) => match shepherd::run() {
            Ok(code) => return ExitCode::from(code),
            Err(error) => Err(error),
        },
        None if cli.flags.version => {
            writeln!(std::io::stdout(), "outrider  version: {}", outrider_server::version::long())
                .map(|()| true)
                .map_err(Into::into)
        }
        None => {
            let (options, unused) = cli.flags.into_options();
            serve::run(options, &unused, memory::HOOKS)
        }
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "outrider: {error:#}");
            ExitCode::FAILURE
        }
    }
}
