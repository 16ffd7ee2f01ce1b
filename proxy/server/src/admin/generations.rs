//! `/generations`: the last changes of the configuration, and how long each step of them took.

use std::time::Duration;

use serde_json::{Value, json};

use crate::control::Control;
use crate::dynamic::{Change, Generation};

use super::config_dump::timestamp;
use super::query::Query;
use super::reply::Reply;

pub(super) fn generations(control: &Control, query: &Query) -> Reply {
    if query.get("format") == Some("json") {
        return Reply::json(&dump(control));
    }
    let mut text = String::new();
    for generation in control.records.generations().list() {
        let times = &generation.times;
        text.push_str(&format!(
            "{} since {}, {} ms (convert {}, build {}, warm {}, publish {})\n",
            generation.number,
            timestamp(generation.at),
            millis(times.total),
            millis(times.convert),
            millis(times.build),
            millis(times.warm),
            millis(times.publish),
        ));
        for change in &generation.changes {
            text.push_str(&line(change));
        }
    }
    Reply::text(text)
}

/// All that is kept, as JSON; the newest first.
pub(super) fn dump(control: &Control) -> Value {
    let list = control.records.generations().list();
    let current = list.first().map_or(0, |generation| generation.number);
    json!({ "generation": current, "generations": list.iter().map(|one| entry(one)).collect::<Vec<_>>() })
}

fn entry(generation: &Generation) -> Value {
    let times = &generation.times;
    json!({
        "number": generation.number,
        "at": timestamp(generation.at),
        "took_ms": {
            "total": millis(times.total),
            "convert": millis(times.convert),
            "build": millis(times.build),
            "warm": millis(times.warm),
            "publish": millis(times.publish),
        },
        "changes": generation.changes.iter().map(|change| json!({
            "kind": change.kind.noun(),
            "change": change.action.as_str(),
            "from": &*change.source,
            "count": change.count,
            "resources": change.resources.iter().map(|(name, version)| {
                json!({ "name": &**name, "version": &**version })
            }).collect::<Vec<_>>(),
        })).collect::<Vec<_>>(),
    })
}

fn line(change: &Change) -> String {
    let name = |(name, version): &(std::sync::Arc<str>, std::sync::Arc<str>)| match &**version {
        "" => name.to_string(),
        version => format!("{name} at {version}"),
    };
    let mut names: Vec<String> = change.resources.iter().map(name).collect();
    let more = change.count.saturating_sub(names.len());
    if more > 0 {
        names.push(format!("and {more} more"));
    }
    let from = if change.source.is_empty() { String::new() } else { format!(" from {}", change.source) };
    format!("  {} {} {}{from}: {}\n", change.count, change.kind, change.action.as_str(), names.join(", "))
}

/// Milliseconds to the microsecond.
fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1e6).round() / 1e3
}
