//! Apply and Delete: everything is judged before anything is written, and all is written in one commit.

mod judge;

use std::collections::BTreeMap;
use std::sync::Arc;

use judge::{Decision, Wanted, items};
use serde_json::Value;
use tonic::{Request, Status};

use super::audit::{Entry, Item};
use super::auth::Identity;
use super::{ControlService, error, identity, key_of, may_write, owned, owner};
use super::{ref_of, revision_of, server};

use crate::model::Key;
use crate::pb;
use crate::store::{Committed, Expect, StoreError, Write};

/// How often a write is tried anew when somebody else was faster.
const TRIES: usize = 8;

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
        let (wanted, left_out) = self.read(who, request.manifests, limit, entry).await?;
        for _ in 0..TRIES {
            let decisions = self.decide(&wanted).await?;
            let warnings = self.warnings(&wanted).await;
            entry.objects = items(&wanted, &decisions);
            let writes: Vec<Write> = decisions.iter().filter_map(|it| it.write.clone()).collect();
            let committed = if request.dry_run {
                self.parts.audit.write_dry(entry).await?;
                None
            } else if writes.is_empty() {
                self.parts.audit.write_dry(entry).await?;
                let newest = decisions.iter().map(|it| version_in(&it.json)).max().unwrap_or_default();
                self.visible(newest).await;
                let revision = newest.max(self.now().revision);
                Some(Committed { revision, records: BTreeMap::new() })
            } else {
                match self.commit(entry, writes).await {
                    Ok(committed) => Some(committed),
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
            let revision = committed.as_ref().map(|it| it.revision);
            if let Some(revision) = revision {
                self.visible(revision).await;
            }
            let applied = respond(&wanted, decisions, warnings, committed.as_ref());
            return Ok(pb::ApplyResponse {
                applied: applied.into_iter().chain(left_out).collect(),
                resource_version: revision.map(|it| it.to_string()).unwrap_or_default(),
            });
        }
        Err(Failed::Before(Status::aborted(
            "the objects were changed by others again and again meanwhile; nothing was stored: repeat it",
        )))
    }

    /// Commits, between two lines of the audit log. A task of its own does it: a client that goes away meanwhile leaves no
    /// commit without its last line.
    async fn commit(&self, entry: &Entry, writes: Vec<Write>) -> Result<Committed, Failed> {
        let (audit, store) = (Arc::clone(&self.parts.audit), Arc::clone(&self.parts.store));
        let entry = entry.clone();
        let done = tokio::spawn(async move {
            let mut entry = audit.begin(&entry).await.map_err(Failed::Done)?;
            match store.commit_each(writes).await {
                Ok(committed) => {
                    let newest = committed.records.values().map(|record| record.revision).max();
                    entry.resource_version = Some(newest.unwrap_or(committed.revision));
                    audit.end(&entry, Ok(())).await;
                    Ok(committed)
                }
                Err(error) => {
                    let status = error::of_store(&error);
                    audit.end(&entry, Err(&status)).await;
                    Err(match error {
                        StoreError::Conflict { key, .. } => Failed::Conflict(key, status),
                        _ => Failed::Done(status),
                    })
                }
            }
        });
        done.await.unwrap_or_else(|error| {
            Err(Failed::Done(Status::unknown(format!("the write may or may not have happened: {error}"))))
        })
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
                Ok(Committed { revision, .. }) => {
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

fn respond(
    wanted: &[Wanted],
    decisions: Vec<Decision>,
    mut warnings: BTreeMap<Key, Vec<String>>,
    committed: Option<&Committed>,
) -> Vec<pb::Applied> {
    let both = wanted.iter().zip(decisions);
    both.map(|(it, mut decision)| {
        if let (Some(committed), true) = (committed, decision.write.is_some()) {
            let kept = committed.records.get(&it.object.key);
            if let Some(json) = kept.and_then(|kept| serde_json::from_slice(&kept.json).ok()) {
                decision.json = json;
            }
            set_version(&mut decision.json, kept.map_or(committed.revision, |kept| kept.revision));
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
