//! What fuzzing begins with: the bootstraps of the tests and of the examples, and the resources that are in them.

use std::path::{Path, PathBuf};

use outrider_proto::prost::Message;
use outrider_proto::prost_reflect::{DynamicMessage, ReflectMessage as _, Value};
use outrider_proto::{Descriptors, load};

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

/// How deep messages are searched.
const DEPTH: usize = 24;

/// The texts of all bootstraps.
pub fn bootstraps() -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let dirs = ["proto/tests/bootstraps", "examples"];
    let mut files: Vec<PathBuf> = dirs.iter().flat_map(|dir| list(&root.join(dir))).collect();
    files.sort();
    files.iter().filter_map(|file| std::fs::read(file).ok()).collect()
}

/// All messages of the type `name` that are in those bootstraps, encoded.
pub fn messages(name: &str) -> Vec<Vec<u8>> {
    let descriptors = Descriptors::load();
    let mut found = Vec::new();
    for text in bootstraps() {
        let text = String::from_utf8_lossy(&text);
        let loaded = load::parse(&descriptors, &text, "seed.yaml", BOOTSTRAP, load::ParseOptions::default());
        if let Ok(loaded) = loaded {
            search(&descriptors, &loaded.message, name, &mut found, 0);
        }
    }
    found.sort();
    found.dedup();
    found
}

fn search(
    descriptors: &Descriptors,
    message: &DynamicMessage,
    name: &str,
    found: &mut Vec<Vec<u8>>,
    depth: usize,
) {
    if depth > DEPTH {
        return;
    }
    let of = message.descriptor();
    if of.full_name() == name {
        found.push(message.encode_to_vec());
    }
    if of.full_name() == "google.protobuf.Any" {
        let text = message.get_field_by_name("type_url");
        let url = text.as_deref().and_then(Value::as_str).unwrap_or_default().to_owned();
        let bytes = message.get_field_by_name("value");
        let bytes = bytes.as_deref().and_then(Value::as_bytes).cloned().unwrap_or_default();
        let inner = url.rsplit('/').next().unwrap_or_default();
        if let Ok(inner) = descriptors.decode(inner, &bytes) {
            search(descriptors, &inner, name, found, depth + 1);
        }
        return;
    }
    for (_, value) in message.fields() {
        let items = match value {
            Value::List(items) => items.iter().collect(),
            Value::Map(entries) => entries.values().collect(),
            single => vec![single],
        };
        for item in items.into_iter().filter_map(Value::as_message) {
            search(descriptors, item, name, found, depth + 1);
        }
    }
}

/// The files of a directory; none when it is not there.
pub fn list(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect()
}
