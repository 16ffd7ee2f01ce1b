//! A control plane that keeps to the protocol.

use std::collections::{BTreeMap, BTreeSet};

use outrider_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};

use super::super::tests::{any, wrapper};
use super::super::{Request, Response};
use super::hidden;
use crate::Kind;

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Content {
    pub(super) text: String,
    pub(super) bad: bool,
}

/// What the server knows of one kind on one stream.
#[derive(Debug, Default)]
pub(super) struct Watch {
    asked: bool,
    all: bool,
    named: bool,
    names: BTreeSet<String>,
    /// The newest nonce.
    nonce: String,
    /// State of the world: the version and the subscription that were answered last.
    answered: Option<(u64, bool, BTreeSet<String>)>,
    /// Delta: what the client has; `None`: it was told that there is none.
    has: BTreeMap<String, Option<String>>,
}

/// A control plane that answers as the protocol says and as go-control-plane does.
#[derive(Debug, Default)]
pub(super) struct Server {
    pub(super) state: BTreeMap<Kind, BTreeMap<String, Content>>,
    revision: BTreeMap<Kind, u64>,
    pub(super) watches: BTreeMap<Kind, Watch>,
    nonces: u64,
}

impl Server {
    pub(super) fn change(&mut self, kind: Kind, name: &str, content: Option<bool>) {
        let revision = self.revision.entry(kind).or_default();
        *revision += 1;
        let text = format!("r{revision}");
        let state = self.state.entry(kind).or_default();
        match content {
            Some(bad) => state.insert(name.into(), Content { text, bad }),
            None => state.remove(name),
        };
    }

    fn wanted(&self, kind: Kind) -> BTreeMap<String, Content> {
        let Some(watch) = self.watches.get(&kind) else { return BTreeMap::new() };
        let of = |name: &String| watch.names.contains(name) || watch.all && !hidden(name);
        let state = self.state.get(&kind).into_iter().flatten();
        state.filter(|(name, _)| of(name)).map(|(name, content)| (name.clone(), content.clone())).collect()
    }

    fn take_sotw(&mut self, request: DiscoveryRequest) {
        let kind = Kind::from_type_url(&request.type_url).unwrap();
        let watch = self.watches.entry(kind).or_default();
        if request.response_nonce != watch.nonce {
            // Stale.
            return;
        }
        let first = !watch.asked;
        watch.asked = true;
        let mut names: BTreeSet<String> = request.resource_names.into_iter().collect();
        watch.named |= !names.is_empty();
        let star = names.remove("*");
        let all = star || !watch.named;
        if all && !watch.all || !names.is_subset(&watch.names) {
            watch.answered = None;
        }
        watch.all = all;
        watch.names = names;
        let revision = self.revision.get(&kind).copied().unwrap_or_default();
        let current = format!("v{revision}");
        if first && watch.all && request.version_info == current {
            // The client has it all already.
            watch.answered = Some((revision, watch.all, watch.names.clone()));
        } else if request.version_info.is_empty() && request.error_detail.is_none() {
            // It says that it has nothing.
            watch.answered = None;
        }
    }

    fn take_delta(&mut self, request: DeltaDiscoveryRequest) {
        let kind = Kind::from_type_url(&request.type_url).unwrap();
        let watch = self.watches.entry(kind).or_default();
        if watch.asked {
            assert!(request.initial_resource_versions.is_empty());
        } else {
            watch.all = request.resource_names_subscribe.is_empty();
            let has = request.initial_resource_versions.into_iter();
            watch.has = has.map(|(name, version)| (name, Some(version))).collect();
        }
        let first = !watch.asked;
        watch.asked = true;
        for name in request.resource_names_subscribe {
            if name == "*" {
                watch.all = true;
                continue;
            }
            if !first {
                // It may have forgotten what it had.
                watch.has.remove(&name);
            }
            watch.names.insert(name);
        }
        for name in request.resource_names_unsubscribe {
            if name == "*" {
                watch.all = false;
                let names = &watch.names;
                watch.has.retain(|name, _| names.contains(name));
                continue;
            }
            watch.names.remove(&name);
            watch.has.remove(&name);
            if watch.all {
                // Whether it is one of all is to be said: by the resource, or by its removal.
                watch.has.insert(name, Some(String::new()));
            }
        }
    }

    pub(super) fn take(&mut self, request: Request) {
        match request {
            Request::Sotw(request) => self.take_sotw(request),
            Request::Delta(request) => self.take_delta(request),
        }
    }

    fn next_nonce(&mut self) -> String {
        self.nonces += 1;
        format!("n{}", self.nonces)
    }

    /// What the server has to say about `kind` now.
    pub(super) fn response(&mut self, kind: Kind, delta: bool) -> Option<Response> {
        let wanted = self.wanted(kind);
        let revision = self.revision.get(&kind).copied().unwrap_or_default();
        let nonce = self.next_nonce();
        let watch = self.watches.get_mut(&kind).filter(|watch| watch.asked)?;
        if !delta {
            let now = (revision, watch.all, watch.names.clone());
            if watch.answered.as_ref() == Some(&now) || (!watch.all && watch.names.is_empty()) {
                return None;
            }
            watch.answered = Some(now);
            watch.nonce.clone_from(&nonce);
            let resource = |(name, content): (&String, &Content)| any(kind, name, &text(content));
            return Some(Response::Sotw(DiscoveryResponse {
                version_info: format!("v{revision}"),
                nonce,
                type_url: kind.type_url().into(),
                resources: wanted.iter().map(resource).collect(),
                ..DiscoveryResponse::default()
            }));
        }
        let news: Vec<_> = wanted
            .iter()
            .filter(|(name, content)| watch.has.get(*name).and_then(Option::as_ref) != Some(&content.text))
            .collect();
        let absent = |name: &&String| !wanted.contains_key(*name);
        let mut gone: BTreeSet<String> = watch
            .has
            .iter()
            .filter(|(_, has)| has.is_some())
            .map(|(name, _)| name)
            .filter(absent)
            .cloned()
            .collect();
        gone.extend(watch.names.iter().filter(absent).filter(|n| !watch.has.contains_key(*n)).cloned());
        let first = watch.nonce.is_empty();
        if news.is_empty() && gone.is_empty() && !(first && watch.all) {
            return None;
        }
        watch.nonce.clone_from(&nonce);
        let resources = news
            .iter()
            .map(|(name, content)| {
                let mut resource = wrapper(kind, name, &content.text);
                resource.resource = Some(any(kind, name, &text(content)));
                resource
            })
            .collect();
        for (name, content) in news {
            watch.has.insert(name.clone(), Some(content.text.clone()));
        }
        for name in &gone {
            if watch.names.contains(name) {
                watch.has.insert(name.clone(), None);
            } else {
                watch.has.remove(name);
            }
        }
        Some(Response::Delta(DeltaDiscoveryResponse {
            system_version_info: format!("v{revision}"),
            nonce,
            type_url: kind.type_url().into(),
            resources,
            removed_resources: gone.into_iter().collect(),
            ..DeltaDiscoveryResponse::default()
        }))
    }
}

fn text(content: &Content) -> String {
    format!("{}{}", if content.bad { "bad " } else { "" }, content.text)
}
