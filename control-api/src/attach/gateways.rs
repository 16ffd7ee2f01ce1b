//! Gateways of our class.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_api::apis::standard::gatewayclasses::GatewayClass;
use gateway_api::apis::standard::gateways as api;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::backends::Refusal;
use super::certificates::{self, CaReasons, Referring};
use super::features;
use super::listeners::{ListenerState, find_conflicts};
use super::status::{CONTROLLER, Condition, Writer};
use super::{ClientValidation, Gateway, Listener, Protocol, refs::GATEWAY_GROUP};
use crate::model::Kind;
use crate::world::{Named, Of, World};

/// The label by which the parts of a gateway's infrastructure name it.
const GATEWAY_LABEL: &str = "gateway.networking.k8s.io/gateway-name";

/// The conditions of gateways that are ours to say.
const OURS: [&str; 5] =
    ["Accepted", "Programmed", "ResolvedRefs", "InsecureFrontendValidationMode", "Scheduled"];
/// Those of listeners.
const OURS_OF_LISTENERS: [&str; 5] =
    ["Accepted", "Programmed", "ResolvedRefs", "Conflicted", "OverlappingTLSConfig"];

/// A gateway with all that is known of it.
#[derive(Debug)]
pub(super) struct GatewayState<'w> {
    pub(super) gateway: Of<'w, api::Gateway>,
    pub(super) listeners: Vec<ListenerState<'w>>,
    /// Why it is not accepted, whatever its listeners are.
    refused: Option<Refusal>,
    /// The certificate that it shows to backends.
    client_certificate: Option<Named>,
    /// References of the gateway itself that lead nowhere.
    unresolved: Option<Refusal>,
}

/// Whether a class is ours.
fn ours(class: &GatewayClass) -> bool {
    class.spec.controller_name == CONTROLLER
}

/// Why a class of ours cannot be had.
fn class_refusal(class: &GatewayClass) -> Option<Refusal> {
    let it = class.spec.parameters_ref.as_ref()?;
    let why = format!("spec.parametersRef: {} {:?} is not known here; remove it", it.kind, it.name);
    Some(Refusal::new("InvalidParameters", why))
}

/// All gateways of our classes.
pub(super) fn of(world: &World) -> BTreeMap<Named, GatewayState<'_>> {
    let classes: BTreeMap<_, _> = world
        .all::<GatewayClass>()
        .filter(|class| ours(class))
        .map(|class| (Arc::clone(class.name()), class_refusal(class.body())))
        .collect();
    world
        .all::<api::Gateway>()
        .filter_map(|gateway| {
            let class = classes.get(gateway.spec.gateway_class_name.as_str())?;
            let named = (Arc::clone(gateway.namespace()), Arc::clone(gateway.name()));
            Some((named, read(world, gateway, class.as_ref())))
        })
        .collect()
}

