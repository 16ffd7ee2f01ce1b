//! The rules checked on the bytes of a message, without descriptors and without building it.
//!
//! A control plane sends thousands of resources, nearly all of them right. Reflection over each costs more than all that
//! is done with it afterwards, and holds the descriptors in memory. This walk says only "nothing to find" or "look closer";
//! what is found in the second case, reflection says. So it may be as wary as it likes: whatever is out of the ordinary is
//! looked at closer.

mod plan;

use std::collections::HashSet;
use std::fmt;

use prost::Message as _;
use prost::encoding::{WireType, decode_key, decode_varint};
use prost_reflect::Value;

use super::plan::Rules;
use super::{any_rules_of, duration_of, number, size, text, timestamp_of};
use crate::Descriptors;
use crate::any::{TYPED_STRUCTS, type_name};
use crate::pb::google::protobuf::{Duration, Timestamp};
use crate::pb::validate::field_rules;
use plan::{FieldPlan, Form, Kind, TypePlan, Types};

/// How deep messages are followed.
const MAX_DEPTH: usize = 90;

/// Checks messages by their bytes. Keeps what it has learnt of their types, which is little.
#[derive(Default)]
pub struct WireChecker {
    types: Types,
    descs: Option<Descriptors>,
}

impl fmt::Debug for WireChecker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WireChecker").field("descriptors", &self.descs.is_some()).finish_non_exhaustive()
    }
}

impl WireChecker {
    /// Whether the message breaks no rule of the API and has no field that the API does not know, nor has any `Any` in it.
    /// `false` may be said of a message that is right, `true` never of one that is not.
    pub fn is_clean(&mut self, full_name: &str, bytes: &[u8]) -> bool {
        let number = self.types.number(full_name);
        let mut walk = Walk { types: &mut self.types, descs: &mut self.descs };
        walk.message(number, bytes, true, 0).is_some()
    }

    /// The descriptors, loaded when they are not.
    pub fn descriptors(&mut self) -> &Descriptors {
        self.descs.get_or_insert_with(Descriptors::load)
    }

    /// Gives the descriptors back: nothing of a type met before needs them again.
    pub fn release(&mut self) {
        self.descs = None;
    }
}

struct Walk<'c> {
    types: &'c mut Types,
    descs: &'c mut Option<Descriptors>,
}

/// A value as it stands in the bytes.
enum Raw<'b> {
    Number(u64),
    Bytes(&'b [u8]),
}

/// What was seen of a message's fields.
struct Seen<'p, 'b> {
    plan: &'p TypePlan,
    counts: Vec<u32>,
    unique: HashSet<(usize, Vec<u8>)>,
    oneofs: u64,
    url: &'b [u8],
    value: &'b [u8],
}

