//! Chains, and a request's way through its own.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use http::Response;
use http::request::Parts;
use outrider_config::model::{FilterName, HttpFilter};
use outrider_core::LocalReply;
use outrider_core::stats::Scope;

use super::rbac::Rbac;
use super::{Filter, FilterError, RequestCx, ResponseCx, State, Step, Verdict, review};
use crate::body::{DownstreamBody, ResponseBody};
use crate::fetch::Fetcher;
use crate::hcm::routing::Routing;
use crate::routing::Selected;
use crate::secrets::SecretSlot;
use crate::stream::Stream;

/// The filters of a connection manager in front of its router. Shared by all workers.
#[derive(Debug)]
pub(crate) struct Chain {
    entries: Box<[Entry]>,
    /// The place of the first one that has policies.
    policies: Option<usize>,
}

#[derive(Debug)]
struct Entry {
    name: FilterName,
    disabled: bool,
    filter: Arc<Filter>,
}

/// A worker's handle to the chain. Streams pin it.
#[derive(Debug)]
pub(crate) struct PinnedChain(Arc<Chain>);

impl PinnedChain {
    pub(crate) const fn new(chain: Arc<Chain>) -> Self {
        Self(chain)
    }

    /// The filters that work for `run`, with their places.
    fn working<'a>(&'a self, run: &'a Run) -> impl DoubleEndedIterator<Item = (usize, &'a Entry)> {
        let entries = self.0.entries.iter().enumerate();
        entries.filter(|(place, _)| run.working.get() & (1 << place) != 0)
    }

    /// Whether there are filters with policies, at work or not.
    pub(super) fn has_policies(&self) -> bool {
        self.0.has_policies()
    }

    /// Them, with their places, and whether each works only where a route says so.
    pub(super) fn policies(&self) -> impl Iterator<Item = Policies<'_>> {
        let first = self.0.policies.unwrap_or(self.0.entries.len());
        self.0.entries.iter().enumerate().skip(first).filter_map(|(place, entry)| {
            let Filter::Rbac(filter) = &*entry.filter else { return None };
            Some(Policies { place, name: &entry.name, disabled: entry.disabled, filter })
        })
    }
}

/// A filter with policies.
pub(super) struct Policies<'a> {
    pub(super) place: usize,
    pub(super) name: &'a FilterName,
    pub(super) disabled: bool,
    pub(super) filter: &'a Rbac,
}

/// A request's way through the chain: pinned when the request got its first route, so that it meets the same filters
/// with the same settings on its way back.
#[derive(Debug, Default)]
pub(crate) struct Run {
    chain: OnceCell<Rc<PinnedChain>>,
    /// The places whose filters work for it, by bit.
    working: Cell<u64>,
    states: RefCell<Vec<Option<State>>>,
}

impl Chain {
    /// The chain of `filters`, which count in `scope` (`http.<stat_prefix>.`). Control thread.
    ///
    /// # Errors
    /// A file that a filter needs cannot be read.
    pub(crate) fn build(filters: &[HttpFilter], scope: &Scope) -> Result<Self, FilterError> {
        let entry = |filter: &HttpFilter| {
            let name = filter.name.clone();
            let built = Arc::new(Filter::build(filter, scope)?);
            Ok(Entry { name, disabled: filter.disabled, filter: built })
        };
        let entries = filters.iter().map(entry).collect::<Result<Box<[_]>, FilterError>>()?;
        let policies = entries.iter().position(|entry| matches!(&*entry.filter, Filter::Rbac(_)));
        Ok(Self { entries, policies })
    }

    /// Whether there are filters with policies, at work or not.
    pub(crate) const fn has_policies(&self) -> bool {
        self.policies.is_some()
    }

    /// What is fetched for its filters.
    pub(crate) fn fetchers(&self) -> impl Iterator<Item = Fetcher> {
        self.entries.iter().flat_map(|entry| entry.filter.fetchers())
    }

    /// The places of secrets that its filters need.
    pub(crate) fn secret_slots(&self) -> impl Iterator<Item = &Arc<SecretSlot>> {
        self.entries.iter().flat_map(|entry| entry.filter.secret_slots())
    }

