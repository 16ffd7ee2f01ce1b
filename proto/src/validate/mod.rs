//! The rules that Envoy's API puts on its fields (protoc-gen-validate), checked by reflection.
//!
//! Envoy compiles the same rules to code and stops at the first failure; here they are read from the descriptors and
//! every failure is reported, with its path and line. The wording follows Envoy's.

mod number;
mod plan;
mod text;
mod wire;

#[cfg(test)]
mod tests;

use std::{
    collections::{HashMap, HashSet},
    fmt,
    rc::Rc,
};

use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind as Type, MapKey, MessageDescriptor, ReflectMessage as _, Value,
};

use crate::{
    Path, Problem, any,
    load::{LineMap, is_wrapper},
    pb::{
        google::protobuf::{Duration, Timestamp},
        validate::{
            AnyRules, DurationRules, FieldRules, MapRules, RepeatedRules, TimestampRules, field_rules,
        },
    },
};
use plan::{Plan, Rules};

pub use wire::WireChecker;

/// Checks one message; see [`Validator::check`]. Who checks many keeps a [`Validator`].
pub fn check(message: &DynamicMessage, lines: &LineMap) -> Vec<Problem> {
    Validator::default().check(message, lines, &Path::root())
}

/// The rules of the message types met so far.
#[derive(Default)]
pub struct Validator {
    plans: HashMap<String, Rc<Plan>>,
}

impl fmt::Debug for Validator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Validator").field("types", &self.plans.len()).finish()
    }
}

impl Validator {
    /// Checks a message and all inside it, the content of each `Any` too, as far as its type is known to the pool of the
    /// message (see [`crate::Descriptors::decode`]). The problems carry paths that start with `path`, and come in the
    /// order of their lines.
    pub fn check(&mut self, message: &DynamicMessage, lines: &LineMap, path: &Path<'_>) -> Vec<Problem> {
        let mut checker = Checker { plans: &mut self.plans, lines, problems: Vec::new() };
        checker.message(message, path);
        checker.problems.sort_by_key(|problem| problem.line);
        checker.problems
    }
}

struct Checker<'l> {
    plans: &'l mut HashMap<String, Rc<Plan>>,
    lines: &'l LineMap,
    problems: Vec<Problem>,
}

