//! Apply and Delete: everything is judged before anything is written, and all is written in one commit.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use tonic::{Code, Request, Status};

use super::audit::{Entry, Item};
use super::auth::Identity;
use super::{ControlService, DEFAULT_NAMESPACE, error, identity, key_of, manifest, may_write, owned, owner};
use super::{ref_of, revision_of, server};

use crate::model::{Key, Object, Problem, read_json};
use crate::pb::{self, Outcome};
use crate::store::{Expect, StoreError, Write};
use crate::translate::Context;
use crate::world::World;

/// Objects in one request.
const MOST: usize = 10_000;
/// Bytes of one object, somewhat below what etcd takes.
const LARGEST: usize = 1024 * 1024;
/// How often a write is tried anew when somebody else was faster.
const TRIES: usize = 8;
/// From this many objects on, all are read at once.
const MANY: usize = 32;

/// One object of a request.
struct Wanted {
    object: Object,
    /// The version that the manifest was made from.
    version: Option<u64>,
}

/// What is to be done with one.
struct Decision {
    outcome: Outcome,
    json: Value,
    write: Option<Write>,
}

impl ControlService {
    pub(super) async fn do_apply(
        &self,
        request: Request<pb::ApplyRequest>,
    ) -> Result<pb::ApplyResponse, Status> {
        let who = identity(&request)?;
        let limit = server::details_limit(request.metadata());
        let request = request.into_inner();
        let mut entry = Entry::new(Some(&who), None, "apply").dry_run(request.dry_run);
        let result = self.apply_as(&who, request, limit, &mut entry).await;
        if let Err(Failed::Before(status)) = &result {
            self.parts.audit.refuse(&entry, status).await;
        }
        result.map_err(Failed::status)
    }

    async fn apply_as(
        &self,
        who: &Identity,
        request: pb::ApplyRequest,
        limit: Option<usize>,
        entry: &mut Entry,
    ) -> Result<pb::ApplyResponse, Failed> {
        let (wanted, left_out) = self.read(who, &request.manifests, limit, entry)?;
        for _ in 0..TRIES {
            let decisions = self.decide(&wanted).await?;
            let warnings = self.warnings(&wanted).await;
            entry.objects = items(&wanted, &decisions);
            let writes: Vec<Write> = decisions.iter().filter_map(|it| it.write.clone()).collect();
            let revision = if request.dry_run {
                self.parts.audit.write_dry(entry).await?;
                None
            } else if writes.is_empty() {
                self.parts.audit.write_dry(entry).await?;
                Some(decisions.iter().map(|it| version_in(&it.json)).max().unwrap_or_default())
            } else {
                match self.commit(entry, writes).await {
                    Ok(revision) => Some(revision),
                    Err(Failed::Conflict(key, status)) => {
                        // What a client asked for expressly is its own to mend; the rest is tried anew.
                        if wanted.iter().any(|it| it.object.key == *key && it.version.is_some()) {
                            return Err(Failed::Done(status));
                        }
                        continue;
                    }
                    Err(failed) => return Err(failed),
                }
            };
            if let Some(revision) = revision {
                self.visible(revision).await;
            }
            let applied = respond(&wanted, decisions, warnings, revision);
            return Ok(pb::ApplyResponse {
                applied: applied.into_iter().chain(left_out).collect(),
                resource_version: revision.map(|it| it.to_string()).unwrap_or_default(),
            });
        }
        Err(Failed::Before(Status::aborted(
            "the objects were changed by others again and again meanwhile; nothing was stored: repeat it",
        )))
    }

