//! Message types as the walk over bytes needs them, read from their descriptors once and then free of them.

use std::collections::HashMap;
use std::sync::Arc;

use prost_reflect::{FieldDescriptor, Kind as Type, MessageDescriptor};

use super::super::plan::{Plan, Rules};
use super::super::{Checker, Validator};
use crate::load::{LineMap, is_wrapper};
use crate::{Descriptors, Path};

/// The types met so far.
#[derive(Default)]
pub(super) struct Types {
    slots: Vec<Slot>,
    by_name: HashMap<Box<str>, usize>,
}

enum Slot {
    /// Named by another type and not looked at.
    Named(Box<str>),
    Read(Arc<TypePlan>),
    /// The API has no such type.
    Missing,
}

/// A message type.
pub(super) struct TypePlan {
    /// Sorted by number.
    pub(super) fields: Vec<FieldPlan>,
    /// Whether the type's rules count.
    pub(super) checked: bool,
    /// Of each of these one must be set; positions in `fields`.
    pub(super) required_oneofs: Vec<Vec<usize>>,
    pub(super) form: Form,
}

/// Messages that are more than their fields.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Plain,
    Any,
    Wrapper,
    Duration,
    Timestamp,
}

/// A field.
pub(super) struct FieldPlan {
    pub(super) number: u32,
    pub(super) kind: Kind,
    pub(super) repeated: bool,
    /// The oneof that it is in, by number within the type.
    pub(super) oneof: Option<u32>,
    pub(super) rules: Option<Rules>,
    /// Whether its absence breaks a rule.
    pub(super) needed: bool,
}

/// What a field holds.
pub(super) enum Kind {
    Double,
    Float,
    Int32,
    Int64,
    Uint32,
    Uint64,
    Sint32,
    Sint64,
    Fixed32,
    Fixed64,
    Sfixed32,
    Sfixed64,
    Bool,
    String,
    Bytes,
    /// With the numbers that have a name.
    Enum(Box<[i32]>),
    Message(usize),
    Map(Box<(Kind, Kind)>),
}

impl Types {
    /// The number of the type with this name.
    pub(super) fn number(&mut self, full_name: &str) -> usize {
        if let Some(&number) = self.by_name.get(full_name) {
            return number;
        }
        let number = self.slots.len();
        self.slots.push(Slot::Named(full_name.into()));
        self.by_name.insert(full_name.into(), number);
        number
    }

    /// The type of this number; `None` when the API has none of that name. Descriptors are loaded into `descs` when they
    /// are needed.
    pub(super) fn get(&mut self, number: usize, descs: &mut Option<Descriptors>) -> Option<Arc<TypePlan>> {
        let name = match self.slots.get(number)? {
            Slot::Read(plan) => return Some(plan.clone()),
            Slot::Missing => return None,
            Slot::Named(name) => name.clone(),
        };
        let desc = descs.get_or_insert_with(Descriptors::load).message(&name);
        let plan = desc.map(|desc| Arc::new(self.read(&desc)));
        if let Some(slot) = self.slots.get_mut(number) {
            *slot = plan.clone().map_or(Slot::Missing, Slot::Read);
        }
        plan
    }

    fn read(&mut self, desc: &MessageDescriptor) -> TypePlan {
        let Plan { unchecked, mut rules, unset_matters, required_oneofs } = Plan::new(desc);
        let mut validator = Validator::default();
        let mut fields: Vec<FieldPlan> = desc
            .fields()
            .map(|field| {
                let rules = rules.remove(&field.number());
                let needed = unset_matters.contains(&field.number())
                    && rules.as_ref().is_some_and(|rules| is_needed(&mut validator, &field, rules));
                FieldPlan {
                    number: field.number(),
                    kind: self.kind(&field.kind(), field.is_map()),
                    repeated: field.is_list() || field.is_map(),
                    oneof: oneof(desc, &field),
                    rules,
                    needed,
                }
            })
            .collect();
        fields.sort_by_key(|field| field.number);
        let position = |name: &String| {
            let number = desc.get_field_by_name(name)?.number();
            fields.binary_search_by_key(&number, |field| field.number).ok()
        };
        let required_oneofs =
            required_oneofs.iter().map(|names| names.iter().filter_map(position).collect()).collect();
        TypePlan { checked: !unchecked, required_oneofs, form: form(desc.full_name()), fields }
    }

    fn kind(&mut self, kind: &Type, map: bool) -> Kind {
        match kind {
            Type::Double => Kind::Double,
            Type::Float => Kind::Float,
            Type::Int32 => Kind::Int32,
            Type::Int64 => Kind::Int64,
            Type::Uint32 => Kind::Uint32,
            Type::Uint64 => Kind::Uint64,
            Type::Sint32 => Kind::Sint32,
            Type::Sint64 => Kind::Sint64,
            Type::Fixed32 => Kind::Fixed32,
            Type::Fixed64 => Kind::Fixed64,
            Type::Sfixed32 => Kind::Sfixed32,
            Type::Sfixed64 => Kind::Sfixed64,
            Type::Bool => Kind::Bool,
            Type::String => Kind::String,
            Type::Bytes => Kind::Bytes,
            Type::Enum(desc) => Kind::Enum(desc.values().map(|value| value.number()).collect()),
            Type::Message(entry) if map => {
                let key = self.kind(&entry.map_entry_key_field().kind(), false);
                let value = self.kind(&entry.map_entry_value_field().kind(), false);
                Kind::Map(Box::new((key, value)))
            }
            Type::Message(desc) => Kind::Message(self.number(desc.full_name())),
        }
    }
}

/// Whether a message without `field` breaks a rule.
fn is_needed(validator: &mut Validator, field: &FieldDescriptor, rules: &Rules) -> bool {
    let lines = LineMap::default();
    let mut checker = Checker { plans: &mut validator.plans, lines: &lines, problems: Vec::new() };
    checker.unset(field, rules, &Path::root());
    !checker.problems.is_empty()
}

fn oneof(desc: &MessageDescriptor, field: &FieldDescriptor) -> Option<u32> {
    let oneof = field.containing_oneof().filter(|oneof| !oneof.is_synthetic())?;
    let position = desc.oneofs().position(|other| other == oneof)?;
    u32::try_from(position).ok()
}

fn form(full_name: &str) -> Form {
    match full_name {
        "google.protobuf.Any" => Form::Any,
        "google.protobuf.Duration" => Form::Duration,
        "google.protobuf.Timestamp" => Form::Timestamp,
        name if is_wrapper(name) => Form::Wrapper,
        _ => Form::Plain,
    }
}
