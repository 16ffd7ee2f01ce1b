//! What operators see: the gRPC API `outrider.control.v1`, and who may use it.

mod apply;
pub mod audit;
pub mod auth;
mod bodies;
pub mod error;
pub mod explain;
mod manifest;
mod problems;
mod proxies;
mod read;
mod selector;
mod server;
mod watch;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;
use std::time::Duration;

pub(crate) use problems::quotes_secret;
pub use selector::{Selector, SelectorError};
pub use server::{DETAILS_LIMIT, Reporter, Served};
use tonic::{Request, Response, Status};

use crate::ads::Connected;
use crate::engine::{Engine, Snapshot};
use crate::model::{Key, Kind, Object};
use crate::pb;
use crate::source::Problems;
use crate::store::SharedStore;
use audit::Audit;
use auth::{Identity, Role};

/// How long a write waits until readers can see it.
const VISIBLE: Duration = Duration::from_secs(5);

/// How long a request waits for a control plane that has just started.
const STARTING: Duration = Duration::from_secs(2);

/// Namespace of objects that name none.
pub const DEFAULT_NAMESPACE: &str = "default";

/// What the API is made of.
#[derive(Clone, Debug)]
pub struct Parts {
    /// Where writes go.
    pub store: SharedStore,
    /// What readers see.
    pub engine: Arc<Engine>,
    /// The proxies whose streams end here.
    pub connected: Arc<Connected>,
    /// Who changed what.
    pub audit: Arc<Audit>,
    /// This control plane's own name, as answers give it.
    pub instance: Arc<str>,
    /// What is wrong with what the sources have.
    pub problems: Problems,
    /// Becomes true when this control plane leaves: watches end.
    pub leaving: tokio::sync::watch::Receiver<bool>,
}

/// The API.
#[derive(Clone, Debug)]
pub struct ControlService {
    parts: Parts,
    /// How many may watch at a time.
    watchers: Arc<tokio::sync::Semaphore>,
}

impl ControlService {
    /// The API of these parts.
    pub fn new(parts: Parts) -> Self {
        Self { parts, watchers: Arc::new(tokio::sync::Semaphore::new(watch::WATCHERS)) }
    }

    /// Waits a moment until all sources have told what they have: before that, "there is nothing" would be a wrong answer.
    async fn ready(&self) -> Result<(), Status> {
        let ready = tokio::time::timeout(STARTING, self.parts.engine.until_ready()).await;
        ready.map_err(|_| {
            Status::unavailable(format!(
                "{} has not read all of its store and manifests yet; try again in a moment",
                self.parts.instance
            ))
        })
    }

    /// What is published.
    fn now(&self) -> Arc<Snapshot> {
        self.parts.engine.snapshot()
    }

    /// Waits until a write can be read, for a while: it is done anyway.
    async fn visible(&self, revision: u64) {
        let _ = tokio::time::timeout(VISIBLE, self.parts.engine.applied(revision)).await;
    }
}

/// Who asks, as the guard in front found out.
fn identity<T>(request: &Request<T>) -> Result<Identity, Status> {
    request.extensions().get::<Identity>().cloned().ok_or_else(|| {
        Status::unauthenticated("nobody asked who you are; this server is put together wrongly")
    })
}

/// The kind of a word.
fn kind_of(word: &str) -> Result<Kind, Status> {
    Kind::of_word(word).ok_or_else(|| {
        let all: Vec<_> = Kind::ALL.iter().map(|kind| kind.plural()).collect();
        Status::invalid_argument(format!("{word:?} is no kind here; known are {}", all.join(", ")))
    })
}

