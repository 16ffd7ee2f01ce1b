//! `outriderctl apply`.

use super::Session;
use super::args::{Files, Format};
use super::failure::Failure;
use super::{files, output};
use crate::pb::{self, Outcome};

/// Stores manifests.
pub(super) async fn apply(
    session: &mut Session<'_, '_>,
    files: &Files,
    dry_run: bool,
    format: Option<Format>,
) -> Result<(), Failure> {
    let documents = files::read(session, files)?;
    let manifests = documents
        .iter()
        .map(|it| pb::Manifest { source: it.source.clone(), json: it.value.to_string() })
        .collect();
    let mut client = session.client().await?;
    let answer = client.apply(pb::ApplyRequest { manifests, dry_run }).await?.into_inner();
    if let Some(format) = format {
        let objects: Vec<_> =
            answer.applied.iter().filter_map(|it| serde_json::from_str(&it.json).ok()).collect();
        output::objects(session.console.out, &objects, false, format)?;
    }
    for it in &answer.applied {
        let reference = it.r#ref.clone().unwrap_or_default();
        let name = output::name_of(&reference.kind, &reference.api_version, &reference.name);
        if format.is_none() {
            let note = if dry_run { " (dry run)" } else { "" };
            session.say(&format!("{name} {}{note}", word(it.outcome())))?;
        }
        for warning in &it.warnings {
            session.warn(&format!("warning: {name}: {warning}"))?;
        }
    }
    Ok(())
}

fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Created => "created",
        Outcome::Configured => "configured",
        Outcome::Unchanged => "unchanged",
        Outcome::Deleted => "deleted",
        Outcome::LeftOut => "left out",
        Outcome::Unspecified => "done",
    }
}
