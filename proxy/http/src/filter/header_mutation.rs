//! `envoy.filters.http.header_mutation`: changes headers, trailers and query parameters, one after the other.

mod query;

pub(super) use query::Query;

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::header::HOST;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body::Frame;
use outrider_config::model::{
    AddTarget, AppendAction, FilterMutations, FilterName, HeaderAdd, HeaderAddValue,
    HeaderMutation as Mutation, HeaderMutationFilter, QueryMutation, RouteFilterConfig,
};
use outrider_core::matcher::StringMatcher;

use super::{Mapped, RequestCx, ResponseCx, Step};
use crate::router::{RequestContext, ResponseContext, set_path};
use crate::routing::{ContextSource, Selected};
use crate::stream::Stream;

/// The filter.
#[derive(Debug)]
pub(crate) struct HeaderMutation(Arc<HeaderMutationFilter>);

/// The changes of a request: the filter's own, then the levels', in the order in which they are made.
struct All<'a> {
    own: &'a FilterMutations,
    levels: &'a [RouteFilterConfig],
    most_specific_wins: bool,
}

impl HeaderMutation {
    pub(super) const fn new(config: Arc<HeaderMutationFilter>) -> Self {
        Self(config)
    }

    fn all<'a>(&'a self, levels: &'a [RouteFilterConfig]) -> All<'a> {
        All { own: &self.0.mutations, levels, most_specific_wins: self.0.most_specific_wins }
    }

    pub(super) fn request<'a>(&'a self, mut cx: RequestCx<'a>) -> Step<'a> {
        let stream = cx.stream;
        let (parts, levels) = cx.split();
        let all = self.all(levels);
        for mutations in all.iter() {
            for mutation in &mutations.request {
                let context = RequestContext { stream, method: &parts.method, uri: &parts.uri };
                change_fields(&mut parts.headers, mutation, &context);
            }
            change_query(stream, parts, &mutations.query);
        }
        if all.iter().any(|mutations| mutations.response.iter().any(has_format)) {
            stream.keeps_head.set(true);
        }
        let trailers = all.collect(|mutations| &mutations.request_trailers);
        if !trailers.is_empty() && !cx.is_end_stream() {
            let (config, route) = (self.0.clone(), cx.route().cloned());
            let changed =
                Trailers { config, route, name: cx.name.clone(), stream: stream.clone(), request: true };
            cx.wrap_body(|body| Mapped::new(body, move |frame| changed.apply(frame)));
        }
        Step::GO_ON
    }

    pub(super) fn response(&self, mut cx: ResponseCx<'_>) {
        let stream = cx.stream;
        let status = cx.parts.status.as_u16();
        let (parts, levels) = cx.split();
        let all = self.all(levels);
        for mutation in all.iter().flat_map(|mutations| &mutations.response) {
            change_fields(&mut parts.headers, mutation, &ResponseContext { stream, status });
        }
        let trailers = all.collect(|mutations| &mutations.response_trailers);
        if !trailers.is_empty() && !cx.is_end_stream() {
            let (config, route) = (self.0.clone(), cx.route().cloned());
            let changed =
                Trailers { config, route, name: cx.name.clone(), stream: stream.clone(), request: false };
            cx.wrap_body(|body| Mapped::new(body, move |frame| changed.apply(frame)));
        }
    }
}

impl<'a> All<'a> {
    fn iter(&self) -> impl Iterator<Item = &'a FilterMutations> {
        let count = self.levels.len();
        let (levels, forward) = (self.levels, self.most_specific_wins);
        let levels =
            (0..count).filter_map(move |i| match levels.get(if forward { i } else { count - 1 - i }) {
                Some(RouteFilterConfig::HeaderMutation(mutations)) => Some(&**mutations),
                _ => None,
            });
        std::iter::once(self.own).chain(levels)
    }

    fn collect(&self, pick: impl Fn(&'a FilterMutations) -> &'a Vec<Mutation>) -> Vec<&'a Mutation> {
        self.iter().flat_map(pick).collect()
    }
}

