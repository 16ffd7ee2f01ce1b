//! The well-known types, each of which has a JSON form of its own.

use prost_reflect::{DynamicMessage, MessageDescriptor, Value};

use super::{
    convert::Loader,
    lines::Kids,
    node::{Kind, Node, Scalar, interpret, shorten},
};
use crate::Path;

/// Seconds in the longest duration of protobuf, ten thousand years.
const MAX_DURATION_SECONDS: i64 = 315_576_000_000;

/// Whether a message type has a JSON form other than an object of its fields; inside an `Any` it then stands under
/// `value`.
pub(crate) fn has_special_form(full_name: &str) -> bool {
    is_wrapper(full_name)
        || matches!(
            full_name,
            "google.protobuf.Any"
                | "google.protobuf.Duration"
                | "google.protobuf.Timestamp"
                | "google.protobuf.Struct"
                | "google.protobuf.Value"
                | "google.protobuf.ListValue"
                | "google.protobuf.FieldMask"
        )
}

/// Whether a message type wraps one scalar, and looks like it in JSON.
pub(crate) fn is_wrapper(full_name: &str) -> bool {
    full_name.strip_prefix("google.protobuf.").is_some_and(|name| {
        matches!(
            name,
            "DoubleValue"
                | "FloatValue"
                | "Int64Value"
                | "UInt64Value"
                | "Int32Value"
                | "UInt32Value"
                | "BoolValue"
                | "StringValue"
                | "BytesValue"
        )
    })
}

