//! BackendTLSPolicies: how backends are spoken to over TLS, and what the policies' owners are told.
//!
//! A policy that is broken never makes traffic go without TLS, nor unverified: its connections fail.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use gateway_api::apis::standard::backendtlspolicies as api;
use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::backends::Refusal;
use super::certificates::{self, CaReasons, Referring};
use super::gateways::GatewayState;
use super::ir::{Filter, HttpRule, Target};
use super::refs::GATEWAY_GROUP;
use super::status::{CONTROLLER, Condition, Writer};
use super::{BackendTls, Roots, SubjectName};
use crate::model::{Key, Kind};
use crate::world::{Named, Of, World};

/// The conditions that are ours to say.
const OURS: [&str; 2] = ["Accepted", "ResolvedRefs"];
/// The API takes sixteen ancestors.
const MOST_ANCESTORS: usize = 16;

/// Policies by service, and by port name where they say so.
pub(super) type Policies = BTreeMap<(Named, Option<Arc<str>>), BackendTls>;

/// What a policy asks for, with its references resolved.
struct Read {
    tls: BackendTls,
    invalid: Option<Refusal>,
    unresolved: Option<Refusal>,
}

/// All policies that are in force, and the statuses of all.
pub(super) fn of(
    world: &World,
    gateways: &BTreeMap<Named, GatewayState<'_>>,
    writer: &Writer<'_>,
) -> (Policies, Vec<(Key, Value)>) {
    let reaching = reaching(gateways);
    let mut policies = Policies::new();
    let mut statuses = Vec::new();
    let mut all: Vec<_> = world.all::<api::BackendTlsPolicy>().collect();
    // The older one wins, then the first by name.
    all.sort_by_key(|policy| (policy.object.created(), &policy.object.key));
    for policy in all {
        let read = read(world, policy);
        // Ancestors in the order in which they are found, each with what is wrong for it.
        let mut ancestors: Vec<(Value, Option<Refusal>)> = Vec::new();
        for (at, target) in policy.body().spec.target_refs.iter().enumerate() {
            let field = format!("spec.targetRefs[{at}]");
            let refused = enforce(world, &mut policies, policy, target, &read.tls, &field).err();
            let refused = refused.or_else(|| read.invalid.clone());
            let service: Named = (Arc::clone(policy.namespace()), target.name.as_str().into());
            for ancestor in ancestors_of(&reaching, &service, target) {
                match ancestors.iter_mut().find(|(known, _)| *known == ancestor) {
                    Some((_, known)) => *known = known.take().or_else(|| refused.clone()),
                    None => ancestors.push((ancestor, refused.clone())),
                }
            }
        }
        statuses
            .push((policy.object.key.clone(), status(writer, policy, &ancestors, read.unresolved.as_ref())));
    }
    (policies, statuses)
}

/// Puts a policy in force for one target.
fn enforce(
    world: &World,
    policies: &mut Policies,
    policy: Of<'_, api::BackendTlsPolicy>,
    target: &api::BackendTlsPolicyTargetRefs,
    tls: &BackendTls,
    field: &str,
) -> Result<(), Refusal> {
    if (target.group.as_str(), target.kind.as_str()) != ("", "Service") {
        let why = format!(
            "{field}: {:?} of group {:?} cannot be the target; use a Service",
            target.kind, target.group
        );
        return Err(Refusal::new("Invalid", why));
    }
    let missing = |what: String| Refusal::new("TargetNotFound", format!("{field}: {what}"));
    let service = world
        .get::<Service>(policy.namespace(), &target.name)
        .ok_or_else(|| missing(format!("Service {}/{} does not exist", policy.namespace(), target.name)))?;
    let section = target.section_name.as_deref().filter(|name| !name.is_empty());
    let mut ports = service.spec.iter().flat_map(|spec| spec.ports.iter().flatten());
    if let Some(section) = section
        && !ports.any(|port| port.name.as_deref() == Some(section))
    {
        return Err(missing(format!("Service {} has no port named {section}", target.name)));
    }
    let key = ((Arc::clone(policy.namespace()), target.name.as_str().into()), section.map(Arc::from));
    match policies.get(&key) {
        Some(other) if other.policy == policy.object.key => Ok(()),
        Some(other) => {
            let why = format!("{field}: {} was there before and has the same target", other.policy);
            Err(Refusal::new("Conflicted", why))
        }
        None => {
            policies.insert(key, tls.clone());
            Ok(())
        }
    }
}

