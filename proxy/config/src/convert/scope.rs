//! Scoped routes.

use std::sync::Arc;

use outrider_core::matcher::HeaderRef;
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::route::v3 as pb;
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm_pb;

use super::cx::{Cx, refuse};
use super::route;
use super::xds::config_source;
use crate::model::{
    Extract, HeaderValueExtractor, Scope, ScopeKeyBuilder, ScopeRoutes, ScopedRoutes, Scopes,
};

const XDSTP: &str = "xdstp:// resource names are not supported; name resources plainly";

/// The scoped routes of a connection manager.
pub(crate) fn scoped_routes(
    cx: &Cx,
    path: &Path<'_>,
    message: &hcm_pb::ScopedRoutes,
) -> Option<ScopedRoutes> {
    use hcm_pb::scoped_routes::ConfigSpecifier;
    let hcm_pb::ScopedRoutes { name, scope_key_builder, rds_config_source, config_specifier } = message;
    let key = key_builder(cx, &path.field("scope_key_builder"), scope_key_builder.as_ref());
    let source = |field: &str, message: &_| config_source(cx, &path.field(field), message);
    let tables = rds_config_source.as_ref().map(|message| source("rds_config_source", message));
    let scopes = match config_specifier {
        Some(ConfigSpecifier::ScopedRouteConfigurationsList(message)) => {
            let hcm_pb::ScopedRouteConfigurationsList { scoped_route_configurations } = message;
            if let Some(Some(_)) = tables {
                cx.inert(&path.field("rds_config_source"), "scopes in a list have their tables with them");
            }
            let path = path.field("scoped_route_configurations_list");
            let path = path.field("scoped_route_configurations");
            let scopes = scoped_route_configurations.iter().enumerate();
            let scopes = scopes.map(|(i, message)| inline(cx, &path.index(i), message));
            // All are looked at before one of them decides.
            let scopes: Vec<Option<Scope>> = scopes.collect();
            Scopes::Inline(scopes.into_iter().map(|scope| scope.map(Arc::new)).collect::<Option<_>>()?)
        }
        Some(ConfigSpecifier::ScopedRds(message)) => {
            let path = path.field("scoped_rds");
            let hcm_pb::ScopedRds { scoped_rds_config_source, srds_resources_locator } = message;
            refuse!(cx, path, XDSTP; srds_resources_locator);
            let at = path.field("scoped_rds_config_source");
            let Some(source) = scoped_rds_config_source else {
                cx.error(&at, "a source of the scopes is needed");
                return None;
            };
            let tables = match tables {
                Some(tables) => Some(tables?),
                None => None,
            };
            Scopes::Srds { source: config_source(cx, &at, source)?, tables }
        }
        None => {
            cx.error(path, "give one of scoped_route_configurations_list and scoped_rds");
            return None;
        }
    };
    Some(ScopedRoutes { name: Arc::from(name.as_str()), key: key?, scopes })
}

fn key_builder(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&hcm_pb::scoped_routes::ScopeKeyBuilder>,
) -> Option<ScopeKeyBuilder> {
    use hcm_pb::scoped_routes::scope_key_builder::FragmentBuilder;
    use hcm_pb::scoped_routes::scope_key_builder::fragment_builder::Type;
    let fragments = message.map(|message| &message.fragments[..]).unwrap_or_default();
    let path = path.field("fragments");
    if fragments.is_empty() {
        cx.error(&path, "a key needs a fragment at least");
        return None;
    }
    let fragment = |(i, message): (usize, &FragmentBuilder)| {
        let path = path.index(i);
        match &message.r#type {
            Some(Type::HeaderValueExtractor(message)) => {
                extractor(cx, &path.field("header_value_extractor"), message)
            }
            None => {
                cx.error(&path, "header_value_extractor is needed");
                None
            }
        }
    };
    let fragments: Vec<_> = fragments.iter().enumerate().map(fragment).collect();
    Some(ScopeKeyBuilder(fragments.into_iter().collect::<Option<_>>()?))
}

