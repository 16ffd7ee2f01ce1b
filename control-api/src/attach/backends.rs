//! From a reference to a backend to the backend.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Service;

use super::grants::{self, End};
use super::ir::Target;
use super::refs::{BackendRef, GATEWAY_GROUP, OWN_GROUP};
use crate::model::{Key, Kind, Object, own::ExternalService};
use crate::world::{EXPORT_TO, World, exported};

/// Why something is not as it was asked for: a reason of the Gateway API and words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) reason: &'static str,
    pub(super) message: String,
}

impl Refusal {
    pub(super) fn new(reason: &'static str, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

/// Who refers to backends.
#[derive(Clone, Copy, Debug)]
pub(super) struct Referrer<'w> {
    pub(super) world: &'w World,
    /// The kind of the route.
    pub(super) kind: Kind,
    /// Its namespace.
    pub(super) namespace: &'w str,
    /// The parent is a Service: whoever can reach the frontend could reach the backend as well, so no grant is needed for what is
    /// exported to the namespace: Services, where nobody says otherwise; an ExternalService, where it says so.
    /// <https://gateway-api.sigs.k8s.io/geps/gep-1294/#namespace-boundaries>
    pub(super) mesh: bool,
}

impl Referrer<'_> {
    /// The backend behind a reference. `field` is where it stands.
    pub(super) fn resolve(&self, it: &BackendRef<'_>, field: &str) -> Result<Target, Refusal> {
        let what = || format!("{} {}/{}", it.kind, it.namespace, it.name);
        let external = match (it.group, it.kind) {
            ("", "Service") => false,
            (OWN_GROUP, "ExternalService") => true,
            (group, kind) => {
                return Err(Refusal::new(
                    "InvalidKind",
                    format!(
                        "{field}: {kind:?} of group {group:?} is no backend; use Service, or ExternalService of {OWN_GROUP}"
                    ),
                ));
            }
        };
        let from = End { group: GATEWAY_GROUP, kind: self.kind.name(), namespace: self.namespace };
        let to = End { group: it.group, kind: it.kind, namespace: it.namespace };
        let kind = if external { Kind::ExternalService } else { Kind::Service };
        // What is not there could be exported to nobody, and to all as well: that it is missing is told below.
        let open = |object: &Arc<Object>| exported(object, self.namespace);
        let seen =
            self.mesh && self.world.object(&Key::new(kind, it.namespace, it.name)).map_or(!external, open);
        if !seen && !grants::permitted(self.world, from, to, it.name) {
            let export = if self.mesh {
                format!(", and no annotation {EXPORT_TO} exports it there")
            } else {
                String::new()
            };
            return Err(Refusal::new(
                "RefNotPermitted",
                format!(
                    "{field}: no ReferenceGrant in namespace {} lets {} of namespace {} refer to {}{export}",
                    it.namespace,
                    self.kind,
                    self.namespace,
                    what()
                ),
            ));
        }
        let Some(port) = it.port.and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0) else {
            return Err(Refusal::new(
                "BackendNotFound",
                format!("{field}.port: missing; {} needs one", what()),
            ));
        };
        let service = (it.namespace.into(), it.name.into());
        if external {
            self.external(it, port)
                .map_err(|reason| Refusal::new("BackendNotFound", format!("{field}: {} {reason}", what())))?;
            return Ok(Target::External { service, port });
        }
        let Some(found) = self.world.get::<Service>(it.namespace, it.name) else {
            return Err(Refusal::new("BackendNotFound", format!("{field}: {} does not exist", what())));
        };
        service_port(found.body(), port)
            .map_err(|(reason, why)| Refusal::new(reason, format!("{field}: {} {why}", what())))?;
        Ok(Target::Service { service, port })
    }

    fn external(&self, it: &BackendRef<'_>, port: u16) -> Result<(), String> {
        let found = self
            .world
            .get::<ExternalService>(it.namespace, it.name)
            .ok_or_else(|| "does not exist".to_owned())?;
        if found.spec.ports.iter().any(|it| it.number == port) {
            Ok(())
        } else {
            Err(format!("has no port {port}"))
        }
    }
}

/// Whether a service has this port, and whether a route can lead to it.
fn service_port(service: &Service, port: u16) -> Result<(), (&'static str, String)> {
    let Some(spec) = &service.spec else {
        return Err(("BackendNotFound", "has no spec".to_owned()));
    };
    if spec.type_.as_deref() == Some("ExternalName") {
        return Err((
            "InvalidKind",
            "has type ExternalName, which could lead anywhere; use an ExternalService instead".to_owned(),
        ));
    }
    let listed = spec.ports.as_deref().unwrap_or_default();
    let mut with_number = listed.iter().filter(|it| it.port == i32::from(port)).peekable();
    if with_number.peek().is_none() {
        return Err(("BackendNotFound", format!("has no port {port}")));
    }
    if with_number.all(|it| it.protocol.as_deref().is_some_and(|protocol| protocol != "TCP")) {
        return Err(("UnsupportedProtocol", format!("has port {port} for another protocol than TCP")));
    }
    Ok(())
}
