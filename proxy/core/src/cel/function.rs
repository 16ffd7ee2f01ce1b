//! Functions: their names, how they are called, and what they do.

use std::borrow::Cow;

use chrono::FixedOffset;

use super::Extras;
use super::fault::{Fault, Fuel};
use super::instant::{self, Part, SECOND};
use super::value::Value;
use super::{lookup, strings};

/// A function.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    Int,
    Uint,
    Double,
    Bool,
    Text,
    Bytes,
    Dyn,
    Type,
    Timestamp,
    Duration,
    Get(Part),
    Lower,
    Upper,
    Replace,
    Split,
    Join,
    Trim,
}

/// Functions that Envoy has and we do not.
const OTHERS: [&str; 12] = [
    "re.extract",
    "re.capture",
    "re.captureN",
    "extract",
    "capture",
    "captureN",
    "format",
    "reverse",
    "quote",
    "charAt",
    "indexOf",
    "substring",
];

/// How a function was called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call<'a> {
    pub(super) name: &'a str,
    /// As `target.name()`.
    pub(super) on_target: bool,
    /// With its target.
    pub(super) args: usize,
}

impl Function {
    /// The function that is called so.
    ///
    /// # Errors
    /// There is none, or it is called otherwise; with what to do instead.
    pub(super) fn find(call: Call<'_>, extras: Extras) -> Result<Self, &'static str> {
        let Call { name, on_target, args } = call;
        let (function, target, most) = match name {
            "size" => (Self::Size, None, 1..=1),
            "contains" => (Self::Contains, None, 2..=2),
            "startsWith" => (Self::StartsWith, None, 2..=2),
            "endsWith" => (Self::EndsWith, None, 2..=2),
            "int" => (Self::Int, Some(false), 1..=1),
            "uint" => (Self::Uint, Some(false), 1..=1),
            "double" => (Self::Double, Some(false), 1..=1),
            "bool" => (Self::Bool, Some(false), 1..=1),
            "bytes" => (Self::Bytes, Some(false), 1..=1),
            "dyn" => (Self::Dyn, Some(false), 1..=1),
            "type" => (Self::Type, Some(false), 1..=1),
            "timestamp" => (Self::Timestamp, Some(false), 1..=1),
            "duration" => (Self::Duration, Some(false), 1..=1),
            "string" if extras.conversion => (Self::Text, Some(false), 1..=1),
            "string" => return Err("set cel_config.enable_string_conversion for it"),
            "lowerAscii" | "upperAscii" | "replace" | "split" | "join" | "trim" if !extras.functions => {
                return Err("set cel_config.enable_string_functions for it");
            }
            "lowerAscii" => (Self::Lower, Some(true), 1..=1),
            "upperAscii" => (Self::Upper, Some(true), 1..=1),
            "replace" => (Self::Replace, Some(true), 3..=4),
            "split" => (Self::Split, Some(true), 2..=3),
            "join" => (Self::Join, Some(true), 1..=2),
            "trim" => (Self::Trim, Some(true), 1..=1),
            name => match Part::of_name(name) {
                Some(part) => (Self::Get(part), Some(true), 1..=2),
                None if OTHERS.contains(&name) => return Err("it is not supported; leave it out"),
                None => return Err("there is no such function"),
            },
        };
        if target.is_some_and(|target| target != on_target) {
            return Err(if on_target { "call it as function(value)" } else { "call it as value.function()" });
        }
        if !most.contains(&args) {
            return Err("it takes another number of arguments");
        }
        Ok(function)
    }

    /// What it makes of `args`.
    pub(super) fn call<'a>(self, args: &[Value<'a>], fuel: &Fuel) -> Result<Value<'a>, Fault> {
        match (self, args) {
            (Self::Size, [value]) => {
                i64::try_from(lookup::size(value, fuel)?).map(Value::Int).map_err(|_| Fault::Range)
            }
            (Self::Contains, [Value::Text(text), Value::Text(part)]) => {
                fuel.burn(text.len() / 16)?;
                Ok(Value::Bool(text.contains(&**part)))
            }
            (Self::StartsWith, [Value::Text(text), Value::Text(part)]) => {
                Ok(Value::Bool(text.starts_with(&**part)))
            }
            (Self::EndsWith, [Value::Text(text), Value::Text(part)]) => {
                Ok(Value::Bool(text.ends_with(&**part)))
            }
            (Self::Int, [value]) => int(value),
            (Self::Uint, [value]) => uint(value),
            (Self::Double, [value]) => double(value),
            (Self::Bool, [value]) => boolean(value),
            (Self::Text, [value]) => text(value),
            (Self::Bytes, [Value::Text(Cow::Borrowed(text))]) => {
                Ok(Value::Bytes(Cow::Borrowed(text.as_bytes())))
            }
            (Self::Bytes, [Value::Text(text)]) => Ok(Value::Bytes(Cow::Owned(text.as_bytes().to_vec()))),
            (Self::Bytes, [Value::Bytes(_)]) | (Self::Dyn, [_]) => {
                args.first().cloned().ok_or(Fault::NoOverload)
            }
            (Self::Type, [value]) => Ok(Value::Type(value.kind())),
            (Self::Timestamp, [Value::Text(text)]) => instant::timestamp(text).map(Value::Timestamp),
            (Self::Timestamp, [Value::Int(seconds)]) => Ok(Value::Timestamp(i128::from(*seconds) * SECOND)),
            (Self::Timestamp, [Value::Timestamp(time)]) => Ok(Value::Timestamp(*time)),
            (Self::Duration, [Value::Text(text)]) => instant::duration(text).map(Value::Duration),
            (Self::Duration, [Value::Duration(nanos)]) => Ok(Value::Duration(*nanos)),
            (Self::Get(part), [Value::Timestamp(time)]) => {
                let utc = FixedOffset::east_opt(0).ok_or(Fault::Range)?;
                part.of_time(*time, utc).map(Value::Int)
            }
            (Self::Get(part), [Value::Timestamp(time), Value::Text(zone)]) => {
                let offset = instant::offset(zone).ok_or(Fault::Invalid)?;
                part.of_time(*time, offset).map(Value::Int)
            }
            (Self::Get(part), [Value::Duration(nanos)]) => part.of_duration(*nanos).map(Value::Int),
            _ => self.on_text(args, fuel),
        }
    }

    /// Functions that make texts.
    fn on_text<'a>(self, args: &[Value<'a>], fuel: &Fuel) -> Result<Value<'a>, Fault> {
        match (self, args) {
            (Self::Lower, [Value::Text(text)]) => strings::cased(text, false, fuel),
            (Self::Upper, [Value::Text(text)]) => strings::cased(text, true, fuel),
            (Self::Trim, [Value::Text(text)]) => Ok(Value::Text(match text {
                Cow::Borrowed(text) => Cow::Borrowed(text.trim()),
                Cow::Owned(text) => Cow::Owned(text.trim().to_owned()),
            })),
            (Self::Replace, [Value::Text(text), Value::Text(from), Value::Text(to)]) => {
                strings::replace(text, from, to, None, fuel)
            }
            (Self::Replace, [Value::Text(text), Value::Text(from), Value::Text(to), Value::Int(most)]) => {
                strings::replace(text, from, to, usize::try_from(*most).ok(), fuel)
            }
            (Self::Split, [Value::Text(text), Value::Text(separator)]) => {
                strings::split(text.clone(), separator, None, fuel)
            }
            (Self::Split, [Value::Text(text), Value::Text(separator), Value::Int(most)]) => {
                strings::split(text.clone(), separator, usize::try_from(*most).ok(), fuel)
            }
            (Self::Join, [list]) => strings::join(list, "", fuel),
            (Self::Join, [list, Value::Text(separator)]) => strings::join(list, separator, fuel),
            _ => Err(Fault::NoOverload),
        }
    }
}