fn read<'w>(world: &'w World, gateway: Of<'w, api::Gateway>, class: Option<&Refusal>) -> GatewayState<'w> {
    let (spec, namespace) = (&gateway.body().spec, &**gateway.namespace());
    // Names are unique where somebody validated; the first one of a name counts where nobody did.
    let mut names = BTreeSet::new();
    let listeners = spec.listeners.iter().filter(|listener| names.insert(listener.name.as_str()));
    let mut listeners: Vec<_> =
        listeners.map(|listener| ListenerState::new(world, namespace, listener)).collect();
    find_conflicts(&mut listeners);
    for listener in &mut listeners {
        validate_clients(world, namespace, spec, listener);
    }
    let refused = class
        .map(|_| {
            Refusal::new("InvalidParameters", "its GatewayClass is not accepted: see the status of that")
        })
        .or_else(|| {
            let it = spec.infrastructure.as_ref()?.parameters_ref.as_ref()?;
            let why = format!(
                "spec.infrastructure.parametersRef: {} {:?} is not known here; remove it",
                it.kind, it.name
            );
            Some(Refusal::new("InvalidParameters", why))
        })
        .or_else(|| {
            let mut types = spec.addresses.iter().flatten().filter_map(|it| it.r#type.as_deref());
            let other = types.find(|it| !matches!(*it, "IPAddress" | "Hostname"))?;
            let why = format!("spec.addresses: type {other:?} is not known here; use IPAddress or Hostname");
            Some(Refusal::new("UnsupportedAddress", why))
        });
    let (client_certificate, unresolved) = match client_certificate(world, namespace, spec) {
        None => (None, None),
        Some(Ok(secret)) => (Some(secret), None),
        Some(Err(refusal)) => (None, Some(refusal)),
    };
    GatewayState { gateway, listeners, refused, client_certificate, unresolved }
}

fn client_certificate(
    world: &World,
    namespace: &str,
    spec: &api::GatewaySpec,
) -> Option<Result<Named, Refusal>> {
    let it = spec.tls.as_ref()?.backend.as_ref()?.client_certificate_ref.as_ref()?;
    let from = Referring { world, kind: Kind::Gateway, namespace };
    let of = (it.group.as_deref().unwrap_or_default(), it.kind.as_deref().unwrap_or("Secret"));
    let named = (it.namespace.as_deref().unwrap_or(namespace), it.name.as_str());
    let found = certificates::key_pair(from, of, named, "spec.tls.backend.clientCertificateRef");
    Some(found.map_err(|refusal| match refusal.reason {
        "InvalidCertificateRef" => Refusal { reason: "InvalidClientCertificateRef", ..refusal },
        _ => refusal,
    }))
}

/// One reference to authorities: group, kind, namespace, name.
type CaRef<'s> = (&'s str, &'s str, Option<&'s str>, &'s str);

/// What a gateway asks of the clients at a port: references and whether a valid certificate is needed.
fn validation(spec: &api::GatewaySpec, port: i32) -> Option<(Vec<CaRef<'_>>, bool, String)> {
    use api::{
        GatewayTlsFrontendDefaultValidationMode as DefaultMode,
        GatewayTlsFrontendPerPortTlsValidationMode as PortMode,
    };
    let frontend = spec.tls.as_ref()?.frontend.as_ref()?;
    let per_port = frontend.per_port.iter().flatten().enumerate().find(|(_, it)| it.port == port);
    if let Some((at, it)) = per_port {
        let it = it.tls.validation.as_ref()?;
        let refs = it.ca_certificate_refs.iter();
        let refs = refs.map(|it| (&*it.group, &*it.kind, it.namespace.as_deref(), &*it.name)).collect();
        let field = format!("spec.tls.frontend.perPort[{at}].tls.validation");
        return Some((refs, it.mode != Some(PortMode::AllowInsecureFallback), field));
    }
    let it = frontend.default.validation.as_ref()?;
    let refs = it.ca_certificate_refs.iter();
    let refs = refs.map(|it| (&*it.group, &*it.kind, it.namespace.as_deref(), &*it.name)).collect();
    let field = "spec.tls.frontend.default.validation".to_owned();
    Some((refs, it.mode != Some(DefaultMode::AllowInsecureFallback), field))
}

/// Clients of HTTPS listeners show certificates where the gateway asks for them.
fn validate_clients(
    world: &World,
    namespace: &str,
    spec: &api::GatewaySpec,
    listener: &mut ListenerState<'_>,
) {
    if !matches!(listener.protocol, Some(Protocol::Https(_))) {
        return;
    }
    let Some((refs, required, field)) = validation(spec, listener.spec.port) else { return };
    let from = Referring { world, kind: Kind::Gateway, namespace };
    let reasons = CaReasons { kind: "InvalidCACertificateKind", reference: "InvalidCACertificateRef" };
    let mut roots = Vec::new();
    for (at, (group, kind, other, name)) in refs.into_iter().enumerate() {
        let field = format!("{field}.caCertificateRefs[{at}]");
        let named = (other.unwrap_or(namespace), name);
        match certificates::authorities(from, (group, kind), named, &field, reasons) {
            Ok(pem) => roots.push(pem),
            Err(refusal) => listener.unresolved.push(refusal),
        }
    }
    if roots.is_empty() {
        let why = format!("{field}.caCertificateRefs: none of them has authorities");
        listener.refused = Some(Refusal::new("NoValidCACertificate", why));
        return;
    }
    listener.client_validation = Some(ClientValidation { roots: roots.join("\n").into(), required });
}

impl GatewayState<'_> {
    fn accepted(&self) -> bool {
        self.refused.is_none()
            && self.listeners.iter().any(|it| it.refused.is_none() && it.conflict.is_none())
    }

    /// What translation reads.
    pub(super) fn to_ir(&self) -> Gateway {
        if !self.accepted() {
            return Gateway::default();
        }
        let listeners = self
            .listeners
            .iter()
            .filter(|it| it.serves())
            .filter_map(|it| {
                Some(Listener {
                    name: it.spec.name.as_str().into(),
                    port: it.port()?,
                    protocol: it.protocol.clone()?,
                    hostname: it.hostname.clone(),
                    http: it.http.clone(),
                    tcp: it.tcp.clone(),
                    client_validation: it.client_validation.clone(),
                })
            })
            .collect();
        Gateway { listeners, client_certificate: self.client_certificate.clone() }
    }

    /// Its status.
    pub(super) fn status(&self, world: &World, writer: &Writer<'_>) -> Value {
        let object = self.gateway.object;
        let old = writer.old(object);
        let (addresses, unusable) = addresses(world, self.gateway);
        let mut out = json!({
            "conditions": writer.conditions(old.get("conditions"), object, &OURS, &self.conditions(unusable)),
            "listeners": self.listeners.iter().map(|it| self.listener_status(it, &old, writer)).collect::<Vec<_>>(),
        });
        if let (false, Some(map)) = (addresses.is_empty(), out.as_object_mut()) {
            map.insert("addresses".to_owned(), addresses.into());
        }
        out
    }

    fn conditions(&self, unusable: Option<Refusal>) -> Vec<Condition> {
        let bad: Vec<_> = self
            .listeners
            .iter()
            .filter(|it| it.refused.is_some() || it.conflict.is_some() || it.broken)
            .map(|it| it.spec.name.as_str())
            .collect();
        let served = self.listeners.iter().any(ListenerState::serves);
        let listeners = if bad.is_empty() {
            String::new()
        } else {
            format!("listeners that are not valid: {}; see their conditions", bad.join(", "))
        };
        let accepted = match &self.refused {
            Some(refusal) => Condition::no("Accepted", refusal.reason, &refusal.message),
            None if !self.accepted() => Condition::no("Accepted", "ListenersNotValid", &listeners),
            None if !bad.is_empty() => Condition::yes("Accepted", "ListenersNotValid", &listeners),
            None => Condition::yes("Accepted", "Accepted", "all listeners are valid"),
        };
        let programmed = match (self.refused.is_none() && served, unusable) {
            (false, _) => {
                Condition::no("Programmed", "Invalid", "no listener is served: see the condition Accepted")
            }
            (true, Some(refusal)) => Condition::no("Programmed", refusal.reason, refusal.message),
            (true, None) => {
                Condition::yes("Programmed", "Programmed", "routers of this gateway are given its listeners")
            }
        };
        let unresolved_listeners = self.listeners.iter().any(|it| !it.unresolved.is_empty());
        let resolved = match &self.unresolved {
            None if unresolved_listeners => Condition::no(
                "ResolvedRefs",
                "ListenersNotResolved",
                "references of listeners are not resolved: see their conditions",
            ),
            refusal => Condition::of("ResolvedRefs", refusal.as_ref(), "all references are resolved"),
        };
        let mut out = vec![accepted, programmed, resolved];
        let insecure = |it: &ListenerState<'_>| it.client_validation.as_ref().is_some_and(|it| !it.required);
        if self.listeners.iter().any(insecure) {
            out.push(Condition::yes(
                "InsecureFrontendValidationMode",
                "ConfigurationChanged",
                "clients are let in without a valid certificate",
            ));
        }
        out
    }

    fn listener_status(&self, it: &ListenerState<'_>, old: &Value, writer: &Writer<'_>) -> Value {
        let name = it.spec.name.as_str();
        let old = old.get("listeners").and_then(Value::as_array).and_then(|list| {
            list.iter().find(|entry| entry.get("name").and_then(Value::as_str) == Some(name))
        });
        let refused = it.refused.as_ref().or(it.conflict.as_ref());
        let serves = it.serves() && self.accepted();
        let mut conditions = vec![
            Condition::of("Accepted", refused, "the listener is valid"),
            if serves {
                Condition::yes("Programmed", "Programmed", "routers of this gateway are given it")
            } else {
                Condition::no("Programmed", "Invalid", "it is not served: see the other conditions")
            },
            Condition::of("ResolvedRefs", it.unresolved.first(), "all references are resolved"),
            match &it.conflict {
                None => Condition::no("Conflicted", "NoConflicts", "no other listener stands in its way"),
                Some(refusal) => Condition::yes("Conflicted", refusal.reason, &refusal.message),
            },
        ];
        if let Some(other) = &it.overlaps {
            conditions.push(Condition::yes(
                "OverlappingTLSConfig",
                "OverlappingHostnames",
                format!(
                    "listener {other} has host names that overlap: clients may use one connection for both"
                ),
            ));
        }
        let kinds: Vec<_> =
            it.kinds.iter().map(|kind| json!({"group": GATEWAY_GROUP, "kind": kind.name()})).collect();
        json!({
            "name": name,
            "supportedKinds": kinds,
            "attachedRoutes": it.attached.len(),
            "conditions": writer.conditions(
                old.and_then(|it| it.get("conditions")),
                self.gateway.object,
                &OURS_OF_LISTENERS,
                &conditions,
            ),
        })
    }
}

