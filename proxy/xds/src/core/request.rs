//! Requests, made from the state at the moment when they are taken.

use std::sync::Arc;

use outrider_proto::pb::envoy::config::core::v3::Node;
use outrider_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};

use super::subscription::{ALL, Subscription};
use super::{Answer, Core};
use crate::Kind;

/// A request to send.
#[derive(Debug, Clone, PartialEq)]
pub enum Request {
    /// State of the world.
    Sotw(DiscoveryRequest),
    /// Incremental.
    Delta(DeltaDiscoveryRequest),
}

impl Core {
    /// Is there a request to take?
    pub fn has_request(&self) -> bool {
        self.next_answer().is_some() || self.next_change().is_some()
    }

    /// Takes the next request: answers first, then changed subscriptions, oldest first. `None` without a stream, or
    /// when nothing is to be said.
    pub fn next_request(&mut self) -> Option<Request> {
        if let Some(place) = self.next_answer() {
            let answer = self.stream.as_mut()?.answers.remove(place)?;
            return self.build(answer.kind, Some(answer));
        }
        while let Some(place) = self.next_change() {
            let kind = self.stream.as_mut()?.changed.remove(place)?;
            let request = self.build(kind, None);
            if request.is_some() {
                return request;
            }
        }
        None
    }

    fn next_answer(&self) -> Option<usize> {
        let stream = self.stream.as_ref()?;
        stream.answers.iter().position(|answer| !self.held_back(answer.kind))
    }

    fn next_change(&self) -> Option<usize> {
        let stream = self.stream.as_ref()?;
        stream.changed.iter().position(|kind| {
            // A stream begins with what is in force. Later a state-of-the-world request carries a nonce, which is stale
            // until the answer is given.
            let decided = self.kinds.get(kind).is_none_or(|sub| {
                if sub.sent { self.options.delta || sub.in_flight == 0 } else { sub.undecided == 0 }
            });
            decided && !self.held_back(*kind)
        })
    }

    /// Paused by the consumer, by an update of another kind that is being decided, or a NACK that waits.
    fn held_back(&self, kind: Kind) -> bool {
        self.kinds.values().any(|sub| {
            (sub.kind == kind && (sub.paused > 0 || sub.holding))
                || sub.in_flight > 0 && sub.kind.holds_back().contains(&kind)
        })
    }

    /// The request of `kind`, with `answer` when it is one; `None` when it would say nothing.
    fn build(&mut self, kind: Kind, answer: Option<Answer>) -> Option<Request> {
        let stream = self.stream.as_mut()?;
        let sub = self.kinds.get_mut(&kind)?;
        let node = (!self.options.node_once || !stream.node_sent).then(|| self.options.node.clone());
        let again = if self.options.delta {
            sub.again.contains(ALL)
        } else {
            sub.in_flight == 0 && !sub.again.is_empty()
        };
        let request = if self.options.delta {
            Request::Delta(delta(sub, answer, node)?)
        } else {
            if sub.in_flight == 0 {
                // Each request carries the whole subscription.
                stream.changed.retain(|changed| *changed != kind);
            }
            Request::Sotw(sotw(sub, answer, node)?)
        };
        if again && !stream.changed.contains(&kind) {
            // Once without it, once with it.
            stream.changed.push_back(kind);
        }
        stream.node_sent = true;
        sub.sent = true;
        Some(request)
    }
}

fn sotw(sub: &mut Subscription, answer: Option<Answer>, node: Option<Node>) -> Option<DiscoveryRequest> {
    if !sub.sent {
        if sub.all && sub.narrow {
            sub.version = Arc::from("");
        }
        sub.narrow = false;
    }
    // With a newer response on the way to its verdict, this one's nonce is stale: the control plane may not listen.
    let heard = sub.in_flight == 0;
    let names = sub.requested().filter(|name| !heard || !sub.again.contains(*name));
    let mut names: Vec<String> = names.map(|name| name.to_string()).collect();
    if sub.all && (!names.is_empty() || sub.named) {
        names.insert(0, ALL.to_owned());
    }
    sub.named |= !names.is_empty();
    if heard {
        sub.clear_changes();
    }
    if answer.is_none() && names.is_empty() && !sub.all && !sub.named {
        // An empty list would ask for everything.
        return None;
    }
    let (version, nonce, error) = match answer {
        Some(answer) => (answer.version, answer.nonce, answer.error),
        None => (sub.version.clone(), sub.nonce.clone(), None),
    };
    Some(DiscoveryRequest {
        version_info: version.to_string(),
        node,
        resource_names: names,
        resource_locators: Vec::new(),
        type_url: sub.kind.type_url().to_owned(),
        response_nonce: nonce,
        error_detail: error,
    })
}

fn delta(
    sub: &mut Subscription,
    answer: Option<Answer>,
    node: Option<Node>,
) -> Option<DeltaDiscoveryRequest> {
    let mut request = DeltaDiscoveryRequest {
        node,
        type_url: sub.kind.type_url().to_owned(),
        ..DeltaDiscoveryRequest::default()
    };
    let mut says_something = answer.is_some();
    if sub.sent {
        let strings =
            |names: std::collections::BTreeSet<Arc<str>>| names.iter().map(ToString::to_string).collect();
        let mut added = std::mem::take(&mut sub.added);
        let mut removed = std::mem::take(&mut sub.removed);
        if sub.again.remove(ALL) {
            sub.added.extend(added.take(ALL));
            removed.insert(ALL.into());
        }
        sub.again.clear();
        request.resource_names_subscribe = strings(added);
        request.resource_names_unsubscribe = strings(removed);
    } else {
        // The first request of a stream: everything that is wanted, and the versions that are here.
        let mut names: Vec<String> = sub.requested().map(|name| name.to_string()).collect();
        if sub.all && !names.is_empty() {
            names.insert(0, ALL.to_owned());
        }
        says_something |= sub.all;
        request.resource_names_subscribe = names;
        request.initial_resource_versions = sub
            .resources
            .iter()
            .filter(|(_, entry)| entry.ours)
            .filter_map(|(name, entry)| Some((name.to_string(), entry.version.as_ref()?.to_string())))
            .collect();
        sub.clear_changes();
    }
    says_something |= !request.resource_names_subscribe.is_empty();
    says_something |= !request.resource_names_unsubscribe.is_empty();
    if let Some(answer) = answer {
        request.response_nonce = answer.nonce;
        request.error_detail = answer.error;
    }
    says_something.then_some(request)
}