fn int<'a>(value: &Value<'_>) -> Result<Value<'a>, Fault> {
    let number = match value {
        Value::Int(number) => *number,
        Value::Uint(number) => i64::try_from(*number).map_err(|_| Fault::Range)?,
        // The ends of the range are no doubles: what is rounded to them is beyond.
        Value::Double(number) if number.abs() < i64::MAX as f64 => *number as i64,
        Value::Double(_) => return Err(Fault::Range),
        Value::Bool(truth) => i64::from(*truth),
        Value::Text(text) => text.trim().parse().map_err(|_| Fault::Invalid)?,
        Value::Timestamp(time) => i64::try_from(time.div_euclid(SECOND)).map_err(|_| Fault::Range)?,
        _ => return Err(Fault::NoOverload),
    };
    Ok(Value::Int(number))
}

fn uint<'a>(value: &Value<'_>) -> Result<Value<'a>, Fault> {
    let number = match value {
        Value::Uint(number) => *number,
        Value::Int(number) => u64::try_from(*number).map_err(|_| Fault::Range)?,
        Value::Double(number) if (0.0..u64::MAX as f64).contains(number) => *number as u64,
        Value::Double(_) => return Err(Fault::Range),
        Value::Text(text) => text.trim().parse().map_err(|_| Fault::Invalid)?,
        _ => return Err(Fault::NoOverload),
    };
    Ok(Value::Uint(number))
}

fn double<'a>(value: &Value<'_>) -> Result<Value<'a>, Fault> {
    let number = match value {
        Value::Double(number) => *number,
        Value::Int(number) => *number as f64,
        Value::Uint(number) => *number as f64,
        Value::Text(text) => text.trim().parse().map_err(|_| Fault::Invalid)?,
        _ => return Err(Fault::NoOverload),
    };
    Ok(Value::Double(number))
}

fn boolean<'a>(value: &Value<'_>) -> Result<Value<'a>, Fault> {
    let truth = match value {
        Value::Bool(truth) => *truth,
        Value::Text(text) => match &**text {
            "1" | "t" | "true" | "TRUE" | "True" => true,
            "0" | "f" | "false" | "FALSE" | "False" => false,
            _ => return Err(Fault::Invalid),
        },
        _ => return Err(Fault::NoOverload),
    };
    Ok(Value::Bool(truth))
}

/// Doubles, times and durations have no text here: Envoy's has its own corners, and nobody compares them as texts.
fn text<'a>(value: &Value<'a>) -> Result<Value<'a>, Fault> {
    Ok(Value::Text(match value {
        Value::Text(text) => text.clone(),
        Value::Int(number) => Cow::Owned(number.to_string()),
        Value::Uint(number) => Cow::Owned(number.to_string()),
        Value::Bool(truth) => Cow::Borrowed(if *truth { "true" } else { "false" }),
        Value::Bytes(bytes) => Cow::Owned(std::str::from_utf8(bytes).map_err(|_| Fault::Invalid)?.to_owned()),
        _ => return Err(Fault::NoOverload),
    }))
}