impl Loader<'_> {
    /// Converts a message, by its JSON form if it has one.
    pub(super) fn special(
        &mut self,
        node: &Node,
        desc: &MessageDescriptor,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<(DynamicMessage, Kids)> {
        let leaf = |message: Option<DynamicMessage>| message.map(|message| (message, Kids::None));
        match desc.full_name() {
            "google.protobuf.Any" => self.any(node, desc, path, depth),
            "google.protobuf.Struct" => leaf(self.structure(node, desc, path, depth)),
            "google.protobuf.Value" => leaf(self.value(node, desc, path, depth)),
            "google.protobuf.ListValue" => leaf(self.list_value(node, desc, path, depth)),
            // Envoy takes these as objects of their fields, too.
            _ if matches!(node.kind, Kind::Map(_)) => self.message(node, desc, path, depth),
            "google.protobuf.Duration" => {
                leaf(self.text_form(node, desc, path, "a duration such as \"1.5s\"", duration))
            }
            "google.protobuf.Timestamp" => {
                leaf(self.text_form(node, desc, path, "a time such as \"2026-01-31T12:00:00Z\"", timestamp))
            }
            "google.protobuf.FieldMask" => leaf(self.field_mask(node, desc, path)),
            name if is_wrapper(name) => {
                let field = desc.get_field(1)?;
                let (value, kids) = self.single(node, &field.kind(), path, depth)?;
                let mut message = DynamicMessage::new(desc.clone());
                message.set_field(&field, value);
                Some((message, kids))
            }
            _ => self.message(node, desc, path, depth),
        }
    }

    /// Converts a message of seconds and nanoseconds that is written as text.
    fn text_form(
        &mut self,
        node: &Node,
        desc: &MessageDescriptor,
        path: &Path<'_>,
        wanted: &str,
        read: fn(&str) -> Result<(i64, i32), &'static str>,
    ) -> Option<DynamicMessage> {
        let wrong = match &node.kind {
            Kind::Scalar(text, style) => match interpret(text, *style) {
                Scalar::Text(text) => match read(&text) {
                    Ok((seconds, nanos)) => {
                        let mut message = DynamicMessage::new(desc.clone());
                        message.set_field_by_name("seconds", Value::I64(seconds));
                        message.set_field_by_name("nanos", Value::I32(nanos));
                        return Some(message);
                    }
                    Err(why) => format!("expected {wanted}, got {:?}: {why}", shorten(&text)),
                },
                _ => format!("expected {wanted}, got {}", node.describe()),
            },
            _ => format!("expected {wanted}, got {}", node.describe()),
        };
        self.problem(path, node.line, wrong);
        None
    }

    fn field_mask(
        &mut self,
        node: &Node,
        desc: &MessageDescriptor,
        path: &Path<'_>,
    ) -> Option<DynamicMessage> {
        let Kind::Scalar(text, _) = &node.kind else {
            let message = format!("expected field paths with commas between, got {}", node.describe());
            self.problem(path, node.line, message);
            return None;
        };
        let paths = text.split(',').filter(|path| !path.is_empty()).map(|path| Value::String(snake(path)));
        let mut message = DynamicMessage::new(desc.clone());
        message.set_field_by_name("paths", Value::List(paths.collect()));
        Some(message)
    }

    /// Three levels of protobuf nesting for each level of structure: the depth counts so.
    fn structure(
        &mut self,
        node: &Node,
        desc: &MessageDescriptor,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<DynamicMessage> {
        if !matches!(node.kind, Kind::Map(_)) {
            self.problem(path, node.line, format!("expected a mapping, got {}", node.describe()));
            return None;
        }
        let field = desc.get_field_by_name("fields")?;
        let entries: Vec<_> = match &node.kind {
            Kind::Map(entries) => entries.iter().collect(),
            _ => Vec::new(),
        };
        let entry_type = field.kind();
        let value_type = entry_type.as_message()?.map_entry_value_field().kind();
        let value_type = value_type.as_message()?;
        let mut values = std::collections::HashMap::with_capacity(entries.len());
        for entry in entries {
            let at = path.key(&entry.key);
            let Some(value) = self.value(&entry.value, value_type, &at, depth + 2) else { continue };
            let key = prost_reflect::MapKey::String(entry.key.clone());
            if values.insert(key, Value::Message(value)).is_some() {
                self.problem(&at, entry.line, "the key is given twice");
            }
        }
        let mut message = DynamicMessage::new(desc.clone());
        message.set_field(&field, Value::Map(values));
        Some(message)
    }

    fn list_value(
        &mut self,
        node: &Node,
        desc: &MessageDescriptor,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<DynamicMessage> {
        let Kind::Seq(items) = &node.kind else {
            self.problem(path, node.line, format!("expected a list, got {}", node.describe()));
            return None;
        };
        let field = desc.get_field_by_name("values")?;
        let kind = field.kind();
        let value_type = kind.as_message()?;
        let mut values = Vec::with_capacity(items.len());
        for (index, item) in items.iter().enumerate() {
            values.push(Value::Message(self.value(item, value_type, &path.index(index), depth + 1)?));
        }
        let mut message = DynamicMessage::new(desc.clone());
        message.set_field(&field, Value::List(values));
        Some(message)
    }

    fn value(
        &mut self,
        node: &Node,
        desc: &MessageDescriptor,
        path: &Path<'_>,
        depth: usize,
    ) -> Option<DynamicMessage> {
        if depth >= super::convert::MAX_MESSAGE_DEPTH {
            self.problem(path, node.line, "a structure nested too deeply");
            return None;
        }
        let (field, value) = match &node.kind {
            Kind::Null => ("null_value", Value::EnumNumber(0)),
            Kind::Scalar(text, style) => match interpret(text, *style) {
                Scalar::Bool(flag) => ("bool_value", Value::Bool(flag)),
                Scalar::Number(text) => match super::scalar::float(&text) {
                    Some(number) => ("number_value", Value::F64(number)),
                    None => {
                        self.problem(
                            path,
                            node.line,
                            format!("{} is out of range for a number", shorten(&text)),
                        );
                        return None;
                    }
                },
                Scalar::Text(text) => ("string_value", Value::String(text.into_owned())),
            },
            Kind::Seq(_) => {
                let kind = desc.get_field_by_name("list_value")?.kind();
                ("list_value", Value::Message(self.list_value(node, kind.as_message()?, path, depth + 1)?))
            }
            Kind::Map(_) => {
                let kind = desc.get_field_by_name("struct_value")?.kind();
                ("struct_value", Value::Message(self.structure(node, kind.as_message()?, path, depth + 1)?))
            }
        };
        let mut message = DynamicMessage::new(desc.clone());
        message.set_field_by_name(field, value);
        Some(message)
    }
}

/// Reads `1.5s`: whole seconds, up to nine decimals, and the unit.
fn duration(text: &str) -> Result<(i64, i32), &'static str> {
    let number = text.strip_suffix('s').ok_or("it must end with 's'")?;
    let (negative, number) = match number.strip_prefix('-') {
        Some(number) => (true, number),
        None => (false, number),
    };
    let (whole, nanos) = match number.split_once('.') {
        Some((whole, fraction)) => (whole, nanos(fraction)?),
        None => (number, 0),
    };
    if whole.is_empty() || !whole.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("it must be a decimal number of seconds");
    }
    let seconds: i64 = whole.parse().map_err(|_| "it is out of range")?;
    if seconds > MAX_DURATION_SECONDS {
        return Err("it is out of range");
    }
    Ok(if negative { (-seconds, -nanos) } else { (seconds, nanos) })
}

