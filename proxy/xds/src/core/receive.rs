//! Responses: sorted into what was asked for, what is gone and what nobody wants.

use std::collections::HashSet;
use std::sync::Arc;

use outrider_proto::pb::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};

use super::resource::{self, Parsed};
use super::subscription::Subscription;
use super::timers::Timers;
use super::{Answer, Core, Decided, Now, Outstanding};
use crate::{Event, Kind, Refusal, Resource, Token, Update};

/// A response as it came.
#[derive(Debug, Clone)]
pub enum Response {
    /// State of the world.
    Sotw(DiscoveryResponse),
    /// Incremental.
    Delta(DeltaDiscoveryResponse),
}

/// Why a response was not looked at. It is not answered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Ignored {
    /// Not a type that a proxy subscribes to.
    #[error("type URL {0} is not known")]
    UnknownType(String),
    /// Nothing of this kind is subscribed to on this stream.
    #[error("no subscription for {}", .0.type_url())]
    NotSubscribed(Kind),
    /// There is no stream, or it speaks the other protocol.
    #[error("no stream that this response could belong to")]
    NoStream,
}

/// What a response comes down to, before the consumer sees it.
#[derive(Debug, Default)]
struct Sorted {
    resources: Vec<Resource>,
    removed: Vec<Arc<str>>,
    unresolved: Vec<Arc<str>>,
    refused: Vec<Refusal>,
    decided: Vec<Decided>,
    whole: bool,
    heartbeats: usize,
}

impl Core {
    /// Takes a response of the present stream.
    pub fn receive(&mut self, now: Now, response: Response) -> Result<(), Ignored> {
        let epoch = self.stream.as_ref().ok_or(Ignored::NoStream)?.epoch;
        let (url, plane) = match &response {
            Response::Sotw(response) => (&response.type_url, &response.control_plane),
            Response::Delta(response) => (&response.type_url, &response.control_plane),
        };
        let kind = Kind::from_type_url(url).ok_or_else(|| Ignored::UnknownType(url.clone()))?;
        if let Some(plane) = plane
            && *plane.identifier != *self.control_plane
        {
            self.control_plane = plane.identifier.as_str().into();
        }
        let token = Token(self.next_sequence());
        // A kind of which nothing was ever sent on this stream cannot have an answer.
        let sub = self.kinds.get_mut(&kind).filter(|sub| sub.sent).ok_or(Ignored::NotSubscribed(kind))?;
        let mut sorting = Sorting { now, token, sub, timers: &mut self.timers, sorted: Sorted::default() };
        let (version, nonce) = match response {
            Response::Sotw(response) if !self.options.delta => sorting.sotw(response),
            Response::Delta(response) if self.options.delta => sorting.delta(response),
            _ => return Err(Ignored::NoStream),
        };
        let sorted = sorting.sorted;
        self.hand_over(kind, token, epoch, version, nonce, sorted);
        Ok(())
    }

    /// Gives a sorted response to the consumer, or answers at once what has nothing for it.
    fn hand_over(
        &mut self,
        kind: Kind,
        token: Token,
        epoch: u64,
        version: Arc<str>,
        nonce: String,
        sorted: Sorted,
    ) {
        let Sorted { resources, removed, unresolved, refused, decided, whole, heartbeats } = sorted;
        let Some(sub) = self.kinds.get_mut(&kind) else { return };
        let nothing =
            resources.is_empty() && removed.is_empty() && unresolved.is_empty() && refused.is_empty();
        // The first response to "all" says that the state is complete, even when it is empty.
        if nothing && (!sub.all || heartbeats > 0) && sub.in_flight == 0 {
            sub.answered = token;
            sub.version = version.clone();
            sub.nonce.clone_from(&nonce);
            if let Some(stream) = &mut self.stream {
                stream.answers.push_back(Answer { kind, nonce, version, error: None });
            }
            return;
        }
        sub.in_flight += 1;
        sub.undecided += 1;
        self.outstanding.insert(
            token,
            Outstanding {
                kind,
                epoch,
                nonce,
                version: version.clone(),
                server: self.server,
                resources: decided,
                refused: refused.clone(),
            },
        );
        self.events.push_back(Event::Update(Update {
            kind,
            token,
            version,
            resources,
            removed,
            unresolved,
            whole,
            refused,
            control_plane: self.control_plane.clone(),
        }));
    }
}

