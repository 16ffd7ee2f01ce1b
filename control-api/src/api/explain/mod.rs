//! What a request would meet at a proxy: the listener, the virtual host, each route that was tried and why it lost, what the
//! route that won does, and which policies stand before it. Pure: from the resources that the proxy has.
//!
//! The rules are Envoy's: of listeners and filter chains
//! (<https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/listener/v3/listener_components.proto>), of domains and route matches
//! (<https://www.envoyproxy.io/docs/envoy/latest/api-v3/config/route/v3/route_components.proto>).

mod action;
mod host;
mod listener;
mod matching;
#[cfg(test)]
mod oracle;
mod policy;
mod route;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};

use outrider_proto::prost::Message;

use crate::model::Kind;
use crate::pb;
use crate::translate::{Context, Resources, Type};
use crate::world::Proxy;
use listener::Found;

/// Headers of one request that is asked about.
const MOST_HEADERS: usize = 100;

/// A request that is asked about.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    port: u16,
    inbound: bool,
    method: String,
    /// As it was sent, with a port or without.
    authority: String,
    /// Without the query, dots resolved.
    path: String,
    query: Option<String>,
    headers: BTreeMap<String, String>,
    tls: bool,
}

impl Asked {
    /// Reads what a client sent.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(request: &pb::ExplainRequest) -> Result<Self, String> {
        if request.proxy.is_empty() {
            return Err("proxy is missing: at which one?".to_owned());
        }
        let port = u16::try_from(request.port).map_err(|_| format!("port {} is none", request.port))?;
        let inbound = match request.direction.as_str() {
            "" | "outbound" => false,
            "inbound" => true,
            other => return Err(format!("direction {other:?}: want outbound or inbound")),
        };
        if request.authority.is_empty() && !inbound {
            return Err("authority is missing: which host is asked for?".to_owned());
        }
        let tls = match request.scheme.as_str() {
            "" | "http" => false,
            "https" => true,
            other => return Err(format!("scheme {other:?}: want http or https")),
        };
        if request.headers.len() > MOST_HEADERS {
            return Err(format!(
                "{} headers are too many; send {MOST_HEADERS} at most",
                request.headers.len()
            ));
        }
        let whole = if request.path.is_empty() { "/" } else { request.path.as_str() };
        if !whole.starts_with('/') {
            return Err(format!("path {whole:?} does not begin with a slash"));
        }
        let whole = whole.split_once('#').map_or(whole, |(path, _)| path);
        let (path, query) = match whole.split_once('?') {
            Some((path, query)) => (path, Some(query.to_owned())),
            None => (whole, None),
        };
        let headers = request.headers.iter().map(|(name, value)| (name.to_lowercase(), value.clone()));
        let method = if request.method.is_empty() { "GET".to_owned() } else { request.method.clone() };
        let authority = request.authority.clone();
        Ok(Self {
            port,
            inbound,
            method,
            authority,
            path: normalized(path),
            query,
            headers: headers.collect(),
            tls,
        })
    }

    /// The host without a port.
    fn host(&self) -> &str {
        host::without_port(&self.authority)
    }

    /// Path and query.
    fn whole_path(&self) -> String {
        match &self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.clone(),
        }
    }

    /// A header, or what HTTP/2 writes as one.
    fn header(&self, name: &str) -> Option<String> {
        match name {
            ":method" => Some(self.method.clone()),
            ":authority" | "host" => Some(self.authority.clone()),
            ":path" => Some(self.whole_path()),
            ":scheme" => Some(if self.tls { "https" } else { "http" }.to_owned()),
            name => self.headers.get(name).cloned(),
        }
    }
}

/// Resolves `.` and `..`, as RFC 3986 (5.2.4) and `normalize_path` do.
fn normalized(path: &str) -> String {
    let dot = |part: &str| part == "." || part.eq_ignore_ascii_case("%2e");
    let up = |part: &str| {
        let plain = part.to_ascii_lowercase().replace("%2e", ".");
        plain == ".."
    };
    let mut out: Vec<&str> = Vec::new();
    let parts: Vec<_> = path.split('/').skip(1).collect();
    for (index, part) in parts.iter().enumerate() {
        let last = index + 1 == parts.len();
        if up(part) {
            out.pop();
        } else if !dot(part) {
            out.push(part);
            continue;
        }
        if last {
            out.push("");
        }
    }
    format!("/{}", out.join("/"))
}

