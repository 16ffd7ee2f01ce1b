//! The folders, and what is asked of each.

use base64::Engine as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use outrider_control::model::{documents, read_value};
use outrider_control::translate::{Context, Resources, Type, translate};
use outrider_control::world::{Proxy, World};
use outrider_proto::load::{ParseOptions, parse};
use outrider_proto::pb::envoy::config::core::v3::Node;
use outrider_proto::prost_reflect::DynamicMessage;
use outrider_proto::{Descriptors, to_json};
use serde_json::{Map, Value};

use crate::{bootstrap, judge};

/// One folder.
struct Case {
    name: String,
    folder: PathBuf,
}

/// Texts in place of their placeholders.
struct Certificates(Vec<(&'static str, String)>);

impl Certificates {
    fn new() -> Self {
        let names = vec!["shop.example.com".to_owned(), "*.example.com".to_owned()];
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed(names).unwrap();
        let (cert, key) = (cert.pem(), signing_key.serialize_pem());
        Self(vec![("@CERT@", cert.clone()), ("@KEY@", key), ("@CA@", cert + "\n")])
    }

    /// Into YAML, in double quotes.
    fn fill(&self, mut text: String) -> String {
        for (mark, pem) in &self.0 {
            text = text.replace(mark, &pem.replace('\r', "").replace('\n', "\\n"));
        }
        text
    }

    /// Out of JSON again.
    fn hide(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                // As text, or as bytes, which JSON has in base64.
                let bytes = base64::engine::general_purpose::STANDARD.decode(text.trim()).ok();
                let decoded = bytes.and_then(|bytes| String::from_utf8(bytes).ok());
                let plain = decoded.as_deref().unwrap_or(text).replace('\r', "");
                let found = self.0.iter().find(|(_, pem)| pem.trim() == plain.trim());
                if let Some((mark, _)) = found {
                    *text = (*mark).to_owned();
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|it| self.hide(it)),
            Value::Object(fields) => fields.values_mut().for_each(|it| self.hide(it)),
            _ => {}
        }
    }
}

fn cases() -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden");
    let mut out: Vec<Case> = fs::read_dir(root)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_dir())
        .map(|folder| Case { name: folder.file_name().unwrap().to_string_lossy().into_owned(), folder })
        .collect();
    out.sort_by(|a, b| a.name.cmp(&b.name));
    assert!(!out.is_empty());
    out
}

impl Case {
    fn read(&self, file: &str) -> String {
        let path = self.folder.join(file);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    }

    /// All that the proxy gets.
    fn translate(&self, descriptors: &Descriptors, certificates: &Certificates) -> Resources {
        let text = certificates.fill(self.read("world.yaml"));
        let objects = documents("world.yaml", &text).unwrap().into_iter().filter_map(|document| {
            read_value("world.yaml", document, "default")
                .unwrap_or_else(|problems| panic!("{}: {problems:#?}", self.name))
        });
        let context = Context::of(Arc::new(World::of(objects.collect::<Vec<_>>())));
        let options = ParseOptions::default();
        let node =
            parse(descriptors, &self.read("node.yaml"), "node.yaml", "envoy.config.core.v3.Node", options);
        let node: Node = node.unwrap_or_else(|problems| panic!("{}: {problems}", self.name)).typed().unwrap();
        translate(&context, &Proxy::from_node(&node).unwrap())
    }
}

/// Resources as JSON: by type, in the order of their names.
fn json(descriptors: &Descriptors, resources: &Resources) -> Value {
    let mut out = Map::new();
    for kind in Type::ALL {
        let descriptor = descriptors.message(kind.message()).unwrap();
        let all = resources.of(kind).iter().map(|resource| {
            let message = DynamicMessage::decode(descriptor.clone(), resource.body.clone()).unwrap();
            sorted(to_json(descriptors, &message))
        });
        let all: Vec<Value> = all.collect();
        if !all.is_empty() {
            out.insert(format!("{kind:?}"), Value::Array(all));
        }
    }
    Value::Object(out)
}

/// With the keys of all maps in order.
fn sorted(value: Value) -> Value {
    match value {
        Value::Array(items) => Value::Array(items.into_iter().map(sorted).collect()),
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.into_iter().map(|(key, value)| (key, sorted(value))).collect();
            fields.sort_by(|a, b| a.0.cmp(&b.0));
            Value::Object(fields.into_iter().collect())
        }
        other => other,
    }
}

#[test]
fn translations_are_what_the_files_say() {
    let (descriptors, certificates) = (Descriptors::load(), Certificates::new());
    let update = std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1");
    let mut wrong = Vec::new();
    for case in cases() {
        let resources = case.translate(&descriptors, &certificates);
        let again = case.translate(&descriptors, &certificates);
        assert_eq!(resources, again, "{}: the same world gives the same bytes", case.name);
        let mut found = json(&descriptors, &resources);
        certificates.hide(&mut found);
        let text = serde_saphyr::to_string(&found).unwrap();
        let path = case.folder.join("expected.yaml");
        if update {
            fs::write(path, text).unwrap();
            continue;
        }
        let expected = fs::read_to_string(&path).unwrap_or_default();
        if expected != text {
            let diff = similar::TextDiff::from_lines(&expected, &text);
            wrong.push(format!("{}:\n{}", case.name, diff.unified_diff().context_radius(4)));
        }
    }
    assert!(wrong.is_empty(), "UPDATE_GOLDEN=1 takes over what changed:\n{}", wrong.join("\n"));
}

#[test]
fn envoy_takes_them() {
    let Some(envoy) = judge::envoy() else { return };
    each(|path| judge::run(std::process::Command::new(&envoy).args(["--mode", "validate", "-c"]).arg(path)));
}

#[test]
fn outrider_takes_them() {
    let outrider = outrider_tests::binary::outrider().unwrap();
    each(|path| judge::run(std::process::Command::new(&outrider).arg("check").arg(path)));
}

/// Each case as a bootstrap; what `judge` says against it is an error.
fn each(judge: impl Fn(&Path) -> Result<(), String>) {
    let (descriptors, certificates) = (Descriptors::load(), Certificates::new());
    let mut wrong = Vec::new();
    for case in cases() {
        let resources = json(&descriptors, &case.translate(&descriptors, &certificates));
        let bootstrap = bootstrap::of(resources);
        let file = judge::scratch(&case.name, &serde_json::to_string_pretty(&bootstrap).unwrap());
        if let Err(said) = judge(&file) {
            wrong.push(format!("{} ({}):\n{said}", case.name, file.display()));
        } else {
            let _ = fs::remove_file(file);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
