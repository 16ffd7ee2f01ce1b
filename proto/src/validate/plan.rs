//! The rules of a message type, read from its descriptor once per check.

use std::collections::HashMap;

use prost_reflect::{
    DynamicMessage, ExtensionDescriptor, FieldDescriptor, MessageDescriptor, ReflectMessage as _, Value,
};
use regex::Regex;

use crate::pb::validate::{FieldRules, field_rules};

/// Numbers of the extensions of protoc-gen-validate; they differ only in what they extend.
const RULES: u32 = 1071;
const REQUIRED: u32 = 1071;
const DISABLED: u32 = 1071;
const IGNORED: u32 = 1072;

/// What to check in messages of one type. It holds no descriptors, so that it keeps none alive.
pub(super) struct Plan {
    /// The type opted out.
    pub(super) unchecked: bool,
    pub(super) rules: HashMap<u32, Rules>,
    /// Numbers of the fields for which being absent, or zero, can break a rule.
    pub(super) unset_matters: Vec<u32>,
    /// The names of the members of each oneof of which one must be set.
    pub(super) required_oneofs: Vec<Vec<String>>,
}

/// The rules of a field, with what must be compiled or found inside them.
pub(super) struct Rules {
    pub(super) pgv: FieldRules,
    pub(super) pattern: Option<Regex>,
    /// For the elements of a list, or the values of a map.
    pub(super) items: Option<Box<Rules>>,
    /// For the keys of a map.
    pub(super) keys: Option<Box<Rules>>,
}

impl Plan {
    pub(super) fn new(desc: &MessageDescriptor) -> Self {
        let options = desc.options();
        let unchecked = flag(&options, DISABLED) || flag(&options, IGNORED);
        let (mut rules, mut unset_matters) = (HashMap::new(), Vec::new());
        for field in desc.fields() {
            let Some(found) = field_rules(&field.options()) else { continue };
            if super::is_empty(&found) {
                continue;
            }
            if !in_real_oneof(&field) {
                unset_matters.push(field.number());
            }
            rules.insert(field.number(), Rules::new(found));
        }
        let required_oneofs = desc
            .oneofs()
            .filter(|oneof| flag(&oneof.options(), REQUIRED))
            .map(|oneof| oneof.fields().map(|field| field.name().to_owned()).collect())
            .collect();
        Self { unchecked, rules, unset_matters, required_oneofs }
    }
}

impl Rules {
    fn new(pgv: FieldRules) -> Self {
        let inner =
            |rules: &Option<Box<FieldRules>>| rules.as_deref().cloned().map(|it| Box::new(Self::new(it)));
        let (mut items, mut keys, mut pattern) = (None, None, None);
        match &pgv.r#type {
            Some(field_rules::Type::Repeated(list)) => items = inner(&list.items),
            Some(field_rules::Type::Map(map)) => (keys, items) = (inner(&map.keys), inner(&map.values)),
            Some(field_rules::Type::String(rules)) => pattern.clone_from(&rules.pattern),
            Some(field_rules::Type::Bytes(rules)) => pattern.clone_from(&rules.pattern),
            _ => {}
        }
        // The patterns are Envoy's own; a test compiles them all.
        let pattern = pattern.and_then(|pattern| Regex::new(&pattern).ok());
        Self { pgv, pattern, items, keys }
    }
}

fn field_rules(options: &DynamicMessage) -> Option<FieldRules> {
    let extension = extension(options, RULES)?;
    if !options.has_extension(&extension) {
        return None;
    }
    options.get_extension(&extension).as_message()?.transcode_to().ok()
}

fn flag(options: &DynamicMessage, number: u32) -> bool {
    extension(options, number).is_some_and(|it| matches!(*options.get_extension(&it), Value::Bool(true)))
}

fn extension(options: &DynamicMessage, number: u32) -> Option<ExtensionDescriptor> {
    options.descriptor().get_extension(number)
}

/// Whether a field is one of several of which at most one is set; an `optional` field is not.
fn in_real_oneof(field: &FieldDescriptor) -> bool {
    field.containing_oneof().is_some_and(|oneof| !oneof.is_synthetic())
}