/// What changes the trailers of a message once they come.
struct Trailers {
    config: Arc<HeaderMutationFilter>,
    route: Option<Selected>,
    name: FilterName,
    stream: Rc<Stream>,
    request: bool,
}

impl Trailers {
    fn apply(&self, frame: &mut Frame<Bytes>) {
        let Some(trailers) = frame.trailers_mut() else { return };
        let found = self.route.as_ref().and_then(|route| route.filter(&self.name));
        let levels: &[RouteFilterConfig] = found.map_or(&[], |found| &found.levels);
        let all =
            All { own: &self.config.mutations, levels, most_specific_wins: self.config.most_specific_wins };
        let status = self.stream.info.borrow().response_code.unwrap_or(0);
        for mutation in
            all.collect(
                |mutations| {
                    if self.request { &mutations.request_trailers } else { &mutations.response_trailers }
                },
            )
        {
            change_fields(trailers, mutation, &ResponseContext { stream: &self.stream, status });
        }
    }
}

pub(super) fn has_format(mutation: &Mutation) -> bool {
    matches!(mutation, Mutation::Set(HeaderAdd { value: HeaderAddValue::Format(_), .. }))
}

/// Makes one change.
pub(super) fn change_fields(headers: &mut HeaderMap, mutation: &Mutation, context: &dyn ContextSource) {
    match mutation {
        Mutation::Remove(name) => drop(headers.remove(name)),
        Mutation::RemoveMatching(matcher) => remove_matching(headers, matcher),
        Mutation::Set(HeaderAdd { name, value, action, keep_empty }) => {
            // The conversion refuses all others, as Envoy does.
            let AddTarget::Name(name) = name else { return };
            let Some(value) = evaluate(value, headers, context) else { return };
            if value.is_empty() && !keep_empty {
                return;
            }
            let overwrites = match action {
                AppendAction::AppendIfExistsOrAdd => false,
                AppendAction::AddIfAbsent if headers.contains_key(name) => return,
                AppendAction::AddIfAbsent | AppendAction::OverwriteIfExistsOrAdd => true,
                AppendAction::OverwriteIfExists if !headers.contains_key(name) => return,
                AppendAction::OverwriteIfExists => true,
            };
            if overwrites {
                headers.insert(name, value);
            } else {
                headers.append(name, value);
            }
        }
    }
}

/// Removes the headers whose names match. What every request has (its host) stays.
fn remove_matching(headers: &mut HeaderMap, matcher: &StringMatcher) {
    let names = headers.keys().filter(|name| **name != HOST && matcher.matches(name.as_str()));
    let names: Vec<HeaderName> = names.cloned().collect();
    for name in names {
        headers.remove(name);
    }
}

/// `None` for bytes that cannot stand in a header: they drop the change, never the message.
fn evaluate(value: &HeaderAddValue, headers: &HeaderMap, context: &dyn ContextSource) -> Option<HeaderValue> {
    match value {
        HeaderAddValue::Literal(value) => Some(value.clone()),
        HeaderAddValue::Format(format) => {
            let mut text = Vec::new();
            context.with(headers, &mut |cx| format.write(cx, true, &mut text));
            HeaderValue::from_maybe_shared(Bytes::from(text)).ok()
        }
    }
}

fn change_query(stream: &Stream, parts: &mut Parts, mutations: &[QueryMutation]) {
    if mutations.is_empty() {
        return;
    }
    let path = parts.uri.path_and_query().map_or("", http::uri::PathAndQuery::as_str);
    let mut query = query::Query::parse(path);
    let context = RequestContext { stream, method: &parts.method, uri: &parts.uri };
    for mutation in mutations {
        match mutation {
            QueryMutation::Remove(name) => query.remove(name),
            QueryMutation::Set { name, value, action } => {
                let mut text = Vec::new();
                context.with(&parts.headers, &mut |cx| value.write(cx, true, &mut text));
                query.set(name, &text, *action);
            }
        }
    }
    let path = query.path(path);
    set_path(parts, path);
}
