//! Get and List: objects as they are in the published world, with their status.

use std::sync::Arc;

use serde_json::Value;
use tonic::{Request, Status};

use super::auth::{Identity, Role};
use super::{ControlService, Selector, apply, from_manifests, identity, key_of, kind_of};
use crate::engine::Snapshot;
use crate::model::{Key, Kind, Object};
use crate::pb;

/// What stands in the place of a secret.
pub(super) const REDACTED: &str = "REDACTED";
/// What kubectl and we leave in an object about how it was applied: all of it, secrets too.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// Which objects somebody wants to see.
#[derive(Clone, Debug)]
pub(super) struct Selection {
    kind: Option<Kind>,
    namespace: String,
    selector: Selector,
}

impl Selection {
    pub(super) fn new(kind: &str, namespace: &str, selector: &str) -> Result<Self, Status> {
        let kind = if kind.is_empty() { None } else { Some(kind_of(kind)?) };
        let selector = selector
            .parse()
            .map_err(|error: super::SelectorError| Status::invalid_argument(error.to_string()))?;
        Ok(Self { kind, namespace: namespace.to_owned(), selector })
    }

    /// Whether an object of this key can be meant.
    pub(super) fn has_key(&self, key: &Key) -> bool {
        self.kind.is_none_or(|kind| kind == key.kind)
            && (self.namespace.is_empty() || !key.kind.namespaced() || *key.namespace == *self.namespace)
    }

    pub(super) fn has(&self, object: &Object) -> bool {
        self.has_key(&object.key) && self.selector.matches(object.meta().labels.as_ref())
    }

    /// All that are meant, by key.
    pub(super) fn of<'s>(&'s self, snapshot: &'s Snapshot) -> impl Iterator<Item = &'s Arc<Object>> {
        let world = &snapshot.context.world;
        let one = self.kind.into_iter().flat_map(|kind| world.objects_of(kind));
        let all = self.kind.is_none().then(|| world.objects()).into_iter().flatten();
        one.chain(all).filter(|object| self.has(object))
    }
}

impl ControlService {
    pub(super) fn do_get(&self, request: &Request<pb::GetRequest>) -> Result<pb::GetResponse, Status> {
        let who = identity(request)?;
        let key = key_of(request.get_ref().r#ref.as_ref())?;
        let snapshot = self.now();
        let Some(object) = snapshot.context.world.object(&key) else {
            return Err(Status::not_found(format!("{key} does not exist")));
        };
        Ok(pb::GetResponse { json: shown(&snapshot, object, &who).to_string() })
    }

    pub(super) async fn do_list(
        &self,
        request: Request<pb::ListRequest>,
    ) -> Result<pb::ListResponse, Status> {
        let who = identity(&request)?;
        let request = request.into_inner();
        let selection = Selection::new(&request.kind, &request.namespace, &request.label_selector)?;
        let snapshot = self.now();
        // It may be all there is: on a thread that may be busy.
        let work = tokio::task::spawn_blocking(move || {
            let json =
                selection.of(&snapshot).map(|object| shown(&snapshot, object, &who).to_string()).collect();
            pb::ListResponse { json, resource_version: snapshot.revision.to_string() }
        });
        work.await.map_err(|_| {
            Status::internal("the objects could not be shown, which is a fault of this control plane")
        })
    }
}

/// An object as somebody may see it: with its status, its version, and no secrets but for admins.
pub(super) fn shown(snapshot: &Snapshot, object: &Object, who: &Identity) -> Value {
    let mut json = object.to_json();
    if let Some(status) = status_of(snapshot, &object.key)
        && let Some(map) = json.as_object_mut()
    {
        map.insert("status".to_owned(), status);
    }
    if object.revision > 0 {
        apply::set_version(&mut json, object.revision);
    }
    if from_manifests(object)
        && let Some(meta) = json.get_mut("metadata").and_then(Value::as_object_mut)
        && let Some(map) =
            meta.entry("annotations").or_insert_with(|| Value::Object(serde_json::Map::new())).as_object_mut()
    {
        map.insert(SOURCE.to_owned(), object.source.to_string().into());
    }
    if object.key.kind == Kind::Secret && who.role != Role::Admin {
        redact(&mut json);
    }
    json
}

/// The annotation that says which file an object was read from.
const SOURCE: &str = "outrider.dev/source";

/// What is said about an object.
pub(super) fn status_of(snapshot: &Snapshot, key: &Key) -> Option<Value> {
    snapshot.context.attachments.statuses.get(key).cloned()
}

/// Takes out what is secret; names stay.
fn redact(json: &mut Value) {
    for field in ["data", "stringData"] {
        for value in
            json.get_mut(field).and_then(Value::as_object_mut).into_iter().flat_map(|it| it.values_mut())
        {
            *value = REDACTED.into();
        }
    }
    if let Some(annotations) = json.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
}
