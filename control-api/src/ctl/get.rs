//! `outriderctl get` and `outriderctl watch`.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use tonic::Code;

use super::args::Format;
use super::columns::{age_of, cell, columns};
use super::failure::Failure;
use super::table::{Cell, Style, Table};
use super::{Client, Session, output};
use crate::model::Kind;
use crate::pb::{self, watch_response::Type};

/// How long a watch rests before it connects anew.
const REST: Duration = Duration::from_secs(1);

/// What is to be shown.
pub(super) struct Wanted {
    pub(super) what: Vec<String>,
    pub(super) all_namespaces: bool,
    pub(super) selector: Option<String>,
    pub(super) output: Option<Format>,
    pub(super) no_headers: bool,
    /// Show what kind of change each line is.
    pub(super) events: bool,
}

/// Shows objects, and then what changes of them if that is asked for.
pub(super) async fn get(session: &mut Session<'_, '_>, wanted: Wanted, watch: bool) -> Result<(), Failure> {
    let targets = output::targets(&wanted.what)?;
    if watch {
        return follow(session, &wanted, &targets).await;
    }
    let mut client = session.client().await?;
    let (mut found, mut failed) = (Vec::new(), None);
    let list = targets.len() != 1 || targets.iter().any(|(_, name)| name.is_none());
    if targets.iter().all(|(_, name)| name.is_some()) {
        for (kind, name) in &targets {
            let name = name.clone().unwrap_or_default();
            if wanted.selector.is_some() || wanted.all_namespaces {
                return Err(Failure::usage("a name says which object; leave --selector and -A out"));
            }
            match one(session, &mut client, *kind, &name).await {
                Ok(object) => found.push(object),
                Err(failure) if failure.code == 1 => {
                    session.warn(&format!("error: {}", failure.message))?;
                    failed = Some(failure.code);
                }
                Err(failure) => return Err(failure),
            }
        }
    } else {
        for (kind, _) in &targets {
            found.extend(all(session, &mut client, &wanted, *kind).await?);
        }
    }
    match wanted.output {
        None | Some(Format::Wide) => tables(session, &wanted, &found, list)?,
        Some(format) => output::objects(session.console.out, &found, list, format)?,
    }
    failed.map_or(Ok(()), |code| Err(Failure::silent(code)))
}

