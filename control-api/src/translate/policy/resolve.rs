//! Which policy is in force where, and what each is told about it.

use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Pod, Service};
use serde_json::{Value, json};

use super::status::{self, Verdict};
use super::{Policies, Target};
use crate::attach::Writer;
use crate::model::own::{
    Action, AuthorizationPolicy, ExternalService, MESH_NAMESPACE, MtlsMode, PeerPolicy, Revocation, Selector,
    TargetRef, Telemetry, TrafficPolicy,
};
use crate::model::{Kind, Object, Typed};
use crate::translate::port::ports;
use crate::translate::{external, mtls};
use crate::world::{Named, Of, World};

pub(super) fn policies(world: &World, writer: &Writer<'_>) -> Policies {
    let mut out = Policies::default();
    traffic(world, writer, &mut out);
    authorization(world, writer, &mut out);
    telemetry(world, writer, &mut out);
    peers(world, writer, &mut out);
    revocations(world, writer, &mut out);
    out.materials = Arc::new(external::materials(world));
    for (key, left_out) in external::judge(world, &out.materials) {
        if let Some(object) = world.object(&key) {
            let status = status::whole(writer, object, &Verdict::Accepted(left_out), "in force");
            out.statuses.insert(key, status);
        }
    }
    out
}

/// All objects of a type, the oldest first, then by namespace and name.
fn by_age<T: Typed>(world: &World) -> Vec<Of<'_, T>> {
    let mut all: Vec<Of<'_, T>> = world.all::<T>().collect();
    all.sort_by_cached_key(|it| (it.object.created(), it.object.key.clone()));
    all
}

fn traffic(world: &World, writer: &Writer<'_>, out: &mut Policies) {
    for policy in by_age::<TrafficPolicy>(world) {
        let namespace = policy.namespace();
        let mut verdicts = Vec::new();
        for target in &policy.spec.target_refs {
            let verdict = one_target(world, &policy, target, &mut out.traffic);
            verdicts.push((ancestor(namespace, target), verdict));
        }
        let message = match policy.spec.rate_limit {
            Some(_) => {
                "in force; of spec.rateLimit, each match of each route that leads here has a bucket of its own in each proxy"
            }
            None => "in force",
        };
        out.statuses
            .insert(policy.object.key.clone(), status::ancestors(writer, policy.object, &verdicts, message));
    }
}

fn ancestor(namespace: &str, target: &TargetRef) -> Value {
    let mut out = json!({
        "group": target.group, "kind": target.kind, "namespace": namespace, "name": target.name,
    });
    if let (Some(section), Some(map)) = (&target.section_name, out.as_object_mut()) {
        map.insert("sectionName".to_owned(), section.as_str().into());
    }
    out
}

/// A port of a target, as far as policies care: name, whether it speaks HTTP (or may), whether it speaks HTTP/2.
type PortFacts = (Arc<str>, bool, bool);

fn one_target(
    world: &World,
    policy: &Of<'_, TrafficPolicy>,
    target: &TargetRef,
    in_force: &mut BTreeMap<Target, Arc<Object>>,
) -> Verdict {
    let namespace = policy.namespace();
    let (kind, facts): (Kind, Option<Vec<PortFacts>>) = match target.kind.as_str() {
        "Service" => {
            let facts = world.get::<Service>(namespace, &target.name).map(|it| service_ports(&it));
            (Kind::Service, facts)
        }
        "ExternalService" => {
            let facts = world.get::<ExternalService>(namespace, &target.name).map(|it| {
                let one = |port: &crate::model::own::ExternalPort| {
                    let name = port.name.as_deref().unwrap_or_default();
                    (name.into(), port.protocol.is_http(), port.protocol.is_http2())
                };
                it.spec.ports.iter().map(one).collect()
            });
            (Kind::ExternalService, facts)
        }
        other => return Verdict::Refused("Invalid", format!("{other} cannot be a target")),
    };
    let Some(mut facts) = facts else {
        return Verdict::Refused(
            "TargetNotFound",
            format!("there is no {} {namespace}/{}", target.kind, target.name),
        );
    };
    if let Some(section) = &target.section_name {
        facts.retain(|(name, ..)| **name == **section);
        if facts.is_empty() {
            return Verdict::Refused(
                "TargetNotFound",
                format!("{} {namespace}/{} has no port named {section:?}", target.kind, target.name),
            );
        }
    }
    let service: Named = (Arc::clone(namespace), target.name.as_str().into());
    let key = (kind, service, target.section_name.as_deref().map(Arc::from));
    if let Some(first) = in_force.get(&key) {
        return Verdict::Refused(
            "Conflicted",
            format!("{} is for the same target and goes first", first.key),
        );
    }
    in_force.insert(key, Arc::clone(policy.object));
    Verdict::Accepted(not_honoured(policy, &facts))
}