    /// The places whose filters work on `route`: each as the most specific level says that speaks of it, else as the
    /// chain says (Envoy: "Route based filter chain").
    fn working(&self, route: Option<&Selected>) -> u64 {
        let mut working = 0;
        for (place, entry) in self.entries.iter().enumerate() {
            let said = route.and_then(|route| route.filter(&entry.name)).map(|found| found.disabled);
            if !said.unwrap_or(entry.disabled) {
                working |= 1 << place;
            }
        }
        working
    }
}

impl Run {
    /// Begins with the filters that work on `route`; later calls change nothing.
    fn begin(&self, stream: &Stream, route: Option<&Selected>) -> Rc<PinnedChain> {
        let begin = || {
            let chain = stream.hcm.filters();
            self.working.set(chain.0.working(route));
            chain
        };
        self.chain.get_or_init(begin).clone()
    }

    /// Behind `place` those filters work from now on that work on `route`.
    pub(super) fn rejudge(&self, place: usize, route: Option<&Selected>) {
        let Some(chain) = self.chain.get() else { return };
        let before = (1 << place) | ((1 << place) - 1);
        self.working.set(self.working.get() & before | chain.0.working(route) & !before);
    }

    /// Keeps something for the filter at `place`.
    pub(super) fn keep(&self, place: usize, state: State) {
        let mut states = self.states.borrow_mut();
        if states.len() <= place {
            states.resize_with(place + 1, || None);
        }
        if let Some(kept) = states.get_mut(place) {
            *kept = Some(state);
        }
    }

    /// What was kept for the filter at `place`.
    pub(super) fn take(&self, place: usize) -> Option<State> {
        self.states.borrow_mut().get_mut(place)?.take()
    }

    /// The stream is over: what filters kept goes.
    pub(crate) fn finish(&self) {
        if let Ok(mut states) = self.states.try_borrow_mut() {
            states.clear();
        }
    }
}

/// Takes a request's head through the filters. `Some` is a response that a filter gave.
///
/// # Errors
/// The proxy's own reply that a filter asks for.
pub(crate) async fn request(
    stream: &Rc<Stream>,
    parts: &mut Parts,
    body: &mut DownstreamBody,
    routing: &mut Routing,
) -> Result<Option<Response<ResponseBody>>, LocalReply> {
    let chain = stream.filters.begin(stream, routing.known());
    let mut policies = chain.0.policies;
    for (place, entry) in chain.working(&stream.filters) {
        if policies.take_if(|first| *first <= place).is_some() {
            stream.keep_for_policies(parts);
        }
        let cx = RequestCx {
            stream,
            parts: &mut *parts,
            body: &mut *body,
            routing: &mut *routing,
            name: &entry.name,
            place,
        };
        let verdict = match entry.filter.request(cx) {
            Step::Now(verdict) => verdict,
            Step::Later(verdict) => verdict.await,
        };
        match verdict {
            Verdict::GoOn => {}
            Verdict::Reply(reply) => return Err(reply),
            Verdict::Respond(response) => return Ok(Some(*response)),
        }
    }
    // A route may keep them from working today. An upgrade lives long: one that comes before the first policy of its chain
    // is to be known too.
    if policies.is_some() || stream.upgrade.borrow().is_some() {
        stream.keep_for_policies(parts);
    }
    match stream.pass_policies() && review::is_refused(stream) {
        true => Err(review::reply(stream)),
        false => Ok(None),
    }
}

/// Takes a response's head through the filters, the last one first; the proxy's own replies pass all of them, whichever
/// filter made them (Envoy: `sendLocalReplyViaFilterChain`).
pub(crate) fn response(
    stream: &Rc<Stream>,
    parts: &mut http::response::Parts,
    body: &mut ResponseBody,
    route: Option<&Selected>,
) {
    stream.info.borrow_mut().response_code = Some(parts.status.as_u16());
    let chain = stream.filters.begin(stream, route);
    for (place, entry) in chain.working(&stream.filters).rev() {
        entry.filter.response(ResponseCx {
            stream,
            parts: &mut *parts,
            body: &mut *body,
            route,
            name: &entry.name,
            place,
        });
    }
}
