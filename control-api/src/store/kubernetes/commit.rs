//! Writes: all are tried first, then each is done.

use kube::api::{ApiResource, DeleteParams, DynamicObject, PostParams, Preconditions};
use kube::core::Request;
use serde_json::{Map, Value};

use super::{MANAGER, REQUEST, Shared, clean, words};
use crate::model::Key;
use crate::store::{Committed, Expect, Record, StoreError, Write};

/// How long a commit waits until the watches show it.
const SHOWN: std::time::Duration = std::time::Duration::from_secs(5);
/// How often a write without expectations is repeated when the object changes under it.
const REPEATS: usize = 4;

/// Why one write did not happen.
enum Failed {
    /// It surely did not.
    No(StoreError),
    /// The server did not say.
    Unknown(String),
}

/// One write, ready to be sent.
struct Step {
    key: Key,
    expect: Expect,
    resource: ApiResource,
    /// `None` deletes.
    content: Option<Map<String, Value>>,
}

/// Does all writes, or as far as it goes.
pub(super) async fn commit(shared: &Shared, writes: Vec<Write>) -> Result<Committed, StoreError> {
    let mut steps = writes.into_iter().map(|write| Step::of(shared, write)).collect::<Result<Vec<_>, _>>()?;
    // What others refer to comes first, and goes last.
    steps.sort_by_key(|step| step.content.is_none());
    let puts = steps.iter().filter(|step| step.content.is_some()).count();
    if let Some((puts, deletes)) = steps.split_at_mut_checked(puts) {
        puts.sort_by(|a, b| a.key.cmp(&b.key));
        deletes.sort_by(|a, b| b.key.cmp(&a.key));
    }
    for step in &steps {
        step.run(shared, true).await.map_err(|failed| match failed {
            Failed::No(error) => error,
            Failed::Unknown(reason) => StoreError::Unavailable { reason, unknown: false },
        })?;
    }
    let mut written = Vec::new();
    for step in &steps {
        match step.run(shared, false).await {
            Ok(record) => written.push((step.key.clone(), record)),
            Err(failed) if written.is_empty() => {
                return Err(match failed {
                    Failed::No(error) => error,
                    Failed::Unknown(reason) => StoreError::Unavailable { reason, unknown: true },
                });
            }
            Err(failed) => {
                let reason = match failed {
                    Failed::No(error) => error.to_string(),
                    Failed::Unknown(reason) => format!("{reason} (it may have happened)"),
                };
                let written = written.into_iter().map(|(key, _)| key).collect();
                return Err(StoreError::Partial { written, failed: Box::new(step.key.clone()), reason });
            }
        }
    }
    // So that who wrote reads what was written.
    let want: Vec<_> =
        written.iter().map(|(key, record)| (key.clone(), record.as_ref().map(|it| it.revision))).collect();
    if !shared.mirror.shows(&want, SHOWN).await {
        tracing::warn!("{}: what was written is not shown by the watches within {SHOWN:?}", shared.place);
    }
    let records = written.into_iter().filter_map(|(key, record)| Some((key, record?))).collect();
    Ok(Committed { revision: shared.mirror.position(), records })
}

impl Step {
    fn of(shared: &Shared, write: Write) -> Result<Self, StoreError> {
        let Write { key, expect, json } = write;
        let refused = |reason: String| StoreError::Refused { key: Box::new(key.clone()), reason };
        if matches!(key.kind.group(), "" | "discovery.k8s.io") {
            return Err(StoreError::ReadOnly(format!(
                "{key}: objects of the core are read from Kubernetes, not written; use kubectl"
            )));
        }
        let Some(resource) = shared.resource(key.kind) else {
            return Err(refused(format!(
                "{} does not serve {}; install its CRD",
                shared.place,
                key.kind.api_version()
            )));
        };
        let content = match json {
            None => None,
            Some(json) => match serde_json::from_slice(&json) {
                Ok(Value::Object(mut map)) => {
                    map.remove("status");
                    map.insert("apiVersion".into(), resource.api_version.clone().into());
                    Some(map)
                }
                Ok(_) => return Err(refused("it is no map".into())),
                Err(error) => return Err(refused(error.to_string())),
            },
        };
        Ok(Self { key, expect, resource, content })
    }

    /// Does it, or tries it. Gives what was put as it is there now.
    async fn run(&self, shared: &Shared, dry: bool) -> Result<Option<Record>, Failed> {
        match &self.content {
            None => self.delete(shared, dry).await.map(|()| None),
            Some(content) => self.put(shared, content, dry).await,
        }
    }

    async fn put(
        &self,
        shared: &Shared,
        content: &Map<String, Value>,
        dry: bool,
    ) -> Result<Option<Record>, Failed> {
        let mut last = None;
        for _ in 0..REPEATS {
            let live = match self.expect {
                Expect::Absent => None,
                Expect::Any | Expect::Revision(_) => shared.read(&self.key).await.map_err(Failed::No)?,
            };
            if let Expect::Revision(_) = self.expect {
                let found = live.as_ref().map(|live| revision(shared, &self.key, live)).transpose()?;
                self.judge(found)?;
            }
            match self.send(shared, content, live.as_ref(), dry).await {
                Err(Failed::No(error @ StoreError::Conflict { .. })) if self.expect == Expect::Any => {
                    last = Some(error);
                }
                outcome => return outcome,
            }
        }
        let changing = || StoreError::Unavailable {
            reason: format!("{}: it changes faster than it can be written", self.key),
            unknown: false,
        };
        Err(Failed::No(last.unwrap_or_else(changing)))
    }

