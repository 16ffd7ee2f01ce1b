//! `outriderctl delete`.

use serde_json::Value;
use tonic::Code;

use super::Session;
use super::args::Files;
use super::failure::Failure;
use super::{files, output};
use crate::model::Kind;
use crate::pb;

/// What is to be deleted.
pub(super) struct Wanted {
    pub(super) what: Vec<String>,
    pub(super) files: Files,
    pub(super) selector: Option<String>,
    pub(super) dry_run: bool,
    pub(super) ignore_not_found: bool,
}

/// Deletes objects, each by itself; one that cannot be is told, and the others are deleted still.
pub(super) async fn delete(session: &mut Session<'_, '_>, wanted: Wanted) -> Result<(), Failure> {
    let mut client = session.client().await?;
    let references = if wanted.what.is_empty() {
        let documents = files::read(session, &wanted.files)?;
        // What others refer to goes last.
        documents.iter().rev().filter(|it| it.kind().is_some()).map(files::Document::reference).collect()
    } else {
        named(session, &mut client, &wanted).await?
    };
    if references.is_empty() {
        session.warn("nothing was found to delete")?;
    }
    let mut failed = None;
    for reference in references {
        let name = output::name_of(&reference.kind, &reference.api_version, &reference.name);
        let request =
            pb::DeleteRequest { r#ref: Some(reference), dry_run: wanted.dry_run, ..Default::default() };
        match client.delete(request).await {
            Ok(_) => {
                let note = if wanted.dry_run { " (dry run)" } else { "" };
                session.say(&format!("{name} deleted{note}"))?;
            }
            Err(status) if status.code() == Code::NotFound && wanted.ignore_not_found => {}
            Err(status) => {
                let failure = Failure::from(status);
                session.warn(&format!("error: {name}: {}", failure.message))?;
                failed = Some(failure.code);
            }
        }
    }
    failed.map_or(Ok(()), |code| Err(Failure::silent(code)))
}

async fn named(
    session: &Session<'_, '_>,
    client: &mut super::Client,
    wanted: &Wanted,
) -> Result<Vec<pb::Ref>, Failure> {
    let mut out = Vec::new();
    let all = wanted.what.iter().any(|it| it == "all");
    // As kubectl's `all`: what others rest on is deleted by its own name.
    let meant = |kind: Kind| !all || (kind.namespaced() && !matches!(kind, Kind::Secret | Kind::ConfigMap));
    for (kind, name) in output::targets(&wanted.what)?.into_iter().filter(|(kind, _)| meant(*kind)) {
        let reference = |namespace: &str, name: &str| pb::Ref {
            api_version: kind.api_version(),
            kind: kind.name().to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        };
        match (name, &wanted.selector) {
            (Some(_), Some(_)) => return Err(Failure::usage("names or --selector, not both")),
            (Some(name), None) => out.push(reference(session.namespace(), &name)),
            (None, None) => {
                return Err(Failure::usage(format!(
                    "which {}? give names or --selector; all objects of a kind are not deleted at one go",
                    kind.plural()
                )));
            }
            (None, Some(selector)) => {
                let request = pb::ListRequest {
                    kind: kind.name().to_owned(),
                    namespace: session.namespace().to_owned(),
                    label_selector: selector.clone(),
                };
                for json in client.list(request).await?.into_inner().json {
                    let object: Value = serde_json::from_str(&json).unwrap_or_default();
                    let text =
                        |pointer: &str| object.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
                    out.push(reference(text("/metadata/namespace"), text("/metadata/name")));
                }
            }
        }
    }
    Ok(out)
}