fn read(world: &World, policy: Of<'_, api::BackendTlsPolicy>) -> Read {
    let spec = &policy.body().spec;
    let validation = &spec.validation;
    let mut unresolved = None;
    let mut invalid = None;
    let refs = validation.ca_certificate_refs.as_deref().unwrap_or_default();
    let well_known = validation.well_known_ca_certificates.as_deref().filter(|name| !name.is_empty());
    let mut refuse = |reason: &'static str, why: String| {
        invalid.get_or_insert(Refusal::new(reason, why));
        Roots::Invalid
    };
    let field = "spec.validation";
    let mut roots = match (refs, well_known) {
        ([], Some("System")) => Roots::System,
        ([], Some(other)) => {
            let why = format!("{field}.wellKnownCACertificates: {other:?} is not known here; use System");
            refuse("Invalid", why)
        }
        ([], None) => refuse(
            "Invalid",
            format!("{field}: neither caCertificateRefs nor wellKnownCACertificates says whom to believe"),
        ),
        (_, Some(_)) => refuse(
            "Invalid",
            format!("{field}: caCertificateRefs and wellKnownCACertificates cannot stand together"),
        ),
        (refs, None) => {
            let mut pem = Vec::new();
            for (at, it) in refs.iter().enumerate() {
                let from = Referring { world, kind: Kind::BackendTlsPolicy, namespace: policy.namespace() };
                let reasons = CaReasons { kind: "InvalidKind", reference: "InvalidCACertificateRef" };
                let of = (it.group.as_str(), it.kind.as_str());
                let named = (&**policy.namespace(), it.name.as_str());
                let field = format!("{field}.caCertificateRefs[{at}]");
                match certificates::authorities(from, of, named, &field, reasons) {
                    Ok(text) => pem.push(text),
                    Err(refusal) => {
                        unresolved.get_or_insert(refusal);
                    }
                }
            }
            if pem.is_empty() {
                let why =
                    format!("{field}.caCertificateRefs: none of them has authorities; connections fail");
                refuse("NoValidCACertificate", why)
            } else {
                Roots::Pem(pem.join("\n").into())
            }
        }
    };
    if let Some(option) = spec.options.as_ref().and_then(|options| options.keys().next()) {
        roots = refuse("Invalid", format!("spec.options[{option:?}]: not known here; remove it"));
    }
    let names = validation.subject_alt_names.iter().flatten().filter_map(|it| {
        use api::BackendTlsPolicyValidationSubjectAltNamesType as Type;
        match it.r#type {
            Type::Hostname => Some(SubjectName::Dns(it.hostname.as_deref()?.into())),
            Type::Uri => Some(SubjectName::Uri(it.uri.as_deref()?.into())),
        }
    });
    let names: Vec<_> = names.collect();
    if names.len() < validation.subject_alt_names.iter().flatten().count() {
        roots = refuse("Invalid", format!("{field}.subjectAltNames: one has no value for its type"));
    }
    let hostname = validation.hostname.as_str().into();
    let tls = BackendTls { policy: policy.object.key.clone(), hostname, names, roots };
    Read { tls, invalid, unresolved }
}

/// The gateways whose routes lead to each service.
fn reaching(gateways: &BTreeMap<Named, GatewayState<'_>>) -> BTreeMap<Named, BTreeSet<Named>> {
    let mut out: BTreeMap<Named, BTreeSet<Named>> = BTreeMap::new();
    for (gateway, state) in gateways {
        for listener in &state.listeners {
            let http = listener.http.iter().flat_map(|route| route.rules.iter().flat_map(targets));
            let tcp = listener.tcp.iter().flat_map(|route| route.backends.iter().map(|(target, _)| target));
            for target in http.chain(tcp) {
                if let Target::Service { service, .. } = target {
                    out.entry(service.clone()).or_default().insert(gateway.clone());
                }
            }
        }
    }
    out
}

/// Where a rule sends requests and copies of them.
fn targets(rule: &HttpRule) -> impl Iterator<Item = &Target> {
    let filters = rule.filters.iter().chain(rule.backends.iter().flat_map(|it| &it.filters));
    let mirrors = filters.filter_map(|filter| match filter {
        Filter::Mirror { target, .. } => Some(target),
        _ => None,
    });
    rule.backends.iter().map(|it| &it.target).chain(mirrors)
}

/// Whom a policy's effect shows at: the gateways that lead to its target, or the target itself where sidecars alone do.
fn ancestors_of(
    reaching: &BTreeMap<Named, BTreeSet<Named>>,
    service: &Named,
    target: &api::BackendTlsPolicyTargetRefs,
) -> Vec<Value> {
    match reaching.get(service) {
        Some(gateways) if target.kind == "Service" => gateways
            .iter()
            .map(|(namespace, name)| {
                json!({"group": GATEWAY_GROUP, "kind": "Gateway", "namespace": **namespace, "name": **name})
            })
            .collect(),
        _ => vec![json!({
            "group": target.group, "kind": target.kind, "namespace": *service.0, "name": target.name,
        })],
    }
}

fn status(
    writer: &Writer<'_>,
    policy: Of<'_, api::BackendTlsPolicy>,
    ancestors: &[(Value, Option<Refusal>)],
    unresolved: Option<&Refusal>,
) -> Value {
    let old = writer.old(policy.object);
    let before = old.get("ancestors").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    let ours = |it: &Value| it.get("controllerName").and_then(Value::as_str) == Some(CONTROLLER);
    let others = before.iter().filter(|it| !ours(it)).cloned();
    let entries = ancestors.iter().map(|(ancestor, refused)| {
        let known = before.iter().find(|it| ours(it) && it.get("ancestorRef") == Some(ancestor));
        let conditions = [
            Condition::of(
                "Accepted",
                refused.as_ref(),
                "TLS towards the target is verified as the policy says",
            ),
            Condition::of("ResolvedRefs", unresolved, "all references are resolved"),
        ];
        json!({
            "ancestorRef": ancestor,
            "controllerName": CONTROLLER,
            "conditions": writer.conditions(
                known.and_then(|it| it.get("conditions")), policy.object, &OURS, &conditions,
            ),
        })
    });
    let entries: Vec<_> = entries.chain(others).take(MOST_ANCESTORS).collect();
    json!({"ancestors": entries})
}
