//! Credentials of ExternalServices. Each is a secret that comes by SDS, and a filter that puts it into requests; the filter is off in
//! every listener, and the routes that lead to the service turn it on. So nothing but SDS carries a credential: neither listeners nor routes,
//! which are shown and logged, and only proxies that may have it are sent it.

use std::collections::{BTreeMap, HashMap};

use outrider_proto::pb::envoy::config::core::v3 as core;
use outrider_proto::pb::envoy::config::route::v3::FilterConfig;
use outrider_proto::pb::envoy::extensions::filters::http::credential_injector::v3::CredentialInjector;
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use outrider_proto::pb::envoy::extensions::http::injected_credentials::generic::v3::Generic;
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use outrider_proto::pb::google::protobuf::Any;

use super::material::{Injected, Material};
use super::{material, port_of, visible};
use crate::attach::ir::Target;
use crate::model::own::ExternalPort;
use crate::translate::hcm::http_filter;
use crate::translate::wire::{ads, any};
use crate::translate::{Context, Scope, routes, sidecar};
use crate::world::Named;

/// A credential as it comes by SDS: the whole value of its header.
pub(super) fn secret(it: &Injected) -> tls::Secret {
    let value = core::data_source::Specifier::InlineString(it.value.clone());
    tls::Secret {
        name: it.secret.clone(),
        r#type: Some(tls::secret::Type::GenericSecret(tls::GenericSecret {
            secret: Some(core::DataSource { specifier: Some(value), ..Default::default() }),
            ..Default::default()
        })),
    }
}

/// Turns the filters of these credentials on, for a route or a share of one. What the route says of their headers does not count: it would be
/// done after the filters, and a request must not be sent without its credential.
pub(super) fn turn_on(
    credentials: &[Injected],
    configs: &mut HashMap<String, Any>,
    added: &mut Vec<core::HeaderValueOption>,
    removed: &mut Vec<String>,
) {
    let ours = |name: &str| credentials.iter().any(|it| it.header.eq_ignore_ascii_case(name));
    added.retain(|it| it.header.as_ref().is_none_or(|header| !ours(&header.key)));
    removed.retain(|name| !ours(name));
    for it in credentials {
        // Settings that say nothing: the filter is as in its listener, and on.
        let on = FilterConfig { config: Some(Any::default()), ..Default::default() };
        configs.insert(it.secret.clone(), any(&on));
    }
}

/// The filters that connection managers of sidecars of a scope need: one for each credential that its routes can turn on.
pub fn sidecar_filters(context: &Context, scope: &Scope) -> Vec<HttpFilter> {
    if !some(context) {
        return Vec::new();
    }
    context.once.credentials(scope, || {
        let mut out = Found::default();
        for it in visible(context, scope) {
            let material = material(context, &it);
            it.body().spec.ports.iter().for_each(|port| out.of_port(&material, port));
        }
        let reached = sidecar::routes::reached(context, scope, &sidecar::visible(context, scope));
        reached.requests.iter().for_each(|target| out.of_target(context, target));
        out.filters()
    })
}

/// The same for a gateway.
pub fn gateway_filters(context: &Context, gateway: &Named) -> Vec<HttpFilter> {
    let Some(gateway) = context.attachments.gateways.get(gateway).filter(|_| some(context)) else {
        return Vec::new();
    };
    let mut out = Found::default();
    let reached = routes::targets(gateway.listeners.iter().flat_map(|it| &it.http), []);
    reached.iter().for_each(|target| out.of_target(context, target));
    out.filters()
}

/// Whether there is any credential in the world.
fn some(context: &Context) -> bool {
    context.policies.materials.values().any(|it| it.has_credentials())
}

/// Filters by their names: the order is always the same.
#[derive(Default)]
struct Found(BTreeMap<String, HttpFilter>);

impl Found {
    fn of_target(&mut self, context: &Context, target: &Target) {
        let Target::External { service, port } = target else { return };
        if let Ok((it, port)) = port_of(context, service, *port) {
            self.of_port(&material(context, &it), port);
        }
    }

    fn of_port(&mut self, material: &Material, port: &ExternalPort) {
        // What cannot be called has routes that answer themselves.
        if material.missing(port).is_none() {
            for it in material.credentials(port) {
                self.0.entry(it.secret.clone()).or_insert_with(|| filter(it));
            }
        }
    }

    fn filters(self) -> Vec<HttpFilter> {
        self.0.into_values().collect()
    }
}

/// Without its secret, a request that needs it is answered with 401: that is the filter's own way.
fn filter(it: &Injected) -> HttpFilter {
    let generic = Generic {
        credential: Some(tls::SdsSecretConfig { name: it.secret.clone(), sds_config: Some(ads()) }),
        header: it.header.clone(),
        ..Default::default()
    };
    let injector = CredentialInjector {
        overwrite: true,
        credential: Some(core::TypedExtensionConfig {
            name: "envoy.http.injected_credentials.generic".to_owned(),
            typed_config: Some(any(&generic)),
        }),
        ..Default::default()
    };
    HttpFilter { disabled: true, ..http_filter(&it.secret, &injector) }
}
