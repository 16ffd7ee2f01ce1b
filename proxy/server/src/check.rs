//! `outrider check`: what each field of a file would do here.

use std::io::Write;
use std::path::Path;

use anyhow::{Context as _, bail};
use outrider_proto::load::{self, ParseOptions, UnknownFields};
use outrider_proto::{Descriptors, Problem};
use serde_json::{Value, json};

use crate::bootstrap;
use crate::options::Options;

/// Judges `file`, prints the ledger, and says whether nothing in it is refused.
///
/// # Errors
/// The file cannot be read or is no bootstrap and no config_dump, or the ledger cannot be printed.
pub fn run(file: &Path, as_json: bool, out: &mut dyn Write) -> anyhow::Result<bool> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{} cannot be read", file.display()))?;
    let name = file.display().to_string();
    let sheet = judge(&text, &name)?;
    if as_json {
        sheet.print_json(out)?
    } else {
        sheet.print(&name, out)?
    }
    Ok(sheet.refused.is_empty())
}

/// A ledger, ready to print.
#[derive(Debug, Default)]
pub(crate) struct Sheet {
    pub(crate) enforced: Vec<String>,
    pub(crate) inert: Vec<(String, String)>,
    pub(crate) refused: Vec<Problem>,
}

fn judge(text: &str, name: &str) -> anyhow::Result<Sheet> {
    let text = match from_config_dump(text) {
        Some(bootstrap) => bootstrap?,
        None => text.to_owned(),
    };
    let descriptors = Descriptors::load();
    // Unknown fields are collected, so that one of them does not hide what the rest would do.
    let options = ParseOptions { unknown_fields: UnknownFields::Collect };
    let loaded = match load::parse(&descriptors, &text, name, "envoy.config.bootstrap.v3.Bootstrap", options)
    {
        Ok(loaded) => loaded,
        Err(problems) => return Ok(Sheet { refused: problems.0, ..Sheet::default() }),
    };
    let mut refused: Vec<Problem> = loaded
        .unknown
        .iter()
        .map(|field| Problem {
            path: field.path.clone(),
            line: field.line,
            source: field.source.clone(),
            message: "Envoy's API has no such field".into(),
        })
        .collect();
    let judged = bootstrap::judge(loaded, &Options::default())?;
    refused.extend(judged.problems);
    let enforced = bootstrap::enforced(&judged.loaded.message, &judged.ledger, &refused);
    Ok(Sheet { enforced, inert: judged.ledger.inert, refused })
}

/// The bootstrap inside a saved `/config_dump`, with the listeners, clusters and secrets that came by xDS put among
/// the static ones; `None` when the text is no config_dump.
fn from_config_dump(text: &str) -> Option<anyhow::Result<String>> {
    let dump: Value = serde_json::from_str(text).ok()?;
    let configs = dump.get("configs")?.as_array()?;
    let of_type = |name: &str| {
        configs.iter().find(|config| config["@type"].as_str().is_some_and(|t| t.ends_with(name)))
    };
    let mut bootstrap = match of_type("BootstrapConfigDump").and_then(|config| config.get("bootstrap")) {
        Some(bootstrap) => bootstrap.clone(),
        None => json!({}),
    };
    let lists = [
        ("ListenersConfigDump", "listeners", vec![("dynamic_listeners", vec!["active_state", "listener"])]),
        ("ClustersConfigDump", "clusters", vec![("dynamic_active_clusters", vec!["cluster"])]),
        ("SecretsConfigDump", "secrets", vec![("dynamic_active_secrets", vec!["secret"])]),
    ];
    for (dump_type, target, sources) in lists {
        let Some(config) = of_type(dump_type) else { continue };
        for (list, path) in sources {
            for entry in config[list].as_array().into_iter().flatten() {
                let mut resource = path.iter().try_fold(entry, |value, key| value.get(*key)).cloned();
                if let Some(object) = resource.as_mut().and_then(Value::as_object_mut) {
                    object.remove("@type");
                }
                let Some(resource) = resource else { continue };
                match bootstrap["static_resources"][target].as_array_mut() {
                    Some(list) => list.push(resource),
                    None => bootstrap["static_resources"][target] = json!([resource]),
                }
            }
        }
    }
    if bootstrap.as_object().is_none_or(serde_json::Map::is_empty) {
        return Some(Err(anyhow::anyhow!("the config_dump has no bootstrap, listener or cluster in it")));
    }
    Some(serde_json::to_string_pretty(&bootstrap).map_err(Into::into))
}

impl Sheet {
    pub(crate) fn print(&self, name: &str, out: &mut dyn Write) -> std::io::Result<()> {
        writeln!(
            out,
            "{name}: {} enforced, {} inert, {} refused",
            self.enforced.len(),
            self.inert.len(),
            self.refused.len()
        )?;
        for path in &self.enforced {
            writeln!(out, "enforced  {path}")?;
        }
        for (path, why) in &self.inert {
            writeln!(out, "inert     {path}: {why}")?;
        }
        for problem in &self.refused {
            writeln!(out, "refused   {problem}")?;
        }
        Ok(())
    }

    pub(crate) fn json(&self) -> Value {
        json!({
            "enforced": self.enforced,
            "inert": self.inert.iter().map(|(path, why)| json!({"path": path, "why": why})).collect::<Vec<_>>(),
            "refused": self.refused.iter().map(|problem| json!({
                "path": problem.path, "line": problem.line, "why": problem.message,
            })).collect::<Vec<_>>(),
        })
    }

    fn print_json(&self, out: &mut dyn Write) -> anyhow::Result<()> {
        if let Err(error) = serde_json::to_writer_pretty(&mut *out, &self.json()) {
            bail!("the ledger cannot be printed: {error}");
        }
        Ok(writeln!(out)?)
    }
}
