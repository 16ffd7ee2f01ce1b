//! One watch, from the server to the mirror.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event, watcher};

use super::clean::{self, Cleaned};
use super::mirror::Feed;
use super::{Shared, words};

/// The pause after the first failure in a row; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// After so many answers of "not found" in a row a kind is held to be gone.
const GONE: u32 = 2;

/// Watches until the kind is no longer served.
pub(super) async fn run(shared: Arc<Shared>, feed: Feed, resource: ApiResource) -> Feed {
    let api: Api<DynamicObject> = Api::all_with(shared.client.clone(), &resource);
    let mut config = watcher::Config::default();
    if !feed.fields.is_empty() {
        config = config.fields(feed.fields);
    }
    let mut failures = 0;
    let mut not_found = 0;
    loop {
        let mut stream = pin!(watcher(api.clone(), config.clone()));
        let mut all = Vec::new();
        while let Some(event) = stream.next().await {
            let error = match event {
                Ok(event) => {
                    // `Init` comes before each attempt to list: it is no success yet.
                    if !matches!(event, Event::Init) {
                        if failures > 0 {
                            tracing::info!("{}: {} are watched again", shared.place, feed.kind.plural());
                        }
                        (failures, not_found) = (0, 0);
                    }
                    take(&shared, feed, event, &mut all);
                    continue;
                }
                Err(error) => error,
            };
            let (code, reason) = told(&error);
            if code == Some(410) {
                // The server forgot what came since: all is listed anew. A watch that could not even begin would ask for
                // the same revision again, so it is made new.
                tracing::info!("{}: {}: {reason}; listing anew", shared.place, feed.kind.plural());
                break;
            }
            not_found = if code == Some(404) { not_found + 1 } else { 0 };
            if not_found >= GONE {
                return feed;
            }
            failures += 1;
            if failures == 1 || failures % 20 == 0 {
                tracing::warn!(
                    "{}: {} cannot be watched: {reason}; what was known stays in force, trying again",
                    shared.place,
                    feed.kind.plural()
                );
            }
            shared.mirror.trouble(feed, reason);
            let pause = FIRST_PAUSE * 2u32.saturating_pow((failures - 1).min(8));
            tokio::time::sleep(pause.min(LONGEST_PAUSE)).await;
        }
    }
}

fn take(shared: &Shared, feed: Feed, event: Event<DynamicObject>, all: &mut Vec<Cleaned>) {
    let cleaned = |object: DynamicObject| {
        let name = object.metadata.name.clone().unwrap_or_default();
        match clean::clean(feed.kind, object, true) {
            Ok(cleaned) => cleaned,
            Err(reason) => {
                tracing::error!("{}: {} {name}: {reason}; it is left out", shared.place, feed.kind);
                None
            }
        }
    };
    match event {
        Event::Init => all.clear(),
        Event::InitApply(object) => all.extend(cleaned(object)),
        Event::InitDone => shared.mirror.replace(feed, std::mem::take(all)),
        Event::Apply(object) => {
            let key = key(feed, &object);
            match cleaned(object) {
                Some(it) => shared.mirror.put(feed, it),
                // It is of no use any more: a config map that lost its certificates.
                None => shared.mirror.delete(&key, shared.mirror.revision()),
            }
        }
        Event::Delete(object) => {
            let revision = clean::revision(object.metadata.resource_version.as_deref());
            let revision = revision.unwrap_or_else(|_| shared.mirror.revision());
            shared.mirror.delete(&key(feed, &object), revision);
        }
    }
}

fn key(feed: Feed, object: &DynamicObject) -> crate::model::Key {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    crate::model::Key::new(feed.kind, &text(&object.metadata.namespace), &text(&object.metadata.name))
}

/// The server's code and the reason in words.
fn told(error: &watcher::Error) -> (Option<u16>, String) {
    match error {
        watcher::Error::InitialListFailed(error)
        | watcher::Error::WatchStartFailed(error)
        | watcher::Error::WatchFailed(error) => {
            let code = if let kube::Error::Api(status) = error { Some(status.code) } else { None };
            (code, words(error))
        }
        watcher::Error::WatchError(status) => (Some(status.code), status.message.clone()),
        watcher::Error::NoResourceVersion => (None, "the server sends no resourceVersion".into()),
    }
}