    /// Reads all manifests; every problem of every object is told.
    fn read(
        &self,
        who: &Identity,
        manifests: &[pb::Manifest],
        limit: Option<usize>,
        entry: &mut Entry,
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
        let snapshot = self.now();
        let (mut wanted, mut left_out, mut problems) = (Vec::new(), Vec::new(), Vec::new());
        let mut seen: HashMap<Key, Arc<str>> = HashMap::new();
        let mut forbidden = None;
        for it in manifests {
            let reference = reference(&it.json);
            let mut refuse = |field: &str, reason: String| {
                let (source, field, r#ref) = (it.source.clone(), field.to_owned(), Some(reference.clone()));
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
                        r#ref: Some(reference),
                        outcome: Outcome::LeftOut.into(),
                        warnings: vec!["left out: a control plane has no use for this kind".to_owned()],
                        ..Default::default()
                    });
                    continue;
                }
                Err(found) => {
                    let sent = |it: &Problem| error::problem(it, reference.clone());
                    problems.extend(found.iter().map(sent));
                    continue;
                }
            };
            let key = object.key.clone();
            entry.objects.push(Item { object: key.to_string(), outcome: None });
            if !may_write(who, key.kind) {
                forbidden.get_or_insert_with(|| {
                    format!("{} has the role {}, and {key} needs admin", who.name, who.role)
                });
            }
            if let Some(first) = seen.insert(key.clone(), Arc::clone(&object.source)) {
                refuse(
                    "",
                    format!("stands in this request twice, the first time in {first:?}; leave one out"),
                );
            }
            if let Some(file) = owner(&snapshot, &key) {
                refuse("", owned(&key, &file));
            }
            match object.meta().resource_version.as_deref().map(revision_of).transpose() {
                Ok(version) => wanted.push(Wanted { object, version: version.flatten() }),
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
    async fn decide(&self, wanted: &[Wanted]) -> Result<Vec<Decision>, Failed> {
        let stored = self.stored(wanted).await.map_err(|error| Failed::Before(error::of_store(&error)))?;
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
            let prepared =
                manifest::prepare(&it.object, old.map(|(_, json)| json), || (uid, manifest::now()));
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

    /// What is stored of these.
    async fn stored(&self, wanted: &[Wanted]) -> Result<HashMap<Key, (u64, Value)>, StoreError> {
        let read = |json: &Bytes| serde_json::from_slice(json).unwrap_or_default();
        let mut out = HashMap::new();
        if wanted.len() >= MANY {
            let keys: std::collections::HashSet<_> = wanted.iter().map(|it| &it.object.key).collect();
            for record in self.parts.store.list().await?.records {
                if keys.contains(&record.key) {
                    out.insert(record.key, (record.revision, read(&record.json)));
                }
            }
            return Ok(out);
        }
        for it in wanted {
            if let Some(record) = self.parts.store.get(&it.object.key).await? {
                out.insert(record.key, (record.revision, read(&record.json)));
            }
        }
        Ok(out)
    }

    /// What the objects would not do although they are accepted, by what their status would say.
    async fn warnings(&self, wanted: &[Wanted]) -> BTreeMap<Key, Vec<String>> {
        let snapshot = self.now();
        let objects: Vec<_> = wanted.iter().map(|it| Arc::new(it.object.clone())).collect();
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
        work.await.unwrap_or_default()
    }

    /// Commits, between two lines of the audit log.
    async fn commit(&self, entry: &Entry, writes: Vec<Write>) -> Result<u64, Failed> {
        let mut entry = self.parts.audit.begin(entry).await.map_err(Failed::Done)?;
        match self.parts.store.commit(writes).await {
            Ok(revision) => {
                entry.resource_version = Some(revision);
                self.parts.audit.end(&entry, Ok(())).await;
                Ok(revision)
            }
            Err(error) => {
                let status = error::of_store(&error);
                self.parts.audit.end(&entry, Err(&status)).await;
                Err(match error {
                    StoreError::Conflict { key, .. } => Failed::Conflict(key, status),
                    _ => Failed::Done(status),
                })
            }
        }
    }

    pub(super) async fn do_delete(
        &self,
        request: Request<pb::DeleteRequest>,
    ) -> Result<pb::DeleteResponse, Status> {
        let who = identity(&request)?;
        let request = request.into_inner();
        let mut entry = Entry::new(Some(&who), None, "delete").dry_run(request.dry_run);
        let result = self.delete_as(&who, &request, &mut entry).await;
        if let Err(Failed::Before(status)) = &result {
            self.parts.audit.refuse(&entry, status).await;
        }
        result.map_err(Failed::status)
    }

    async fn delete_as(
        &self,
        who: &Identity,
        request: &pb::DeleteRequest,
        entry: &mut Entry,
    ) -> Result<pb::DeleteResponse, Failed> {
        let key = key_of(request.r#ref.as_ref()).map_err(Failed::Before)?;
        entry.objects = vec![Item { object: key.to_string(), outcome: Some("deleted") }];
        if !may_write(who, key.kind) {
            let reason = format!("{} has the role {}, and {key} needs admin", who.name, who.role);
            return Err(Failed::Before(Status::permission_denied(reason)));
        }
        let version = revision_of(&request.resource_version).map_err(Failed::Before)?;
        if let Some(file) = owner(&self.now(), &key) {
            return Err(Failed::Before(Status::failed_precondition(owned(&key, &file))));
        }
        for _ in 0..TRIES {
            let found = self.parts.store.get(&key).await;
            let found = found.map_err(|error| Failed::Before(error::of_store(&error)))?;
            let Some(found) = found else {
                return Err(Failed::Before(Status::not_found(format!("{key} does not exist"))));
            };
            if let Some(version) = version.filter(|version| *version != found.revision) {
                let found =
                    format!("it is at version {}, not {version}; nothing was deleted", found.revision);
                let error = StoreError::Conflict { key: Box::new(key), found };
                return Err(Failed::Before(error::of_store(&error)));
            }
            if request.dry_run {
                self.parts.audit.write_dry(entry).await?;
                return Ok(pb::DeleteResponse::default());
            }
            let expect = Expect::Revision(found.revision);
            match self.commit(entry, vec![Write { key: key.clone(), expect, json: None }]).await {
                Ok(revision) => {
                    self.visible(revision).await;
                    return Ok(pb::DeleteResponse { resource_version: revision.to_string() });
                }
                Err(Failed::Conflict(_, status)) if version.is_some() => return Err(Failed::Done(status)),
                Err(Failed::Conflict(..)) => {}
                Err(failed) => return Err(failed),
            }
        }
        Err(Failed::Before(Status::aborted(format!(
            "{key} was changed again and again meanwhile; repeat it"
        ))))
    }
}

/// Why a write was not done, and whether the audit log knows of it.
pub(super) enum Failed {
    /// Refused before anything was done: a line is to be written.
    Before(Status),
    /// The store found another version than was read.
    Conflict(Box<Key>, Status),
    /// Tried, and written down.
    Done(Status),
}

impl Failed {
    fn status(self) -> Status {
        match self {
            Self::Before(status) | Self::Conflict(_, status) | Self::Done(status) => status,
        }
    }
}

impl super::Audit {
    /// The line of a write that changes nothing.
    async fn write_dry(self: &Arc<Self>, entry: &Entry) -> Result<(), Failed> {
        let entry = self.begin(entry).await.map_err(Failed::Done)?;
        self.end(&entry, Ok(())).await;
        Ok(())
    }
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

fn items(wanted: &[Wanted], decisions: &[Decision]) -> Vec<Item> {
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

fn respond(
    wanted: &[Wanted],
    decisions: Vec<Decision>,
    mut warnings: BTreeMap<Key, Vec<String>>,
    revision: Option<u64>,
) -> Vec<pb::Applied> {
    let both = wanted.iter().zip(decisions);
    both.map(|(it, mut decision)| {
        if let (Some(revision), true) = (revision, decision.write.is_some()) {
            set_version(&mut decision.json, revision);
        }
        pb::Applied {
            r#ref: Some(ref_of(&it.object.key)),
            outcome: decision.outcome.into(),
            json: decision.json.to_string(),
            warnings: warnings.remove(&it.object.key).unwrap_or_default(),
        }
    })
    .collect()
}

pub(super) fn set_version(json: &mut Value, revision: u64) {
    if let Some(meta) = json.get_mut("metadata").and_then(Value::as_object_mut) {
        meta.insert("resourceVersion".to_owned(), revision.to_string().into());
    }
}

fn version_in(json: &Value) -> u64 {
    let text = json.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    text.and_then(|text| text.parse().ok()).unwrap_or_default()
}
