//! `envoy.filters.http.api_key_auth`

use std::sync::Arc;

use http::HeaderValue;
use http::header::HOST;
use outrider_core::credentials::{ApiKeys, Client};
use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::filters::http::api_key_auth::v3 as pb;

use crate::convert::cx::{Cx, inert};
use crate::convert::scalar::{header_name, request_header};
use crate::model::{ApiKeyAuth, ApiKeyAuthRoute, KeyForwarding, KeySource};

/// As long may the names of sources be, in bytes.
const LONGEST: usize = 1024;

/// The filter at `path`; `None`, and an error, when it is not usable.
pub(super) fn filter(cx: &Cx, path: &Path<'_>, message: &pb::ApiKeyAuth) -> Option<ApiKeyAuth> {
    let pb::ApiKeyAuth { credentials, key_sources, forwarding } = message;
    settings(cx, path, credentials, key_sources, forwarding.as_ref())
}

/// What a route says of the filter.
pub(super) fn per_route(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::ApiKeyAuthPerRoute,
) -> Option<ApiKeyAuthRoute> {
    let pb::ApiKeyAuthPerRoute { credentials, key_sources, allowed_clients, forwarding } = message;
    Some(ApiKeyAuthRoute {
        settings: settings(cx, path, credentials, key_sources, forwarding.as_ref())?,
        allowed: allowed_clients.iter().map(|client| client.as_str().into()).collect(),
    })
}

fn settings(
    cx: &Cx,
    path: &Path<'_>,
    credentials: &[pb::Credential],
    sources: &[pb::KeySource],
    forwarding: Option<&pb::Forwarding>,
) -> Option<ApiKeyAuth> {
    let keys = keys(cx, &path.field("credentials"), credentials);
    let at = path.field("key_sources");
    let sources: Vec<Option<KeySource>> =
        sources.iter().enumerate().map(|(i, message)| source(cx, &at.index(i), message)).collect();
    let forwarding = forwarding.map(|message| forward(cx, &path.field("forwarding"), message));
    Some(ApiKeyAuth {
        keys: (!credentials.is_empty()).then_some(keys),
        sources: sources.into_iter().collect::<Option<_>>()?,
        forwarding: match forwarding {
            Some(forwarding) => Some(forwarding?),
            None => None,
        },
    })
}

/// The keys. An error never shows one.
fn keys(cx: &Cx, path: &Path<'_>, messages: &[pb::Credential]) -> ApiKeys {
    let mut keys = ApiKeys::default();
    for (i, message) in messages.iter().enumerate() {
        let path = path.index(i);
        let pb::Credential { key, client } = message;
        if key.is_empty() {
            cx.error(&path.field("key"), "a key is needed");
        }
        if client.is_empty() {
            cx.error(&path.field("client"), "a name is needed");
        }
        let Ok(header) = HeaderValue::from_str(client) else {
            cx.error(&path.field("client"), "a client's name may not hold control characters");
            continue;
        };
        if !keys.add(key.as_bytes(), Client { name: Arc::from(client.as_str()), header }) {
            cx.error(&path.field("key"), "this key is there already");
        }
    }
    keys
}

fn source(cx: &Cx, path: &Path<'_>, message: &pb::KeySource) -> Option<KeySource> {
    const FIRST: &str = "Envoy looks at the first one alone of header, query and cookie";
    let pb::KeySource { header, query, cookie } = message;
    for (field, name) in [("header", header), ("query", query), ("cookie", cookie)] {
        if name.len() > LONGEST {
            cx.error(&path.field(field), format!("a name has {LONGEST} bytes at most"));
        }
    }
    if !header.is_empty() {
        inert!(cx, path, FIRST; query, cookie);
        let path = path.field("header");
        let name = request_header(cx, &path, header)?;
        if name == HOST {
            cx.refuse(&path, "the host cannot be hidden, so it is no place for a key; use another header");
            return None;
        }
        return Some(KeySource::Header(name));
    }
    if !query.is_empty() {
        inert!(cx, path, FIRST; cookie);
        return Some(KeySource::Query(query.as_str().into()));
    }
    if cookie.is_empty() {
        cx.error(path, "give one of header, query and cookie");
        return None;
    }
    Some(KeySource::Cookie(cookie.as_str().into()))
}

fn forward(cx: &Cx, path: &Path<'_>, message: &pb::Forwarding) -> Option<KeyForwarding> {
    let pb::Forwarding { header, hide_credentials } = message;
    let header = match header.as_str() {
        "" => None,
        name if name.len() > LONGEST => {
            cx.error(&path.field("header"), format!("a name has {LONGEST} bytes at most"));
            return None;
        }
        name => Some(header_name(cx, &path.field("header"), name)?),
    };
    Some(KeyForwarding { header, hide: *hide_credentials })
}