impl Walk<'_> {
    /// `None`: look closer.
    fn message(&mut self, number: usize, bytes: &[u8], rules: bool, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        let plan = self.types.get(number, self.descs)?;
        let rules = rules && plan.checked;
        let mut seen = Seen {
            plan: &plan,
            counts: vec![0; plan.fields.len()],
            unique: HashSet::new(),
            oneofs: 0,
            url: &[],
            value: &[],
        };
        let mut rest = bytes;
        while !rest.is_empty() {
            let (number, wire) = decode_key(&mut rest).ok()?;
            let at = plan.fields.binary_search_by_key(&number, |field| field.number).ok()?;
            let field = plan.fields.get(at)?;
            let raw = raw(&mut rest, wire)?;
            self.field(field, at, wire, &raw, rules, &mut seen, depth)?;
        }
        if rules {
            seen.complete()?;
        }
        if plan.form == Form::Any { self.any(seen.url, seen.value, rules, depth) } else { Some(()) }
    }

    fn any(&mut self, url: &[u8], value: &[u8], rules: bool, depth: usize) -> Option<()> {
        let name = type_name(std::str::from_utf8(url).ok()?);
        if name.is_empty() {
            return Some(());
        }
        if TYPED_STRUCTS.contains(&name) {
            return None;
        }
        let number = self.types.number(name);
        if self.types.get(number, self.descs).is_none() {
            // Nothing is known of it, so nothing can be said; whoever unpacks it refuses it.
            return Some(());
        }
        self.message(number, value, rules, depth + 1)
    }

    #[expect(clippy::too_many_arguments, reason = "one call site; a struct would only rename them")]
    fn field<'b>(
        &mut self,
        field: &FieldPlan,
        at: usize,
        wire: WireType,
        raw: &Raw<'b>,
        rules: bool,
        seen: &mut Seen<'_, 'b>,
        depth: usize,
    ) -> Option<()> {
        seen.note(field, at, raw)?;
        let own = field.rules.as_ref().filter(|_| rules);
        if let Kind::Map(kinds) = &field.kind {
            let Raw::Bytes(entry) = raw else { return None };
            return self.entry(kinds, entry, own, rules, depth);
        }
        if !field.repeated {
            return self.value(&field.kind, wire, raw, own, rules, depth);
        }
        let items = own.and_then(|rules| rules.items.as_deref());
        let unique = own.is_some_and(is_unique);
        let packed = matches!(raw, Raw::Bytes(_))
            && !matches!(field.kind, Kind::String | Kind::Bytes | Kind::Message(_));
        if let (true, Raw::Bytes(bytes)) = (packed, raw) {
            // How many there are is seldom asked; where it is, look closer.
            if own.is_some_and(|own| own.pgv.r#type.is_some()) {
                return None;
            }
            let mut rest = *bytes;
            while !rest.is_empty() {
                let wire = packed_wire(&field.kind);
                let raw = self::raw(&mut rest, wire)?;
                self.value(&field.kind, wire, &raw, items, rules, depth)?;
            }
            return Some(());
        }
        if unique {
            let bytes = match raw {
                Raw::Number(number) => number.to_le_bytes().to_vec(),
                Raw::Bytes(bytes) if matches!(field.kind, Kind::String | Kind::Bytes) => bytes.to_vec(),
                // The same message can be written in several ways.
                Raw::Bytes(_) => return None,
            };
            if !seen.unique.insert((at, bytes)) {
                return None;
            }
        }
        self.value(&field.kind, wire, raw, items, rules, depth)
    }

    fn entry(
        &mut self,
        kinds: &(Kind, Kind),
        entry: &[u8],
        own: Option<&Rules>,
        rules: bool,
        depth: usize,
    ) -> Option<()> {
        let (mut key, mut value) = (false, false);
        let mut rest = entry;
        while !rest.is_empty() {
            let (number, wire) = decode_key(&mut rest).ok()?;
            let raw = raw(&mut rest, wire)?;
            let (kind, of, seen) = match number {
                1 => (&kinds.0, own.and_then(|own| own.keys.as_deref()), &mut key),
                2 => (&kinds.1, own.and_then(|own| own.items.as_deref()), &mut value),
                _ => return None,
            };
            if std::mem::replace(seen, true) {
                return None;
            }
            self.value(kind, wire, &raw, of, rules, depth)?;
        }
        // What is not written is zero or empty: rules on it are seldom kept by that.
        let bare = |seen: bool, rules: Option<&Rules>| seen || rules.is_none();
        let whole = bare(key, own.and_then(|own| own.keys.as_deref()))
            && bare(value, own.and_then(|own| own.items.as_deref()))
            && (value || !matches!(kinds.1, Kind::Message(_)));
        whole.then_some(())
    }

    fn value(
        &mut self,
        kind: &Kind,
        wire: WireType,
        raw: &Raw<'_>,
        own: Option<&Rules>,
        rules: bool,
        depth: usize,
    ) -> Option<()> {
        let Kind::Message(number) = kind else { return scalar(kind, wire, raw, own) };
        let Raw::Bytes(bytes) = raw else { return None };
        let Some(own) = own else { return self.message(*number, bytes, rules, depth + 1) };
        if own.pgv.message.is_some_and(|rules| rules.skip()) {
            return self.message(*number, bytes, false, depth + 1);
        }
        let plan = self.types.get(*number, self.descs)?;
        match (plan.form, &own.pgv.r#type) {
            (Form::Wrapper, _) => return wrapper(&plan, bytes, own),
            (Form::Duration, Some(field_rules::Type::Duration(rules))) => {
                duration_of(&Duration::decode(*bytes).ok()?, rules).ok()?;
            }
            (Form::Timestamp, Some(field_rules::Type::Timestamp(rules))) => {
                timestamp_of(&Timestamp::decode(*bytes).ok()?, rules).ok()?;
            }
            (Form::Any, Some(field_rules::Type::Any(rules))) => {
                let any = crate::pb::google::protobuf::Any::decode(*bytes).ok()?;
                any_rules_of(&any.type_url, rules).ok()?;
            }
            _ => {}
        }
        self.message(*number, bytes, rules, depth + 1)
    }
}

