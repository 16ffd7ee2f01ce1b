//! Which kinds the server serves, and in which version. Asked again and again while some are missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kube::Client;
use kube::api::ApiResource;
use tokio::task::JoinSet;

use super::mirror::Feed;
use super::{REQUEST, Shared, feed, words};
use crate::model::Kind;
use crate::restart::restarted;

/// How often the server must say in a row that it does not serve a kind which it served until its objects are held to be gone.
/// Once may be the moment of a change, or somebody in between who answers for a server that is not there.
const CERTAIN: u32 = 2;
/// Of secrets these types, each by a watch of its own: field selectors know no "or". The server filters, so Helm's releases
/// and service accounts' tokens never come here.
const SECRETS: [&str; 2] = ["type=kubernetes.io/tls", "type=Opaque"];

/// Watches all kinds that are served, for as long as it is polled.
pub(super) async fn keep(shared: Arc<Shared>) {
    let what = format!("{}: watching", shared.place);
    loop {
        restarted(&what, shared.pace.fault, || follow(Arc::clone(&shared))).await;
        tokio::time::sleep(shared.pace.fault).await;
    }
}

/// Ends when a watch failed in a way that does not tell which.
async fn follow(shared: Arc<Shared>) {
    let mut feeds: JoinSet<Feed> = JoinSet::new();
    let mut running: BTreeSet<Feed> = BTreeSet::new();
    // Feeds that do not run although there are objects of theirs, and how often in a row their kind was not served. What there
    // is already at the start is of a life before a fault.
    let mut idle: BTreeMap<Feed, u32> = shared.mirror.feeds().into_iter().map(|feed| (feed, 0)).collect();
    let mut told: BTreeSet<Kind> = BTreeSet::new();
    loop {
        match discover(&shared.client).await {
            Ok(served) => {
                for feed in judge(&mut idle, &served) {
                    shared.served().remove(&feed.kind);
                    shared.mirror.end(feed);
                    told.insert(feed.kind);
                    tracing::warn!(
                        "{}: {} is no longer served: its objects are gone",
                        shared.place,
                        feed.kind
                    );
                }
                for kind in Kind::ALL.iter().filter(|kind| !served.contains_key(kind)) {
                    if told.insert(*kind) {
                        tracing::info!(
                            "{}: {kind} ({}) is not served, its CRD is not installed: left out until it is",
                            shared.place,
                            kind.api_version()
                        );
                    }
                }
                for (kind, resource) in served {
                    if told.remove(&kind) {
                        tracing::info!("{}: {kind} is served now", shared.place);
                    }
                    start(&shared, &mut feeds, &mut running, kind, &resource);
                }
                shared.mirror.discovered(Ok(()));
            }
            Err(reason) => {
                tracing::warn!(
                    "{}: which kinds are served is not known: {reason}; asking again",
                    shared.place
                );
                shared.mirror.discovered(Err(reason));
            }
        }
        let missing = Kind::ALL.len() != shared.served().len() || !idle.is_empty();
        let pause = async {
            if missing { tokio::time::sleep(shared.pace.again).await } else { std::future::pending().await }
        };
        tokio::select! {
            () = pause => {}
            Some(ended) = feeds.join_next() => match ended {
                Ok(feed) => {
                    running.remove(&feed);
                    idle.insert(feed, 0);
                }
                Err(error) => {
                    tracing::error!("{}: a watch failed: {error}; all start anew", shared.place);
                    return;
                }
            }
        }
    }
}

/// Of the feeds that do not run: forgets those whose kind is served, as they are started again; gives those whose kind is surely
/// not served any more.
fn judge(idle: &mut BTreeMap<Feed, u32>, served: &BTreeMap<Kind, ApiResource>) -> Vec<Feed> {
    idle.retain(|feed, _| !served.contains_key(&feed.kind));
    idle.values_mut().for_each(|times| *times += 1);
    idle.extract_if(.., |_, times| *times >= CERTAIN).map(|(feed, _)| feed).collect()
}

fn start(
    shared: &Arc<Shared>,
    feeds: &mut JoinSet<Feed>,
    running: &mut BTreeSet<Feed>,
    kind: Kind,
    resource: &ApiResource,
) {
    let selectors: &[&'static str] = if kind == Kind::Secret { &SECRETS } else { &[""] };
    for &fields in selectors {
        let feed = Feed { kind, fields };
        if running.insert(feed) {
            shared.served().insert(kind, resource.clone());
            shared.mirror.begin(feed);
            feeds.spawn(feed::run(Arc::clone(shared), feed, resource.clone()));
        }
    }
}

/// The kinds that are served, each in the first version of ours that the server has.
///
/// Only what a server says of itself counts: which groups there are (`/apis`, which every server has) and what is in them. That
/// there is nothing at an address is no answer: a load balancer without a server says the same.
async fn discover(client: &Client) -> Result<BTreeMap<Kind, ApiResource>, String> {
    let groups = asked("/apis", client.list_api_groups()).await?.groups;
    let versions = groups.into_iter().flat_map(|group| group.versions);
    let versions: BTreeSet<String> = versions.map(|version| version.group_version).collect();
    let mut lists: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut served = BTreeMap::new();
    for &kind in Kind::ALL {
        for version in kind.versions() {
            let api_version = match kind.group() {
                "" => (*version).to_owned(),
                group => format!("{group}/{version}"),
            };
            if !kind.group().is_empty() && !versions.contains(&api_version) {
                continue;
            }
            if !lists.contains_key(&api_version) {
                lists.insert(api_version.clone(), plurals(client, &api_version).await?);
            }
            if lists.get(&api_version).is_some_and(|plurals| plurals.contains(kind.plural())) {
                let resource = ApiResource {
                    group: kind.group().into(),
                    version: (*version).into(),
                    api_version,
                    kind: kind.name().into(),
                    plural: kind.plural().into(),
                };
                served.insert(kind, resource);
                break;
            }
        }
    }
    Ok(served)
}

/// What a group has in one version.
async fn plurals(client: &Client, api_version: &str) -> Result<BTreeSet<String>, String> {
    let list = async {
        if api_version.contains('/') {
            client.list_api_group_resources(api_version).await
        } else {
            client.list_core_api_resources(api_version).await
        }
    };
    let list = asked(api_version, list).await?;
    Ok(list.resources.into_iter().map(|resource| resource.name).collect())
}

async fn asked<T>(what: &str, answer: impl Future<Output = kube::Result<T>>) -> Result<T, String> {
    match tokio::time::timeout(REQUEST, answer).await {
        Ok(answer) => answer.map_err(|error| format!("{what}: {}", words(&error))),
        Err(_) => Err(format!("{what}: no answer within {REQUEST:?}")),
    }
}
