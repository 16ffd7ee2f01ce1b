//! An API server in this process, as far as the store asks: its kinds, its objects, its watches, and its faults.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body::Frame;
use kube::client::Body;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tower_layer::Layer as _;
use tower_service::Service;

use super::{Kubernetes, Pace, limit};
use crate::model::{Key, Kind};

/// What happens to requests whose method and path begin so.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    /// `GET /apis/...`; empty: all.
    pub(crate) on: &'static str,
    /// How many of them it hits.
    pub(crate) times: usize,
    /// What it does.
    pub(crate) what: What,
}

/// See [`Fault`].
#[derive(Clone, Copy, Debug)]
pub(crate) enum What {
    /// An answer of this code.
    Code(u16),
    /// No answer.
    Silence,
    /// A panic in the task that asks.
    Panic,
}

type Watch = (Kind, mpsc::UnboundedSender<Bytes>);

#[derive(Debug, Default)]
struct Server {
    kinds: BTreeSet<Kind>,
    objects: BTreeMap<Key, Value>,
    revision: u64,
    watches: Vec<Watch>,
    hushed: Vec<Watch>,
    /// All that happened, for watches that begin in the past.
    events: Vec<(u64, Kind, Bytes)>,
    faults: Vec<Fault>,
    log: Vec<String>,
}

/// The server. Clones are the same one.
#[derive(Clone, Debug)]
pub(crate) struct Fake(Arc<Mutex<Server>>);

impl Fake {
    /// One that serves these kinds.
    pub(crate) fn new(kinds: &[Kind]) -> Self {
        let kinds = kinds.iter().copied().collect();
        Self(Arc::new(Mutex::new(Server { kinds, revision: 100, ..Server::default() })))
    }

    /// A store on it.
    pub(crate) fn store(&self) -> Kubernetes {
        let hurried = Duration::from_millis(50);
        let client = kube::Client::new(limit::Limit(hurried * 10).layer(self.clone()), "default");
        let pace = Pace { again: hurried, fault: hurried };
        Kubernetes::with_client(client, "Kubernetes in a test".into(), pace)
    }

    fn server(&self) -> MutexGuard<'_, Server> {
        self.0.lock().unwrap()
    }

    pub(crate) fn serve(&self, kind: Kind, yes: bool) {
        let mut server = self.server();
        if yes {
            server.kinds.insert(kind);
        } else {
            server.kinds.remove(&kind);
            server.objects.retain(|key, _| key.kind != kind);
        }
        drop(server);
        self.cut(kind);
    }

    /// From now on the watches of a kind that are there tell nothing.
    pub(crate) fn hush(&self, kind: Kind) {
        let mut server = self.server();
        let (hushed, rest) = std::mem::take(&mut server.watches).into_iter().partition(|(of, _)| *of == kind);
        (server.hushed, server.watches) = (hushed, rest);
    }

    /// Ends the watches of a kind, as a server does now and then.
    pub(crate) fn cut(&self, kind: Kind) {
        let mut server = self.server();
        server.watches.retain(|(of, _)| *of != kind);
        server.hushed.retain(|(of, _)| *of != kind);
    }

    pub(crate) fn fault(&self, on: &'static str, times: usize, what: What) {
        self.server().faults.push(Fault { on, times, what });
    }

    /// How many requests began so.
    pub(crate) fn count(&self, begin: &str) -> usize {
        self.server().log.iter().filter(|line| line.starts_with(begin)).count()
    }

    /// Somebody else puts an object.
    pub(crate) fn put(&self, value: Value) {
        let key = key_of(&value);
        self.server().put(key, value);
    }

    /// Somebody else deletes one.
    pub(crate) fn delete(&self, key: &Key) {
        self.server().delete(key);
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Value> {
        self.server().objects.get(key).cloned()
    }
}