/// Where a gateway can be reached: the addresses of the Services in its namespace that carry its name in the standard label.
/// And why what was asked for is not among them.
fn addresses(world: &World, gateway: Of<'_, api::Gateway>) -> (Vec<Value>, Option<Refusal>) {
    let mut known: BTreeSet<(&str, String)> = BTreeSet::new();
    let mut cluster: BTreeSet<(&str, String)> = BTreeSet::new();
    let services = world.all_in::<Service>(gateway.namespace());
    for service in services.filter(|it| it.object.label(GATEWAY_LABEL) == Some(gateway.name())) {
        let Some(spec) = &service.spec else { continue };
        let status = service.status.as_ref().and_then(|it| it.load_balancer.as_ref());
        for ingress in status.iter().flat_map(|it| it.ingress.iter().flatten()) {
            known.extend(ingress.ip.clone().map(|ip| ("IPAddress", ip)));
            known.extend(ingress.hostname.clone().map(|name| ("Hostname", name)));
        }
        known.extend(spec.external_ips.iter().flatten().map(|ip| ("IPAddress", ip.clone())));
        let own = spec.cluster_ip.clone().filter(|ip| !ip.is_empty() && ip != "None");
        cluster.extend(own.map(|ip| ("IPAddress", ip)));
    }
    let wanted = gateway.body().spec.addresses.iter().flatten();
    let mut refusal = None;
    for (at, it) in wanted.enumerate() {
        let kind = it.r#type.as_deref().unwrap_or("IPAddress");
        let value = it.value.as_deref().filter(|value| !value.is_empty());
        let has = |all: &BTreeSet<(&str, String)>| {
            all.iter().any(|(own, text)| *own == kind && value.is_none_or(|value| value == text))
        };
        if has(&known) || has(&cluster) {
            continue;
        }
        let field = format!("spec.addresses[{at}]");
        let label = format!(
            "no Service in namespace {} with label {GATEWAY_LABEL}: {}",
            gateway.namespace(),
            gateway.name()
        );
        refusal.get_or_insert(match value {
            Some(value) => Refusal::new("AddressNotUsable", format!("{field}: {label} has {value}")),
            None => {
                Refusal::new("AddressNotAssigned", format!("{field}: {label} has an address of type {kind}"))
            }
        });
    }
    let known = if known.is_empty() { cluster } else { known };
    // The API takes sixteen.
    let known = known.into_iter().take(16);
    (known.map(|(kind, value)| json!({"type": kind, "value": value})).collect(), refusal)
}

/// The statuses of classes that are ours.
pub(super) fn class_statuses(world: &World, writer: &Writer<'_>) -> Vec<(crate::model::Key, Value)> {
    world
        .all::<GatewayClass>()
        .filter(|class| ours(class))
        .map(|class| {
            let condition = Condition::of(
                "Accepted",
                class_refusal(class.body()).as_ref(),
                "gateways of this class are served",
            );
            let old = writer.old(class.object);
            let conditions =
                writer.conditions(old.get("conditions"), class.object, &["Accepted"], &[condition]);
            let status = json!({"conditions": conditions, "supportedFeatures": features::supported()});
            (class.object.key.clone(), status)
        })
        .collect()
}