fn service_ports(service: &Service) -> Vec<PortFacts> {
    let one = |port: crate::translate::port::Port| {
        let http = port.spoken.is_http() || port.spoken == crate::translate::port::Spoken::Unknown;
        (port.name, http, port.spoken.is_http2())
    };
    ports(service).into_iter().map(one).collect()
}

/// What of a policy cannot be honoured at these ports.
fn not_honoured(policy: &TrafficPolicy, ports: &[PortFacts]) -> Vec<String> {
    let spec = &policy.spec;
    let mut out = Vec::new();
    let http = ports.iter().any(|(_, http, _)| *http);
    let http2 = ports.iter().any(|(_, _, http2)| *http2);
    let only_http2 = ports.iter().all(|(_, _, http2)| *http2);
    if !http {
        for (field, given) in [
            ("retries", spec.retries.is_some()),
            ("timeouts.request", spec.timeouts.as_ref().is_some_and(|it| it.request.is_some())),
            ("timeouts.idle", spec.timeouts.as_ref().is_some_and(|it| it.idle.is_some())),
            ("rateLimit", spec.rate_limit.is_some()),
        ] {
            if given {
                out.push(format!("spec.{field}: no port of the target speaks HTTP"));
            }
        }
    }
    if spec.health_check.as_ref().is_some_and(|it| it.grpc.is_some()) && !only_http2 {
        out.push(
            "spec.healthCheck.grpc: only ports that speak HTTP/2 (appProtocol grpc or kubernetes.io/h2c) can be asked by it; the others are not checked"
                .to_owned(),
        );
    }
    if spec.connection_pool.as_ref().is_some_and(|it| it.http2.is_some()) && !http2 {
        out.push("spec.connectionPool.http2: no port of the target speaks HTTP/2".to_owned());
    }
    out
}

fn authorization(world: &World, writer: &Writer<'_>, out: &mut Policies) {
    for policy in world.all::<AuthorizationPolicy>() {
        out.authorization.entry(Arc::clone(policy.namespace())).or_default().push(Arc::clone(policy.object));
        let named = policy.spec.rules.iter().flat_map(|rule| &rule.from).any(|from| {
            !(from.principals.is_empty()
                && from.not_principals.is_empty()
                && from.namespaces.is_empty()
                && from.not_namespaces.is_empty())
        });
        // In force as they are, but their author should know.
        let whom = if policy.spec.action == Action::Deny { "everybody" } else { "nobody" };
        let without =
            named.then(|| without_identity(world, policy.namespace(), policy.spec.selector.as_ref()));
        let note = without.flatten().map(|pods| {
            format!("spec.rules: {pods}, so that principals and namespaces match {whom} who calls it")
        });
        let message = in_force(world, policy.namespace(), policy.spec.selector.as_ref());
        let mut notes = super::jwt::problems(world, policy.namespace(), policy.body());
        notes.extend(note);
        let status = status::whole(writer, policy.object, &Verdict::Accepted(notes), &message);
        out.statuses.insert(policy.object.key.clone(), status);
    }
}

/// Pods of a namespace that a selector means and that have no identity, as a sentence; `None` when there are none.
fn without_identity(world: &World, namespace: &str, selector: Option<&Selector>) -> Option<String> {
    let none = std::collections::BTreeMap::new();
    let meant = |pod: &Of<'_, Pod>| {
        let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
        selector.is_none_or(|selector| selector.matches(labels))
    };
    let mut bare = world.all_in::<Pod>(namespace).filter(meant).filter(|pod| !mtls::pod_is_on(pod));
    let first = bare.next()?;
    let (name, label) = (first.name(), mtls::LABEL);
    Some(match bare.count() {
        0 => format!("Pod {name} has no identity (label {}: {})", label.0, label.1),
        more => format!("Pod {name} and {more} more have no identity (label {}: {})", label.0, label.1),
    })
}

/// What a policy with a selector is told when it is in force: that it selects nothing, where that can be seen.
fn in_force(world: &World, namespace: &str, selector: Option<&Selector>) -> String {
    let selected = |selector: &Selector| {
        let none = std::collections::BTreeMap::new();
        world
            .all_in::<Pod>(namespace)
            .any(|pod| selector.matches(pod.metadata.labels.as_ref().unwrap_or(&none)))
    };
    // Without any Pod, proxies themselves say what their labels are.
    let known = || world.all::<Pod>().next().is_some();
    match selector {
        Some(selector) if known() && !selected(selector) => {
            format!("in force, but no Pod of namespace {namespace} has the labels of spec.selector now")
        }
        _ => "in force".to_owned(),
    }
}