/// The key of an object.
pub(crate) fn key_of(value: &Value) -> Key {
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    let kind = Kind::ALL.iter().find(|kind| kind.name() == text("/kind")).unwrap();
    Key::new(*kind, &text("/metadata/namespace"), &text("/metadata/name"))
}

/// A route of HTTP with this host name.
pub(crate) fn route(name: &str, host: &str) -> Value {
    json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"namespace": "default", "name": name}, "spec": {"hostnames": [host]}})
}

impl Server {
    fn put(&mut self, key: Key, mut value: Value) -> Value {
        self.revision += 1;
        value["metadata"]["resourceVersion"] = self.revision.to_string().into();
        let known = self.objects.insert(key.clone(), value.clone());
        let uid = known
            .as_ref()
            .map_or_else(|| json!(format!("uid-{}", self.revision)), |it| it["metadata"]["uid"].clone());
        value["metadata"]["uid"] = uid;
        self.objects.insert(key.clone(), value.clone());
        self.tell(key.kind, if known.is_some() { "MODIFIED" } else { "ADDED" }, &value);
        value
    }

    fn delete(&mut self, key: &Key) -> Option<Value> {
        let mut value = self.objects.remove(key)?;
        self.revision += 1;
        value["metadata"]["resourceVersion"] = self.revision.to_string().into();
        self.tell(key.kind, "DELETED", &value);
        Some(value)
    }

    fn tell(&mut self, kind: Kind, what: &str, object: &Value) {
        let line = Bytes::from(format!("{}\n", json!({"type": what, "object": object})));
        self.watches.retain(|(of, watch)| *of != kind || watch.send(line.clone()).is_ok());
        self.events.push((self.revision, kind, line));
    }

    fn answer(&mut self, request: &Request<()>, body: &[u8]) -> Response<FakeBody> {
        let (path, query) = (request.uri().path(), request.uri().query().unwrap_or_default());
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let (group, rest) = match parts.as_slice() {
            ["apis"] => return whole(200, &self.groups()),
            ["api", _, rest @ ..] => ("", rest),
            ["apis", group, _, rest @ ..] => (*group, rest),
            _ => return status(404, "there is nothing"),
        };
        if rest.is_empty() {
            return self.resources(group);
        }
        let (namespace, rest) = match rest {
            ["namespaces", namespace, rest @ ..] if !rest.is_empty() => (*namespace, rest),
            _ => ("", rest),
        };
        let kind = self.kinds.iter().copied().find(|kind| kind.group() == group && kind.plural() == rest[0]);
        let Some(kind) = kind else { return status(404, "the server could not find the requested resource") };
        let given: Value = serde_json::from_slice(body).unwrap_or_default();
        let dry = query.contains("dryRun=All");
        match (request.method(), &rest[1..]) {
            (&Method::GET, []) if query.contains("watch=true") => {
                let (sender, receiver) = mpsc::unbounded_channel();
                let from =
                    query.split('&').find_map(|it| it.strip_prefix("resourceVersion=")?.parse::<u64>().ok());
                let since = self.events.iter().filter(|it| Some(it.0) > from && it.1 == kind);
                since.for_each(|(_, _, line)| sender.send(line.clone()).unwrap());
                self.watches.push((kind, sender));
                Response::new(FakeBody::Events(receiver))
            }
            (&Method::GET, []) => {
                let items: Vec<_> = self.objects.iter().filter(|(key, _)| key.kind == kind).collect();
                let items: Vec<_> = items.into_iter().map(|(_, value)| value).collect();
                let version = self.revision.to_string();
                whole(
                    200,
                    &json!({"kind": "List", "apiVersion": kind.api_version(), "items": items,
                    "metadata": {"resourceVersion": version}}),
                )
            }
            (&Method::GET, [name]) => match self.objects.get(&Key::new(kind, namespace, name)) {
                Some(value) => whole(200, value),
                None => status(404, "not found"),
            },
            (&Method::POST, []) if self.objects.contains_key(&key_of(&given)) => status(409, "it exists"),
            (&Method::POST, []) | (&Method::PUT, [_]) if dry => whole(200, &given),
            (&Method::POST, []) | (&Method::PUT, [_]) => whole(200, &self.put(key_of(&given), given)),
            (&Method::PUT, [name, "status"]) => {
                let key = Key::new(kind, namespace, name);
                let Some(mut value) = self.objects.get(&key).cloned() else {
                    return status(404, "not found");
                };
                value["status"] = given["status"].clone();
                whole(200, &self.put(key, value))
            }
            (&Method::DELETE, [_]) if dry => whole(200, &json!({})),
            (&Method::DELETE, [name]) => match self.delete(&Key::new(kind, namespace, name)) {
                Some(value) => whole(200, &value),
                None => status(404, "not found"),
            },
            _ => status(405, "not done here"),
        }
    }