impl Checker<'_> {
    fn problem(&mut self, path: &Path<'_>, message: impl Into<String>) {
        self.problems.push(self.lines.problem(path, message));
    }

    fn plan(&mut self, desc: &MessageDescriptor) -> Rc<Plan> {
        if let Some(plan) = self.plans.get(desc.full_name()) {
            return Rc::clone(plan);
        }
        let plan = Rc::new(Plan::new(desc));
        self.plans.insert(desc.full_name().to_owned(), Rc::clone(&plan));
        plan
    }

    fn message(&mut self, message: &DynamicMessage, path: &Path<'_>) {
        if any::parts(message).is_some() {
            if let Some(inner) = any::content(message) {
                self.message(&inner, path);
            }
            return;
        }
        let desc = message.descriptor();
        let plan = self.plan(&desc);
        if plan.unchecked {
            return;
        }
        for (field, value) in message.fields() {
            self.field(&field, value, plan.rules.get(&field.number()), &path.field(field.name()));
        }
        for (&number, rules) in plan.unset_matters.iter().filter_map(|it| plan.rules.get_key_value(it)) {
            if let Some(field) = desc.get_field(number)
                && !message.has_field(&field)
            {
                self.unset(&field, rules, &path.field(field.name()));
            }
        }
        for names in &plan.required_oneofs {
            if !names.iter().any(|name| message.has_field_by_name(name)) {
                self.problem(path, format!("one of {} is required", names.join(", ")));
            }
        }
    }

    /// Checks a field that is set.
    fn field(&mut self, field: &FieldDescriptor, value: &Value, rules: Option<&Rules>, path: &Path<'_>) {
        let pgv = rules.map(|rules| &rules.pgv);
        let kind = field.kind();
        match value {
            Value::List(items) => {
                let list = match pgv.and_then(|pgv| pgv.r#type.as_ref()) {
                    Some(field_rules::Type::Repeated(list)) => Some(&**list),
                    _ => None,
                };
                if let Some(list) = list {
                    self.list(items, list, &kind, path);
                }
                let inner = rules.and_then(|rules| rules.items.as_deref());
                for (index, item) in items.iter().enumerate() {
                    self.value(item, inner, &kind, &path.index(index));
                }
            }
            Value::Map(entries) => {
                if let Some(field_rules::Type::Map(map)) = pgv.and_then(|pgv| pgv.r#type.as_ref()) {
                    self.pairs(entries.len(), map, path);
                }
                let mut keys: Vec<(String, &MapKey, &Value)> =
                    entries.iter().map(|(key, value)| (key_text(key), key, value)).collect();
                keys.sort_by(|a, b| a.0.cmp(&b.0));
                let entry = kind
                    .as_message()
                    .map(|entry| (entry.map_entry_key_field().kind(), entry.map_entry_value_field().kind()));
                for (text, key, value) in keys {
                    let at = path.key(&text);
                    let Some((key_kind, value_kind)) = &entry else { continue };
                    if let Some(keys) = rules.and_then(|rules| rules.keys.as_deref()) {
                        self.value(&key.clone().into(), Some(keys), key_kind, &at);
                    }
                    self.value(value, rules.and_then(|rules| rules.items.as_deref()), value_kind, &at);
                }
            }
            _ => self.value(value, rules, &kind, path),
        }
    }

    /// Checks one value that is there: of a field, an element, a map entry.
    fn value(&mut self, value: &Value, rules: Option<&Rules>, kind: &Type, path: &Path<'_>) {
        let Value::Message(message) = value else {
            if let Some(rules) = rules
                && let Err(message) = scalar(value, rules, kind)
            {
                self.problem(path, message);
            }
            return;
        };
        if let Some(rules) = rules {
            if rules.pgv.message.is_some_and(|rules| rules.skip()) {
                return;
            }
            let name = message.descriptor().full_name().to_owned();
            if is_wrapper(&name) {
                if let Some(field) = message.descriptor().get_field(1) {
                    self.value(&message.get_field(&field), Some(rules), &field.kind(), path);
                }
                return;
            }
            let outcome = match &rules.pgv.r#type {
                Some(field_rules::Type::Duration(rules)) => duration(message, rules),
                Some(field_rules::Type::Timestamp(rules)) => timestamp(message, rules),
                Some(field_rules::Type::Any(rules)) => any_rules(message, rules),
                _ => Ok(()),
            };
            if let Err(message) = outcome {
                self.problem(path, message);
            }
        }
        self.message(message, path);
    }

    /// Checks a field that is not set, where that can be wrong.
    fn unset(&mut self, field: &FieldDescriptor, rules: &Rules, path: &Path<'_>) {
        let required = rules.pgv.message.is_some_and(|rules| rules.required());
        match &rules.pgv.r#type {
            Some(field_rules::Type::Repeated(list)) => self.list(&[], list, &field.kind(), path),
            Some(field_rules::Type::Map(map)) => self.pairs(0, map, path),
            Some(field_rules::Type::Any(AnyRules { required: Some(true), .. }))
            | Some(field_rules::Type::Duration(DurationRules { required: Some(true), .. }))
            | Some(field_rules::Type::Timestamp(TimestampRules { required: Some(true), .. })) => {
                self.problem(path, "value is required");
            }
            _ if required => self.problem(path, "value is required"),
            Some(_) if !field.supports_presence() => {
                if let Err(message) = scalar(&Value::default_value_for_field(field), rules, &field.kind()) {
                    self.problem(path, message);
                }
            }
            _ => {}
        }
    }

    fn list(&mut self, items: &[Value], rules: &RepeatedRules, kind: &Type, path: &Path<'_>) {
        if items.is_empty() && rules.ignore_empty() {
            return;
        }
        if let Some(message) = size(items.len(), rules.min_items, rules.max_items, "item(s)") {
            self.problem(path, message);
        }
        if rules.unique() {
            let mut seen = HashSet::new();
            for (index, item) in items.iter().enumerate() {
                if !seen.insert(identity(item, kind)) {
                    self.problem(&path.index(index), "repeated value must contain unique items");
                }
            }
        }
    }

    fn pairs(&mut self, len: usize, rules: &MapRules, path: &Path<'_>) {
        if len == 0 && rules.ignore_empty() {
            return;
        }
        if let Some(message) = size(len, rules.min_pairs, rules.max_pairs, "pair(s)") {
            self.problem(path, message);
        }
    }
}