    /// Creates it, or replaces what is there.
    async fn send(
        &self,
        shared: &Shared,
        content: &Map<String, Value>,
        live: Option<&DynamicObject>,
        dry: bool,
    ) -> Result<Option<Record>, Failed> {
        let mut content = content.clone();
        let mut metadata = content.remove("metadata").unwrap_or_default();
        if let Some(meta) = metadata.as_object_mut() {
            for field in
                ["managedFields", "resourceVersion", "uid", "creationTimestamp", "generation", "selfLink"]
            {
                meta.remove(field);
            }
            if let Some(live) = live {
                meta.insert("resourceVersion".into(), live.metadata.resource_version.clone().into());
                meta.insert("uid".into(), live.metadata.uid.clone().into());
                // What others need at the object, and nobody writes in a manifest.
                let kept = [
                    ("finalizers", serde_json::to_value(&live.metadata.finalizers)),
                    ("ownerReferences", serde_json::to_value(&live.metadata.owner_references)),
                ];
                for (field, value) in kept {
                    if let Ok(value) = value
                        && !value.is_null()
                    {
                        meta.entry(field).or_insert(value);
                    }
                }
            }
        }
        content.insert("metadata".into(), metadata);
        let body =
            serde_json::to_vec(&content).map_err(|error| Failed::No(self.refused(error.to_string())))?;
        let request = Request::new(self.path());
        let params = PostParams { dry_run: dry, field_manager: Some(MANAGER.into()) };
        let request = match live {
            Some(_) => request.replace(&self.key.name, &params, body),
            None => request.create(&params, body),
        };
        let mut request = request.map_err(|error| Failed::No(self.refused(error.to_string())))?;
        // A field that the installed CRD does not have is refused, not dropped.
        let strict = format!("{}&fieldValidation=Strict", request.uri());
        *request.uri_mut() =
            strict.parse().map_err(|_| Failed::No(self.refused(format!("{strict:?} is no address"))))?;
        let answer = shared.client.request::<DynamicObject>(request);
        match tokio::time::timeout(REQUEST, answer).await {
            Ok(Ok(_)) if dry => Ok(None),
            Ok(Ok(object)) => match clean::clean(self.key.kind, object, false) {
                Ok(found) => {
                    Ok(found.map(|it| Record { key: self.key.clone(), revision: it.revision, json: it.json }))
                }
                Err(reason) => Err(Failed::No(corrupt(shared, &self.key, reason))),
            },
            Ok(Err(error)) => Err(self.failed(shared, &error)),
            Err(_) => Err(self.silent(shared)),
        }
    }

    async fn delete(&self, shared: &Shared, dry: bool) -> Result<(), Failed> {
        let found = match self.expect {
            Expect::Any => None,
            Expect::Absent | Expect::Revision(_) => {
                let live = shared.read(&self.key).await.map_err(Failed::No)?;
                let found = live.as_ref().map(|live| revision(shared, &self.key, live)).transpose()?;
                self.judge(found)?;
                if found.is_none() {
                    return Ok(());
                }
                found
            }
        };
        let Some((api, _)) = shared.api(&self.key) else { return Ok(()) };
        let mut params = DeleteParams { dry_run: dry, ..DeleteParams::default() };
        if let Some(found) = found {
            params =
                params.preconditions(Preconditions { resource_version: Some(found.to_string()), uid: None });
        }
        match tokio::time::timeout(REQUEST, api.delete(&self.key.name, &params)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(kube::Error::Api(status))) if status.code == 404 => Ok(()),
            Ok(Err(error)) => Err(self.failed(shared, &error)),
            Err(_) => Err(self.silent(shared)),
        }
    }

    fn path(&self) -> String {
        let namespace = self.key.kind.namespaced().then_some(&*self.key.namespace);
        <DynamicObject as kube::Resource>::url_path(&self.resource, namespace)
    }

    fn judge(&self, found: Option<u64>) -> Result<(), Failed> {
        let write = Write { key: self.key.clone(), expect: self.expect, json: None };
        crate::store::image::judge(&write, found).map_err(Failed::No)
    }

    fn refused(&self, reason: String) -> StoreError {
        StoreError::Refused { key: Box::new(self.key.clone()), reason }
    }

    fn silent(&self, shared: &Shared) -> Failed {
        Failed::Unknown(format!("{}: {}: no answer within {REQUEST:?}", shared.place, self.key))
    }

    fn failed(&self, shared: &Shared, error: &kube::Error) -> Failed {
        let reason = words(error);
        let kube::Error::Api(status) = error else {
            return Failed::Unknown(format!("{}: {}: {reason}", shared.place, self.key));
        };
        match status.code {
            409 => Failed::No(StoreError::Conflict { key: Box::new(self.key.clone()), found: reason }),
            // It answered that it does not take it now: it did not.
            429 | 503 => Failed::No(StoreError::Unavailable { reason, unknown: false }),
            400..500 => Failed::No(self.refused(reason)),
            _ => Failed::Unknown(format!("{}: {}: {reason}", shared.place, self.key)),
        }
    }
}

fn revision(shared: &Shared, key: &Key, object: &DynamicObject) -> Result<u64, Failed> {
    clean::revision(object.metadata.resource_version.as_deref())
        .map_err(|reason| Failed::No(corrupt(shared, key, reason)))
}

fn corrupt(shared: &Shared, key: &Key, reason: String) -> StoreError {
    StoreError::Corrupt { place: format!("{}: {key}", shared.place), reason }
}
