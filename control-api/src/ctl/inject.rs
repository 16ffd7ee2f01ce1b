//! Sidecars in manifests: the same function as the control plane's webhook, without one.

use outrider_inject::manifest::inject_text;
use outrider_inject::{Outcome, Report, Settings};

use super::Console;
use super::args::InjectArgs;
use super::failure::Failure;
use super::files::{self, Text};

/// Prints manifests with sidecars in them; or, when something is wrong with one, nothing but that.
pub(super) fn inject(
    args: &InjectArgs,
    namespace: Option<&str>,
    console: &mut Console<'_>,
) -> Result<(), Failure> {
    let settings = settings(args)?;
    let (mut out, mut reports, mut wrong) = (Vec::new(), Vec::new(), Vec::new());
    for Text { source, text, .. } in files::texts(console, &args.files)? {
        match inject_text(&text, &settings, namespace) {
            Ok(done) => {
                out.push(done.text);
                reports.extend(done.reports.into_iter().map(|report| (source.clone(), report)));
            }
            Err(error) => wrong.extend(error.to_string().lines().map(|line| format!("{source}: {line}"))),
        }
    }
    if !wrong.is_empty() {
        return Err(Failure::refused(format!("nothing was injected:\n{}", wrong.join("\n"))));
    }
    for (source, report) in &reports {
        tell(console, source, report)?;
    }
    for (index, text) in out.iter().enumerate() {
        if index > 0 && !text.starts_with("---") {
            writeln!(console.out, "---")?;
        }
        write!(console.out, "{text}")?;
        if !text.is_empty() && !text.ends_with('\n') {
            writeln!(console.out)?;
        }
    }
    Ok(())
}

fn settings(args: &InjectArgs) -> Result<Settings, Failure> {
    let mut settings = match &args.settings {
        None => Settings::default(),
        Some(path) => {
            let wrong = |reason: String| Failure::usage(format!("--settings {}: {reason}", path.display()));
            let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
            Settings::read(&text).map_err(|error| wrong(error.to_string()))?
        }
    };
    if let Some(image) = &args.image {
        settings.image.clone_from(image);
    }
    if let Some(address) = &args.control_plane {
        settings.control_plane.clone_from(address);
    }
    settings.capture = args.capture.unwrap_or(settings.capture);
    settings.kubernetes_version = args.kubernetes_version.or(settings.kubernetes_version);
    settings.native_sidecar = args.native_sidecar.or(settings.native_sidecar);
    // The texts of flags, too.
    settings.check().map_err(|error| Failure::usage(error.to_string()))?;
    Ok(settings)
}

/// What became of an object.
fn tell(console: &mut Console<'_>, source: &str, report: &Report) -> Result<(), Failure> {
    let object = &report.object;
    match report.outcome {
        Outcome::Injected => writeln!(console.err, "{source}: {object}: injected")?,
        Outcome::Unchanged => writeln!(console.err, "{source}: {object}: has this sidecar")?,
        // Most of what is in files makes no pods.
        Outcome::Skipped(outrider_inject::Skip::Kind) => {}
        Outcome::Skipped(skip) => writeln!(console.err, "{source}: {object}: left out: {skip}")?,
    }
    for warning in &report.warnings {
        writeln!(console.err, "{source}: {object}: warning: {warning}")?;
    }
    Ok(())
}
