//! Prunes the descriptor set that ships inside the `envoy-types` package and lays it out for lazy loading.
//!
//! The set is the one the Rust types were generated from, so message and descriptor can never disagree. What a
//! proxy never reads (comments, source positions, language options, services, API-lifecycle annotations) is
//! dropped; what it does read (PGV rules, `sensitive`, deprecation marks) stays. The result is two files in
//! `OUT_DIR`: `descriptors.bin`, one encoded file descriptor after the other, and `index.txt`, which says where
//! each file lies, what it imports, and in which file each message lives.

use std::{
    collections::HashMap,
    env,
    error::Error,
    fmt::Write as _,
    fs,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    path::{Path, PathBuf},
    process::Command,
};

use prost::Message as _;
use prost_reflect::{DescriptorPool, DynamicMessage, ReflectMessage as _, Value};

#[path = "build/extra.rs"]
mod extra;

type Outcome<T> = Result<T, Box<dyn Error>>;

/// The descriptor set inside the package.
const DESCRIPTOR_SET: &str = "src/generated/types.bin";

/// Option fields (plain ones by name) that something at run time reads.
const KEPT_OPTIONS: &[&str] = &["map_entry", "packed", "deprecated", "allow_alias"];

/// Option extensions that something at run time reads.
const KEPT_EXTENSIONS: &[&str] = &[
    "validate.rules",
    "validate.required",
    "validate.disabled",
    "validate.ignored",
    "udpa.annotations.sensitive",
    "envoy.annotations.disallowed_by_default",
    "envoy.annotations.disallowed_by_default_enum",
];

/// Imports that exist only for annotations which are dropped.
const DROPPED_IMPORTS: &[&str] = &[
    "udpa/annotations/status.proto",
    "udpa/annotations/versioning.proto",
    "udpa/annotations/migrate.proto",
    "udpa/annotations/security.proto",
    "xds/annotations/v3/status.proto",
    "envoy/annotations/resource.proto",
    "google/api/annotations.proto",
];

fn main() -> Outcome<()> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=build");
    println!("cargo:rerun-if-changed=../Cargo.lock");
    println!("cargo:rerun-if-env-changed=OUTRIDER_ENVOY_TYPES_DIR");

    let out = PathBuf::from(env::var("OUT_DIR")?);
    let package = find_envoy_types()?;
    let source = package.join(DESCRIPTOR_SET);
    println!("cargo:rerun-if-changed={}", source.display());

    // The lock file changes often, the package seldom: do the work once per package.
    let stamp = out.join("stamp");
    let mut hasher = DefaultHasher::new();
    (include_str!("build.rs"), include_str!("build/extra.rs")).hash(&mut hasher);
    let key = format!("{}\n{:x}", source.display(), hasher.finish());
    let done = out.join("index.txt").exists() && out.join("descriptors.bin").exists();
    if done && fs::read_to_string(&stamp).is_ok_and(|old| old == key) {
        return Ok(());
    }

    let bytes = fs::read(&source).map_err(|error| {
        format!("{}: {error}; this envoy-types release does not ship its descriptor set", source.display())
    })?;
    let (blob, index) = prune(&bytes)?;
    fs::write(out.join("descriptors.bin"), blob)?;
    fs::write(out.join("index.txt"), index)?;
    fs::write(stamp, key)?;
    Ok(())
}