impl<'b> Seen<'_, 'b> {
    /// Notes that a field is there. What stands twice and may not, or beside another of its oneof, is odd.
    fn note(&mut self, field: &FieldPlan, at: usize, raw: &Raw<'b>) -> Option<()> {
        let count = self.counts.get_mut(at)?;
        *count = count.saturating_add(1);
        if *count > 1 && !field.repeated {
            return None;
        }
        if let Some(oneof) = field.oneof {
            let bit = 1_u64.checked_shl(oneof)?;
            if self.oneofs & bit != 0 {
                return None;
            }
            self.oneofs |= bit;
        }
        if let (Form::Any, Raw::Bytes(bytes)) = (self.plan.form, raw) {
            *(if field.number == 1 { &mut self.url } else { &mut self.value }) = bytes;
        }
        Some(())
    }

    /// Whether all is there that must be, and lists are as long as they may be.
    fn complete(&self) -> Option<()> {
        for (field, count) in self.plan.fields.iter().zip(&self.counts) {
            if *count == 0 {
                if field.needed {
                    return None;
                }
                continue;
            }
            let long = match field.rules.as_ref().and_then(|rules| rules.pgv.r#type.as_ref()) {
                Some(field_rules::Type::Repeated(list)) => {
                    size(*count as usize, list.min_items, list.max_items, "")
                }
                // An entry may stand twice, so there may be fewer pairs than it looks.
                Some(field_rules::Type::Map(map)) if map.min_pairs() > 1 => return None,
                Some(field_rules::Type::Map(map)) => size(*count as usize, map.min_pairs, map.max_pairs, ""),
                _ => None,
            };
            if long.is_some() {
                return None;
            }
        }
        let set = |at: &usize| self.counts.get(*at).is_some_and(|count| *count > 0);
        self.plan.required_oneofs.iter().all(|members| members.iter().any(set)).then_some(())
    }
}

/// Reads one value.
fn raw<'b>(rest: &mut &'b [u8], wire: WireType) -> Option<Raw<'b>> {
    match wire {
        WireType::Varint => decode_varint(rest).ok().map(Raw::Number),
        WireType::SixtyFourBit => {
            let (bytes, after) = rest.split_first_chunk::<8>()?;
            *rest = after;
            Some(Raw::Number(u64::from_le_bytes(*bytes)))
        }
        WireType::ThirtyTwoBit => {
            let (bytes, after) = rest.split_first_chunk::<4>()?;
            *rest = after;
            Some(Raw::Number(u64::from(u32::from_le_bytes(*bytes))))
        }
        WireType::LengthDelimited => {
            let len = usize::try_from(decode_varint(rest).ok()?).ok()?;
            let (bytes, after) = rest.split_at_checked(len)?;
            *rest = after;
            Some(Raw::Bytes(bytes))
        }
        WireType::StartGroup | WireType::EndGroup => None,
    }
}

