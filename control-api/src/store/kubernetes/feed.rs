//! One watch, from the server to the mirror.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use kube::api::{Api, ApiResource, DynamicObject};
use kube::runtime::watcher::{self, Event, watcher};
use tokio::time::Instant;

use super::clean::{self, Cleaned};
use super::mirror::Feed;
use super::{Shared, limit, words};
use crate::restart::restarted;

/// The pause after the first failure in a row; it doubles with each.
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(15);
/// After so many answers of "not found" in a row it is to be asked whether the kind is still served.
const GONE: u32 = 2;
/// How long a page of a list may take, from the question to its last byte.
const PAGE: Duration = limit::BEGIN.saturating_mul(2);
/// When the server forgets what came since more often than this, something is wrong with it.
const RARELY: Duration = Duration::from_secs(60);

/// Watches until the server says again and again that there is no such thing.
pub(super) async fn run(shared: Arc<Shared>, feed: Feed, resource: ApiResource) -> Feed {
    let what = format!("{}: the watch of {}", shared.place, feed.kind.plural());
    restarted(&what, shared.pace.fault, || follow(Arc::clone(&shared), feed, resource.clone())).await;
    feed
}

async fn follow(shared: Arc<Shared>, feed: Feed, resource: ApiResource) {
    let api: Api<DynamicObject> = Api::all_with(shared.client.clone(), &resource);
    let mut config = watcher::Config::default();
    if !feed.fields.is_empty() {
        config = config.fields(feed.fields);
    }
    let mut troubles = Troubles::default();
    loop {
        let mut stream = pin!(watcher(api.clone(), config.clone()));
        let mut all = Vec::new();
        let mut listed = false;
        loop {
            let next = async {
                if listed {
                    return Ok(stream.next().await);
                }
                tokio::time::timeout(PAGE, stream.next()).await
            };
            let (code, reason) = match next.await {
                Ok(None) => break,
                Ok(Some(Ok(event))) => {
                    listed = match event {
                        Event::Init => false,
                        Event::InitDone => true,
                        _ => listed,
                    };
                    // `Init` comes before each attempt to list: it is no success yet.
                    if !matches!(event, Event::Init) && troubles.over() {
                        tracing::info!("{}: {} are watched again", shared.place, feed.kind.plural());
                    }
                    take(&shared, feed, event, &mut all);
                    continue;
                }
                Ok(Some(Err(error))) => told(&error),
                Err(_) => (None, format!("the list did not come within {PAGE:?}")),
            };
            let stalled = !listed && code.is_none();
            let next = troubles.note(code, Instant::now());
            match next {
                Next::Gone => return,
                Next::Anew(_) => {
                    tracing::info!("{}: {}: {reason}; listing anew", shared.place, feed.kind.plural());
                }
                Next::Again(_) if troubles.failures == 1 || troubles.failures % 20 == 0 => tracing::warn!(
                    "{}: {} cannot be watched: {reason}; what was known stays in force, trying again",
                    shared.place,
                    feed.kind.plural()
                ),
                Next::Again(_) => {}
            }
            shared.mirror.trouble(feed, reason);
            let (Next::Anew(pause) | Next::Again(pause)) = next else { continue };
            tokio::time::sleep(pause).await;
            // A watch that could not even begin would ask for the same revision again, and a list that stalls would go on to.
            if stalled || matches!(next, Next::Anew(_)) {
                break;
            }
        }
    }
}

/// What to do after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// List anew, after a pause.
    Anew(Duration),
    /// Try again, after a pause.
    Again(Duration),
    /// Ask whether the kind is served at all.
    Gone,
}

/// The failures of a watch, and what follows from them.
#[derive(Debug, Default)]
struct Troubles {
    /// In a row.
    failures: u32,
    /// Answers of "not found" in a row.
    not_found: u32,
    /// How often in a row, each soon after the one before, the server had forgotten what came since; and when last.
    forgot: u32,
    last: Option<Instant>,
}

impl Troubles {
    /// It goes well. Whether it did not before.
    fn over(&mut self) -> bool {
        let before = self.failures > 0;
        (self.failures, self.not_found) = (0, 0);
        before
    }

    /// The server answered with an error, of this code if it has one.
    fn note(&mut self, code: Option<u16>, now: Instant) -> Next {
        if code == Some(410) {
            // The server forgot what came since: all is listed anew. Listing may go well each time and yet lead nowhere, so only
            // time tells whether this is one more in a row.
            let soon = self.last.is_some_and(|last| now.saturating_duration_since(last) < RARELY);
            self.forgot = if soon { self.forgot + 1 } else { 0 };
            self.last = Some(now);
            return Next::Anew(if self.forgot == 0 { Duration::ZERO } else { pause(self.forgot) });
        }
        self.not_found = if code == Some(404) { self.not_found + 1 } else { 0 };
        if self.not_found >= GONE {
            return Next::Gone;
        }
        self.failures += 1;
        Next::Again(pause(self.failures))
    }
}

/// The pause after so many failures.
fn pause(failures: u32) -> Duration {
    (FIRST_PAUSE * 2u32.saturating_pow(failures.saturating_sub(1).min(8))).min(LONGEST_PAUSE)
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
            let (key, revision) = (key(feed, &object), revision(&object));
            match cleaned(object) {
                Some(it) => shared.mirror.put(feed, it),
                // It is of no use any more: a config map that lost its certificates.
                None => shared.mirror.delete(feed, &key, revision),
            }
        }
        Event::Delete(object) => shared.mirror.delete(feed, &key(feed, &object), revision(&object)),
    }
}

fn key(feed: Feed, object: &DynamicObject) -> crate::model::Key {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    crate::model::Key::new(feed.kind, &text(&object.metadata.namespace), &text(&object.metadata.name))
}

fn revision(object: &DynamicObject) -> Option<u64> {
    clean::revision(object.metadata.resource_version.as_deref()).ok()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_forgets_once_is_listed_at_once_and_one_that_goes_on_after_growing_pauses() {
        let mut troubles = Troubles::default();
        let now = Instant::now();
        assert_eq!(troubles.note(Some(410), now), Next::Anew(Duration::ZERO));
        // That a list went well in between shows nothing.
        troubles.over();
        assert_eq!(troubles.note(Some(410), now), Next::Anew(FIRST_PAUSE));
        assert_eq!(troubles.note(Some(410), now), Next::Anew(FIRST_PAUSE * 2));
        for _ in 0..40 {
            troubles.note(Some(410), now);
        }
        assert_eq!(troubles.note(Some(410), now), Next::Anew(LONGEST_PAUSE));
        assert_eq!(troubles.note(Some(410), now + RARELY), Next::Anew(Duration::ZERO));
    }

    #[test]
    fn only_answers_of_not_found_in_a_row_count() {
        let mut troubles = Troubles::default();
        let now = Instant::now();
        for _ in 0..3 {
            assert!(matches!(troubles.note(Some(404), now), Next::Again(_)));
            assert!(matches!(troubles.note(Some(500), now), Next::Again(_)));
        }
        assert!(matches!(troubles.note(Some(404), now), Next::Again(_)));
        assert_eq!(troubles.note(Some(404), now), Next::Gone);
    }
}
