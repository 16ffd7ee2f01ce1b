//! What clients ask for, and the limits of it.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use super::subscription::{Look, NOTHING, Subscription};
use crate::engine::View;
use crate::translate::Type;

/// How many names a stream may ask for in one type.
const NAMES: usize = 100_000;
/// How many bytes they have together.
const BYTES: usize = 8 << 20;
/// How many bytes one name has.
const LONGEST: usize = 1024;

/// What a client wants, in either protocol.
#[derive(Debug)]
pub enum Wish {
    /// State of the world: these names and no others; empty as long as no name was ever given: all there is (clusters and
    /// listeners).
    Whole {
        /// The names.
        names: Vec<String>,
    },
    /// Delta.
    Change {
        /// Names to add; `*` is all.
        subscribe: Vec<String>,
        /// Names to leave.
        unsubscribe: Vec<String>,
        /// What a client that comes back has.
        known: HashMap<String, String>,
    },
}

impl Wish {
    /// Takes it, or refuses it for its size.
    ///
    /// # Errors
    /// When the client asks for more than a stream may, in words.
    pub(super) fn take(
        self,
        kind: Type,
        subscription: &mut Subscription,
        view: &View,
        first: bool,
    ) -> Result<(), String> {
        self.check(kind)?;
        // A resource that is there lends its own name: it is kept once, not once for each stream.
        let name = |text: String| -> Arc<str> {
            view.get(kind, &text).map_or_else(|| text.as_str().into(), |it| Arc::clone(&it.name))
        };
        match self {
            Self::Whole { names } => {
                whole(kind, subscription, names.into_iter().map(name).collect(), first);
            }
            Self::Change { subscribe, unsubscribe, known } => {
                let known = known.into_iter().map(|(text, version)| (name(text), version)).collect();
                let subscribe = subscribe.into_iter().map(name).collect();
                change(kind, subscription, view, (subscribe, unsubscribe), known, first);
            }
        }
        if subscription.names.len() > NAMES {
            return Err(format!("more than {NAMES} names of {} on one stream", kind.message()));
        }
        if subscription.bytes > BYTES {
            return Err(format!("more than {BYTES} bytes of names of {} on one stream", kind.message()));
        }
        Ok(())
    }

    /// Whether it is of bearable size by itself.
    fn check(&self, kind: Type) -> Result<(), String> {
        let (names, known) = match self {
            Self::Whole { names } => (names, None),
            Self::Change { subscribe, known, .. } => (subscribe, Some(known)),
        };
        let all = || names.iter().chain(known.into_iter().flat_map(HashMap::keys));
        if let Some(long) = all().find(|name| name.len() > LONGEST) {
            let start: String = long.chars().take(64).collect();
            return Err(format!(
                "a name of {} has {} bytes, {LONGEST} at most may be asked for: {start}...",
                kind.message(),
                long.len()
            ));
        }
        if all().count() > 2 * NAMES {
            return Err(format!("more than {NAMES} names of {} in one request", kind.message()));
        }
        Ok(())
    }
}

/// Takes the names of a request in state of the world.
fn whole(kind: Type, subscription: &mut Subscription, names: Vec<Arc<str>>, first: bool) {
    // Who ever gave a name, `*` among them, means what it says from then on: no names are none.
    let by_default = matches!(kind, Type::Cluster | Type::Listener) && !subscription.named;
    subscription.named |= !names.is_empty();
    let wildcard = (names.is_empty() && by_default) || names.iter().any(|name| &**name == "*");
    let names: BTreeSet<Arc<str>> = names.into_iter().filter(|name| &**name != "*").collect();
    if !first && names == subscription.names && wildcard == subscription.wildcard {
        return;
    }
    // What was left is forgotten, so that it is sent when it is asked for again.
    if wildcard {
        subscription.look = Look::All;
    } else {
        subscription.sent.retain(|name, _| names.contains(name));
        subscription.refusals.retain(|name| names.contains(name));
        subscription.look.retain(|name| names.contains(name));
        subscription.look.at(names.difference(&subscription.names).cloned());
    }
    // In state of the world each response about clusters or listeners is all there is, whatever changed of the names.
    subscription.answer |= first || matches!(kind, Type::Cluster | Type::Listener);
    subscription.bytes = names.iter().map(|name| name.len()).sum();
    subscription.names = names;
    subscription.wildcard = wildcard;
}

/// Takes the changes of a delta request.
fn change(
    kind: Type,
    subscription: &mut Subscription,
    view: &View,
    (subscribe, unsubscribe): (Vec<Arc<str>>, Vec<String>),
    known: HashMap<Arc<str>, String>,
    first: bool,
) {
    if first {
        subscription.wildcard = subscribe.is_empty() && matches!(kind, Type::Cluster | Type::Listener);
        let all = subscription.wildcard || subscribe.iter().any(|name| &**name == "*");
        let wanted: BTreeSet<&Arc<str>> = if all { BTreeSet::new() } else { subscribe.iter().collect() };
        let parse = |text: &str| u64::from_str_radix(text, 16).ok().filter(|version| *version != NOTHING);
        // A version of somebody else's is one that differs from all of ours. What it has and does not ask for is its own.
        subscription.sent = known
            .into_iter()
            .filter(|(name, _)| all || wanted.contains(name))
            .map(|(name, version)| (name, parse(&version).unwrap_or(u64::MAX)))
            .collect();
        subscription.answer = true;
    }
    if first && subscription.wildcard {
        subscription.look = Look::All;
    }
    for name in unsubscribe {
        if name == "*" {
            subscription.wildcard = false;
            let names = &subscription.names;
            subscription.sent.retain(|name, _| names.contains(name));
            subscription.refusals.retain(|name| names.contains(name));
            subscription.look.retain(|name| names.contains(name));
        } else {
            subscription.leave(kind, &name, view);
        }
    }
    let (all, names): (Vec<_>, Vec<_>) = subscribe.into_iter().partition(|name| &**name == "*");
    if !all.is_empty() {
        subscription.wildcard = true;
        subscription.look = Look::All;
    }
    // Asking again for what one has means that one wants it again.
    if !first {
        for name in &names {
            subscription.sent.remove(name);
        }
    }
    subscription.look.at(names.iter().cloned());
    subscription.want(names);
}