const fn packed_wire(kind: &Kind) -> WireType {
    match kind {
        Kind::Double | Kind::Fixed64 | Kind::Sfixed64 => WireType::SixtyFourBit,
        Kind::Float | Kind::Fixed32 | Kind::Sfixed32 => WireType::ThirtyTwoBit,
        Kind::String | Kind::Bytes | Kind::Message(_) | Kind::Map(_) => WireType::LengthDelimited,
        _ => WireType::Varint,
    }
}

fn is_unique(rules: &Rules) -> bool {
    matches!(&rules.pgv.r#type, Some(field_rules::Type::Repeated(list)) if list.unique())
}

/// Checks a value that is no message.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    reason = "protobuf keeps the low bits"
)]
fn scalar(kind: &Kind, wire: WireType, raw: &Raw<'_>, own: Option<&Rules>) -> Option<()> {
    if wire != packed_wire(kind) {
        return None;
    }
    let rules = own.and_then(|own| own.pgv.r#type.as_ref().map(|rules| (own, rules)));
    let value = match (kind, raw) {
        (Kind::String, Raw::Bytes(bytes)) => {
            let text = std::str::from_utf8(bytes).ok()?;
            return match rules {
                Some((own, field_rules::Type::String(rules))) => {
                    text::string(text, rules, own.pattern.as_ref()).ok()
                }
                Some(_) => None,
                None => Some(()),
            };
        }
        (Kind::Bytes, Raw::Bytes(bytes)) => {
            return match rules {
                Some((own, field_rules::Type::Bytes(rules))) => {
                    text::bytes(bytes, rules, own.pattern.as_ref()).ok()
                }
                Some(_) => None,
                None => Some(()),
            };
        }
        (_, Raw::Bytes(_)) => return None,
        (_, Raw::Number(_)) if rules.is_none() => return Some(()),
        (Kind::Enum(defined), Raw::Number(number)) => {
            let Some((_, field_rules::Type::Enum(rules))) = rules else { return None };
            let value = *number as i32;
            let kept = rules.r#const.is_none_or(|equal| equal == value)
                && (!rules.defined_only() || defined.contains(&value))
                && (rules.r#in.is_empty() || rules.r#in.contains(&value))
                && !rules.not_in.contains(&value);
            return kept.then_some(());
        }
        (Kind::Double, Raw::Number(number)) => Value::F64(f64::from_bits(*number)),
        (Kind::Float, Raw::Number(number)) => Value::F32(f32::from_bits(*number as u32)),
        (Kind::Int32 | Kind::Sfixed32, Raw::Number(number)) => Value::I32(*number as i32),
        (Kind::Int64 | Kind::Sfixed64, Raw::Number(number)) => Value::I64(*number as i64),
        (Kind::Uint32 | Kind::Fixed32, Raw::Number(number)) => Value::U32(*number as u32),
        (Kind::Uint64 | Kind::Fixed64, Raw::Number(number)) => Value::U64(*number),
        (Kind::Bool, Raw::Number(number)) => Value::Bool(*number != 0),
        // Nothing in the API has rules on these.
        _ => return None,
    };
    number::check(&value, rules?.1).ok()
}

/// Checks a wrapped scalar by the rules of the field that holds it.
fn wrapper(plan: &TypePlan, bytes: &[u8], own: &Rules) -> Option<()> {
    let field = plan.fields.first()?;
    let mut rest = bytes;
    let (mut wire, mut value) = (packed_wire(&field.kind), Raw::Number(0));
    if wire == WireType::LengthDelimited {
        value = Raw::Bytes(&[]);
    }
    if !rest.is_empty() {
        let number;
        (number, wire) = decode_key(&mut rest).ok()?;
        value = raw(&mut rest, wire)?;
        if number != field.number || !rest.is_empty() {
            return None;
        }
    }
    scalar(&field.kind, wire, &value, Some(own))
}
