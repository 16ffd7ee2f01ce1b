//! Carries an answer out.

use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use outrider_config::model::{AppendAction, ExtAuthz as Settings, HeaderOperation, HttpConnectionManager};

use super::answer::{Answer, Change};
use crate::filter::header_mutation::Query;
use crate::router::set_path;
use crate::stream::{Scheme, Stream};

/// An answer that cannot be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Invalid;

/// A part of a request's head.
enum Target {
    Field(HeaderName),
    Authority,
    Method,
    Path,
    Scheme,
}

impl Target {
    fn of(name: &str) -> Option<Self> {
        Some(match name {
            ":authority" | "host" => Self::Authority,
            ":method" => Self::Method,
            ":path" => Self::Path,
            ":scheme" => Self::Scheme,
            name => Self::Field(HeaderName::from_bytes(name.as_bytes()).ok()?),
        })
    }
}

/// Changes the request as the answer says.
///
/// # Errors
/// The answer has a change that is not right, or not allowed.
pub(super) fn request(
    settings: &Settings,
    stream: &Stream,
    parts: &mut Parts,
    answer: &Answer,
) -> Result<(), Invalid> {
    for change in &answer.request {
        let name = change.name.to_ascii_lowercase();
        let appends = change.joins && change.action == AppendAction::AppendIfExistsOrAdd;
        let operation = if appends { HeaderOperation::Append } else { HeaderOperation::Set };
        if is_allowed(settings, operation, &name)? {
            head(stream, parts, &name, change)?;
        }
    }
    for name in &answer.remove {
        let name = name.to_ascii_lowercase();
        // What is no name is the name of no header; and without these there is no request.
        if name.starts_with(':') || name == "host" {
            if settings.mutation_rules.is_some() {
                is_allowed(settings, HeaderOperation::Remove, &name)?;
            }
            continue;
        }
        let Ok(field) = HeaderName::from_bytes(name.as_bytes()) else { continue };
        if is_allowed(settings, HeaderOperation::Remove, &name)? {
            parts.headers.remove(field);
        }
    }
    query(settings, parts, answer)
}

/// Whether the rules let the change be made; where they do not, whether it is left out (`false`) or refuses the answer.
fn is_allowed(settings: &Settings, operation: HeaderOperation, name: &str) -> Result<bool, Invalid> {
    match &settings.mutation_rules {
        Some(rules) if !rules.allow(operation, name) => {
            if rules.is_error {
                Err(Invalid)
            } else {
                Ok(false)
            }
        }
        _ => Ok(true),
    }
}

/// Makes a change of the request's head. What HTTP cannot carry is refused whatever the settings say: nobody behind could.
fn head(stream: &Stream, parts: &mut Parts, name: &str, change: &Change) -> Result<(), Invalid> {
    let value = HeaderValue::from_bytes(&change.value).map_err(|_| Invalid)?;
    let target = Target::of(name).ok_or(Invalid)?;
    if let Target::Field(name) = target {
        set(&mut parts.headers, name, value, change);
        return Ok(());
    }
    // Pseudo headers are always there: what is appended gets into the value, and what is only for absent ones changes nothing.
    let text = value.to_str().map_err(|_| Invalid)?;
    let view = stream.view(&parts.method, &parts.uri, &parts.headers);
    let old = match target {
        Target::Authority => view.authority,
        Target::Method => view.method,
        Target::Path => view.path,
        Target::Scheme | Target::Field(_) => view.scheme,
    };
    let new = match change.action {
        AppendAction::AppendIfExistsOrAdd => format!("{old},{text}"),
        AppendAction::AddIfAbsent => return Ok(()),
        AppendAction::OverwriteIfExistsOrAdd | AppendAction::OverwriteIfExists => text.to_owned(),
    };
    match target {
        Target::Authority => {
            parts.headers.insert(HOST, HeaderValue::from_str(&new).map_err(|_| Invalid)?);
        }
        Target::Method => parts.method = Method::from_bytes(new.as_bytes()).map_err(|_| Invalid)?,
        Target::Path => {
            if !set_path(parts, new) {
                return Err(Invalid);
            }
        }
        Target::Scheme | Target::Field(_) => match new.as_str() {
            "http" => stream.scheme.set(Scheme::Http),
            "https" => stream.scheme.set(Scheme::Https),
            _ => return Err(Invalid),
        },
    }
    Ok(())
}

