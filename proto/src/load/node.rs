//! The tree that YAML and JSON text are both read into, with the line of everything.

use crate::pb::google::protobuf::{ListValue, Struct, Value, value};

/// How deep a text may nest. Envoy's deepest messages nest some forty levels; protobuf itself stops at a hundred.
pub(crate) const MAX_DEPTH: usize = 200;

/// How many nodes aliases may add to a text: enough for any honest use, far too few for an alias bomb.
pub(crate) const MAX_ALIASED_NODES: usize = 1_000_000;

/// A piece of a text.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Node {
    /// Counted from one; zero where there is no text.
    pub(crate) line: u32,
    pub(crate) kind: Kind,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Kind {
    Null,
    Scalar(String, Style),
    Seq(Vec<Node>),
    Map(Vec<Entry>),
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) key: String,
    pub(crate) line: u32,
    pub(crate) value: Node,
}

/// How a scalar was written, which decides what it may mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Style {
    /// In quotes, or as a block: a string and nothing else.
    Quoted,
    /// Bare in YAML: a boolean, an integer or a string, depending on its looks.
    Plain,
    /// A number, `true` or `false` in JSON.
    Literal,
}

/// What a scalar means, by the rules with which Envoy turns YAML into JSON.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scalar<'a> {
    Bool(bool),
    /// Digits, in JSON's notation.
    Number(std::borrow::Cow<'a, str>),
    Text(std::borrow::Cow<'a, str>),
}

/// Why a text is no tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    pub(crate) line: u32,
    pub(crate) message: String,
}

impl Node {
    /// The entry of a mapping under either of two keys.
    pub(crate) fn get(&self, key: &str, other: &str) -> Option<&Node> {
        match &self.kind {
            Kind::Map(entries) => {
                entries.iter().find(|entry| entry.key == key || entry.key == other).map(|entry| &entry.value)
            }
            _ => None,
        }
    }

    /// The text of a scalar.
    pub(crate) fn text(&self) -> Option<&str> {
        match &self.kind {
            Kind::Scalar(text, _) => Some(text),
            _ => None,
        }
    }

    /// What this is, for an error message.
    pub(crate) fn describe(&self) -> String {
        match &self.kind {
            Kind::Null => "null".to_owned(),
            Kind::Seq(_) => "a list".to_owned(),
            Kind::Map(_) => "a mapping".to_owned(),
            Kind::Scalar(text, style) => match interpret(text, *style) {
                Scalar::Bool(_) => format!("the boolean {text}"),
                Scalar::Number(_) => format!("the number {text}"),
                Scalar::Text(_) => format!("{:?}", shorten(text)),
            },
        }
    }

    /// The tree of a `Struct`, as its JSON text would give it.
    pub(crate) fn from_struct(message: &Struct) -> Self {
        let mut entries: Vec<Entry> = message
            .fields
            .iter()
            .map(|(key, value)| Entry { key: key.clone(), line: 0, value: Self::from_value(value) })
            .collect();
        entries.sort_by(|a, b| a.key.cmp(&b.key));
        Self { line: 0, kind: Kind::Map(entries) }
    }

    /// The node as a `Value`.
    pub(crate) fn to_value(&self) -> Value {
        let kind = match &self.kind {
            Kind::Null => value::Kind::NullValue(0),
            Kind::Scalar(text, style) => match interpret(text, *style) {
                Scalar::Bool(flag) => value::Kind::BoolValue(flag),
                Scalar::Number(text) => match super::scalar::float(&text) {
                    Some(number) => value::Kind::NumberValue(number),
                    None => value::Kind::StringValue(text.into_owned()),
                },
                Scalar::Text(text) => value::Kind::StringValue(text.into_owned()),
            },
            Kind::Seq(items) => {
                value::Kind::ListValue(ListValue { values: items.iter().map(Self::to_value).collect() })
            }
            Kind::Map(entries) => {
                let fields = entries.iter().map(|entry| (entry.key.clone(), entry.value.to_value()));
                value::Kind::StructValue(Struct { fields: fields.collect() })
            }
        };
        Value { kind: Some(kind) }
    }