/// One object by name.
pub(super) async fn one(
    session: &Session<'_, '_>,
    client: &mut Client,
    kind: Kind,
    name: &str,
) -> Result<Value, Failure> {
    let reference = pb::Ref {
        api_version: kind.api_version(),
        kind: kind.name().to_owned(),
        namespace: if kind.namespaced() { session.namespace().to_owned() } else { String::new() },
        name: name.to_owned(),
    };
    let answer = client.get(pb::GetRequest { r#ref: Some(reference) }).await?.into_inner();
    parse(&answer.json)
}

async fn all(
    session: &Session<'_, '_>,
    client: &mut Client,
    wanted: &Wanted,
    kind: Kind,
) -> Result<Vec<Value>, Failure> {
    let namespace = if wanted.all_namespaces { String::new() } else { session.namespace().to_owned() };
    let label_selector = wanted.selector.clone().unwrap_or_default();
    let request = pb::ListRequest { kind: kind.name().to_owned(), namespace, label_selector };
    client.list(request).await?.into_inner().json.iter().map(|json| parse(json)).collect()
}

fn parse(json: &str) -> Result<Value, Failure> {
    serde_json::from_str(json)
        .map_err(|error| Failure::refused(format!("the server's answer is no JSON: {error}")))
}

fn kind_in(object: &Value) -> Option<Kind> {
    Kind::of_word(object.get("kind")?.as_str()?)
}

/// A table for each kind.
fn tables(
    session: &mut Session<'_, '_>,
    wanted: &Wanted,
    found: &[Value],
    list: bool,
) -> Result<(), Failure> {
    if found.is_empty() {
        if list {
            let place = if wanted.all_namespaces {
                "in any namespace".to_owned()
            } else {
                format!("in namespace {} (-n names another one, -A all)", session.namespace())
            };
            session.warn(&format!("nothing was found {place}"))?;
        }
        return Ok(());
    }
    let mut kinds: BTreeMap<Kind, Vec<&Value>> = BTreeMap::new();
    for object in found {
        if let Some(kind) = kind_in(object) {
            kinds.entry(kind).or_default().push(object);
        }
    }
    let several = kinds.len() > 1;
    for (index, (kind, objects)) in kinds.into_iter().enumerate() {
        if index > 0 {
            session.say("")?;
        }
        let mut table = Table::new(&head(kind, wanted)).headless(wanted.no_headers);
        for object in objects {
            table.push(row((session.console.now)(), kind, wanted, object, several, None));
        }
        table.print(session.console.out, session.color)?;
    }
    Ok(())
}

fn head(kind: Kind, wanted: &Wanted) -> Vec<&'static str> {
    let columns = columns(kind);
    let mut head = Vec::new();
    if wanted.events {
        head.push("EVENT");
    }
    if wanted.all_namespaces && kind.namespaced() {
        head.push("NAMESPACE");
    }
    head.extend(columns.head);
    head.push("AGE");
    if wanted.output == Some(Format::Wide) {
        head.extend(columns.wide);
    }
    head
}

/// One line. `full`: with the kind in front of the name, where there are tables of several.
fn row(now: i64, kind: Kind, wanted: &Wanted, object: &Value, full: bool, event: Option<Type>) -> Vec<Cell> {
    head(kind, wanted)
        .into_iter()
        .map(|column| match column {
            "EVENT" => match event {
                Some(Type::Added) => Cell::new("ADDED", Style::Good),
                Some(Type::Deleted) => Cell::new("DELETED", Style::Bad),
                Some(Type::Modified) => Cell::new("MODIFIED", Style::Odd),
                _ => Cell::default(),
            },
            "NAMESPACE" => {
                object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default().into()
            }
            "NAME" if full => output::object_name(object).into(),
            "AGE" => age_of(object, now).into(),
            column => cell(object, column),
        })
        .collect()
}

/// Shows what is there and what changes, until interrupted. A connection that breaks is made anew, and the watch goes on
/// where it was.
async fn follow(
    session: &mut Session<'_, '_>,
    wanted: &Wanted,
    targets: &[(Kind, Option<String>)],
) -> Result<(), Failure> {
    let (kind, name) = match targets {
        [(kind, name)] => (Some(*kind), name.clone()),
        _ if wanted.what.iter().any(|it| it == "all") => (None, None),
        _ => return Err(Failure::usage("one kind can be watched, or `all`")),
    };
    let mut lines = Lines { wanted, kind, name, table: None, first: Vec::new(), listed: false };
    let mut version = String::new();
    let mut connected = false;
    loop {
        let ended = once(session, &mut lines, &mut version, &mut connected).await;
        match ended {
            Ok(()) => {}
            Err(Ended::Told(status)) if status.code() == Code::OutOfRange => version.clear(),
            Err(Ended::Told(status)) if connected && again(status.code()) => {}
            Err(Ended::Told(status)) => return Err(status.into()),
            Err(Ended::Failed(failure)) if failure.code == 3 && connected => {}
            Err(Ended::Failed(failure)) => return Err(failure),
        }
        session.warn("the watch ended; it goes on in a moment")?;
        tokio::time::sleep(REST).await;
    }
}

/// Why a watch ended.
enum Ended {
    /// The server said so.
    Told(tonic::Status),
    /// It could not be reached, or what it told could not be shown.
    Failed(Failure),
}

impl From<tonic::Status> for Ended {
    fn from(status: tonic::Status) -> Self {
        Self::Told(status)
    }
}

fn again(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable | Code::Unknown | Code::ResourceExhausted | Code::Internal | Code::Cancelled
    )
}

