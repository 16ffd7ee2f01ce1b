//! The picture that the page draws, as JSON: everything that this control plane knows at one moment, cut to what a page can show.
//! Nothing in it is secret: no bodies of resources, no values of headers, no words about Secrets.

use std::sync::Arc;

use chrono::Utc;
use serde_json::{Value, json};
use tokio::sync::watch;
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::admin::{Admin, cut};
use super::routes;
use super::topology::{self, Topology};
use super::traffic::Rate;
use crate::ads::{Connected, Listing};
use crate::api::quotes_secret;
use crate::ca::Bundle;
use crate::engine::{Engine, Snapshot};
use crate::pb;
use crate::source::{Origin, Problems};

/// How many proxies are shown.
const PROXIES: usize = 500;
/// How many problems are shown.
const PROBLEMS: usize = 200;
/// How many rows of the proxies' own are shown: certificates, generations.
const ROWS: usize = 400;

/// Where the picture comes from.
#[derive(Clone, Debug)]
pub struct Sources {
    /// What is published.
    pub engine: Arc<Engine>,
    /// The proxies whose streams end here.
    pub connected: Arc<Connected>,
    /// What is wrong with what the sources have.
    pub problems: Problems,
    /// The roots of workloads; `None`: this control plane certifies nobody.
    pub roots: Option<watch::Receiver<Arc<Bundle>>>,
    /// This control plane's name.
    pub instance: Arc<str>,
}

/// The picture of this moment.
pub(super) fn picture(sources: &Sources, admins: &[Admin]) -> Value {
    let snapshot = sources.engine.snapshot();
    let world = &snapshot.context.world;
    let all = sources.connected.len();
    let listed = sources.connected.listed(PROXIES);
    let mut topology = Topology::default();
    let proxies: Vec<Value> = listed.iter().map(|it| proxy(&snapshot, it, admins, &mut topology)).collect();
    let (routes, more_routes) = routes::routes(&snapshot.context.attachments, &mut topology);
    let (policies, more_policies) = routes::policies(world);
    let (nodes, more_nodes) = topology.nodes(world);
    let (problems, more_problems) = problems(sources, &snapshot);
    let cut_off: Vec<&str> = [
        ("services", more_nodes),
        ("proxies", all > listed.len()),
        ("routes", more_routes),
        ("policies", more_policies),
        ("problems", more_problems),
    ]
    .into_iter()
    .filter_map(|(name, more)| more.then_some(name))
    .collect();
    json!({
        "control": {
            "instance": &*sources.instance,
            "ready": sources.engine.ready(),
            "generation": snapshot.generation,
            "at": Utc::now().timestamp_millis(),
            "objects": world.objects().count(),
            "proxies": all,
            "trust_domain": world.trust_domain().as_str(),
            "admins": admins.len(),
        },
        "nodes": nodes,
        "edges": topology.edges(),
        "proxies": proxies,
        "routes": routes,
        "policies": policies,
        "certificates": certificates(admins),
        "roots": roots(sources),
        "generations": generations(admins),
        "ledger": ledger(admins),
        "problems": problems,
        "cut_off": cut_off,
    })
}

/// One proxy, and what it adds to the topology.
fn proxy(snapshot: &Snapshot, listing: &Listing, admins: &[Admin], topology: &mut Topology) -> Value {
    let (proxy, summary) = (&listing.proxy, &listing.summary);
    let node = topology::node_of(&snapshot.context.world, proxy);
    topology.proxy(node.clone());
    let admin = admins.iter().find(|it| it.is_of(&proxy.id, &proxy.pod, &proxy.namespace));
    let mut inbound = Rate::default();
    let mut outbound = Rate::default();
    for (cluster, rate) in admin.map(|it| it.window.rates()).unwrap_or_default() {
        if cluster.starts_with("inbound|") {
            inbound.add(&rate);
        } else if let Some(to) = topology::node_of_cluster(cluster) {
            outbound.add(&rate);
            topology.traffic(&node, to, &rate);
        }
    }
    let refused: Vec<Value> = summary
        .types
        .iter()
        .filter(|it| !it.refused.is_empty())
        .map(|it| json!({ "type": short(&it.type_url), "words": cut(&it.refused) }))
        .collect();
    json!({
        "id": cut(&proxy.id),
        "node": cut(&node),
        "pod": cut(&proxy.pod),
        "namespace": cut(&proxy.namespace),
        "role": &summary.role,
        "client": cut(&summary.client),
        "peer": &summary.peer,
        "identity": cut(&listing.identity),
        "connected": summary.connected_for.round(),
        "delta": summary.delta,
        "generation": summary.generation_acked,
        "state": state(&summary.types),
        "versions": versions(&summary.types),
        "refused": refused,
        "inbound": topology::shown(&inbound),
        "outbound": topology::shown(&outbound),
        "admin": admin.map(|it| json!({ "error": it.error, "generation": it.generation })),
    })
}

/// How far a proxy is with what it was sent.
fn state(types: &[pb::TypeStatus]) -> &'static str {
    use pb::type_status::State;
    let any = |state: State| types.iter().any(|it| it.state() == state);
    if any(State::Refused) {
        "refused"
    } else if any(State::Sent) || any(State::Pending) {
        "behind"
    } else if any(State::Synced) {
        "synced"
    } else {
        "nothing asked"
    }
}

