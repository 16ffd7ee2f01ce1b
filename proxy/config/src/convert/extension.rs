//! Filters whose settings a control plane sends by themselves: where they come from, and what comes.

use std::sync::Arc;

use outrider_proto::pb::envoy::config::core::v3 as pb;
use outrider_proto::pb::google::protobuf::Any;
use outrider_proto::{Path, any};

use super::cx::Cx;
use super::scalar::type_of;
use super::xds::config_source;
use super::{filter_chain, http_filter, listener_filter};
use crate::model::{Discovered, Extension, ExtensionFilter};

/// What the message of a filter turned out to be.
pub(super) enum Found<T> {
    /// Of a filter that we have; `None`, and an error, when it is not usable.
    Known(Option<T>),
    /// Of none.
    Unknown,
}

/// The filter `name` that comes from elsewhere. `types` are those that a filter of its kind may have; `convert` reads
/// one of them.
pub(super) fn discovered<T>(
    cx: &Cx,
    path: &Path<'_>,
    name: &str,
    message: &pb::ExtensionConfigSource,
    types: &[&str],
    convert: impl FnOnce(&Cx, &Path<'_>, &Any) -> Found<T>,
) -> Option<Arc<Discovered<T>>> {
    let pb::ExtensionConfigSource {
        config_source: source,
        default_config,
        apply_default_config_without_warming: without_warming,
        type_urls,
    } = message;
    let urls = path.field("type_urls");
    for (i, url) in type_urls.iter().enumerate() {
        if !types.contains(&any::type_name(url)) {
            let why = format!("a filter of type {} is not supported here", any::type_name(url));
            cx.refuse(&urls.index(i), why);
        }
    }
    if type_urls.is_empty() {
        cx.error(&urls, "the types that may come are needed");
    }
    let names: Vec<Arc<str>> = type_urls.iter().map(|url| Arc::from(any::type_name(url))).collect();
    let at = path.field("default_config");
    if *without_warming && default_config.is_none() {
        cx.error(&at, "it is needed with apply_default_config_without_warming");
    }
    let mut default = None;
    if let Some(message) = default_config {
        if !names.iter().any(|name| **name == *type_of(message)) {
            cx.error(&at, format!("its type {} is not one of type_urls", type_of(message)));
        }
        match convert(cx, &at, message) {
            Found::Known(known) => default = Some(known?),
            Found::Unknown => cx.refuse(&at, format!("the filter {} is not supported", type_of(message))),
        }
    }
    let at = path.field("config_source");
    let Some(source) = source else {
        cx.error(&at, "a source of the filter's settings is needed");
        return None;
    };
    let source = config_source(cx, &at, source)?;
    Some(Arc::new(Discovered {
        source,
        name: Arc::from(name),
        default,
        without_warming: *without_warming,
        types: names,
    }))
}

/// What came for a filter, and the name that it came under.
pub(crate) fn extension(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::TypedExtensionConfig,
) -> Option<(Arc<str>, Extension)> {
    let pb::TypedExtensionConfig { name, typed_config } = message;
    let path = path.field("typed_config");
    let Some(message) = typed_config else {
        cx.error(&path, "settings with their @type are needed");
        return None;
    };
    let filter = match http_filter::kind(cx, &path, message) {
        Found::Known(kind) => ExtensionFilter::Http(kind?),
        Found::Unknown => match filter_chain::kind(cx, &path, message) {
            Found::Known(filter) => ExtensionFilter::Network(filter?),
            Found::Unknown => match listener_filter::known(cx, &path, message) {
                Found::Known(kind) => ExtensionFilter::Listener(kind?),
                Found::Unknown => {
                    cx.refuse(&path, format!("the filter {} is not supported", type_of(message)));
                    return None;
                }
            },
        },
    };
    let type_name = Arc::from(type_of(message));
    Some((Arc::from(name.as_str()), Extension { filter, type_name }))
}