    fn from_value(value: &Value) -> Self {
        let kind = match &value.kind {
            None | Some(value::Kind::NullValue(_)) => Kind::Null,
            Some(value::Kind::NumberValue(number)) => Kind::Scalar(number.to_string(), Style::Literal),
            Some(value::Kind::BoolValue(flag)) => Kind::Scalar(flag.to_string(), Style::Literal),
            Some(value::Kind::StringValue(text)) => Kind::Scalar(text.clone(), Style::Quoted),
            Some(value::Kind::ListValue(list)) => {
                Kind::Seq(list.values.iter().map(Self::from_value).collect())
            }
            Some(value::Kind::StructValue(inner)) => return Self::from_struct(inner),
        };
        Self { line: 0, kind }
    }
}

/// Reads a scalar as Envoy does: quoted is a string; bare `true`, `yes`, `on`, `y` (and their opposites, in lower,
/// upper or title case) are booleans; what C reads as an integer is one (`0x1f`, `017`), though beyond 32 bits it
/// becomes a string; anything else, `1.5` too, is a string that a number field will take.
pub(crate) fn interpret(text: &str, style: Style) -> Scalar<'_> {
    match style {
        Style::Quoted => Scalar::Text(text.into()),
        Style::Literal => match text {
            "true" => Scalar::Bool(true),
            "false" => Scalar::Bool(false),
            _ => Scalar::Number(text.into()),
        },
        Style::Plain => {
            if let Some(flag) = yaml_bool(text) {
                return Scalar::Bool(flag);
            }
            match c_integer(text) {
                Some(number) if i32::try_from(number).is_ok() => Scalar::Number(number.to_string().into()),
                Some(number) => Scalar::Text(number.to_string().into()),
                None => Scalar::Text(text.into()),
            }
        }
    }
}

/// YAML 1.1 booleans as yaml-cpp takes them.
fn yaml_bool(text: &str) -> Option<bool> {
    let rest = text.get(1..)?;
    let lower = rest.bytes().all(|b| b.is_ascii_lowercase());
    let upper =
        rest.bytes().all(|b| b.is_ascii_uppercase()) && text.starts_with(|c: char| c.is_ascii_uppercase());
    if !lower && !upper {
        return None;
    }
    match text.to_ascii_lowercase().as_str() {
        "y" | "yes" | "true" | "on" => Some(true),
        "n" | "no" | "false" | "off" => Some(false),
        _ => None,
    }
}

/// An integer in C's notations: sign, then decimal, `0x` hexadecimal or `0` octal digits.
fn c_integer(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, text.get(1..)?),
        b'+' => (false, text.get(1..)?),
        _ => (false, text),
    };
    if !digits.starts_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let (radix, digits) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, digits.get(2..)?),
        [b'0', _, ..] => (8, digits.get(1..)?),
        _ => (10, digits),
    };
    if digits.starts_with(['+', '-']) {
        return None;
    }
    let magnitude = i128::from_str_radix(digits, radix).ok()?;
    i64::try_from(if negative { -magnitude } else { magnitude }).ok()
}

/// The start of a text, short enough for an error message.
pub(crate) fn shorten(text: &str) -> String {
    const LONGEST: usize = 60;
    if text.chars().count() <= LONGEST {
        return text.to_owned();
    }
    text.chars().take(LONGEST).chain("...".chars()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plain(text: &str) -> Scalar<'_> {
        interpret(text, Style::Plain)
    }

    #[test]
    fn bare_scalars_mean_what_they_mean_to_envoy() {
        for text in ["y", "Y", "yes", "Yes", "YES", "on", "ON", "true", "True", "TRUE"] {
            assert_eq!(plain(text), Scalar::Bool(true), "{text}");
        }
        for text in ["n", "no", "off", "Off", "false", "FALSE"] {
            assert_eq!(plain(text), Scalar::Bool(false), "{text}");
        }
        for (text, number) in
            [("5", "5"), ("+5", "5"), ("-7", "-7"), ("0x10", "16"), ("010", "8"), ("0", "0")]
        {
            assert_eq!(plain(text), Scalar::Number(number.into()), "{text}");
        }
        assert_eq!(plain("4294967296"), Scalar::Text("4294967296".into()), "beyond 32 bits");
        assert_eq!(plain("0xffffffff"), Scalar::Text("4294967295".into()));
        for text in ["1.5", "1_000", "08", "yEs", "tRUE", "-", "+", "0x", "0x-1", "a", "1s", "é"] {
            assert_eq!(plain(text), Scalar::Text(text.into()), "{text}");
        }
        assert_eq!(interpret("5", Style::Quoted), Scalar::Text("5".into()));
        assert_eq!(interpret("1.5", Style::Literal), Scalar::Number("1.5".into()));
    }
}
