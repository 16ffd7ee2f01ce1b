//! Policies that change while requests run: what those in force now say of a request that others let through.

use std::rc::Rc;

use bytes::Bytes;
use http::StatusCode;
use outrider_config::model::FilterName;
use outrider_core::LocalReply;
use outrider_core::matcher::HeadView;
use outrider_core::stats::{Counter, StatSlot};

use super::chain::{PinnedChain, Policies};
use crate::hcm::HcmWorker;
use crate::routing::{RequestView, RouteTable};
use crate::stream::Stream;

/// The body of a refusal.
pub(crate) const REFUSED: Bytes = Bytes::from_static(b"RBAC: access denied");
/// The details of one for which nothing was kept: no policy could be asked, and the connection manager had none before.
const NOT_KEPT: &str = "rbac_access_denied_request_not_kept";

/// A refusal: its details, and what it is counted by.
struct Refusal {
    details: String,
    reason: &'static str,
}

/// Asks policies again, and remembers what it found out for many requests.
#[derive(Default)]
pub(crate) struct Review {
    /// Whether routes say anything of the filter at a place of a connection manager.
    spoken_of: Vec<(Rc<HcmWorker>, usize, bool)>,
}

/// Asks for a request that policies which are in force no more have just let through, and notes a refusal.
pub(super) fn is_refused(stream: &Rc<Stream>) -> bool {
    let Some(refusal) = Review::default().ask(stream) else { return false };
    count(stream, &refusal);
    stream.info.borrow_mut().details = refusal.details.into();
    true
}

/// The answer to a request that [`is_refused`].
pub(super) fn reply(stream: &Stream) -> LocalReply {
    let details = stream.info.borrow().details.clone();
    LocalReply::new(StatusCode::FORBIDDEN, details).body(REFUSED)
}

impl Review {
    /// Ends the stream if the policies in force refuse its request; true when they do.
    pub(crate) fn end_if_refused(&mut self, stream: &Rc<Stream>) -> bool {
        let Some(refusal) = self.ask(stream) else { return false };
        count(stream, &refusal);
        stream.refuse(refusal.details);
        true
    }

    fn ask(&mut self, stream: &Rc<Stream>) -> Option<Refusal> {
        let hcm = stream.hcm.latest();
        let chain = hcm.filters();
        if !chain.has_policies() {
            return None;
        }
        stream.with_passed_head(|head| match head {
            Some(head) => known(stream, &hcm, &chain, head),
            None => self.unknown(stream, &hcm, &chain),
        })
    }

    /// Nothing was kept of the request, as its chain had no policies: it stays if they let it in by what is known of its
    /// connection, whatever it asks for. What is not certain is refused.
    fn unknown(&mut self, stream: &Stream, hcm: &Rc<HcmWorker>, chain: &PinnedChain) -> Option<Refusal> {
        chain.policies().find_map(|Policies { place, name, disabled, filter }| {
            let spoken_of = self.is_spoken_of(hcm, place, name);
            if disabled && !spoken_of {
                return None;
            }
            if spoken_of || filter.reads_head() {
                return Some(Refusal { details: NOT_KEPT.to_owned(), reason: "rbac_request_not_kept" });
            }
            let empty = http::HeaderMap::new();
            let details = filter.refuses(name, stream, HeadView::of(&empty), None)?;
            Some(Refusal { details, reason: "rbac" })
        })
    }

    fn is_spoken_of(&mut self, hcm: &Rc<HcmWorker>, place: usize, name: &FilterName) -> bool {
        let known = self.spoken_of.iter().find(|(of, at, _)| Rc::ptr_eq(of, hcm) && *at == place);
        if let Some((_, _, known)) = known {
            return *known;
        }
        let mut spoken_of = false;
        hcm.shared.routes.each_table(|table| spoken_of |= table.speaks_of(name));
        self.spoken_of.push((hcm.clone(), place, spoken_of));
        spoken_of
    }
}

/// What the policies of `chain` say of the request with this head, on the route that it would take now.
fn known(stream: &Stream, hcm: &Rc<HcmWorker>, chain: &PinnedChain, head: HeadView<'_>) -> Option<Refusal> {
    let request = RequestView { head, tls: stream.conn.info.tls.as_deref(), random: stream.random.get() };
    let table = hcm.routes(&request.head);
    let route = table.and_then(|table| RouteTable::route(&table, &request));
    if route.is_none() && Rc::ptr_eq(hcm, &stream.hcm) {
        // Its route went, which is no policy; and the filters are those that let it through.
        return None;
    }
    let refuses = |Policies { name, disabled, filter, .. }: Policies<'_>| {
        let said = route.as_ref().and_then(|route| route.filter(name));
        if said.map_or(disabled, |said| said.disabled) {
            return None;
        }
        filter.refuses(name, stream, head, route.as_ref())
    };
    let details = chain.policies().find_map(refuses)?;
    Some(Refusal { details, reason: "rbac" })
}

/// `http.<stat_prefix>.outrider.closed_by_update.<reason>`, as listeners count connections.
fn count(stream: &Stream, refusal: &Refusal) {
    let scope = stream.hcm.shared.stats.scope().child("outrider.closed_by_update.");
    Counter::new(&scope, &StatSlot::new(), refusal.reason).inc();
}
