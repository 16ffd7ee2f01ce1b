//! Functions that make texts. Each says what it makes before it makes it, so that a request cannot make it large.

use std::borrow::Cow;
use std::sync::Arc;

use super::fault::{Fault, Fuel, LONGEST_TEXT};
use super::value::Value;

/// Both texts together.
pub(super) fn concat<'a>(a: &str, b: &str, fuel: &Fuel) -> Result<Value<'a>, Fault> {
    fuel.text(a.len().saturating_add(b.len()))?;
    Ok(Value::Text(Cow::Owned([a, b].concat())))
}

/// `text` with the first `most` occurrences of `from` replaced; all for `None`.
pub(super) fn replace<'a>(
    text: &str,
    from: &str,
    to: &str,
    most: Option<usize>,
    fuel: &Fuel,
) -> Result<Value<'a>, Fault> {
    fuel.text(text.len())?;
    let most = most.unwrap_or(usize::MAX);
    let count = text.matches(from).take(most).count();
    fuel.text(text.len().saturating_add(count.saturating_mul(to.len())))?;
    Ok(Value::Text(Cow::Owned(text.replacen(from, to, most))))
}

/// The parts of `text` between `separator`, at most `most`; its characters where that is empty.
pub(super) fn split<'a>(
    text: Cow<'a, str>,
    separator: &str,
    most: Option<usize>,
    fuel: &Fuel,
) -> Result<Value<'a>, Fault> {
    fuel.text(text.len())?;
    let most = most.unwrap_or(usize::MAX);
    let mut parts: Vec<Value<'a>> = Vec::new();
    let mut rest = Some(text);
    while let Some(whole) = rest.take().filter(|_| parts.len() < most) {
        fuel.burn(1)?;
        let cut = if parts.len() + 1 == most {
            None
        } else if separator.is_empty() {
            // What is left behind the last character is no part.
            whole.chars().next().map(|c| (c.len_utf8(), c.len_utf8())).filter(|(_, next)| *next < whole.len())
        } else {
            whole.find(separator).map(|at| (at, at + separator.len()))
        };
        let Some((end, next)) = cut else {
            parts.push(Value::Text(whole));
            break;
        };
        let (part, behind) = match whole {
            Cow::Borrowed(text) => (text.get(..end).map(Cow::Borrowed), text.get(next..).map(Cow::Borrowed)),
            // Each part is copied once, and what is left behind it: that counts as well.
            Cow::Owned(text) => {
                fuel.text(text.len())?;
                let part = |text: Option<&str>| -> Option<Cow<'a, str>> {
                    text.map(|text| Cow::Owned(text.to_owned()))
                };
                (part(text.get(..end)), part(text.get(next..)))
            }
        };
        parts.extend(part.map(Value::Text));
        rest = behind;
    }
    Ok(Value::List(Arc::from(parts)))
}

/// The texts of a list with `separator` between them.
pub(super) fn join<'a>(list: &Value<'_>, separator: &str, fuel: &Fuel) -> Result<Value<'a>, Fault> {
    let mut all = String::new();
    for i in 0..list.elements().ok_or(Fault::NoOverload)? {
        let Some(Value::Text(part)) = list.element(i) else { return Err(Fault::NoOverload) };
        fuel.burn((part.len() + separator.len()) / 16 + 1)?;
        if all.len() + part.len() + separator.len() > LONGEST_TEXT {
            return Err(Fault::Cost);
        }
        if i > 0 {
            all.push_str(separator);
        }
        all.push_str(&part);
    }
    Ok(Value::Text(Cow::Owned(all)))
}

/// `text` in lower or in upper case, ASCII alone.
pub(super) fn cased<'a>(text: &str, upper: bool, fuel: &Fuel) -> Result<Value<'a>, Fault> {
    fuel.text(text.len())?;
    let text = if upper { text.to_ascii_uppercase() } else { text.to_ascii_lowercase() };
    Ok(Value::Text(Cow::Owned(text)))
}
