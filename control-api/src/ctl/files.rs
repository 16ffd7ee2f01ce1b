//! Manifests from files, folders and standard input.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::args::Files;
use super::failure::Failure;
use super::{Console, Session};
use crate::model::{Kind, documents};
use crate::pb;

/// How deep folders are followed.
const DEEPEST: usize = 32;

/// One object of a manifest.
#[derive(Clone, Debug)]
pub(super) struct Document {
    /// The file.
    pub(super) source: String,
    /// The object.
    pub(super) value: Value,
}

impl Document {
    /// What the object calls itself.
    pub(super) fn reference(&self) -> pb::Ref {
        let text = |pointer: &str| {
            self.value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
        };
        pb::Ref {
            api_version: text("/apiVersion"),
            kind: text("/kind"),
            namespace: text("/metadata/namespace"),
            name: text("/metadata/name"),
        }
    }

    /// Its kind, when it concerns a control plane.
    pub(super) fn kind(&self) -> Option<Kind> {
        let reference = self.reference();
        Kind::of_manifest(&reference.api_version, &reference.kind).ok().flatten()
    }
}

/// All objects in the files, those without a namespace in the one that is meant.
pub(super) fn read(session: &mut Session<'_, '_>, files: &Files) -> Result<Vec<Document>, Failure> {
    let mut out = Vec::new();
    for Text { source, text, of_folder } in texts(session.console, files)? {
        let before = out.len();
        parse(&source, &text, &mut out)?;
        if out.len() == before && !of_folder {
            return Err(Failure::usage(format!("{source}: there is no object in it")));
        }
    }
    let (namespace, given) = session.namespace.clone();
    for document in &mut out {
        place(document, &namespace, given)?;
    }
    Ok(out)
}

/// A file as it is.
#[derive(Clone, Debug)]
pub(super) struct Text {
    /// The file.
    pub(super) source: String,
    /// What is in it.
    pub(super) text: String,
    /// It was found in a folder, rather than named.
    of_folder: bool,
}

/// All files.
pub(super) fn texts(console: &mut Console<'_>, files: &Files) -> Result<Vec<Text>, Failure> {
    if files.filename.is_empty() {
        return Err(Failure::usage("which manifests? give files, folders or `-` by -f"));
    }
    let mut out = Vec::new();
    for path in &files.filename {
        if path.as_os_str() == "-" {
            out.push(Text { source: "-".to_owned(), text: stdin(console)?, of_folder: false });
        } else if path.is_dir() {
            let mut found = Vec::new();
            list(path, files.recursive, 0, &mut found)?;
            if found.is_empty() {
                let hint = if files.recursive { "" } else { " (with -R the folders in it are read too)" };
                return Err(Failure::usage(format!(
                    "{}: there is no .yaml, .yml or .json in it{hint}",
                    path.display()
                )));
            }
            for path in found {
                out.push(Text { source: path.display().to_string(), text: open(&path)?, of_folder: true });
            }
        } else {
            out.push(Text { source: path.display().to_string(), text: open(path)?, of_folder: false });
        }
    }
    Ok(out)
}

/// Puts an object into the namespace that is meant.
fn place(document: &mut Document, namespace: &str, given: bool) -> Result<(), Failure> {
    if document.kind().is_none_or(|kind| !kind.namespaced()) {
        return Ok(());
    }
    let reference = document.reference();
    if reference.namespace.is_empty() {
        if let Some(meta) = document.value.get_mut("metadata").and_then(Value::as_object_mut) {
            meta.insert("namespace".to_owned(), namespace.into());
        }
    } else if given && reference.namespace != namespace {
        return Err(Failure::usage(format!(
            "{}: {} {} is in namespace {:?}, and -n says {namespace:?}; leave one out",
            document.source, reference.kind, reference.name, reference.namespace
        )));
    }
    Ok(())
}

fn parse(source: &str, text: &str, out: &mut Vec<Document>) -> Result<(), Failure> {
    let values = documents(source, text).map_err(|error| Failure::refused(error.to_string()))?;
    out.extend(values.into_iter().map(|value| Document { source: source.to_owned(), value }));
    Ok(())
}

fn stdin(console: &mut Console<'_>) -> Result<String, Failure> {
    let mut text = String::new();
    console
        .input
        .read_to_string(&mut text)
        .map_err(|error| Failure::usage(format!("standard input: {error}")))?;
    Ok(text)
}

fn open(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::usage(format!("{}: {error}", path.display())))
}

/// The manifests in a folder, by name.
fn list(folder: &Path, recursive: bool, depth: usize, out: &mut Vec<PathBuf>) -> Result<(), Failure> {
    let wrong = |error: std::io::Error| Failure::usage(format!("{}: {error}", folder.display()));
    if depth > DEEPEST {
        return Err(Failure::usage(format!("{}: folders within folders within folders", folder.display())));
    }
    let entries = std::fs::read_dir(folder).map_err(wrong)?;
    let mut paths = entries.map(|it| it.map(|it| it.path())).collect::<Result<Vec<_>, _>>().map_err(wrong)?;
    paths.sort();
    for path in paths {
        let known = path.extension().is_some_and(|it| it == "yaml" || it == "yml" || it == "json");
        if path.is_dir() {
            if recursive {
                list(&path, recursive, depth + 1, out)?;
            }
        } else if known {
            out.push(path);
        }
    }
    Ok(())
}