/// The work on one response.
struct Sorting<'a> {
    now: Now,
    token: Token,
    sub: &'a mut Subscription,
    timers: &'a mut Timers,
    sorted: Sorted,
}

impl Sorting<'_> {
    fn sotw(&mut self, response: DiscoveryResponse) -> (Arc<str>, String) {
        let version: Arc<str> = response.version_info.as_str().into();
        let mut seen: HashSet<Arc<str>> = HashSet::with_capacity(response.resources.len());
        let mut nameless = false;
        for (place, any) in response.resources.into_iter().enumerate() {
            match resource::from_any(self.sub.kind, place, any) {
                Err(refusal) => {
                    nameless |= refusal.name.starts_with('#');
                    seen.insert(refusal.name.as_str().into());
                    self.sorted.refused.push(refusal);
                }
                Ok(parsed) if !seen.insert(parsed.name.clone()) => self.duplicate(&parsed.name),
                // In state of the world a wrapper's own version means nothing: the response's is the resource's.
                Ok(parsed) if parsed.body.is_none() => {
                    self.sorted.heartbeats += 1;
                    if version == self.sub.version {
                        self.heartbeat(&parsed);
                    }
                }
                Ok(parsed) => self.resource(parsed, version.clone()),
            }
        }
        // Heartbeats alone say nothing of the rest, and a resource without a name may be any of them.
        let only_heartbeats = self.sorted.heartbeats > 0 && self.sorted.heartbeats == seen.len();
        if self.sub.kind.whole_in_sotw() && !nameless && !only_heartbeats {
            self.sorted.whole = true;
            self.absent(&seen);
        }
        if self.sub.all && !only_heartbeats {
            self.timers.stop_fetch(self.sub.kind, None);
        }
        (version, response.nonce)
    }

    fn delta(&mut self, response: DeltaDiscoveryResponse) -> (Arc<str>, String) {
        let mut seen: HashSet<Arc<str>> = HashSet::with_capacity(response.resources.len());
        for (place, wrapper) in response.resources.into_iter().enumerate() {
            match resource::from_wrapper(self.sub.kind, place, wrapper) {
                Err(refusal) => {
                    let name: Arc<str> = refusal.name.as_str().into();
                    // What nobody asked for is not refused either.
                    if refusal.name.starts_with('#') || self.sub.wants(&name) {
                        self.sorted.refused.push(refusal);
                    }
                    seen.insert(name);
                }
                Ok(parsed) if !seen.insert(parsed.name.clone()) => self.duplicate(&parsed.name),
                Ok(parsed) if parsed.body.is_none() => self.without_body(parsed),
                Ok(parsed) => {
                    let version = parsed.version.as_str().into();
                    self.resource(parsed, version);
                }
            }
        }
        let full_names = response.removed_resource_names.into_iter().map(|full| full.name);
        for name in response.removed_resources.into_iter().chain(full_names) {
            let name: Arc<str> = name.into();
            if seen.insert(name.clone()) {
                self.gone(&name);
            } else {
                self.duplicate(&name);
            }
        }
        if self.sub.all {
            self.timers.stop_fetch(self.sub.kind, None);
        }
        (response.system_version_info.into(), response.nonce)
    }

    /// A resource with its message.
    fn resource(&mut self, parsed: Parsed, version: Arc<str>) {
        let Parsed { name, version: _, body: Some(body), aliases, ttl } = parsed else { return };
        let asked_by = |sub: &Subscription, name: &str| sub.entry(name).is_some_and(|entry| entry.requested);
        let aliased: Vec<_> = aliases.iter().filter(|alias| asked_by(self.sub, alias)).cloned().collect();
        if !self.sub.wants(&name) && aliased.is_empty() {
            tracing::debug!(kind = %self.sub.kind, name = &*name, "resource that nobody asked for");
            return;
        }
        for entry in aliased.iter().chain([&name]) {
            self.sub.received(entry, self.token);
            self.timers.stop_fetch(self.sub.kind, Some(entry));
            self.sorted.decided.push(Decided {
                entry: entry.clone(),
                resource: name.clone(),
                version: version.clone(),
            });
        }
        self.live(&name, ttl);
        self.sorted.resources.push(Resource { name, version, body, aliases, ttl });
    }

    /// Delta: a heartbeat, or an alias that leads nowhere.
    fn without_body(&mut self, parsed: Parsed) {
        if parsed.aliases.is_empty() {
            let known = self.sub.entry(&parsed.name).and_then(|entry| entry.version.as_deref());
            self.sorted.heartbeats += 1;
            if known == Some(&*parsed.version) {
                self.heartbeat(&parsed);
            }
            return;
        }
        let names = parsed.aliases.into_iter().chain([parsed.name]);
        for name in names {
            if self.sub.entry(&name).is_none_or(|entry| !entry.requested) {
                continue;
            }
            self.timers.stop_fetch(self.sub.kind, Some(&name));
            self.sub.gone(&name, self.token.0);
            if !self.sorted.unresolved.contains(&name) {
                self.sorted.unresolved.push(name);
            }
        }
    }

    /// The resource lives on unchanged.
    fn heartbeat(&mut self, parsed: &Parsed) {
        if self.sub.entry(&parsed.name).is_some_and(|entry| entry.version.is_some()) {
            self.live(&parsed.name, parsed.ttl);
        }
    }

    /// Sets how long the resource lives from now on.
    fn live(&mut self, name: &Arc<str>, ttl: Option<std::time::Duration>) {
        match ttl {
            Some(ttl) => {
                self.timers.start_ttl(self.sub.kind, name.clone(), self.now.instant.checked_add(ttl));
            }
            None => self.timers.stop_ttl(self.sub.kind, name),
        }
    }

    /// Delta says that `name` does not exist.
    fn gone(&mut self, name: &Arc<str>) {
        // Who waits for a table or a filter goes on waiting, but not longer than it would for no answer: control planes
        // also say so of what they do not have yet. Of what came there is no such timer.
        if !matches!(self.sub.kind, Kind::Route | Kind::Extension) {
            self.timers.stop_fetch(self.sub.kind, Some(name));
        }
        self.timers.stop_ttl(self.sub.kind, name);
        // Of all, the consumer may have what was forgotten here: an update that it has not decided.
        if self.sub.gone(name, self.token.0) || self.sub.all {
            self.sorted.removed.push(name.clone());
        }
    }

    /// State of the world, whole: what is known and not in the response is gone. What was asked for by name and never
    /// came may still be on its way: the response can be older than the question.
    fn absent(&mut self, seen: &HashSet<Arc<str>>) {
        use super::Status::{Absent, Requested, TimedOut};
        let missing: Vec<_> = self
            .sub
            .resources
            .iter()
            .filter(|(name, entry)| {
                !seen.contains(*name) && !matches!(entry.status, Requested | TimedOut | Absent)
            })
            .map(|(name, _)| name.clone())
            .collect();
        for name in missing {
            self.gone(&name);
        }
    }

    /// Envoy takes the first of two resources with one name and refuses the second.
    fn duplicate(&mut self, name: &str) {
        if self.sub.wants(name) {
            let reason = format!("duplicate {} {name} found", self.sub.kind.noun());
            self.sorted.refused.push(Refusal::new(name, "", reason));
        }
    }
}
