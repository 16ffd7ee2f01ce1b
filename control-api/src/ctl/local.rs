//! What needs no control plane, or next to nothing of it.

use std::io::Write;

use clap::CommandFactory as _;
use clap_complete::Shell;

use super::Session;
use super::args::Cli;
use super::failure::Failure;
use super::table::Table;
use crate::api::auth::{Role, new_token};
use crate::model::Kind;
use crate::pb;

/// The kinds that are known.
pub(super) fn api_resources(out: &mut dyn Write, color: bool) -> Result<(), Failure> {
    let mut table = Table::new(&["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"]);
    for kind in Kind::ALL {
        table.push(vec![
            kind.plural().into(),
            kind.short_names().join(",").into(),
            kind.api_version().into(),
            kind.namespaced().to_string().into(),
            kind.name().into(),
        ]);
    }
    Ok(table.print(out, color)?)
}

/// A script that completes command lines.
pub(super) fn completion(shell: Shell, out: &mut dyn Write) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "outriderctl", &mut script);
    Ok(out.write_all(&script)?)
}

/// A new token.
pub(super) fn token(name: &str, role: Role, out: &mut dyn Write) -> Result<(), Failure> {
    let token = new_token(name, role).map_err(|error| Failure::usage(error.to_string()))?;
    writeln!(out, "# For {name}, who keeps it secret; it is shown this once:")?;
    writeln!(out, "{}", token.secret)?;
    writeln!(out, "# For the control plane's file of tokens (DATA-DIR/tokens/tokens):")?;
    Ok(writeln!(out, "{}", token.line)?)
}

/// This program's version.
pub(super) fn version(out: &mut dyn Write) -> Result<(), Failure> {
    Ok(writeln!(out, "outriderctl {}", env!("CARGO_PKG_VERSION"))?)
}

/// This program's version and the control plane's.
pub(super) async fn versions(session: &mut Session<'_, '_>) -> Result<(), Failure> {
    version(session.console.out)?;
    let mut client = session.client().await?;
    let answer = client.list_proxies(pb::ListProxiesRequest::default()).await?.into_inner();
    let generation = answer.generation;
    session.say(&format!("server: {} (generation {generation})", answer.instance))?;
    Ok(())
}
