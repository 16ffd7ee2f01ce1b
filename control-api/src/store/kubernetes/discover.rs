//! Which kinds the server serves, and in which version. Asked again and again while some are missing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kube::Client;
use kube::api::ApiResource;
use tokio::task::JoinSet;

use super::mirror::Feed;
use super::{REQUEST, Shared, feed, words};
use crate::model::Kind;

/// How often missing kinds are looked for.
const AGAIN: Duration = Duration::from_secs(5);
/// Of secrets these types, each by a watch of its own: field selectors know no "or". The server filters, so Helm's releases
/// and service accounts' tokens never come here.
const SECRETS: [&str; 2] = ["type=kubernetes.io/tls", "type=Opaque"];

/// Watches all kinds that are served, for as long as it is polled.
pub(super) async fn keep(shared: Arc<Shared>) {
    let mut feeds: JoinSet<Feed> = JoinSet::new();
    let mut running: BTreeSet<Feed> = BTreeSet::new();
    let mut told: BTreeSet<Kind> = BTreeSet::new();
    loop {
        match discover(&shared.client).await {
            Ok(served) => {
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
        let missing = Kind::ALL.len() != shared.served().len();
        let pause =
            async { if missing { tokio::time::sleep(AGAIN).await } else { std::future::pending().await } };
        tokio::select! {
            () = pause => {}
            Some(ended) = feeds.join_next() => {
                let Ok(ended) = ended else { continue };
                running.remove(&ended);
                shared.served().remove(&ended.kind);
                shared.mirror.end(ended);
                tracing::warn!("{}: {} is no longer served: its objects are gone", shared.place, ended.kind);
                // Its CRD may be on its way out: what is asked at once would still find it.
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
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
async fn discover(client: &Client) -> Result<BTreeMap<Kind, ApiResource>, String> {
    let mut lists: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let mut served = BTreeMap::new();
    for &kind in Kind::ALL {
        for version in kind.versions() {
            let api_version = match kind.group() {
                "" => (*version).to_owned(),
                group => format!("{group}/{version}"),
            };
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

/// What a group has in one version; nothing when it is not served.
async fn plurals(client: &Client, api_version: &str) -> Result<BTreeSet<String>, String> {
    let list = async {
        if api_version.contains('/') {
            client.list_api_group_resources(api_version).await
        } else {
            client.list_core_api_resources(api_version).await
        }
    };
    match tokio::time::timeout(REQUEST, list).await {
        Ok(Ok(list)) => Ok(list.resources.into_iter().map(|resource| resource.name).collect()),
        Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(BTreeSet::new()),
        Ok(Err(error)) => Err(words(&error)),
        Err(_) => Err(format!("no answer within {REQUEST:?}")),
    }
}
