//! What is told of changes, whatever the order in which the server told them.

use proptest::prelude::*;

use super::*;

const KINDS: [Kind; 2] = [Kind::Gateway, Kind::HttpRoute];

fn feed(kind: Kind) -> Feed {
    Feed { kind, fields: "" }
}

fn cleaned(kind: Kind, name: &str, revision: u64, size: usize) -> Cleaned {
    let json = Bytes::from(format!("{revision}{}", " ".repeat(size)));
    Cleaned { key: Key::new(kind, "default", name), revision, json, status: 0, ours: false }
}

/// Where there is a picture of both kinds, at 100.
fn synced() -> State {
    let mut state = State::new(100);
    state.discovered = Some(Ok(()));
    state.feeds.extend(KINDS.map(|kind| (feed(kind), Ok(()))));
    state.settle();
    state
}

fn told(state: &State, after: u64) -> Vec<(String, u64, bool)> {
    let changes = state.after(after).unwrap();
    changes.iter().map(|it| (it.key.name.to_string(), it.version, it.json.is_some())).collect()
}

#[test]
fn who_resumes_gets_what_is_older_but_was_told_later() {
    let mut state = synced();
    state.put(feed(Kind::Gateway), cleaned(Kind::Gateway, "a", 13, 0));
    let seen = state.position();
    state.put(feed(Kind::HttpRoute), cleaned(Kind::HttpRoute, "b", 12, 0));
    assert_eq!(told(&state, seen), [("b".into(), 12, true)]);
    assert!(state.position() > seen, "who waits for the change can tell that it is there");
}

#[test]
fn a_secret_made_anew_with_another_type_stays_whichever_feed_is_heard_first() {
    let feeds = ["type=Opaque", "type=kubernetes.io/tls"].map(|fields| Feed { kind: Kind::Secret, fields });
    let secret = |revision| cleaned(Kind::Secret, "s", revision, 0);
    let key = secret(1).key;
    let mut state = synced();
    state.put(feeds[0], secret(10));
    state.put(feeds[1], secret(12));
    state.delete(feeds[0], &key, Some(11));
    assert_eq!(state.entries[&key].revision, 12);
    // Of its own feed, a deletion that is older is old news too.
    state.delete(feeds[1], &key, Some(11));
    assert_eq!(state.entries[&key].revision, 12);
    state.delete(feeds[1], &key, Some(13));
    assert!(state.entries.is_empty());
    state.put(feeds[1], secret(14));
    state.delete(feeds[1], &key, None);
    assert!(state.entries.is_empty(), "missing in a new list of its feed");
}

#[test]
fn what_is_remembered_is_bounded_in_bytes() {
    let mut state = synced();
    for revision in 0..40 {
        state.put(feed(Kind::HttpRoute), cleaned(Kind::HttpRoute, "large", 200 + revision, 1 << 20));
        let held: usize = state.history.iter().map(|it| it.json.as_ref().map_or(0, Bytes::len)).sum();
        assert!(held <= BYTES && state.bytes <= BYTES, "{held}");
    }
    assert!(state.history.len() > 8, "{}", state.history.len());
    assert!(matches!(state.after(100), Err(StoreError::Compacted { oldest, .. }) if oldest == state.floor));
    assert_eq!(told(&state, state.position() - 1).len(), 1);
}

#[test]
fn what_another_process_gave_out_is_not_known() {
    let other = [epoch(), epoch()];
    assert_ne!(other[0], other[1]);
    let state = synced();
    for revision in other.into_iter().chain([0, 99, 101]) {
        assert!(matches!(state.after(revision), Err(StoreError::Compacted { .. })), "{revision}");
    }
}

/// Something that the server tells: of which kind, which object, at which revision; 0 deletes, 1 lists anew with this one alone.
type Step = (usize, u8, u64, u8);

proptest! {
    #[test]
    fn from_every_position_exactly_the_rest_follows(steps in proptest::collection::vec((0..2usize, 0..4u8, 1..40u64, 0..5u8), 1..60)) {
        let mut state = synced();
        let mut images = vec![(state.position(), image(&state))];
        for (kind, name, revision, what) in steps as Vec<Step> {
            let kind = KINDS[kind];
            let it = cleaned(kind, &format!("n{name}"), revision, 0);
            match what {
                0 => state.delete(feed(kind), &it.key, Some(revision)),
                1 => state.replace(feed(kind), vec![it]),
                _ => state.put(feed(kind), it),
            }
            images.push((state.position(), image(&state)));
        }
        for (position, mut image_then) in images {
            let mut last = position;
            for change in state.after(position).unwrap() {
                prop_assert_eq!(change.revision, last + 1);
                last = change.revision;
                match change.json {
                    Some(json) => image_then.insert(change.key, (change.version, json)),
                    None => image_then.remove(&change.key),
                };
            }
            prop_assert_eq!(last, state.position());
            prop_assert_eq!(image_then, image(&state));
        }
    }
}

fn image(state: &State) -> BTreeMap<Key, (u64, Bytes)> {
    let one = |(key, entry): (&Key, &Entry)| (key.clone(), (entry.revision, entry.json.clone()));
    state.entries.iter().map(one).collect()
}
