//! Serving: the process's life from its options to its exit.

use std::sync::Arc;

use anyhow::Context as _;

use crate::bootstrap;
use crate::control::{Control, MemoryHooks};
use crate::lifecycle::{self, Ended};
use crate::logging;
use crate::options::{Mode, Options};
use crate::upgrade::new::TakeOver;
use crate::upgrade::shepherd;
use crate::version;

/// Runs the process as `options` say. `unused` are flags that were given and mean nothing here; `memory` gives memory
/// back that is no longer needed.
///
/// # Errors
/// The configuration is refused, or something that it needs (a port, a file, a certificate) is not to be had;
/// nothing has been started then.
pub fn run(mut options: Options, unused: &[&str], memory: MemoryHooks) -> anyhow::Result<bool> {
    let log = logging::init(&options.log)?;
    for flag in unused {
        tracing::warn!("{flag} has no meaning here and is not used");
    }
    let loaded = bootstrap::load(&options)?;
    for (path, why) in &loaded.ledger.inert {
        tracing::debug!("{path} has no effect: {why}");
    }
    if options.mode == Mode::Validate {
        // What only building finds (certificates, regular expressions over limits) is part of being valid.
        Control::validate(&options, &loaded)?;
        let name = options
            .config_path
            .as_ref()
            .map_or_else(|| "--config-yaml".into(), |path| path.display().to_string());
        use std::io::Write;
        writeln!(std::io::stdout(), "configuration '{name}' OK")?;
        return Ok(true);
    }
    lifecycle::raise_file_limit();
    let before = if options.take_over { Some(TakeOver::receive()?) } else { None };
    if let Some(before) = &before {
        options.concurrency = Some(before.workers(options.concurrency));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build_local(Default::default());
    let runtime = runtime.context("the control thread's runtime cannot be made")?;
    let ended = runtime.block_on(async {
        tracing::info!("outrider {} starting", version::long());
        let control = Control::new(options, loaded, log)?.with_memory(memory).after(before);
        lifecycle::serve(Arc::new(control)).await
    })?;
    drop(runtime);
    match ended {
        Ended::Told => Ok(true),
        Ended::HandedOver(binary) => Ok(shepherd::turn_into(&binary)? == 0),
    }
}
