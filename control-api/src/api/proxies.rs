//! The proxies whose streams end here, and what a request would meet at one of them.

use std::sync::Arc;

use outrider_proto::pb::envoy::config::core::v3::Node;
use serde_json::Value;
use tonic::Status;

use super::auth::{Identity, Role};
use super::read::REDACTED;
use super::{ControlService, explain};
use crate::pb;
use crate::translate::{Resources, translate};
use crate::world::Proxy;

impl ControlService {
    pub(super) fn do_list_proxies(&self, request: &pb::ListProxiesRequest) -> pb::ListProxiesResponse {
        let mut proxies = self.parts.connected.summaries();
        if !request.namespace.is_empty() {
            proxies.retain(|proxy| proxy.namespace == request.namespace);
        }
        let generation = self.parts.engine.snapshot().generation;
        pb::ListProxiesResponse { proxies, generation, instance: self.parts.instance.to_string() }
    }

    pub(super) async fn do_describe_proxy(
        &self,
        who: &Identity,
        request: pb::DescribeProxyRequest,
    ) -> Result<pb::DescribeProxyResponse, Status> {
        let connected = Arc::clone(&self.parts.connected);
        let id = request.id.clone();
        // Decoding all resources is work.
        let work =
            tokio::task::spawn_blocking(move || connected.describe(&request.id, request.with_bodies)).await;
        let found = work.map_err(|_| Status::internal("the resources could not be shown"))?;
        let mut found = found.ok_or_else(|| self.no_proxy(&id))?;
        if who.role != Role::Admin {
            found.resources.iter_mut().for_each(|it| it.json = without_credentials(&it.json));
        }
        Ok(found)
    }

    pub(super) async fn do_explain(
        &self,
        request: pb::ExplainRequest,
    ) -> Result<pb::ExplainResponse, Status> {
        let asked = explain::Asked::read(&request).map_err(Status::invalid_argument)?;
        let (connected, snapshot) = (Arc::clone(&self.parts.connected), self.parts.engine.snapshot());
        let id = request.proxy.clone();
        let work = tokio::task::spawn_blocking(move || -> Option<pb::ExplainResponse> {
            let (proxy, resources, behind) = connected.resources(&request.proxy).or_else(|| {
                // Not here, but its id says all that is needed.
                let proxy = unconnected(&request.proxy)?;
                let resources: Resources = translate(&snapshot.context, &proxy);
                Some((proxy, resources, Vec::new()))
            })?;
            let mut answer = explain::explain(&snapshot.context, &proxy, &resources, &asked);
            explain::warn(&mut answer, &proxy, &behind);
            Some(answer)
        });
        let done = work.await.map_err(|_| Status::internal("the request could not be explained"))?;
        done.ok_or_else(|| self.no_proxy(&id))
    }

    fn no_proxy(&self, id: &str) -> Status {
        let near: Vec<_> = self
            .parts
            .connected
            .summaries()
            .into_iter()
            .map(|it| it.id)
            .filter(|it| id.len() > 2 && it.contains(id))
            .take(3)
            .collect();
        let hint = match near.as_slice() {
            [] => "list those that are with `outriderctl proxy-status`".to_owned(),
            near => format!("did you mean {}?", near.join(" or ")),
        };
        Status::not_found(format!("no proxy {id:?} is connected to {}; {hint}", self.parts.instance))
    }
}

/// The proxy of a whole node id.
fn unconnected(id: &str) -> Option<Proxy> {
    Proxy::from_node(&Node { id: id.to_owned(), ..Default::default() }).ok()
}

/// A resource without the values of headers that the proxy adds: credentials of ExternalServices are among them, and what is in a
/// Secret is an administrator's. (Keys are taken out for everybody.)
pub(super) fn without_credentials(json: &str) -> String {
    if !json.contains("headers_to_add") {
        return json.to_owned();
    }
    let Ok(mut value) = serde_json::from_str(json) else { return String::new() };
    hide(&mut value);
    value.to_string()
}

fn hide(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Object(fields) => {
            for (name, value) in fields.iter_mut() {
                if name == "request_headers_to_add" {
                    for header in value.as_array_mut().into_iter().flatten() {
                        if let Some(fields) = header.get_mut("header").and_then(Value::as_object_mut) {
                            fields.retain(|name, _| name == "key");
                            fields.insert("value".to_owned(), REDACTED.into());
                        }
                    }
                } else {
                    hide(value);
                }
            }
        }
        _ => {}
    }
}
