//! What becomes of the manifests of a request: read, judged, and compared with what is stored. It takes its time, on threads that
//! may be busy.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tonic::{Code, Status};

use super::super::audit::{Entry, Item};
use super::super::auth::Identity;
use super::super::{
    ControlService, DEFAULT_NAMESPACE, error, manifest, may_write, owned, owner, revision_of,
};
use super::{Failed, set_version};
use crate::engine::Snapshot;
use crate::model::{Key, Object, read_json};
use crate::pb::{self, Outcome};
use crate::store::{Expect, Record, StoreError, Write};
use crate::translate::Context;
use crate::world::World;

/// Objects in one request.
const MOST: usize = 10_000;
/// Bytes of one object, somewhat below what etcd takes.
const LARGEST: usize = 1024 * 1024;
/// From this many objects on, all are read at once.
const MANY: usize = 32;

/// One object of a request.
pub(super) struct Wanted {
    pub(super) object: Arc<Object>,
    /// The version that the manifest was made from.
    pub(super) version: Option<u64>,
}

/// What is to be done with one.
pub(super) struct Decision {
    pub(super) outcome: Outcome,
    pub(super) json: Value,
    pub(super) write: Option<Write>,
}

impl ControlService {
    /// Reads all manifests; every problem of every object is told.
    pub(super) async fn read(
        &self,
        who: &Identity,
        manifests: Vec<pb::Manifest>,
        limit: Option<usize>,
        entry: &mut Entry,
    ) -> Result<(Arc<Vec<Wanted>>, Vec<pb::Applied>), Failed> {
        let (snapshot, who) = (self.now(), who.clone());
        let work = tokio::task::spawn_blocking(move || {
            let mut listed = Vec::new();
            let result = read(&snapshot, &who, &manifests, limit, &mut listed);
            (listed, result)
        });
        let (listed, result) = work.await.map_err(|_| fault())?;
        entry.objects = listed;
        let (wanted, left_out) = result?;
        Ok((Arc::new(wanted), left_out))
    }

    /// What is to be done with each, by what is stored now.
    pub(super) async fn decide(&self, wanted: &Arc<Vec<Wanted>>) -> Result<Vec<Decision>, Failed> {
        let stored = self.stored(wanted).await.map_err(|error| Failed::Before(error::of_store(&error)))?;
        let wanted = Arc::clone(wanted);
        tokio::task::spawn_blocking(move || decide(&wanted, &stored)).await.map_err(|_| fault())?
    }

    /// What is stored of these.
    async fn stored(&self, wanted: &[Wanted]) -> Result<HashMap<Key, (u64, Value)>, StoreError> {
        let mut out = HashMap::new();
        if wanted.len() >= MANY {
            let keys: std::collections::HashSet<_> = wanted.iter().map(|it| &it.object.key).collect();
            for record in self.parts.store.list().await?.records {
                if keys.contains(&record.key) {
                    let content = (record.revision, content(&record)?);
                    out.insert(record.key, content);
                }
            }
            return Ok(out);
        }
        for it in wanted {
            if let Some(record) = self.parts.store.get(&it.object.key).await? {
                let content = (record.revision, content(&record)?);
                out.insert(record.key, content);
            }
        }
        Ok(out)
    }

    /// What the objects would not do although they are accepted, by what their status would say.
    pub(super) async fn warnings(&self, wanted: &[Wanted]) -> BTreeMap<Key, Vec<String>> {
        let snapshot = self.now();
        let objects: Vec<_> = wanted.iter().map(|it| Arc::clone(&it.object)).collect();
        let work = tokio::task::spawn_blocking(move || {
            let mut world: World = (*snapshot.context.world).clone();
            for object in &objects {
                world.put(Arc::clone(object));
            }
            let context = Context::of(Arc::new(world));
            let statuses = &context.attachments.statuses;
            let told = |object: Arc<Object>| {
                let unmet = statuses.get(&object.key).map(manifest::unmet).unwrap_or_default();
                (object.key.clone(), unmet)
            };
            objects.into_iter().map(told).collect()
        });
        work.await.unwrap_or_else(|error| {
            tracing::error!(%error, "what objects come to could not be worked out, which is a fault of this control plane");
            let unknown = "what it comes to could not be worked out, which is a fault of this control plane: see its log";
            wanted.iter().map(|it| (it.object.key.clone(), vec![unknown.to_owned()])).collect()
        })
    }
}

/// A panic of ours before anything was done.
fn fault() -> Failed {
    Failed::Before(Status::internal(
        "the manifests could not be judged, which is a fault of this control plane; nothing was stored",
    ))
}

/// What is stored of an object. What cannot be read must not be taken for nothing, and be overwritten.
fn content(record: &Record) -> Result<Value, StoreError> {
    serde_json::from_slice(&record.json).map_err(|error| StoreError::Corrupt {
        place: record.key.to_string(),
        reason: format!(
            "what is stored is not JSON ({error}), and is not overwritten: look at it, then delete the object and apply it anew"
        ),
    })
}