/// Finds the folder of the `envoy-types` package in use, wherever cargo keeps it (registry, vendored, path).
fn find_envoy_types() -> Outcome<PathBuf> {
    if let Ok(dir) = env::var("OUTRIDER_ENVOY_TYPES_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let manifest_dir = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?);
    if let Some(dir) = in_registry(&manifest_dir) {
        return Ok(dir);
    }
    // Offline first: a build script should not need the network. `--filter-platform` keeps cargo from asking
    // for packages of other platforms, which nobody downloaded.
    let mut failures = String::new();
    for extra in [&["--offline"][..], &[]] {
        match metadata(&manifest_dir, extra) {
            Ok(dir) => return Ok(dir),
            Err(error) => writeln!(failures, "{error}")?,
        }
    }
    Err(format!(
        "cannot find the envoy-types package; set OUTRIDER_ENVOY_TYPES_DIR to its folder\n{failures}"
    )
    .into())
}

/// Looks where cargo unpacks what it compiles from a registry: cheap, and right for all but vendored packages.
fn in_registry(manifest_dir: &Path) -> Option<PathBuf> {
    let lock = fs::read_to_string(manifest_dir.join("../Cargo.lock")).ok()?;
    let entry = lock.split("[[package]]").find(|entry| entry.contains("name = \"envoy-types\""))?;
    let version = entry.lines().find_map(|line| line.strip_prefix("version = "))?.trim_matches('"');
    let home = env::var("CARGO_HOME")
        .map(PathBuf::from)
        .or_else(|_| env::var("HOME").map(|home| Path::new(&home).join(".cargo")));
    let registries = fs::read_dir(home.ok()?.join("registry/src")).ok()?;
    let package = format!("envoy-types-{version}");
    registries
        .filter_map(|registry| Some(registry.ok()?.path().join(&package)))
        .find(|dir| dir.join(DESCRIPTOR_SET).exists())
}

fn metadata(manifest_dir: &Path, extra: &[&str]) -> Outcome<PathBuf> {
    let cargo = env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .current_dir(manifest_dir)
        .args(["metadata", "--format-version", "1", "--filter-platform", &env::var("TARGET")?])
        .args(extra)
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let json: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let manifest = json["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("cargo metadata lists no envoy-types")?;
    Ok(Path::new(manifest).parent().ok_or("a manifest without a folder")?.to_path_buf())
}

/// Returns the blob of pruned files and the index over it.
fn prune(bytes: &[u8]) -> Outcome<(Vec<u8>, String)> {
    let mut pool = DescriptorPool::decode(bytes)?;
    pool.add_file_descriptor_protos(extra::files())?;
    let set = pool.get_message_by_name("google.protobuf.FileDescriptorSet").ok_or("no descriptor.proto")?;
    let file_desc =
        pool.get_message_by_name("google.protobuf.FileDescriptorProto").ok_or("no descriptor.proto")?;
    let set = DynamicMessage::decode(set, bytes)?;
    let mut files: Vec<DynamicMessage> = list(&set, "file");
    for file in extra::files() {
        files.push(DynamicMessage::decode(file_desc.clone(), file.encode_to_vec().as_slice())?);
    }

    let numbers: HashMap<String, usize> =
        files.iter().enumerate().map(|(at, file)| (text(file, "name"), at)).collect();
    let (mut blob, mut lines, mut messages) = (Vec::new(), String::new(), Vec::new());
    for (at, file) in files.iter_mut().enumerate() {
        strip_file(file);
        let start = blob.len();
        file.encode(&mut blob)?;
        write!(lines, "F {start} {}", blob.len() - start)?;
        for import in strings(file, "dependency") {
            let number = numbers.get(&import).ok_or_else(|| format!("missing import {import}"))?;
            write!(lines, " {number}")?;
        }
        writeln!(lines)?;
        let package = text(file, "package");
        for message in list(file, "message_type") {
            messages.push((format!("{package}.{}", text(&message, "name")), at));
        }
    }
    messages.sort();
    for (name, at) in messages {
        writeln!(lines, "M {name} {at}")?;
    }
    Ok((blob, lines))
}

fn strip_file(file: &mut DynamicMessage) {
    // Public imports are numbered by their place in the list of imports: leave such a list alone.
    let public = file
        .get_field_by_name("public_dependency")
        .is_some_and(|it| it.as_list().is_some_and(|it| !it.is_empty()));
    let imports = strings(file, "dependency")
        .into_iter()
        .filter(|import| public || !DROPPED_IMPORTS.contains(&import.as_str()))
        .map(Value::String)
        .collect();
    file.set_field_by_name("dependency", Value::List(imports));
    for field in ["service", "options", "source_code_info"] {
        file.clear_field_by_name(field);
    }
    strip_options(file);
}

/// Drops, in every `options` below `message`, all that nobody reads; and JSON names, which follow from the names.
fn strip_options(message: &mut DynamicMessage) {
    if message.descriptor().full_name() == "google.protobuf.FieldDescriptorProto" {
        let derived = camel(&text(message, "name"));
        if text(message, "json_name") == derived {
            message.clear_field_by_name("json_name");
        }
    }
    let fields: Vec<_> = message.fields().map(|(field, _)| field).collect();
    for field in fields {
        if field.name() == "options" {
            let Value::Message(options) = message.get_field_mut(&field) else { continue };
            let plain: Vec<_> = options.fields().map(|(field, _)| field).collect();
            for field in plain.iter().filter(|field| !KEPT_OPTIONS.contains(&field.name())) {
                options.clear_field(field);
            }
            let extensions: Vec<_> = options.extensions().map(|(extension, _)| extension).collect();
            for extension in extensions.iter().filter(|it| !KEPT_EXTENSIONS.contains(&it.full_name())) {
                options.clear_extension(extension);
            }
            if options.fields().next().is_none() && options.extensions().next().is_none() {
                message.clear_field(&field);
            }
            continue;
        }
        match message.get_field_mut(&field) {
            Value::Message(inner) => strip_options(inner),
            Value::List(items) => items.iter_mut().filter_map(Value::as_message_mut).for_each(strip_options),
            _ => {}
        }
    }
}

/// The default JSON name of a field, as protoc derives it.
fn camel(name: &str) -> String {
    let (mut out, mut upper) = (String::new(), false);
    for c in name.chars() {
        if c == '_' {
            upper = true;
        } else if std::mem::take(&mut upper) {
            out.push(c.to_ascii_uppercase());
        } else {
            out.push(c);
        }
    }
    out
}

fn text(message: &DynamicMessage, field: &str) -> String {
    message.get_field_by_name(field).and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

fn list(message: &DynamicMessage, field: &str) -> Vec<DynamicMessage> {
    let value = message.get_field_by_name(field);
    let items = value.as_ref().and_then(|value| value.as_list()).unwrap_or_default();
    items.iter().filter_map(|item| item.as_message().cloned()).collect()
}

fn strings(message: &DynamicMessage, field: &str) -> Vec<String> {
    let value = message.get_field_by_name(field);
    let items = value.as_ref().and_then(|value| value.as_list()).unwrap_or_default();
    items.iter().map(|item| item.as_str().map_or_else(|| "?".to_owned(), str::to_owned)).collect()
}
