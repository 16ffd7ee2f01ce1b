//! `outriderctl`: the control plane's API on the command line.

mod apply;
mod args;
mod columns;
mod connect;
mod delete;
mod describe;
mod diff;
mod explain;
mod failure;
mod files;
mod get;
mod identity;
mod inject;
mod local;
mod output;
mod problems;
mod proxies;
mod proxy_config;
mod table;
mod token;

#[cfg(test)]
mod tests;

use std::ffi::OsString;
use std::io::{self, IsTerminal as _, Read, Write};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use args::{Cli, Color, Command, DryRun, Flags, IdentityCommand, TokenCommand};
use connect::{Client, Target};
use failure::Failure;

/// Where a command reads and writes.
pub struct Console<'c> {
    /// Manifests of `-f -`.
    pub input: &'c mut (dyn Read + Send),
    /// What was asked for.
    pub out: &'c mut (dyn Write + Send),
    /// What else is to be said.
    pub err: &'c mut (dyn Write + Send),
    /// Whether `out` shows colours when nobody says.
    pub terminal: bool,
    /// Says what time it is, for ages: seconds since 1970.
    pub now: fn() -> i64,
    /// Where the configuration file is looked for.
    pub home: Option<PathBuf>,
}

impl std::fmt::Debug for Console<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Console").field("terminal", &self.terminal).finish_non_exhaustive()
    }
}

/// What every command has.
struct Session<'s, 'c> {
    console: &'s mut Console<'c>,
    color: bool,
    /// The namespace that is meant, and whether a flag said so.
    namespace: (String, bool),
    target: Target,
}

impl Session<'_, '_> {
    fn namespace(&self) -> &str {
        &self.namespace.0
    }

    async fn client(&self) -> Result<Client, Failure> {
        self.target.connect().await
    }

    fn say(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.console.out, "{line}")
    }

    fn warn(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.console.err, "{line}")
    }
}

/// The program.
pub fn main() -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = writeln!(io::stderr(), "error: {error}");
            return ExitCode::from(1);
        }
    };
    let (mut input, mut out, mut err) = (io::stdin(), io::stdout(), io::stderr());
    let console = Console {
        terminal: out.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|it| it.is_empty()),
        input: &mut input,
        out: &mut out,
        err: &mut err,
        now: || chrono::Utc::now().timestamp(),
        home: std::env::var_os("HOME").map(PathBuf::from),
    };
    ExitCode::from(runtime.block_on(run(std::env::args_os(), console)))
}

/// Runs one command line; gives the exit code.
pub async fn run(args: impl IntoIterator<Item = OsString>, mut console: Console<'_>) -> u8 {
    let parsed = Cli::command().try_get_matches_from(args).and_then(|matches| {
        let mut cli = Cli::from_arg_matches(&matches)?;
        cli.connection.flags = Flags::of(&matches);
        Ok(cli)
    });
    let cli = match parsed {
        Ok(cli) => cli,
        Err(error) => {
            let text = error.render();
            let to: &mut dyn Write = if error.use_stderr() { console.err } else { console.out };
            let _ = if console.terminal { write!(to, "{}", text.ansi()) } else { write!(to, "{text}") };
            return u8::try_from(error.exit_code()).unwrap_or(2);
        }
    };
    let color = match cli.color {
        Color::Auto => console.terminal,
        Color::Always => true,
        Color::Never => false,
    };
    let done = command(cli, &mut console, color).await;
    let flushed = console.out.flush();
    match done.and(flushed.map_err(Failure::from)) {
        Ok(()) => 0,
        Err(failure) => {
            if !failure.message.is_empty() {
                let _ = writeln!(console.err, "error: {}", failure.message);
            }
            failure.code
        }
    }
}

async fn command(cli: Cli, console: &mut Console<'_>, color: bool) -> Result<(), Failure> {
    // What needs no control plane needs no configuration either.
    match &cli.command {
        Command::ApiResources => return local::api_resources(console.out, color),
        Command::Completion { shell } => return local::completion(*shell, console.out),
        Command::Token { join: None, name: Some(name), role: Some(role) } => {
            return local::token(name, *role, console.out);
        }
        Command::Version { client: true } => return local::version(console.out),
        Command::Inject(args) => return inject::inject(args, cli.namespace.as_deref(), console),
        _ => {}
    }
    let target = Target::read(&cli.connection, console.home.as_deref())?;
    let namespace = match (&cli.namespace, &target.namespace) {
        // What the environment says is what is meant where nobody says otherwise, as the context's.
        (Some(namespace), _) => (namespace.clone(), cli.connection.flags.has("namespace")),
        (None, Some(namespace)) => (namespace.clone(), false),
        (None, None) => (crate::api::DEFAULT_NAMESPACE.to_owned(), false),
    };
    let mut session = Session { console, color, namespace, target };
    let session = &mut session;
    match cli.command {
        Command::Apply { files, dry_run, output } => {
            apply::apply(session, &files, dry_run != DryRun::None, output).await
        }
        Command::Delete { what, files, selector, dry_run, ignore_not_found } => {
            let dry_run = dry_run != DryRun::None;
            let wanted = delete::Wanted { what, files, selector, dry_run, ignore_not_found };
            delete::delete(session, wanted).await
        }
        Command::Get { what, all_namespaces, selector, output, watch, no_headers } => {
            let wanted = get::Wanted { what, all_namespaces, selector, output, no_headers, events: false };
            get::get(session, wanted, watch).await
        }
        Command::Watch { kind, all_namespaces, selector, output } => {
            let what = vec![kind];
            let wanted =
                get::Wanted { what, all_namespaces, selector, output, no_headers: false, events: true };
            get::get(session, wanted, true).await
        }
        Command::Describe { what } => describe::describe(session, &what).await,
        Command::Diff { files } => diff::diff(session, &files).await,
        Command::ProxyStatus { proxy, output } => proxies::status(session, proxy, output).await,
        Command::ProxyConfig { kind, proxy, name, output } => {
            proxy_config::show(session, kind, proxy, name.as_deref(), output).await
        }
        Command::Explain(asked) => explain::explain(session, asked).await,
        Command::Problems { output } => problems::problems(session, output).await,
        Command::Version { client: false } => local::versions(session).await,
        Command::Identity { command: IdentityCommand::Revoke { identity, reason } } => {
            identity::revoke(session, &identity, reason.as_deref()).await
        }
        Command::Token { join: Some(TokenCommand::Create { service_account, ttl, uses }), .. } => {
            token::create(session, &service_account, ttl, uses).await
        }
        Command::ApiResources
        | Command::Completion { .. }
        | Command::Inject(_)
        | Command::Token { .. }
        | Command::Version { client: true } => Ok(()),
    }
}