/// Reads all manifests; every problem of every object is told. `listed`: what they are about, as far as it was read.
fn read(
    snapshot: &Snapshot,
    who: &Identity,
    manifests: &[pb::Manifest],
    limit: Option<usize>,
    listed: &mut Vec<Item>,
) -> Result<(Vec<Wanted>, Vec<pb::Applied>), Failed> {
    if manifests.is_empty() {
        return Err(Failed::Before(Status::invalid_argument("there is no manifest in the request")));
    }
    if manifests.len() > MOST {
        return Err(Failed::Before(Status::invalid_argument(format!(
            "{} manifests are too many for one request; send {MOST} at most",
            manifests.len()
        ))));
    }
    let (mut wanted, mut left_out, mut problems) = (Vec::new(), Vec::new(), Vec::new());
    let mut seen: HashMap<Key, Arc<str>> = HashMap::new();
    let mut forbidden = None;
    for it in manifests {
        // Parsed once more only where it is told.
        let named = || reference(&it.json);
        let mut refuse = |field: &str, reason: String| {
            let (source, field, r#ref) = (it.source.clone(), field.to_owned(), Some(named()));
            problems.push(pb::Problem { source, r#ref, field, reason });
        };
        if it.json.len() > LARGEST {
            refuse("", format!("{} bytes are too many; an object has {LARGEST} at most", it.json.len()));
            continue;
        }
        let object = match read_json(&it.source, it.json.as_bytes(), DEFAULT_NAMESPACE) {
            Ok(Some(object)) => object,
            Ok(None) => {
                left_out.push(pb::Applied {
                    r#ref: Some(named()),
                    outcome: Outcome::LeftOut.into(),
                    warnings: vec!["left out: a control plane has no use for this kind".to_owned()],
                    ..Default::default()
                });
                continue;
            }
            Err(found) => {
                let reference = named();
                problems.extend(found.iter().map(|it| error::problem(it, reference.clone())));
                continue;
            }
        };
        let key = object.key.clone();
        listed.push(Item { object: key.to_string(), outcome: None });
        if !may_write(who, key.kind) {
            forbidden.get_or_insert_with(|| {
                format!("{} has the role {}, and {key} needs admin", who.name, who.role)
            });
        }
        if let Some(first) = seen.insert(key.clone(), Arc::clone(&object.source)) {
            refuse("", format!("stands in this request twice, the first time in {first:?}; leave one out"));
        }
        if let Some(file) = owner(snapshot, &key) {
            refuse("", owned(&key, &file));
        }
        match object.meta().resource_version.as_deref().map(revision_of).transpose() {
            Ok(version) => wanted.push(Wanted { object: Arc::new(object), version: version.flatten() }),
            Err(status) => refuse("metadata.resourceVersion", status.message().to_owned()),
        }
    }
    if let Some(reason) = forbidden {
        return Err(Failed::Before(Status::permission_denied(format!("{reason}; nothing was stored"))));
    }
    if !problems.is_empty() {
        return Err(Failed::Before(error::of_problems(Code::InvalidArgument, problems, limit)));
    }
    Ok((wanted, left_out))
}

/// What is to be done with each, by what is stored now.
fn decide(wanted: &[Wanted], stored: &HashMap<Key, (u64, Value)>) -> Result<Vec<Decision>, Failed> {
    let mut out = Vec::with_capacity(wanted.len());
    for it in wanted {
        let key = &it.object.key;
        let old = stored.get(key);
        let conflict = |found: String| {
            let error = StoreError::Conflict { key: Box::new(key.clone()), found };
            Failed::Before(error::of_store(&error))
        };
        match (it.version, old) {
            (Some(version), Some((found, _))) if version != *found => {
                return Err(conflict(format!(
                    "it is at version {found}, not {version}; get it again and repeat the change"
                )));
            }
            (Some(version), None) => {
                return Err(conflict(format!(
                    "version {version} was given, but it does not exist; leave metadata.resourceVersion out to make it"
                )));
            }
            _ => {}
        }
        let kept_uid = old.and_then(|(_, json)| json.pointer("/metadata/uid")).and_then(Value::as_str);
        if let (Some(given), Some(kept)) = (it.object.meta().uid.as_deref(), kept_uid)
            && given != kept
        {
            return Err(conflict(format!(
                "its uid is {kept}, not {given}: it was deleted and made anew; leave metadata.uid out to replace it"
            )));
        }
        let uid = manifest::uid().ok_or_else(|| Failed::Before(Status::internal("no random numbers")))?;
        let prepared = manifest::prepare(&it.object, old.map(|(_, json)| json), || (uid, manifest::now()));
        let outcome = match old {
            None => Outcome::Created,
            Some(_) if prepared.changed => Outcome::Configured,
            Some(_) => Outcome::Unchanged,
        };
        let expect = old.map_or(Expect::Absent, |(revision, _)| Expect::Revision(*revision));
        let write = prepared.changed.then(|| Write {
            key: key.clone(),
            expect,
            json: Some(Bytes::from(prepared.json.to_string())),
        });
        let mut json = prepared.json;
        if let Some((revision, _)) = old {
            set_version(&mut json, *revision);
        }
        out.push(Decision { outcome, json, write });
    }
    Ok(out)
}

/// What a manifest calls itself, as far as it can be read.
fn reference(json: &str) -> pb::Ref {
    let value: Value = serde_json::from_str(json).unwrap_or_default();
    let text = |pointer: &str| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
    pb::Ref {
        api_version: text("/apiVersion"),
        kind: text("/kind"),
        namespace: text("/metadata/namespace"),
        name: text("/metadata/name"),
    }
}

pub(super) fn items(wanted: &[Wanted], decisions: &[Decision]) -> Vec<Item> {
    let word = |outcome| match outcome {
        Outcome::Created => "created",
        Outcome::Configured => "configured",
        _ => "unchanged",
    };
    let both = wanted.iter().zip(decisions);
    both.map(|(it, decision)| Item {
        object: it.object.key.to_string(),
        outcome: Some(word(decision.outcome)),
    })
    .collect()
}
