//! `outrider-control`: the control plane.

use std::process::ExitCode;

use clap::Parser as _;
use outrider_control::ca::{identity::TrustDomain, own};
use outrider_control::server::{self, Options};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads for work that takes its time. Few: a thousand proxies that come together would make hundreds, each with a heap of its own
/// that it keeps.
const BLOCKING: usize = 8;

/// Prints the definitions of our kinds.
fn crds() -> anyhow::Result<()> {
    use std::io::Write as _;
    let text = outrider_control::store::kubernetes::crds::yaml().map_err(anyhow::Error::msg)?;
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Makes the next root.
fn rotate(data_dir: &std::path::Path, domain: &TrustDomain) -> anyhow::Result<()> {
    use std::io::Write as _;
    let generation = own::rotate(data_dir, domain, std::time::SystemTime::now())?;
    let text = format!(
        "root {generation} is made; the control plane announces it in the trust bundle within seconds, and its log says from when \
         on it signs\n"
    );
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

/// Has former roots believed no longer.
fn drop_roots(data_dir: &std::path::Path, domain: &TrustDomain, force: bool) -> anyhow::Result<()> {
    use std::io::Write as _;
    let gone = own::drop_roots(data_dir, domain, force, std::time::SystemTime::now())?;
    let listed = gone.iter().map(u64::to_string).collect::<Vec<_>>().join(", ");
    let text = format!(
        "former roots ({listed}) are taken out of the trust bundle; the control plane does so within seconds\n"
    );
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn main() -> ExitCode {
    let options = Options::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("OUTRIDER_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    let runtime = match runtime.max_blocking_threads(BLOCKING).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "no runtime");
            return ExitCode::FAILURE;
        }
    };
    let ended = match options.command {
        Some(server::Command::Crds) => crds(),
        Some(server::Command::RotateCa { data_dir, trust_domain }) => rotate(&data_dir, &trust_domain),
        Some(server::Command::DropCaRoot { data_dir, trust_domain, force }) => {
            drop_roots(&data_dir, &trust_domain, force)
        }
        None => runtime.block_on(server::run(options)),
    };
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