/// One connection's worth of changes.
async fn once(
    session: &mut Session<'_, '_>,
    lines: &mut Lines<'_>,
    version: &mut String,
    connected: &mut bool,
) -> Result<(), Ended> {
    let mut client = session.client().await.map_err(Ended::Failed)?;
    let request = pb::WatchRequest {
        kind: lines.kind.map(|kind| kind.name().to_owned()).unwrap_or_default(),
        namespace: if lines.wanted.all_namespaces { String::new() } else { session.namespace().to_owned() },
        label_selector: lines.wanted.selector.clone().unwrap_or_default(),
        resource_version: version.clone(),
    };
    let mut events = client.watch(request).await?.into_inner();
    while let Some(event) = events.message().await? {
        *connected = true;
        if !event.resource_version.is_empty() {
            version.clone_from(&event.resource_version);
        }
        lines.event(session, event).map_err(Ended::Failed)?;
    }
    Ok(())
}

/// What a watch prints.
struct Lines<'w> {
    wanted: &'w Wanted,
    kind: Option<Kind>,
    name: Option<String>,
    table: Option<Table>,
    /// What is there is gathered, so that the table's columns are wide enough.
    first: Vec<(Type, Value)>,
    listed: bool,
}

impl Lines<'_> {
    fn event(&mut self, session: &mut Session<'_, '_>, event: pb::WatchResponse) -> Result<(), Failure> {
        let kind = event.r#type();
        if kind == Type::Bookmark {
            if !self.listed {
                self.listed = true;
                let first = std::mem::take(&mut self.first);
                return self.print(session, &first);
            }
            return Ok(());
        }
        let object = parse(&event.json)?;
        let name = object.pointer("/metadata/name").and_then(Value::as_str);
        if self.name.as_deref().is_some_and(|wanted| name != Some(wanted)) {
            return Ok(());
        }
        if self.listed || !event.resource_version.is_empty() {
            return self.print(session, &[(kind, object)]);
        }
        self.first.push((kind, object));
        Ok(())
    }

    fn print(&mut self, session: &mut Session<'_, '_>, events: &[(Type, Value)]) -> Result<(), Failure> {
        for (event, object) in events {
            match self.wanted.output {
                None | Some(Format::Wide) => {
                    let kind = self.kind.or_else(|| kind_in(object)).unwrap_or(Kind::Service);
                    // Of all kinds, those columns that all of them have.
                    let row = if self.kind.is_some() {
                        row((session.console.now)(), kind, self.wanted, object, false, Some(*event))
                    } else {
                        let mut row = row(
                            (session.console.now)(),
                            Kind::Namespace,
                            self.wanted,
                            object,
                            true,
                            Some(*event),
                        );
                        let namespace = object.pointer("/metadata/namespace").and_then(Value::as_str);
                        row.push(namespace.unwrap_or_default().into());
                        row
                    };
                    let mut head = head(self.kind.unwrap_or(Kind::Namespace), self.wanted);
                    if self.kind.is_none() {
                        head.push("NAMESPACE");
                    }
                    let headless = self.wanted.no_headers;
                    self.table.get_or_insert_with(|| Table::new(&head).headless(headless)).push(row);
                }
                Some(Format::Json) if self.wanted.events => {
                    let line = serde_json::json!({ "type": event.as_str_name().trim_start_matches("TYPE_"), "object": object });
                    session.say(&line.to_string())?;
                }
                Some(Format::Yaml) => {
                    session.say("---")?;
                    output::value(session.console.out, object, Format::Yaml)?;
                }
                Some(format) => {
                    output::objects(session.console.out, std::slice::from_ref(object), false, format)?
                }
            }
        }
        if let Some(table) = self.table.as_mut().filter(|table| !table.is_empty()) {
            table.print(session.console.out, session.color)?;
        }
        Ok(session.console.out.flush()?)
    }
}
