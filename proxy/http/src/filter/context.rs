//! What filters get to see, and what they answer.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;

use bytes::Bytes;
use http::Response;
use http::request::Parts;
use http_body::Body;
use outrider_config::model::{FilterName, RouteFilterConfig};
use outrider_core::LocalReply;

use super::State;
use super::ahead::Ahead;
use crate::body::{BodyError, DownstreamBody, ResponseBody};
use crate::hcm::routing::Routing;
use crate::routing::Selected;
use crate::stream::Stream;

/// What becomes of a request behind a filter.
pub(crate) enum Verdict {
    /// The next filter sees it.
    GoOn,
    /// The proxy answers: `local_reply_config` and the route's header changes apply.
    Reply(LocalReply),
    /// This is the response.
    Respond(Box<Response<ResponseBody>>),
}

/// A verdict, at once or later.
pub(crate) enum Step<'a> {
    Now(Verdict),
    Later(Pin<Box<dyn Future<Output = Verdict> + 'a>>),
}

impl<'a> Step<'a> {
    /// The next filter sees the request.
    pub(crate) const GO_ON: Self = Self::Now(Verdict::GoOn);

    /// The proxy answers.
    pub(crate) const fn reply(reply: LocalReply) -> Self {
        Self::Now(Verdict::Reply(reply))
    }

    /// This is the response.
    pub(crate) fn respond(response: Response<ResponseBody>) -> Self {
        Self::Now(Verdict::Respond(Box::new(response)))
    }

    /// It takes time to tell. The head is kept as it is at `cx`, for the log of a request that ends before its verdict.
    pub(crate) fn wait<F>(cx: RequestCx<'a>, verdict: impl FnOnce(RequestCx<'a>) -> F) -> Self
    where
        F: Future<Output = Verdict> + 'a,
    {
        if cx.stream.wants_head() {
            cx.stream.keep_head(cx.parts);
        }
        Self::Later(Box::pin(verdict(cx)))
    }
}

/// A request's head at a filter.
pub(crate) struct RequestCx<'a> {
    /// The stream.
    pub(crate) stream: &'a Rc<Stream>,
    /// The head.
    pub(crate) parts: &'a mut Parts,
    pub(super) body: &'a mut DownstreamBody,
    pub(super) routing: &'a mut Routing,
    /// The filter's name.
    pub(crate) name: &'a FilterName,
    /// Its place in the chain.
    pub(super) place: usize,
}

impl RequestCx<'_> {
    /// The route; it is looked for anew if it was cleared.
    pub(crate) fn route(&mut self) -> Option<&Selected> {
        self.routing.selected(self.stream, self.parts)
    }

    /// The next one who asks for the route gets one for the head as it is then.
    pub(crate) const fn clear_route(&mut self) {
        self.routing.clear();
    }

    /// The route became another one: the filters behind this one are those that work there.
    pub(crate) fn rejudge(&mut self) {
        let (filters, place) = (&self.stream.filters, self.place);
        filters.rejudge(place, self.routing.selected(self.stream, self.parts));
    }

    /// The head, and what the route says of this filter, side by side.
    pub(crate) fn split(&mut self) -> (&mut Parts, &[RouteFilterConfig]) {
        let route = self.routing.selected(self.stream, self.parts);
        let levels = route.and_then(|route| route.filter(self.name)).map_or(&[][..], |found| &found.levels);
        (self.parts, levels)
    }

    /// The head, and the route, side by side.
    pub(crate) fn head_and_route(&mut self) -> (&Parts, Option<&Selected>) {
        let route = self.routing.selected(self.stream, self.parts);
        (self.parts, route)
    }

    /// What the route says of this filter: the table first, then the virtual host, the route, the weighted cluster.
    pub(crate) fn levels(&mut self) -> &[RouteFilterConfig] {
        let name = self.name;
        self.route().and_then(|route| route.filter(name)).map_or(&[], |found| &found.levels)
    }

    /// What the most specific level says of this filter.
    pub(crate) fn settings(&mut self) -> Option<&RouteFilterConfig> {
        self.levels().last()
    }

    /// Keeps something for this request.
    pub(crate) fn keep(&self, state: State) {
        self.stream.filters.keep(self.place, state);
    }

    /// Whether the request has no body and no trailers.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    /// Reads the request's body to its end, and drops it.
    pub(crate) async fn drain_body(&mut self) {
        while let Some(Ok(_)) = poll_fn(|cx| Pin::new(&mut *self.body).poll_frame(cx)).await {}
    }

    /// Reads the request's body until it ends, or `enough` says so of the bytes that there are. It stays where it is: who reads it
    /// next gets all of it.
    ///
    /// # Errors
    /// The client broke off.
    pub(crate) async fn read_ahead(
        &mut self,
        enough: impl Fn(usize) -> bool,
    ) -> Result<Vec<Bytes>, BodyError> {
        let (mut frames, mut data, mut length, mut ended) = (VecDeque::new(), Vec::new(), 0, false);
        while !enough(length) {
            let Some(frame) = poll_fn(|cx| Pin::new(&mut *self.body).poll_frame(cx)).await else {
                ended = true;
                break;
            };
            let frame = frame?;
            if let Some(bytes) = frame.data_ref() {
                length += bytes.len();
                data.push(bytes.clone());
            }
            frames.push_back(frame);
        }
        self.body.wrap(|rest| Ahead::new(frames, ended, rest));
        Ok(data)
    }

    /// Puts a body around the request's: what the filters behind this one and the upstream see.
    pub(crate) fn wrap_body<B>(&mut self, wrap: impl FnOnce(DownstreamBody) -> B)
    where
        B: Body<Data = Bytes, Error = BodyError> + 'static,
    {
        self.body.wrap(wrap);
    }
}

/// A response's head at a filter.
pub(crate) struct ResponseCx<'a> {
    /// The stream.
    pub(crate) stream: &'a Rc<Stream>,
    /// The head.
    pub(crate) parts: &'a mut http::response::Parts,
    pub(super) body: &'a mut ResponseBody,
    pub(super) route: Option<&'a Selected>,
    pub(crate) name: &'a FilterName,
    pub(super) place: usize,
}

impl ResponseCx<'_> {
    /// The route.
    pub(crate) const fn route(&self) -> Option<&Selected> {
        self.route
    }

    /// The head, and what the route says of this filter (as [`RequestCx::levels`]), side by side.
    pub(crate) fn split(&mut self) -> (&mut http::response::Parts, &[RouteFilterConfig]) {
        let found = self.route.and_then(|route| route.filter(self.name));
        (self.parts, found.map_or(&[], |found| &found.levels))
    }

    /// Keeps something for this request, until its end.
    pub(crate) fn keep(&self, state: State) {
        self.stream.filters.keep(self.place, state);
    }

    /// What was kept for this request.
    pub(crate) fn take(&self) -> Option<State> {
        self.stream.filters.take(self.place)
    }

    /// Whether the response has no body and no trailers.
    pub(crate) fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    /// Puts a body around the response's: what the filters before this one and the client see.
    pub(crate) fn wrap_body<B>(&mut self, wrap: impl FnOnce(ResponseBody) -> B)
    where
        B: Body<Data = Bytes, Error = BodyError> + 'static,
    {
        if !matches!(self.body, ResponseBody::Upgrade(_)) {
            let body = std::mem::replace(self.body, ResponseBody::Empty);
            *self.body = ResponseBody::Boxed(Box::pin(wrap(body)));
        }
    }
}
