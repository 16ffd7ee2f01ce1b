//! Messages that come over the wire: what is wrong with them by the API's own rules, and what of them is not known.

use std::fmt;

use prost::Message as _;
use prost_reflect::{DynamicMessage, Value};

use crate::any::{parts, typed_struct_target};
use crate::descriptors::DecodeError;
use crate::load::{LineMap, resolve_typed_struct};
use crate::pb::google::protobuf::Any;
use crate::unknown::search;
use crate::validate::{Validator, WireChecker, key_text};
use crate::{Descriptors, Path, Problem};

/// Inspects messages. What is right costs a walk over its bytes; descriptors are loaded for the rest, and for types that
/// were not met before, and are held until [`Self::release`].
#[derive(Default)]
pub struct Inspector {
    wire: WireChecker,
}

impl fmt::Debug for Inspector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inspector").finish_non_exhaustive()
    }
}

/// What was found in a message.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inspected {
    /// Fields that the API does not have, as [`crate::unknown::unknown_fields`] names them.
    pub unknown: Vec<String>,
    /// Rules that are broken.
    pub problems: Vec<Problem>,
    /// The message with each `TypedStruct` resolved, when there was one.
    pub resolved: Option<Vec<u8>>,
}

impl Inspector {
    /// Inspects the encoding of a message.
    ///
    /// # Errors
    /// The message is unknown, or the bytes are not one.
    pub fn inspect(&mut self, full_name: &str, bytes: &[u8]) -> Result<Inspected, DecodeError> {
        if self.wire.is_clean(full_name, bytes) {
            return Ok(Inspected::default());
        }
        let descs = self.wire.descriptors();
        let mut message = descs.decode(full_name, bytes)?;
        let mut found = Inspected::default();
        if resolve(descs, &mut message, &Path::root(), &mut found.problems, 0) {
            let resolved = message.encode_to_vec();
            // Its descriptors may have grown with what was resolved.
            message = descs.decode(full_name, &resolved)?;
            found.resolved = Some(resolved);
        }
        search(&message, &Path::root(), &mut found.unknown);
        let lines = LineMap::default();
        found.problems.extend(Validator::default().check(&message, &lines, &Path::root()));
        Ok(found)
    }

    /// Gives the descriptors back.
    pub fn release(&mut self) {
        self.wire.release();
    }
}

/// How deep an `Any` inside an `Any` is followed.
const MAX_DEPTH: usize = 100;

/// Puts the message that a `TypedStruct` stands for in its place, wherever there is one; says whether there was.
fn resolve(
    descs: &Descriptors,
    message: &mut DynamicMessage,
    path: &Path<'_>,
    problems: &mut Vec<Problem>,
    depth: usize,
) -> bool {
    if depth > MAX_DEPTH {
        return false;
    }
    if parts(message).is_some() {
        return resolve_any(descs, message, path, problems, depth);
    }
    let mut changed = false;
    for (field, value) in message.fields_mut() {
        let at = path.field(field.name());
        match value {
            Value::Message(inner) => changed |= resolve(descs, inner, &at, problems, depth + 1),
            Value::List(items) => {
                for (index, item) in items.iter_mut().enumerate() {
                    if let Value::Message(inner) = item {
                        changed |= resolve(descs, inner, &at.index(index), problems, depth + 1);
                    }
                }
            }
            Value::Map(entries) => {
                for (key, value) in entries {
                    if let Value::Message(inner) = value {
                        changed |= resolve(descs, inner, &at.key(&key_text(key)), problems, depth + 1);
                    }
                }
            }
            _ => {}
        }
    }
    changed
}

fn resolve_any(
    descs: &Descriptors,
    message: &mut DynamicMessage,
    path: &Path<'_>,
    problems: &mut Vec<Problem>,
    depth: usize,
) -> bool {
    let mut changed = false;
    if typed_struct_target(message).is_some_and(|target| descs.knows(&target))
        && let Ok(any) = message.transcode_to::<Any>()
    {
        match resolve_typed_struct(descs, &any) {
            Ok(any) => {
                message.set_field_by_name("type_url", Value::String(any.type_url));
                message.set_field_by_name("value", Value::Bytes(any.value.into()));
                changed = true;
            }
            Err(found) => problems.extend(found.0.into_iter().map(|problem| {
                let at = path.to_string();
                let dot = if at.is_empty() || problem.path.is_empty() { "" } else { "." };
                Problem { path: format!("{at}{dot}{}", problem.path), ..problem }
            })),
        }
    }
    let Some((name, bytes)) = parts(message) else { return changed };
    let Some(Ok(mut inner)) = descs.message(name).map(|desc| DynamicMessage::decode(desc, bytes)) else {
        return changed;
    };
    if resolve(descs, &mut inner, path, problems, depth + 1) {
        message.set_field_by_name("value", Value::Bytes(inner.encode_to_vec().into()));
        changed = true;
    }
    changed
}