/// The answer as it grows.
#[derive(Debug, Default)]
struct Story {
    steps: Vec<pb::ExplainStep>,
    clusters: HashMap<String, f64>,
}

impl Story {
    fn step(
        &mut self,
        stage: &str,
        name: &str,
        origin: Option<&str>,
        taken: bool,
        reason: impl Into<String>,
    ) {
        self.steps.push(pb::ExplainStep {
            stage: stage.to_owned(),
            name: name.to_owned(),
            origin: origin.and_then(reference),
            taken,
            reason: reason.into(),
        });
    }

    fn end(self, verdict: impl Into<String>) -> pb::ExplainResponse {
        pb::ExplainResponse { steps: self.steps, verdict: verdict.into(), clusters: self.clusters }
    }
}

/// Puts in front of an answer that the proxy does not have all that it was worked out from.
pub fn warn(answer: &mut pb::ExplainResponse, proxy: &Proxy, behind: &[String]) {
    if behind.is_empty() {
        return;
    }
    let reason = format!(
        "what follows is what it should do, and it does not have all of that: {}; until it has, what it had before is in force",
        behind.join("; ")
    );
    let step = pb::ExplainStep {
        stage: "proxy".to_owned(),
        name: proxy.id.to_string(),
        reason,
        ..Default::default()
    };
    answer.steps.insert(0, step);
}

/// What happens to a request.
pub fn explain(
    context: &Context,
    proxy: &Proxy,
    resources: &Resources,
    asked: &Asked,
) -> pb::ExplainResponse {
    let mut story = Story::default();
    let found = match listener::find(context, proxy, resources, asked, &mut story) {
        Ok(found) => found,
        Err(verdict) => return story.end(verdict),
    };
    let manager = match found {
        Found::Http(manager) => manager,
        Found::Tcp(clusters) => {
            let names = clusters.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
            action::clusters(resources, &clusters, &mut story);
            return story.end(format!("bytes to {names}: HTTP is not looked at here"));
        }
    };
    let config = match listener::routes(&manager, resources) {
        Ok(config) => config,
        Err(verdict) => return story.end(verdict),
    };
    let Some(host) = host::choose(&config, asked, &mut story) else {
        return story
            .end(format!("404 no virtual host for {:?} in table {:?}", asked.authority, config.name));
    };
    if let Some(verdict) = host::must_be_tls(host, asked) {
        return story.end(verdict);
    }
    let route = route::choose(host, asked, &mut story);
    // Filters run before the route's action, and where there is none too.
    if let Some(verdict) = policy::http(&manager, route, asked, &mut story) {
        return story.end(verdict);
    }
    let Some(route) = route else { return story.end(format!("404 no route of {} takes it", host.name)) };
    let verdict = action::of(route, resources, asked, &mut story);
    story.end(verdict)
}

/// Decodes a resource of a name.
fn resource<M: Message + Default>(resources: &Resources, kind: Type, name: &str) -> Option<M> {
    let on_demand = || resources.on_demand.get(name).filter(|_| kind == Type::Cluster);
    M::decode(resources.of(kind).get(name).or_else(on_demand)?.body.clone()).ok()
}

/// The object in `HTTPRoute shop/web rule 0 match 1`, or that of the policy `ns[shop]-policy[web]-rule[0]`.
fn reference(origin: &str) -> Option<pb::Ref> {
    if let Some((namespace, rest)) = origin.strip_prefix("ns[").and_then(|it| it.split_once("]-policy[")) {
        let kind = Kind::AuthorizationPolicy;
        let (name, _) = rest.split_once(']')?;
        return Some(pb::Ref {
            api_version: kind.api_version(),
            kind: kind.name().to_owned(),
            namespace: namespace.to_owned(),
            name: name.to_owned(),
        });
    }
    let mut words = origin.split(' ');
    let kind = words.next().and_then(|word| Kind::ALL.iter().find(|kind| kind.name() == word))?;
    let name = words.next()?;
    let (namespace, name) = name.split_once('/').unwrap_or(("", name));
    Some(pb::Ref {
        api_version: kind.api_version(),
        kind: kind.name().to_owned(),
        namespace: namespace.to_owned(),
        name: name.to_owned(),
    })
}