fn telemetry(world: &World, writer: &Writer<'_>, out: &mut Policies) {
    let mut first: BTreeMap<(Arc<str>, Option<&Selector>), Arc<Object>> = BTreeMap::new();
    for policy in by_age::<Telemetry>(world) {
        let selector = policy.body().spec.selector.as_ref().filter(|it| !it.match_labels.is_empty());
        let key = (Arc::clone(policy.namespace()), selector);
        let message = in_force(world, policy.namespace(), selector);
        let verdict = match first.get(&key) {
            Some(other) => Verdict::Refused(
                "Conflicted",
                format!("{} is for the same workloads and goes first", other.key),
            ),
            None => {
                first.insert(key, Arc::clone(policy.object));
                out.telemetry
                    .entry(Arc::clone(policy.namespace()))
                    .or_default()
                    .push(Arc::clone(policy.object));
                Verdict::fine()
            }
        };
        out.statuses
            .insert(policy.object.key.clone(), status::whole(writer, policy.object, &verdict, &message));
    }
}

fn peers(world: &World, writer: &Writer<'_>, out: &mut Policies) {
    let mut first: BTreeMap<(Arc<str>, Option<&Selector>), Arc<Object>> = BTreeMap::new();
    for policy in by_age::<PeerPolicy>(world) {
        let (namespace, spec) = (policy.namespace(), &policy.body().spec);
        let selector = spec.selector.as_ref().filter(|it| !it.match_labels.is_empty());
        let verdict = match first.get(&(Arc::clone(namespace), selector)) {
            Some(other) => Verdict::Refused(
                "Conflicted",
                format!("{} is for the same workloads and goes first", other.key),
            ),
            None => {
                first.insert((Arc::clone(namespace), selector), Arc::clone(policy.object));
                let listed = out.peers.entry(Arc::clone(namespace)).or_default();
                let older = selector.and_then(|selector| taken(world, namespace, selector, listed));
                listed.push(Arc::clone(policy.object));
                let modes = spec.mtls.iter().chain(spec.ports.iter().map(|it| &it.mtls));
                let strict = modes.map(|it| it.mode).any(|mode| mode == MtlsMode::Strict);
                let without = strict.then(|| without_identity(world, namespace, selector)).flatten();
                let note =
                    without.map(|pods| format!("Strict: {pods}, and accepts nothing where it is in force"));
                Verdict::Accepted(note.into_iter().chain(older).collect())
            }
        };
        let message = in_force(world, namespace, selector);
        out.statuses
            .insert(policy.object.key.clone(), status::whole(writer, policy.object, &verdict, &message));
    }
}

fn revocations(world: &World, writer: &Writer<'_>, out: &mut Policies) {
    for revocation in world.all::<Revocation>() {
        let verdict = if **revocation.namespace() == *MESH_NAMESPACE {
            Verdict::fine()
        } else {
            Verdict::Refused("WrongNamespace", format!("it counts in namespace {MESH_NAMESPACE} alone"))
        };
        let status = status::whole(writer, revocation.object, &verdict, "in force");
        out.statuses.insert(revocation.object.key.clone(), status);
    }
}

/// The Pods that a selector means and that an older policy with another selector is for, as a sentence; `None` when there are none.
fn taken(world: &World, namespace: &str, selector: &Selector, older: &[Arc<Object>]) -> Option<String> {
    let none = BTreeMap::new();
    let earlier = |pod: &Of<'_, Pod>| {
        let labels = pod.metadata.labels.as_ref().unwrap_or(&none);
        let means = |it: &Selector| !it.match_labels.is_empty() && it.matches(labels);
        let theirs = |it: &&Arc<Object>| {
            PeerPolicy::of(&it.body).and_then(|it| it.spec.selector.as_ref()).is_some_and(means)
        };
        if selector.matches(labels) { older.iter().find(theirs) } else { None }
    };
    let mut all = world.all_in::<Pod>(namespace).filter_map(|pod| Some((pod, earlier(&pod)?)));
    let (pod, policy) = all.next()?;
    let and = match all.count() {
        0 => String::new(),
        more => format!(" (of {more} more, another policy)"),
    };
    Some(format!("spec.selector: of Pod {}, {} is older and goes first{and}", pod.name(), policy.key))
}
