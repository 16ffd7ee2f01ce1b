//! `outriderctl diff`.

use serde_json::Value;
use similar::TextDiff;
use tonic::Code;

use super::args::Files;
use super::failure::Failure;
use super::table::Style;
use super::{Session, files, output};
use crate::pb;

/// Where kubectl and we keep all of an object, what is secret too.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What in `metadata` is no difference that somebody made.
const SERVERS: [&str; 3] = ["resourceVersion", "generation", "managedFields"];

/// Shows what applying manifests would change. Fails with code 1 when there is something, with 4 when it cannot tell.
pub(super) async fn diff(session: &mut Session<'_, '_>, files: &Files) -> Result<(), Failure> {
    match differences(session, files).await {
        Ok(0) => Ok(()),
        Ok(_) => Err(Failure::silent(1)),
        Err(failure) => Err(Failure { code: if failure.code == 1 { 4 } else { failure.code }, ..failure }),
    }
}

async fn differences(session: &mut Session<'_, '_>, files: &Files) -> Result<usize, Failure> {
    let documents: Vec<_> = files::read(session, files)?;
    let manifests = documents
        .iter()
        .map(|it| pb::Manifest { source: it.source.clone(), json: it.value.to_string() })
        .collect();
    let mut client = session.client().await?;
    // The server says what would be stored: what it makes itself is no difference.
    let answer = client.apply(pb::ApplyRequest { manifests, dry_run: true }).await?.into_inner();
    let mut count = 0;
    for it in answer.applied {
        let Some(reference) = it.r#ref.clone().filter(|_| !it.json.is_empty()) else { continue };
        let source = documents.iter().find(|document| {
            let named = document.reference();
            named.kind == reference.kind
                && named.name == reference.name
                && (named.namespace == reference.namespace || reference.namespace.is_empty())
        });
        let name = output::name_of(&reference.kind, &reference.api_version, &reference.name);
        let live = match client.get(pb::GetRequest { r#ref: Some(reference.clone()) }).await {
            Ok(live) => Some(live.into_inner().json),
            Err(status) if status.code() == Code::NotFound => None,
            Err(status) => return Err(status.into()),
        };
        let parse = |json: &str| serde_json::from_str::<Value>(json).unwrap_or_default();
        let (mut before, mut after) = (live.as_deref().map(parse), parse(&it.json));
        mask(before.as_mut(), &mut after);
        let (known, old) =
            (before.is_some(), before.map(|it| text(it, true)).transpose()?.unwrap_or_default());
        let new = text(after, known)?;
        if old == new {
            continue;
        }
        count += 1;
        let place = if reference.namespace.is_empty() {
            name
        } else {
            format!("{name} (namespace {})", reference.namespace)
        };
        let source = source.map_or("-", |it| it.source.as_str());
        print(session, &old, &new, &format!("live {place}"), source)?;
    }
    Ok(count)
}

/// Puts marks in the place of what is secret, by which one sees what differs and no more.
fn mask(mut before: Option<&mut Value>, after: &mut Value) {
    if after.get("kind").and_then(Value::as_str) != Some("Secret") {
        return;
    }
    for field in ["data", "stringData"] {
        let mut old = before.as_deref_mut().and_then(|it| it.get_mut(field)).and_then(Value::as_object_mut);
        for (name, new) in after.get_mut(field).and_then(Value::as_object_mut).into_iter().flatten() {
            match old.as_deref_mut().and_then(|it| it.get_mut(name)) {
                Some(old) if old != new => (*old, *new) = ("*** (before)".into(), "*** (after)".into()),
                _ => *new = "***".into(),
            }
        }
        for value in old.into_iter().flat_map(|it| it.values_mut()) {
            if value != "*** (before)" {
                *value = "***".into();
            }
        }
    }
    for value in before.into_iter().chain([after]) {
        let annotations = value.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut);
        if let Some(said) = annotations.and_then(|it| it.get_mut(LAST_APPLIED)) {
            *said = "***".into();
        }
    }
}

/// An object as it is compared.
fn text(mut value: Value, live: bool) -> Result<String, Failure> {
    if let Some(object) = value.as_object_mut() {
        object.remove("status");
    }
    if let Some(meta) = value.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.retain(|name, _| !SERVERS.contains(&name.as_str()));
        if !live {
            // Made up for the dry run.
            meta.retain(|name, _| name != "uid" && name != "creationTimestamp");
        }
    }
    output::yaml(&value)
}

fn print(session: &mut Session<'_, '_>, old: &str, new: &str, live: &str, file: &str) -> Result<(), Failure> {
    let diff = TextDiff::from_lines(old, new);
    let text = diff.unified_diff().context_radius(3).header(live, file).to_string();
    for line in text.lines() {
        let style = match line.as_bytes().first() {
            Some(b'+') => Style::Good,
            Some(b'-') => Style::Bad,
            Some(b'@') => Style::Odd,
            _ => Style::Plain,
        };
        let painted = style.paint(line, session.color);
        session.say(&painted)?;
    }
    Ok(())
}