/// Checks a value that is no message.
fn scalar(value: &Value, rules: &Rules, kind: &Type) -> Result<(), String> {
    match (&rules.pgv.r#type, value) {
        (Some(field_rules::Type::String(pgv)), Value::String(text)) => {
            text::string(text, pgv, rules.pattern.as_ref())
        }
        (Some(field_rules::Type::Bytes(pgv)), Value::Bytes(bytes)) => {
            text::bytes(bytes, pgv, rules.pattern.as_ref())
        }
        (Some(field_rules::Type::Enum(pgv)), Value::EnumNumber(value)) => {
            number::enumeration(*value, pgv, kind)
        }
        (Some(rules), value) => number::check(value, rules),
        (None, _) => Ok(()),
    }
}

fn size(len: usize, min: Option<u64>, max: Option<u64>, what: &str) -> Option<String> {
    let len = len as u64;
    match (min, max) {
        (Some(min), Some(max)) if min == max && len != min => {
            Some(format!("value must contain exactly {min} {what}"))
        }
        (Some(min), _) if len < min => Some(format!("value must contain at least {min} {what}")),
        (_, Some(max)) if len > max => Some(format!("value must contain no more than {max} {what}")),
        _ => None,
    }
}

/// Something equal for equal values.
fn identity(value: &Value, kind: &Type) -> String {
    match (value, kind) {
        (Value::String(text), _) => text.clone(),
        (Value::Message(message), _) => {
            use prost::Message as _;
            format!("{:?}", message.encode_to_vec())
        }
        (other, _) => format!("{other:?}"),
    }
}

fn duration(message: &DynamicMessage, rules: &DurationRules) -> Result<(), String> {
    message.transcode_to().map_or(Ok(()), |value| duration_of(&value, rules))
}

fn duration_of(value: &Duration, rules: &DurationRules) -> Result<(), String> {
    let nanos = |it: &Duration| i128::from(it.seconds) * 1_000_000_000 + i128::from(it.nanos);
    let limit = |it: &Option<Duration>| it.as_ref().map(|it| number::Seconds(nanos(it)));
    let list = |it: &[Duration]| -> Vec<number::Seconds> {
        it.iter().map(|it| number::Seconds(nanos(it))).collect()
    };
    number::ordered(
        &number::Seconds(nanos(value)),
        &number::Limits {
            equal: limit(&rules.r#const),
            lt: limit(&rules.lt),
            lte: limit(&rules.lte),
            gt: limit(&rules.gt),
            gte: limit(&rules.gte),
            one_of: list(&rules.r#in),
            none_of: list(&rules.not_in),
        },
    )
}

/// The rules that compare with the present time are used nowhere in Envoy's API and not checked.
fn timestamp(message: &DynamicMessage, rules: &TimestampRules) -> Result<(), String> {
    message.transcode_to().map_or(Ok(()), |value| timestamp_of(&value, rules))
}

fn timestamp_of(value: &Timestamp, rules: &TimestampRules) -> Result<(), String> {
    let nanos = |it: &Timestamp| i128::from(it.seconds) * 1_000_000_000 + i128::from(it.nanos);
    let limit = |it: &Option<Timestamp>| it.as_ref().map(|it| number::Seconds(nanos(it)));
    number::ordered(
        &number::Seconds(nanos(value)),
        &number::Limits {
            equal: limit(&rules.r#const),
            lt: limit(&rules.lt),
            lte: limit(&rules.lte),
            gt: limit(&rules.gt),
            gte: limit(&rules.gte),
            one_of: Vec::new(),
            none_of: Vec::new(),
        },
    )
}

fn any_rules(message: &DynamicMessage, rules: &AnyRules) -> Result<(), String> {
    let url = message
        .get_field_by_name("type_url")
        .and_then(|url| url.as_str().map(str::to_owned))
        .unwrap_or_default();
    any_rules_of(&url, rules)
}

fn any_rules_of(url: &str, rules: &AnyRules) -> Result<(), String> {
    if !rules.r#in.is_empty() && !rules.r#in.iter().any(|known| known == url) {
        return Err(format!("type URL must be in list [{}]", rules.r#in.join(", ")));
    }
    if rules.not_in.iter().any(|known| known == url) {
        return Err(format!("type URL must not be in list [{}]", rules.not_in.join(", ")));
    }
    Ok(())
}

/// A map key as paths show it.
pub(crate) fn key_text(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

/// Whether an annotation says nothing.
fn is_empty(rules: &FieldRules) -> bool {
    rules.message.is_none() && rules.r#type.is_none()
}