/// Makes a change of a response's headers; what HTTP cannot carry was refused before.
pub(super) fn fields(headers: &mut HeaderMap, change: &Change) {
    if let Some((name, value)) = change.field() {
        set(headers, name, value, &Change { joins: false, ..change.clone() });
    }
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue, change: &Change) {
    let present = headers.contains_key(&name);
    match change.action {
        AppendAction::AppendIfExistsOrAdd if change.joins => {
            // Of several lines the first gets longer.
            if let Some(first) = headers.get_mut(&name)
                && let Ok(joined) =
                    HeaderValue::from_bytes(&[first.as_bytes(), b",", value.as_bytes()].concat())
            {
                *first = joined;
            }
        }
        AppendAction::AppendIfExistsOrAdd => {
            headers.append(name, value);
        }
        AppendAction::AddIfAbsent if present => {}
        AppendAction::OverwriteIfExists if !present => {}
        AppendAction::AddIfAbsent
        | AppendAction::OverwriteIfExists
        | AppendAction::OverwriteIfExistsOrAdd => {
            headers.insert(name, value);
        }
    }
}

fn query(settings: &Settings, parts: &mut Parts, answer: &Answer) -> Result<(), Invalid> {
    if answer.query_set.is_empty() && answer.query_remove.is_empty() {
        return Ok(());
    }
    let path = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    let mut query = Query::parse(path);
    for (name, value) in &answer.query_set {
        if settings.validate_mutations && !(is_encoded(name) && is_encoded(value)) {
            return Err(Invalid);
        }
        query.overwrite(name, value);
    }
    for name in &answer.query_remove {
        query.remove(name);
    }
    let path = query.path(path);
    if set_path(parts, path) { Ok(()) } else { Err(Invalid) }
}

/// Whether `text` is percent-encoded as a parameter's name or value must be.
fn is_encoded(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.~%+".contains(&byte))
}

/// Whether the head is larger than clients may send one.
pub(super) fn is_too_large(limits: &HttpConnectionManager, parts: &Parts) -> bool {
    // `host` is among the headers; method, path and scheme count too.
    let count = parts.headers.len() + 3;
    let bytes: usize = parts.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    let most = |number: u32| usize::try_from(number).unwrap_or(usize::MAX);
    count > most(limits.max_headers_count) || bytes > most(limits.max_request_headers_kb).saturating_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(action: AppendAction, joins: bool) -> Change {
        Change { name: "X-A".to_owned(), value: b"new".to_vec(), action, joins }
    }

    fn after(old: &[&'static str], change: &Change) -> Vec<String> {
        let mut headers = HeaderMap::new();
        for value in old {
            headers.append("x-a", HeaderValue::from_static(value));
        }
        let (name, value) = change.field().expect("a header");
        set(&mut headers, name, value, change);
        headers.get_all("x-a").iter().map(|value| value.to_str().expect("text").to_owned()).collect()
    }

    #[test]
    fn actions_do_what_their_names_say() {
        use AppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExists, OverwriteIfExistsOrAdd};
        for (action, joins, there, absent) in [
            (AppendIfExistsOrAdd, false, &["old", "new"][..], &["new"][..]),
            (AppendIfExistsOrAdd, true, &["old,new"], &[]),
            (AddIfAbsent, false, &["old"], &["new"]),
            (OverwriteIfExistsOrAdd, false, &["new"], &["new"]),
            (OverwriteIfExistsOrAdd, true, &["new"], &["new"]),
            (OverwriteIfExists, false, &["new"], &[]),
        ] {
            let change = change(action, joins);
            assert_eq!(after(&["old"], &change), there, "{change:?}");
            assert_eq!(after(&[], &change), absent, "{change:?}");
        }
    }

    #[test]
    fn parameters_are_encoded() {
        assert!(is_encoded("a%20b+c-_.~"));
        assert!(!is_encoded("a b") && !is_encoded("a&b") && !is_encoded("a\nb"));
    }
}
