//! The descriptors of Envoy's API, loaded file by file as they are asked for.
//!
//! The pruned descriptor set lies uncompressed in the binary, so what is not asked for costs nothing but address
//! space. A [`Descriptors`] value holds what was decoded so far; dropping it gives the memory back, which is why it
//! is a value and not a static: a proxy needs it while it loads configuration and hardly ever after.

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::{Mutex, PoisonError},
};

use prost_reflect::{DescriptorPool, DynamicMessage, MessageDescriptor, ReflectMessage as _, Value};

use crate::any;

/// The pruned file descriptors, one after the other.
static BLOB: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// Where each file lies in [`BLOB`], what it imports, and which file holds which message.
static INDEX: &str = include_str!(concat!(env!("OUT_DIR"), "/index.txt"));

/// A source of message descriptors that decodes only the files it needs.
pub struct Descriptors {
    files: Vec<File>,
    /// Top-level messages by full name, and the number of their file.
    messages: HashMap<&'static str, usize>,
    state: Mutex<State>,
}

struct File {
    bytes: &'static [u8],
    imports: Vec<usize>,
}

struct State {
    pool: DescriptorPool,
    loaded: Vec<bool>,
}

impl fmt::Debug for Descriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Descriptors").field("files", &self.files.len()).finish_non_exhaustive()
    }
}

impl Default for Descriptors {
    fn default() -> Self {
        Self::load()
    }
}

impl Descriptors {
    /// Reads the index; no descriptor is decoded yet.
    pub fn load() -> Self {
        let (mut files, mut messages) = (Vec::new(), HashMap::new());
        for line in INDEX.lines() {
            let mut words = line.split(' ');
            match words.next() {
                Some("F") => {
                    let mut numbers = words.filter_map(|word| word.parse::<usize>().ok());
                    let (start, len) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
                    let bytes = BLOB.get(start..start + len).unwrap_or_default();
                    files.push(File { bytes, imports: numbers.collect() });
                }
                Some("M") => {
                    if let (Some(name), Some(Ok(file))) = (words.next(), words.next().map(str::parse)) {
                        messages.insert(name, file);
                    }
                }
                _ => {}
            }
        }
        let loaded = vec![false; files.len()];
        Self { files, messages, state: Mutex::new(State { pool: DescriptorPool::new(), loaded }) }
    }

    /// The descriptor of the message with this full name (`envoy.config.bootstrap.v3.Bootstrap`), or `None` if
    /// Envoy's API has no such message.
    ///
    /// Descriptors obtained before and after further files were decoded belong to different pools and do not
    /// compare equal; take them together with [`Self::pool_with`] where that matters.
    pub fn message(&self, full_name: &str) -> Option<MessageDescriptor> {
        self.pool_with([full_name]).get_message_by_name(full_name)
    }

    /// Whether Envoy's API has a message of this full name. Decodes nothing, so a nested message counts as known
    /// when its outermost message is.
    pub fn knows(&self, full_name: &str) -> bool {
        self.file_of(full_name).is_some()
    }

