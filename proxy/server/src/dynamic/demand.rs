//! Discovery on demand: what requests wait for, asked for at the control plane.
//!
//! A name is asked for once, however many requests wait for it. One that the control plane does not know, or says nothing
//! of, is given up: the next request asks anew. One that it knows stays subscribed to.

use std::sync::Arc;
use std::time::Duration;

use outrider_config::model::ConfigSource;
use outrider_http::on_demand::{Ask, Wanted};
use outrider_http::routing::RouteSlot;
use outrider_xds::{Kind, Status};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::controller::Controller;
use super::routes::RouteKey;
use super::streams::StreamId;

/// How long a question is kept open, however long requests wait for its answer: a late answer serves the next.
const KEPT: Duration = Duration::from_secs(30);

/// How many names may be asked for at the same time: what is over it goes on without.
const MOST_NAMES: usize = 1024;

/// The questions of requests.
pub(super) struct Demand {
    pub(super) asks: mpsc::Receiver<Ask>,
    open: Vec<Question>,
}

/// A name, and who waits for it.
struct Question {
    wanted: Name,
    until: Instant,
    answers: Vec<oneshot::Sender<()>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Name {
    Routes(RouteKey),
    Resource(StreamId, Kind, Arc<str>),
}

impl Demand {
    pub(super) fn new(asks: mpsc::Receiver<Ask>) -> Self {
        Self { asks, open: Vec::new() }
    }

    /// Has the question for `wanted` answer this one too; gives it back if there is no such question. The question ends
    /// when it would have ended without: else a control plane that says nothing would never be given up while requests come.
    fn join(&mut self, wanted: &Name, answer: oneshot::Sender<()>) -> Option<oneshot::Sender<()>> {
        let Some(known) = self.open.iter_mut().find(|known| known.wanted == *wanted) else {
            return Some(answer);
        };
        known.answers.retain(|answer| !answer.is_closed());
        known.answers.push(answer);
        None
    }

    fn open(&mut self, wanted: Name, answer: oneshot::Sender<()>) {
        self.open.push(Question { wanted, until: Instant::now() + KEPT, answers: vec![answer] });
    }

    /// When the next question is given up.
    pub(super) fn next(&self) -> Option<Instant> {
        self.open.iter().map(|question| question.until).min()
    }
}

impl Controller {
    /// A request asks. What cannot be asked for is dropped, which is an answer.
    pub(super) fn asked(&mut self, ask: Ask) {
        let Some(wanted) = self.name_of(&ask.wanted) else { return };
        let Some(answer) = self.demand.join(&wanted, ask.answer) else { return };
        if self.demand.open.len() >= MOST_NAMES || self.is_known(&wanted) {
            return;
        }
        match &wanted {
            Name::Routes(key) => self.want_routes(key),
            Name::Resource(stream, kind, name) => {
                let Some(handle) = self.streams.get(*stream) else { return };
                handle.subscribe(*kind, name, Duration::ZERO);
                self.vhosts.asked(*stream, name);
            }
        }
        self.demand.open(wanted, answer);
    }

    /// Answers what is known by now, and gives up what is late. Asked after every event.
    pub(super) fn answer_demand(&mut self) {
        let now = Instant::now();
        let mut at = 0;
        while let Some(question) = self.demand.open.get(at) {
            let known = self.is_known(&question.wanted);
            if !known && now < question.until {
                at += 1;
                continue;
            }
            let question = self.demand.open.swap_remove(at);
            if let Name::Resource(stream, kind, name) = &question.wanted
                && !self.is_accepted(&question.wanted)
                && let Some(handle) = self.streams.get(*stream)
            {
                handle.unsubscribe(*kind, name);
                self.vhosts.given_up(*stream, name);
            }
            for answer in question.answers {
                // Who is gone need not hear it.
                let _ = answer.send(());
            }
        }
    }

    fn name_of(&mut self, wanted: &Wanted) -> Option<Name> {
        let key = |slot: &Arc<RouteSlot>| self.control.routes.key_of(slot);
        match wanted {
            Wanted::Routes(slot) => key(slot).map(Name::Routes),
            Wanted::VirtualHost(slot, host) => {
                let key = key(slot)?;
                let name: Arc<str> = format!("{}/{host}", key.1).into();
                Some(Name::Resource(self.vhosts.stream_of(&key)?, Kind::VirtualHost, name))
            }
            Wanted::Cluster(source, name) => {
                let stream = self.stream_of(source)?;
                Some(Name::Resource(stream, Kind::Cluster, Arc::from(&**name)))
            }
        }
    }

    fn stream_of(&mut self, source: &ConfigSource) -> Option<StreamId> {
        self.streams.of(&source.kind, Kind::Cluster)
    }

    /// Whether it is there, or the control plane has said that it is not.
    fn is_known(&self, wanted: &Name) -> bool {
        match wanted {
            Name::Routes(key) => self.control.routes.is_settled(key),
            Name::Resource(_, Kind::Cluster, name) if self.clusters.is_active(name) => true,
            Name::Resource(stream, kind, name) => match self.status(*stream, *kind, name) {
                Some(Status::Absent | Status::Nacked) => true,
                // A cluster that is accepted may still be warming.
                Some(Status::Acked) => *kind != Kind::Cluster || !self.clusters.is_known(name),
                _ => false,
            },
        }
    }

    fn is_accepted(&self, wanted: &Name) -> bool {
        match wanted {
            Name::Routes(_) => true,
            Name::Resource(stream, kind, name) => self.status(*stream, *kind, name) == Some(Status::Acked),
        }
    }

    fn status(&self, stream: StreamId, kind: Kind, name: &str) -> Option<Status> {
        self.streams.get(stream)?.status(kind, name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_joins_a_question_does_not_keep_it_open() {
        let mut demand = Demand::new(mpsc::channel(1).1);
        let name = |name: &str| Name::Routes((ConfigSource::default(), name.into()));
        demand.open(name("a"), oneshot::channel().0);
        let first = demand.next();
        assert!(first.is_some());
        assert!(demand.join(&name("a"), oneshot::channel().0).is_none());
        assert_eq!(demand.next(), first);
        assert!(demand.join(&name("b"), oneshot::channel().0).is_some(), "nobody asks for that");
    }
}
