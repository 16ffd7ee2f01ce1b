//! `outriderctl describe`.

use serde_json::Value;

use super::columns::{age_of, plain};
use super::failure::Failure;
use super::table::{Cell, Style, Table};
use super::{Session, get, output};

/// Shows objects with what became of them.
pub(super) async fn describe(session: &mut Session<'_, '_>, what: &[String]) -> Result<(), Failure> {
    let targets = output::targets(what)?;
    let mut client = session.client().await?;
    for (index, (kind, name)) in targets.into_iter().enumerate() {
        let Some(name) = name else {
            return Err(Failure::usage(format!("which {}? give names", kind.plural())));
        };
        let object = get::one(session, &mut client, kind, &name).await?;
        if index > 0 {
            session.say("")?;
        }
        print(session, &object)?;
    }
    Ok(())
}

fn print(session: &mut Session<'_, '_>, object: &Value) -> Result<(), Failure> {
    let text = |pointer: &str| object.pointer(pointer).map(plain).unwrap_or_default();
    let age = age_of(object, (session.console.now)());
    let created = text("/metadata/creationTimestamp");
    let facts = [
        ("Kind", format!("{} ({})", text("/kind"), text("/apiVersion"))),
        ("Name", text("/metadata/name")),
        ("Namespace", text("/metadata/namespace")),
        ("Created", if created.is_empty() { created } else { format!("{created} ({age} ago)") }),
        ("Generation", text("/metadata/generation")),
        ("Version", text("/metadata/resourceVersion")),
    ];
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        fact(session, name, value)?;
    }
    for (name, pointer) in [("Labels", "/metadata/labels"), ("Annotations", "/metadata/annotations")] {
        let map = object.pointer(pointer).and_then(Value::as_object).into_iter().flatten();
        for (index, (key, value)) in map.enumerate() {
            let value = plain(value);
            let line = value.lines().next().unwrap_or_default();
            fact(session, if index == 0 { name } else { "" }, &format!("{key}={line}"))?;
        }
    }
    let rest = object.as_object().into_iter().flatten();
    for (name, value) in
        rest.filter(|(name, _)| !["apiVersion", "kind", "metadata", "status"].contains(&name.as_str()))
    {
        let title = Style::Head.paint(&format!("{}:", capital(name)), session.color);
        if value.is_object() || value.is_array() {
            session.say(&title)?;
            for line in output::yaml(value)?.lines() {
                session.say(&format!("  {line}"))?;
            }
        } else {
            fact(session, &capital(name), &plain(value))?;
        }
    }
    status(session, object.get("status"))
}

/// What became of it: a table of conditions for each place that has some.
fn status(session: &mut Session<'_, '_>, status: Option<&Value>) -> Result<(), Failure> {
    let Some(status) = status.filter(|it| it.as_object().is_some_and(|map| !map.is_empty())) else {
        return Ok(());
    };
    let title = Style::Head.paint("Status:", session.color);
    session.say(&title)?;
    let mut places = vec![(String::new(), status)];
    for (list, word) in [("parents", "parentRef"), ("ancestors", "ancestorRef"), ("listeners", "name")] {
        for place in status.get(list).and_then(Value::as_array).into_iter().flatten() {
            let name = match place.get(word) {
                Some(Value::Object(reference)) => {
                    let part = |name: &str| reference.get(name).map(plain).unwrap_or_default();
                    let (kind, name, section) = (part("kind"), part("name"), part("sectionName"));
                    let kind = if kind.is_empty() { "Gateway".to_owned() } else { kind };
                    let section = if section.is_empty() { section } else { format!(" {section}") };
                    format!("at {kind} {name}{section}")
                }
                Some(name) => format!(
                    "listener {}, routes: {}",
                    plain(name),
                    place.get("attachedRoutes").map(plain).unwrap_or_default()
                ),
                None => String::new(),
            };
            places.push((name, place));
        }
    }
    for (name, place) in places {
        let Some(conditions) = place.get("conditions").and_then(Value::as_array) else { continue };
        if !name.is_empty() {
            session.say(&format!("  {name}:"))?;
        }
        let mut table = Table::new(&["  TYPE", "STATUS", "REASON", "MESSAGE"]);
        for condition in conditions {
            let text = |name: &str| condition.get(name).map(plain).unwrap_or_default();
            let status = text("status");
            table.push(vec![
                format!("  {}", text("type")).into(),
                Cell::new(status.clone(), Style::of_status(&status)),
                text("reason").into(),
                text("message").into(),
            ]);
        }
        table.print(session.console.out, session.color)?;
    }
    let rest: serde_json::Map<_, _> = status
        .as_object()
        .into_iter()
        .flatten()
        .filter(|(name, _)| !["conditions", "parents", "ancestors", "listeners"].contains(&name.as_str()))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect();
    if !rest.is_empty() {
        for line in output::yaml(&Value::Object(rest))?.lines() {
            session.say(&format!("  {line}"))?;
        }
    }
    Ok(())
}

fn fact(session: &mut Session<'_, '_>, name: &str, value: &str) -> Result<(), Failure> {
    let title = if name.is_empty() { String::new() } else { format!("{name}:") };
    let padded = format!("{title:<13}");
    let painted = Style::Head.paint(&padded, session.color);
    Ok(session.say(&format!("{painted}{value}"))?)
}

fn capital(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map_or_else(String::new, |first| first.to_uppercase().chain(letters).collect())
}