    fn groups(&self) -> Value {
        let mut groups: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for kind in self.kinds.iter().filter(|kind| !kind.group().is_empty()) {
            groups.entry(kind.group()).or_default().extend(kind.versions().first());
        }
        let groups: Vec<_> = groups
            .into_iter()
            .map(|(group, versions)| {
                let version = |it: &str| json!({"groupVersion": format!("{group}/{it}"), "version": it});
                json!({"name": group, "versions": versions.into_iter().map(version).collect::<Vec<_>>()})
            })
            .collect();
        json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
    }

    fn resources(&self, group: &str) -> Response<FakeBody> {
        let kinds: Vec<_> = self.kinds.iter().filter(|kind| kind.group() == group).collect();
        if kinds.is_empty() && !group.is_empty() {
            return status(404, "404 page not found");
        }
        let resource = |kind: &&Kind| {
            json!({"name": kind.plural(), "kind": kind.name(), "namespaced": kind.namespaced(),
                "singularName": "", "verbs": ["list"]})
        };
        whole(
            200,
            &json!({"kind": "APIResourceList", "groupVersion": "v1",
            "resources": kinds.iter().map(resource).collect::<Vec<_>>()}),
        )
    }
}

fn whole(code: u16, value: &Value) -> Response<FakeBody> {
    let body = FakeBody::Whole(Some(value.to_string().into()));
    Response::builder().status(StatusCode::from_u16(code).unwrap()).body(body).unwrap()
}

fn status(code: u16, message: &str) -> Response<FakeBody> {
    let reason = if code == 404 { "NotFound" } else { "" };
    let value = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": message,
        "reason": reason, "code": code});
    whole(code, &value)
}

/// The body of an answer.
#[derive(Debug)]
pub(crate) enum FakeBody {
    /// All of it.
    Whole(Option<Bytes>),
    /// A watch.
    Events(mpsc::UnboundedReceiver<Bytes>),
}

impl http_body::Body for FakeBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match &mut *self {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Events(events) => {
                events.poll_recv(context).map(|it| it.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }
}

impl Service<Request<Body>> for Fake {
    type Response = Response<FakeBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<FakeBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let fake = self.clone();
        Box::pin(async move {
            let (parts, body) = request.into_parts();
            let request = Request::from_parts(parts, ());
            let line = format!("{} {}", request.method(), request.uri());
            let fault = {
                let mut server = fake.server();
                let hit = server.faults.iter_mut().find(|it| it.times > 0 && line.starts_with(it.on));
                let fault = hit.map(|it| {
                    it.times -= 1;
                    it.what
                });
                server.log.push(line);
                fault
            };
            match fault {
                None => {}
                Some(What::Code(code)) => return Ok(status(code, "as the test wants it")),
                Some(What::Silence) => std::future::pending().await,
                Some(What::Panic) => panic!("as the test wants it"),
            }
            let body = body.collect_bytes().await.unwrap();
            let answer = fake.server().answer(&request, &body);
            Ok(answer)
        })
    }
}
