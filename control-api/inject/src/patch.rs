//! JSON patches (RFC 6902), as admission webhooks answer.

use serde_json::{Map, Value, json};

/// What makes `after` of `before`: `add`, `remove` and `replace`. Elements that were put into a list are added where they are; a list that
/// changed otherwise is replaced whole.
pub fn between(before: &Value, after: &Value) -> Vec<Value> {
    let mut out = Vec::new();
    walk("", before, after, &mut out);
    out
}

fn walk(path: &str, before: &Value, after: &Value, out: &mut Vec<Value>) {
    match (before, after) {
        _ if before == after => {}
        (Value::Object(old), Value::Object(new)) => objects(path, old, new, out),
        (Value::Array(old), Value::Array(new)) => match added(old, new) {
            Some(added) => {
                out.extend(
                    added
                        .into_iter()
                        .map(|(at, it)| json!({ "op": "add", "path": format!("{path}/{at}"), "value": it })),
                );
            }
            None => out.push(json!({ "op": "replace", "path": path, "value": after })),
        },
        _ => out.push(json!({ "op": "replace", "path": path, "value": after })),
    }
}

fn objects(path: &str, old: &Map<String, Value>, new: &Map<String, Value>, out: &mut Vec<Value>) {
    for name in old.keys().filter(|name| !new.contains_key(*name)) {
        out.push(json!({ "op": "remove", "path": format!("{path}/{}", escaped(name)) }));
    }
    for (name, after) in new {
        let path = format!("{path}/{}", escaped(name));
        match old.get(name) {
            Some(before) => walk(&path, before, after, out),
            None => out.push(json!({ "op": "add", "path": path, "value": after })),
        }
    }
}

/// RFC 6901, 3.
fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// The elements that were put into a list, with their places, when nothing else happened to it.
fn added<'v>(old: &[Value], new: &'v [Value]) -> Option<Vec<(usize, &'v Value)>> {
    let mut old = old.iter().peekable();
    let mut out = Vec::new();
    for (at, element) in new.iter().enumerate() {
        if old.next_if(|it| *it == element).is_none() {
            out.push((at, element));
        }
    }
    old.peek().is_none().then_some(out)
}
