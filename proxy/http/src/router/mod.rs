//! The router: from a routed request to its response.
//!
//! `forward` prepares the request (`call`), and takes one of two ways: `once` (in `attempt`) for nearly all requests, without
//! a box, a copy of the head or a kept body; `again` where retries or mirrors are asked for. What decides is
//! without I/O: `retry`, `timeout`, `outcome`.

mod again;
mod attempt;
mod call;
mod envoy_headers;
mod hash;
mod heads;
mod limits;
mod mirror;
mod outcome;
mod replay;
mod response;
mod retry;
mod timeout;
mod upgrade;

use std::rc::Rc;

use http::request::Parts;
use http_body::Body;
use outrider_core::LocalReply;

pub use response::UpstreamResponse;

pub(crate) use call::{find_cluster, note_routed};
pub(crate) use heads::{RequestContext, ResponseContext, finish_reply, set_path};
pub(crate) use timeout::{GRPC_TIMEOUT, parse_grpc_timeout};

use crate::body::{DownstreamBody, ResponseBody};
use crate::routing::{RequestView, Selected};
use crate::stream::Stream;
use call::Call;

/// Gets the response to `request`, which took the route `selected`. Direct responses and redirects come back as
/// replies too. Dropping the future gives the request up: what runs upstream is reset.
///
/// # Errors
/// The reply that the proxy makes up itself, with the route's changes of response headers in it.
pub(crate) async fn forward(
    stream: &Rc<Stream>,
    mut parts: Box<Parts>,
    body: DownstreamBody,
    selected: &Selected,
) -> Result<http::Response<ResponseBody>, LocalReply> {
    let stats = &stream.hcm.shared.stats;
    stats.rq_total().inc();
    // An upgrade's request ends with its tunnel.
    if body.is_end_stream() && stream.upgrade.borrow().is_none() {
        stream.request_complete();
    }
    let prepared = match selected.forward() {
        Some(route) => Call::prepare(stream, selected, route, &mut parts),
        None => {
            stats.rq_direct_response().inc();
            let head = stream.view(&parts.method, &parts.uri, &parts.headers);
            let view = RequestView { head, tls: None, random: 0 };
            let reply = selected.reply(&view);
            heads::finish_redirected(stream, selected, &mut parts);
            Err(reply.unwrap_or_else(|| outcome::no_cluster(http::StatusCode::NOT_FOUND)))
        }
    };
    if stream.wants_head() || selected.response_reads_request() {
        stream.keep_head(&parts);
    }
    let result = match prepared {
        Err(reply) => Err(reply),
        Ok(call) if call.is_plain() => attempt::once(&call, parts, body).await,
        // Rare, and large: it stays out of every request's future.
        Ok(call) => Box::pin(again::with_retries(call, parts, body)).await,
    };
    result.map_err(|mut reply| {
        heads::finish_reply(stream, selected, &mut reply);
        reply
    })
}
