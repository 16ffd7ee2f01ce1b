//! `local_reply_config`: how local replies are changed before they go out.
//!
//! The first mapper whose filter takes a reply changes its body, headers and status; then the mapper's own format,
//! or else the connection manager's, writes the body (Envoy: "Local reply modification").

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue, StatusCode};
use outrider_config::model;
use outrider_core::LocalReply;
use outrider_core::format::FormatContext;
use outrider_core::matcher::HeadView;
use outrider_telemetry::access_log::{
    filter_passes, filter_reads_request, format_reads_request, write_format,
};

use crate::routing::{ContextSource, DirectBodyError, Levels, Mutations, load_body};
use crate::stream::Stream;

/// The mappers and the format of a connection manager.
#[derive(Debug)]
pub(crate) struct ReplyMapper {
    mappers: Vec<Mapper>,
    format: Option<Format>,
    /// Whether the request's head must be there when a reply is made.
    pub(crate) reads_request: bool,
}

#[derive(Debug)]
struct Mapper {
    filter: model::LogFilter,
    status: Option<StatusCode>,
    body: Option<Bytes>,
    headers: Mutations,
    format: Option<Format>,
}

#[derive(Debug)]
struct Format {
    format: model::LogFormat,
    content_type: HeaderValue,
}

/// What formats of headers read.
struct Context<'a> {
    stream: &'a Stream,
    status: StatusCode,
    body: &'a str,
}

impl ReplyMapper {
    /// Compiles `config`, and reads its files. Control thread. `None` when nothing is ever changed.
    ///
    /// # Errors
    /// A body cannot be read.
    pub(crate) fn build(config: &model::LocalReplies) -> Result<Option<Box<Self>>, DirectBodyError> {
        let mappers = config.mappers.iter().map(Mapper::build).collect::<Result<Vec<_>, _>>()?;
        let format = config.body_format.as_ref().map(Format::build);
        if mappers.is_empty() && format.is_none() {
            return Ok(None);
        }
        let formats = mappers.iter().filter_map(|mapper| mapper.format.as_ref()).chain(&format);
        let reads_request = { formats }.any(|format| format_reads_request(&format.format))
            || mappers
                .iter()
                .any(|mapper| filter_reads_request(&mapper.filter) || mapper.headers.has_formats());
        Ok(Some(Box::new(Self { mappers, format, reads_request })))
    }

    /// Changes `reply` to `stream`'s request.
    pub(crate) fn apply(&self, stream: &Stream, reply: &mut LocalReply) {
        let original = reply.body.clone();
        let mut headers = reply.headers.take().map_or_else(HeaderMap::new, |headers| *headers);
        let own_type = headers.get(CONTENT_TYPE).cloned();
        stream.info.borrow_mut().response_code = Some(reply.status.as_u16());
        let mapper = self.mappers.iter().find(|mapper| {
            let context = Context { stream, status: reply.status, body: "" };
            let mut passes = false;
            context.with(&headers, &mut |cx| passes = filter_passes(&mapper.filter, cx));
            passes
        });
        if let Some(mapper) = mapper {
            mapper.apply(stream, reply, &mut headers);
        }
        let format = mapper.and_then(|mapper| mapper.format.as_ref()).or(self.format.as_ref());
        if let Some(format) = format {
            let mut body = Vec::new();
            let text = String::from_utf8_lossy(&reply.body);
            let context = Context { stream, status: reply.status, body: &text };
            context.with(&headers, &mut |cx| write_format(&format.format, cx, &mut body));
            if stream.grpc.get() && matches!(format.format, model::LogFormat::Json { .. }) {
                // An object's newline is no part of a gRPC message.
                body.truncate(body.trim_ascii_end().len());
            }
            reply.body = body.into();
        }
        let chosen = headers.get(CONTENT_TYPE) != own_type.as_ref();
        if reply.body.is_empty() {
            headers.remove(CONTENT_TYPE);
        } else if !headers.contains_key(CONTENT_TYPE) || (reply.body != original && !chosen) {
            let plain = HeaderValue::from_static("text/plain");
            headers.insert(CONTENT_TYPE, format.map_or(plain, |format| format.content_type.clone()));
        }
        reply.headers = (!headers.is_empty()).then(|| Box::new(headers));
    }
}

impl Mapper {
    fn build(config: &model::ResponseMapper) -> Result<Self, DirectBodyError> {
        let none: (&[_], &[_]) = (&[], &[]);
        let levels = Levels { table: none, host: none, route: (&[], &config.headers), cluster: None };
        Ok(Self {
            filter: config.filter.clone(),
            status: config.status,
            body: config.body.as_ref().map(|body| load_body(body, u32::MAX)).transpose()?,
            headers: Mutations::build(&levels, false),
            format: config.body_format.as_ref().map(Format::build),
        })
    }

    fn apply(&self, stream: &Stream, reply: &mut LocalReply, headers: &mut HeaderMap) {
        if let Some(body) = &self.body {
            reply.body = body.clone();
        }
        // Headers do not see the body (measured).
        self.headers.apply(headers, &Context { stream, status: reply.status, body: "" });
        if let Some(status) = self.status {
            reply.status = status;
            stream.info.borrow_mut().response_code = Some(status.as_u16());
        }
    }
}

impl Format {
    fn build(config: &model::BodyFormat) -> Self {
        let plain = HeaderValue::from_static("text/plain");
        Self {
            format: config.format.clone(),
            content_type: HeaderValue::from_str(&config.content_type).unwrap_or(plain),
        }
    }
}

impl ContextSource for Context<'_> {
    fn with(&self, headers: &HeaderMap, f: &mut dyn FnMut(&FormatContext<'_>)) {
        let response = HeadView { status: self.status.as_str(), ..HeadView::of(headers) };
        let info = self.stream.info.borrow();
        self.stream.with_head(|request| {
            let context = FormatContext {
                request,
                response: Some(response),
                local_reply_body: self.body,
                ..FormatContext::of(&info)
            };
            f(&context);
        });
    }
}
