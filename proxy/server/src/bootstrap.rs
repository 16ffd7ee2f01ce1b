//! From the command line to a validated bootstrap: read, merge, check by rule, convert.

use std::collections::HashSet;
use std::path::Path;

use anyhow::{Context as _, bail};
use outrider_config::convert::{self, Ledger};
use outrider_config::model;
use outrider_proto::load::{self, Loaded, ParseOptions, UnknownFields};
use outrider_proto::pb::envoy::config::bootstrap::v3::Bootstrap as Wire;
use outrider_proto::prost::Message as _;
use outrider_proto::prost_reflect::DynamicMessage;
use outrider_proto::{Descriptors, Problem, Problems, validate, walk};

use crate::options::Options;

const MESSAGE: &str = "envoy.config.bootstrap.v3.Bootstrap";

/// A bootstrap that is good, and what is worth knowing of it.
#[derive(Debug)]
pub struct LoadedBootstrap {
    /// The model that the server runs on.
    pub model: model::Bootstrap,
    /// What is inert.
    pub ledger: Ledger,
    /// The bootstrap on the wire, secrets redacted: what `/config_dump` and `/compat` expand when asked.
    pub wire: Vec<u8>,
}

/// A bootstrap as far as it could be judged, for `check`.
#[derive(Debug)]
pub(crate) struct Judged {
    pub(crate) loaded: Loaded,
    pub(crate) model: Option<model::Bootstrap>,
    pub(crate) ledger: Ledger,
    pub(crate) problems: Vec<Problem>,
}

/// Reads, merges and judges the bootstrap that `options` names.
///
/// # Errors
/// Nothing was given, a file cannot be read, or anything in it is refused: then all that is wrong, a line each.
pub fn load(options: &Options) -> anyhow::Result<LoadedBootstrap> {
    let descriptors = Descriptors::load();
    let unknown_fields =
        if options.allow_unknown_static_fields { UnknownFields::Collect } else { UnknownFields::Reject };
    let mut loaded: Option<Loaded> = None;
    if let Some(path) = &options.config_path {
        let text = read(path)?;
        let name = path.display().to_string();
        loaded = Some(load::parse(&descriptors, &text, &name, MESSAGE, ParseOptions { unknown_fields })?);
    }
    if let Some(text) = &options.config_yaml {
        let over =
            load::parse(&descriptors, text, "--config-yaml", MESSAGE, ParseOptions { unknown_fields })?;
        match &mut loaded {
            Some(loaded) => loaded.merge_over(over)?,
            None => loaded = Some(over),
        }
    }
    let Some(loaded) = loaded else {
        bail!(
            "no configuration: give a bootstrap with -c FILE or --config-yaml TEXT (or try: outrider demo)"
        );
    };
    for field in &loaded.unknown {
        tracing::warn!("unknown field {} is left out (--allow-unknown-static-fields)", field.path);
    }
    let judged = judge(loaded, options)?;
    let mut problems = judged.problems;
    if let Some(model) = &judged.model {
        problems.extend(unreadable_files(model, &judged.loaded));
    }
    if !problems.is_empty() {
        return Err(Problems(problems).into());
    }
    let mut redacted = judged.loaded.message;
    outrider_proto::redact(&descriptors, &mut redacted);
    let Some(model) = judged.model else {
        bail!("the bootstrap was refused without a reason: please report this")
    };
    Ok(LoadedBootstrap { model, ledger: judged.ledger, wire: redacted.encode_to_vec() })
}

/// Judges a message: the API's own rules first, then ours.
pub(crate) fn judge(loaded: Loaded, options: &Options) -> anyhow::Result<Judged> {
    let mut problems = validate::check(&loaded.message, &loaded.lines);
    let wire: Wire = loaded.typed().context("the bootstrap cannot be decoded")?;
    let given = |text: &Option<String>| text.clone().unwrap_or_default();
    let options = convert::Options {
        service_node: given(&options.service_node),
        service_cluster: given(&options.service_cluster),
        service_zone: given(&options.service_zone),
        disk_layers: Some(crate::runtime::read_disk_layer),
        ..convert::Options::default()
    };
    let (model, ledger) = convert::bootstrap(&wire, &options);
    let model = match model {
        Ok(model) => Some(model),
        Err(refused) => {
            for problem in refused {
                let (source, line) = loaded.lines.locate_text(&problem.path);
                // The API's own rule has already said so, in fewer words.
                if !problems.iter().any(|known| known.path == problem.path) {
                    problems.push(Problem { line, source: source.to_owned(), ..problem.clone() });
                }
            }
            None
        }
    };
    Ok(Judged { loaded, model, ledger, problems })
}

/// The files that TLS contexts name and that cannot be read, each with its line.
fn unreadable_files(model: &model::Bootstrap, loaded: &Loaded) -> Vec<Problem> {
    let downstream = model.listeners.iter().flat_map(|listener| {
        let chains = listener.filter_chains.iter().chain(&listener.default_filter_chain);
        chains.filter_map(|chain| chain.tls.as_ref().map(|tls| &tls.common))
    });
    let upstream = model.clusters.iter().flat_map(|cluster| {
        let matches = cluster.tls_matches.iter().filter_map(|one| one.tls.as_ref());
        cluster.tls.iter().chain(matches).map(|tls| &tls.common)
    });
    let sources = downstream.chain(upstream).flat_map(|tls| {
        let here = tls.certificates.iter().filter_map(model::SecretRef::here);
        let certificates = here.flat_map(|certificate| [&certificate.chain, &certificate.key]);
        let validation = tls.validation.configured();
        let validation = validation.flat_map(model::CertificateValidation::sources);
        certificates.chain(validation)
    });
    let unreadable = sources.filter_map(|source| match &source.kind {
        model::DataSourceKind::File(path) => match std::fs::read(&**path) {
            Ok(_) => None,
            Err(error) => Some((source, format!("cannot read {path:?}: {error}"))),
        },
        model::DataSourceKind::Inline(_) | model::DataSourceKind::Environment(_) => None,
    });
    let problem = |(source, message): (&model::DataSource, String)| {
        let (name, line) = loaded.lines.locate_text(&source.field);
        Problem { path: source.field.to_string(), line, source: name.to_owned(), message }
    };
    unreadable.map(problem).collect()
}

/// The message that [`LoadedBootstrap::wire`] holds.
///
/// # Errors
/// The bytes are no bootstrap, which would be a fault of ours.
pub(crate) fn expand(descriptors: &Descriptors, wire: &[u8]) -> anyhow::Result<DynamicMessage> {
    let message = descriptors.message(MESSAGE).context("the bootstrap's descriptor is missing")?;
    Ok(DynamicMessage::decode(message, wire)?)
}

/// Fields that are set and neither inert, nor refused, nor wrong.
pub(crate) fn enforced(message: &DynamicMessage, ledger: &Ledger, problems: &[Problem]) -> Vec<String> {
    let decided = ledger.inert.iter().chain(&ledger.refused).map(|(path, _)| path.as_str());
    let other: HashSet<&str> = decided.chain(problems.iter().map(|problem| problem.path.as_str())).collect();
    let decided = |path: &str| {
        let parents = path.match_indices(['.', '[']).map(|(at, _)| &path[..at]);
        parents.chain([path]).any(|parent| other.contains(parent))
    };
    let mut fields = walk::set_fields(message);
    fields.retain(|field| !decided(field));
    fields
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| {
        format!("the configuration {} cannot be read: give a readable file of YAML or JSON", path.display())
    })
}