/// What it has of each type that it asked for.
fn versions(types: &[pb::TypeStatus]) -> Vec<Value> {
    let asked = types.iter().filter(|it| it.state() != pb::type_status::State::NotSubscribed);
    let one = |it: &pb::TypeStatus| {
        json!({
            "type": short(&it.type_url),
            "resources": it.resources,
            "sent": cut(&it.version_sent),
            "acked": cut(&it.version_acked),
        })
    };
    asked.map(one).collect()
}

/// `Cluster` of `type.googleapis.com/envoy.config.cluster.v3.Cluster`.
fn short(type_url: &str) -> &str {
    type_url.rsplit('.').next().unwrap_or(type_url)
}

/// The certificates that proxies use, with whose they are, those first that end first.
fn certificates(admins: &[Admin]) -> Vec<Value> {
    let mut rows: Vec<Value> = admins.iter().flat_map(|admin| of(admin, &admin.certificates)).collect();
    let end = |it: &Value| it.get("expires").and_then(Value::as_str).unwrap_or_default().to_owned();
    rows.sort_by_cached_key(end);
    rows.truncate(ROWS);
    rows
}

/// The last changes of proxies, the newest first.
fn generations(admins: &[Admin]) -> Vec<Value> {
    let mut rows: Vec<Value> = admins.iter().flat_map(|admin| of(admin, &admin.generations)).collect();
    let at = |it: &Value| it.get("at").and_then(Value::as_str).unwrap_or_default().to_owned();
    rows.sort_by_cached_key(|it| std::cmp::Reverse(at(it)));
    rows.truncate(ROWS);
    rows
}

/// The ledgers of proxies.
fn ledger(admins: &[Admin]) -> Vec<Value> {
    let known = admins.iter().filter(|admin| admin.ledger.is_object());
    known.map(|admin| named(admin, admin.ledger.clone())).take(ROWS).collect()
}

/// The rows of a list, each with the proxy's name.
fn of<'a>(admin: &'a Admin, rows: &'a Value) -> impl Iterator<Item = Value> + 'a {
    rows.as_array().into_iter().flatten().map(|row| named(admin, row.clone()))
}

fn named(admin: &Admin, mut row: Value) -> Value {
    if let Some(fields) = row.as_object_mut() {
        fields.insert("proxy".to_owned(), cut(&admin.target.name).into());
    }
    row
}

/// The roots that certify workloads here, the signing one first.
fn roots(sources: &Sources) -> Vec<Value> {
    let Some(bundle) = &sources.roots else { return Vec::new() };
    let bundle = Arc::clone(&bundle.borrow());
    let now = Utc::now().timestamp();
    let one = |der: &[u8]| {
        let (_, certificate) = X509Certificate::from_der(der).ok()?;
        let validity = certificate.validity();
        let (from, until) = (validity.not_before.timestamp(), validity.not_after.timestamp());
        let (whole, left) = ((until - from).max(1), (until - now).max(0));
        let expires =
            chrono::DateTime::from_timestamp(until, 0).map(|it| it.to_rfc3339()).unwrap_or_default();
        Some(json!({
            "subject": cut(&certificate.subject().to_string()),
            "expires": expires,
            "percent_left": (left.saturating_mul(100) / whole).min(100),
        }))
    };
    bundle.roots.iter().take(16).filter_map(|root| one(root.as_ref())).collect()
}

/// What is wrong: with what sources have, and with objects that are in force otherwise than they say.
fn problems(sources: &Sources, snapshot: &Snapshot) -> (Vec<Value>, bool) {
    let mut rows = Vec::new();
    for (origin, name) in [(Origin::Manifests, "manifests"), (Origin::Store, "store")] {
        for problem in sources.problems.of(origin) {
            // Anybody on this host may look, and a reason may quote what is wrong.
            let secret = quotes_secret(&problem);
            let reason = if secret { "cannot be read (ask as an administrator)" } else { &*problem.reason };
            rows.push(json!({
                "origin": name,
                "source": cut(&problem.source),
                "object": cut(&problem.object),
                "field": cut(&problem.field),
                "reason": cut(reason),
            }));
        }
    }
    for (key, status) in &snapshot.context.attachments.statuses {
        if rows.len() > PROBLEMS {
            break;
        }
        let mut told = Vec::new();
        complaints(status, 0, &mut told);
        told.dedup();
        rows.extend(told.into_iter().map(|reason| {
            json!({
                "origin": "status", "source": "", "object": cut(&key.to_string()), "field": "",
                "reason": cut(&reason),
            })
        }));
    }
    let more = rows.len() > PROBLEMS;
    rows.truncate(PROBLEMS);
    (rows, more)
}

/// The messages of conditions that are not as they should be.
fn complaints(status: &Value, depth: usize, out: &mut Vec<String>) {
    const GOOD_WHEN_TRUE: [&str; 3] = ["Accepted", "Programmed", "ResolvedRefs"];
    // Parents have conditions, listeners have; nothing is deeper.
    if depth > 4 || out.len() > 16 {
        return;
    }
    match status {
        Value::Array(items) => items.iter().for_each(|it| complaints(it, depth + 1, out)),
        Value::Object(fields) => {
            let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
            if GOOD_WHEN_TRUE.contains(&text("type")) && text("status") == "False" {
                out.push(format!("{}: {}", text("reason"), text("message")));
            } else {
                fields.values().for_each(|it| complaints(it, depth + 1, out));
            }
        }
        _ => {}
    }
}