/// The key that a reference names.
fn key_of(reference: Option<&pb::Ref>) -> Result<Key, Status> {
    let Some(reference) = reference else {
        return Err(Status::invalid_argument("ref is missing: which object is meant?"));
    };
    if reference.kind.is_empty() {
        return Err(Status::invalid_argument("ref.kind is missing"));
    }
    let kind = kind_of(&reference.kind)?;
    let version = reference.api_version.as_str();
    if !version.is_empty() {
        let found = Kind::of_manifest(version, kind.name()).map_err(Status::invalid_argument)?;
        if found != Some(kind) {
            return Err(Status::invalid_argument(format!(
                "ref.api_version: {kind} has {}, not {version}",
                kind.api_version()
            )));
        }
    }
    if reference.name.is_empty() {
        return Err(Status::invalid_argument("ref.name is missing"));
    }
    let namespace =
        if reference.namespace.is_empty() { DEFAULT_NAMESPACE } else { reference.namespace.as_str() };
    Ok(Key::new(kind, namespace, &reference.name))
}

/// A reference to a key.
fn ref_of(key: &Key) -> pb::Ref {
    pb::Ref {
        api_version: key.kind.api_version(),
        kind: key.kind.name().to_owned(),
        namespace: key.namespace.to_string(),
        name: key.name.to_string(),
    }
}

/// Whether an object comes from a folder of manifests: then it is changed there.
fn owner(snapshot: &Snapshot, key: &Key) -> Option<Arc<str>> {
    let object = snapshot.context.world.object(key)?;
    from_manifests(object).then(|| Arc::clone(&object.source))
}

fn from_manifests(object: &Object) -> bool {
    object.revision == 0 && !object.source.is_empty()
}

/// Why an object of a folder is not changed here.
fn owned(key: &Key, file: &str) -> String {
    format!("{key} comes from the manifests of this control plane ({file}); change it there")
}

/// Whether somebody may change objects of a kind.
fn may_write(who: &Identity, kind: Kind) -> bool {
    !matches!(kind, Kind::Secret | Kind::JoinToken) || who.role == Role::Admin
}

/// A version that a client gave.
fn revision_of(text: &str) -> Result<Option<u64>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let parsed = text.parse().map(Some);
    parsed.map_err(|_| {
        Status::invalid_argument(format!(
            "resource_version {text:?} is none; give one that was got from here"
        ))
    })
}

#[tonic::async_trait]
impl pb::control_server::Control for ControlService {
    async fn apply(&self, request: Request<pb::ApplyRequest>) -> Result<Response<pb::ApplyResponse>, Status> {
        self.ready().await?;
        self.do_apply(request).await.map(Response::new)
    }

    async fn delete(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<Response<pb::DeleteResponse>, Status> {
        self.ready().await?;
        self.do_delete(request).await.map(Response::new)
    }

    async fn get(&self, request: Request<pb::GetRequest>) -> Result<Response<pb::GetResponse>, Status> {
        self.ready().await?;
        self.do_get(&request).map(Response::new)
    }

    async fn list(&self, request: Request<pb::ListRequest>) -> Result<Response<pb::ListResponse>, Status> {
        self.ready().await?;
        self.do_list(request).await.map(Response::new)
    }

    type WatchStream = watch::Events;

    async fn watch(&self, request: Request<pb::WatchRequest>) -> Result<Response<Self::WatchStream>, Status> {
        self.ready().await?;
        self.do_watch(request).await.map(Response::new)
    }

    async fn list_proxies(
        &self,
        request: Request<pb::ListProxiesRequest>,
    ) -> Result<Response<pb::ListProxiesResponse>, Status> {
        identity(&request)?;
        Ok(Response::new(self.do_list_proxies(request.get_ref())))
    }

    async fn describe_proxy(
        &self,
        request: Request<pb::DescribeProxyRequest>,
    ) -> Result<Response<pb::DescribeProxyResponse>, Status> {
        let who = identity(&request)?;
        self.do_describe_proxy(&who, request.into_inner()).await.map(Response::new)
    }

    async fn list_problems(
        &self,
        request: Request<pb::ListProblemsRequest>,
    ) -> Result<Response<pb::ListProblemsResponse>, Status> {
        let who = identity(&request)?;
        Ok(Response::new(self.do_list_problems(&who, request.get_ref())))
    }

    async fn explain(
        &self,
        request: Request<pb::ExplainRequest>,
    ) -> Result<Response<pb::ExplainResponse>, Status> {
        identity(&request)?;
        self.ready().await?;
        self.do_explain(request.into_inner()).await.map(Response::new)
    }
}