fn extractor(
    cx: &Cx,
    path: &Path<'_>,
    message: &hcm_pb::scoped_routes::scope_key_builder::fragment_builder::HeaderValueExtractor,
) -> Option<HeaderValueExtractor> {
    use hcm_pb::scoped_routes::scope_key_builder::fragment_builder::HeaderValueExtractor as Message;
    use hcm_pb::scoped_routes::scope_key_builder::fragment_builder::header_value_extractor as kinds;
    let Message { name, element_separator, extract_type } = message;
    let Some(header) = HeaderRef::parse(name) else {
        cx.error(&path.field("name"), format!("{name:?} is not the name of a header"));
        return None;
    };
    let extract = match extract_type {
        Some(kinds::ExtractType::Index(index)) => {
            if *index != 0 && element_separator.is_empty() {
                cx.error(
                    &path.field("index"),
                    "without element_separator there is one element, and its index is 0",
                );
            }
            Extract::Index(*index as usize)
        }
        Some(kinds::ExtractType::Element(kinds::KvElement { separator, key })) => {
            let path = path.field("element");
            for (text, field) in [(separator, "separator"), (key, "key")] {
                if text.is_empty() {
                    cx.error(&path.field(field), "it must not be empty");
                }
            }
            Extract::Element { separator: separator.as_str().into(), key: key.as_str().into() }
        }
        None => {
            cx.error(path, "give one of index and element");
            return None;
        }
    };
    Some(HeaderValueExtractor { header, separator: element_separator.as_str().into(), extract })
}

/// A scope that stands in a connection manager.
fn inline(cx: &Cx, path: &Path<'_>, message: &pb::ScopedRouteConfiguration) -> Option<Scope> {
    let at = path.field("route_configuration_name");
    if !message.route_configuration_name.is_empty() {
        cx.error(&at, "a scope in a list has its table with it, in Envoy too; write route_configuration");
        return None;
    }
    scope(cx, path, message)
}

/// A scope.
pub(crate) fn scope(cx: &Cx, path: &Path<'_>, message: &pb::ScopedRouteConfiguration) -> Option<Scope> {
    use pb::scoped_route_configuration::key::fragment::Type;
    let pb::ScopedRouteConfiguration { on_demand, name, route_configuration_name, route_configuration, key } =
        message;
    if name.is_empty() {
        cx.error(&path.field("name"), "a name is needed");
    }
    let at = path.field("key");
    let at = at.field("fragments");
    let fragments = key.as_ref().map(|key| &key.fragments[..]).unwrap_or_default();
    if fragments.is_empty() {
        cx.error(&at, "a key needs a fragment at least");
    }
    let mut key = Vec::with_capacity(fragments.len());
    for (i, fragment) in fragments.iter().enumerate() {
        match &fragment.r#type {
            Some(Type::StringKey(text)) => key.push(text.as_str().into()),
            None => cx.error(&at.index(i), "string_key is needed"),
        }
    }
    let routes = match (route_configuration, route_configuration_name.as_str()) {
        (Some(message), "") => {
            let table = route::route_configuration(cx, &path.field("route_configuration"), message);
            if *on_demand {
                cx.inert(
                    &path.field("on_demand"),
                    "the table is with the scope: there is nothing to be asked for",
                );
            }
            ScopeRoutes::Inline(Arc::new(table))
        }
        (None, name) if !name.is_empty() => {
            if name.starts_with("xdstp:") {
                cx.refuse(&path.field("route_configuration_name"), XDSTP);
            }
            ScopeRoutes::Rds(Arc::from(name))
        }
        _ => {
            cx.error(path, "give one of route_configuration and route_configuration_name");
            return None;
        }
    };
    Some(Scope { name: Arc::from(name.as_str()), on_demand: *on_demand, key, routes })
}