/// Reads the decimals of a second.
fn nanos(fraction: &str) -> Result<i32, &'static str> {
    if fraction.is_empty() || fraction.len() > 9 || !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("it must have one to nine decimals after the point");
    }
    format!("{fraction:0<9}").parse().map_err(|_| "it is out of range")
}

/// Reads an RFC 3339 time.
fn timestamp(text: &str) -> Result<(i64, i32), &'static str> {
    const FORM: &str = "it must be an RFC 3339 time";
    let digits = |from: usize, to: usize| -> Result<i64, &'static str> {
        let part = text.get(from..to).ok_or(FORM)?;
        if !part.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(FORM);
        }
        part.parse().map_err(|_| FORM)
    };
    let separators = [(4, "-"), (7, "-"), (13, ":"), (16, ":")];
    if separators.iter().any(|&(at, want)| text.get(at..=at) != Some(want))
        || !matches!(text.get(10..11), Some("T" | "t"))
    {
        return Err(FORM);
    }
    let (year, month, day) = (digits(0, 4)?, digits(5, 7)?, digits(8, 10)?);
    let (hour, minute, second) = (digits(11, 13)?, digits(14, 16)?, digits(17, 19)?);
    let leap = (year % 4 == 0 && year % 100 != 0) || year % 400 == 0;
    let month_days = match month {
        1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
        4 | 6 | 9 | 11 => 30,
        2 if leap => 29,
        2 => 28,
        _ => return Err("there is no such month"),
    };
    if year == 0 || day == 0 || day > month_days || hour > 23 || minute > 59 || second > 59 {
        return Err("there is no such time");
    }
    let rest = text.get(19..).ok_or(FORM)?;
    let zone_at = rest.find(['Z', 'z', '+', '-']).ok_or("it must end with 'Z' or an offset")?;
    let nanos = match rest.get(..zone_at).ok_or(FORM)? {
        "" => 0,
        fraction => nanos(fraction.strip_prefix('.').ok_or(FORM)?)?,
    };
    let offset = match rest.get(zone_at..).ok_or(FORM)? {
        "Z" | "z" => 0,
        zone if zone.len() == 6 && zone.get(3..4) == Some(":") => {
            let at = 19 + zone_at;
            let minutes = digits(at + 1, at + 3)? * 60 + digits(at + 4, at + 6)?;
            if zone.starts_with('-') { -minutes } else { minutes }
        }
        _ => return Err(FORM),
    };
    let seconds =
        days_from_civil(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset * 60;
    Ok((seconds, nanos))
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    // Years start in March, so that the leap day is the last.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// The date that lies so many days after 1970-01-01.
pub(crate) fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let (era, day_of_era) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (0, month + 3) } else { (1, month - 9) };
    (era * 400 + year_of_era + year, month, day)
}

/// A field mask path in proto spelling.
fn snake(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c.is_ascii_uppercase() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        for (text, want) in [
            ("1s", (1, 0)),
            ("0.25s", (0, 250_000_000)),
            ("-1.5s", (-1, -500_000_000)),
            ("0.000000001s", (0, 1)),
            ("315576000000s", (315_576_000_000, 0)),
        ] {
            assert_eq!(duration(text), Ok(want), "{text}");
        }
        for text in [
            "1",
            "1ms",
            "+1s",
            ".5s",
            "1.s",
            "1.0000000001s",
            "s",
            "1 s",
            "315576000001s",
            "é",
            "99999999999999999999s",
        ] {
            assert!(duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn dates_go_both_ways() {
        for days in (-800_000..800_000).step_by(97) {
            let (year, month, day) = civil_from_days(days);
            assert_eq!(days_from_civil(year, month, day), days);
        }
    }

    #[test]
    fn timestamps() {
        for (text, want) in [
            ("1970-01-01T00:00:00Z", (0, 0)),
            ("2000-03-01T00:00:00.5Z", (951_868_800, 500_000_000)),
            ("2026-11-22T03:00:00+02:00", (1_795_309_200, 0)),
            ("1969-12-31T23:59:59Z", (-1, 0)),
            ("2024-02-29t12:00:00z", (1_709_208_000, 0)),
        ] {
            assert_eq!(timestamp(text), Ok(want), "{text}");
        }
        for text in [
            "",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-01-01",
            "2026-01-01T00:00:00",
            "ééééééééééé",
        ] {
            assert!(timestamp(text).is_err(), "{text}");
        }
    }
}