    /// The known messages whose last name segment is `name`, nearest first: what a mistyped package meant.
    pub fn similar(&self, full_name: &str) -> Vec<&'static str> {
        let last = full_name.rsplit('.').next().unwrap_or(full_name);
        let mut found: Vec<_> =
            self.messages.keys().copied().filter(|known| known.rsplit('.').next() == Some(last)).collect();
        found.sort_by_key(|known| (crate::suggest::distance(full_name, known), *known));
        found
    }

    /// A pool in which every message of `names` that exists is decoded, with all that it refers to.
    pub fn pool_with<'n>(&self, names: impl IntoIterator<Item = &'n str>) -> DescriptorPool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let mut wanted = Vec::new();
        for file in names.into_iter().filter_map(|name| self.file_of(name)) {
            self.collect(file, &mut state.loaded, &mut wanted);
        }
        if !wanted.is_empty() {
            let set = encode_set(wanted.iter().filter_map(|&file| self.files.get(file)));
            // The set is our own and a test decodes all of it: an error here cannot come from outside. Should it
            // happen, the message is reported as unknown.
            let _ = state.pool.decode_file_descriptor_set(set.as_slice());
        }
        state.pool.clone()
    }

    /// Decodes bytes, and every descriptor that an `Any` inside them needs, so that reflection over the result can
    /// go all the way down.
    ///
    /// # Errors
    /// The message is unknown, or the bytes are not one.
    pub fn decode(&self, full_name: &str, bytes: &[u8]) -> Result<DynamicMessage, DecodeError> {
        let mut names = BTreeSet::from([full_name.to_owned()]);
        loop {
            let pool = self.pool_with(names.iter().map(String::as_str));
            let desc = pool
                .get_message_by_name(full_name)
                .ok_or_else(|| DecodeError::Unknown(full_name.to_owned()))?;
            let message = DynamicMessage::decode(desc, bytes)
                .map_err(|error| DecodeError::Malformed(full_name.to_owned(), error.to_string()))?;
            let before = names.len();
            any_types(&message, &mut names);
            if names.len() == before {
                return Ok(message);
            }
        }
    }

    /// How many of the files are decoded, and how many there are.
    pub fn decoded_files(&self) -> (usize, usize) {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.loaded.iter().filter(|&&loaded| loaded).count(), self.files.len())
    }

    /// The full names of all top-level messages, unordered.
    pub fn names(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.messages.keys().copied()
    }

    /// Finds the file of a message, nested or not.
    fn file_of(&self, full_name: &str) -> Option<usize> {
        let mut name = full_name;
        loop {
            if let Some(&file) = self.messages.get(name) {
                return Some(file);
            }
            name = name.rsplit_once('.')?.0;
        }
    }

    /// Appends `file` and what it imports to `wanted`, imports first. Imports form no cycle, and the deepest chain
    /// of them is short.
    fn collect(&self, file: usize, loaded: &mut [bool], wanted: &mut Vec<usize>) {
        let Some(flag) = loaded.get_mut(file) else { return };
        if std::mem::replace(flag, true) {
            return;
        }
        for &import in self.files.get(file).map_or(&[][..], |file| &file.imports) {
            self.collect(import, loaded, wanted);
        }
        wanted.push(file);
    }
}

/// Why bytes are not the message they were said to be.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Envoy's API has no such message.
    #[error("no message named {0} in Envoy's API")]
    Unknown(String),
    /// The bytes are not an encoding of the message.
    #[error("malformed {0}: {1}")]
    Malformed(String, String),
}

/// Encodes a `FileDescriptorSet` from encoded files: field 1, length-delimited, for each.
fn encode_set<'f>(files: impl Iterator<Item = &'f File>) -> Vec<u8> {
    let mut set = Vec::new();
    for file in files {
        set.push(0x0a);
        prost::encoding::encode_varint(file.bytes.len() as u64, &mut set);
        set.extend_from_slice(file.bytes);
    }
    set
}

/// Adds the full name of every message that an `Any` in `message` carries, as far as it can be decoded.
fn any_types(message: &DynamicMessage, names: &mut BTreeSet<String>) {
    if let Some((name, bytes)) = any::parts(message) {
        names.insert(name.to_owned());
        if let Some(desc) = message.descriptor().parent_pool().get_message_by_name(name)
            && let Ok(inner) = DynamicMessage::decode(desc, bytes)
        {
            any_types(&inner, names);
        }
        if let Some(target) = any::typed_struct_target(message) {
            names.insert(target);
        }
        return;
    }
    for (_, value) in message.fields() {
        each_message(value, &mut |inner| any_types(inner, names));
    }
}

/// Calls `visit` for each message directly inside a field's value.
pub(crate) fn each_message(value: &Value, visit: &mut impl FnMut(&DynamicMessage)) {
    match value {
        Value::Message(inner) => visit(inner),
        Value::List(items) => items.iter().filter_map(Value::as_message).for_each(visit),
        Value::Map(entries) => entries.values().filter_map(Value::as_message).for_each(visit),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_decoded_when_asked_for() {
        let descs = Descriptors::load();
        assert_eq!(descs.decoded_files().0, 0);
        assert!(descs.message("envoy.config.core.v3.Address").is_some());
        let (some, all) = descs.decoded_files();
        assert!(some > 0 && some < all / 4, "{some} of {all}");
        assert!(descs.message("envoy.config.cluster.v3.Cluster.LbPolicyyy").is_none());
        assert!(descs.message("no.such.Message").is_none());
        assert!(descs.message("xds.type.v3.TypedStruct").is_some());
    }

    #[test]
    fn every_message_can_be_had() {
        let descs = Descriptors::load();
        let names: Vec<&str> = descs.names().collect();
        assert!(names.len() > 1000, "{}", names.len());
        let pool = descs.pool_with(names.iter().copied());
        for name in names {
            assert!(pool.get_message_by_name(name).is_some(), "{name}");
        }
    }

    #[test]
    fn a_wrong_package_is_recognised() {
        let near = Descriptors::load().similar("envoy.config.filter.http.router.v2.Router");
        assert_eq!(near.first(), Some(&"envoy.extensions.filters.http.router.v3.Router"));
    }
}
