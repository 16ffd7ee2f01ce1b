//! What an engine has when it believes what a source tells.

use std::collections::BTreeMap;
use std::time::Duration;

use outrider_control::model::{Key, Kind, Object};
use outrider_control::source::{Input, Inputs};
use tokio::sync::mpsc;

pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// Takes inputs as the engine does.
pub(crate) struct Follower {
    inputs: mpsc::Receiver<Input>,
    pub(crate) objects: BTreeMap<Key, Object>,
    pub(crate) revision: u64,
    pub(crate) resets: usize,
}

impl Follower {
    pub(crate) fn new() -> (Self, Inputs) {
        let (sender, inputs) = mpsc::channel(64);
        (Self { inputs, objects: BTreeMap::new(), revision: 0, resets: 0 }, sender)
    }

    fn take(&mut self, input: Input) {
        match input {
            Input::Reset { objects, revision, .. } => {
                self.objects = objects.into_iter().map(|object| (object.key.clone(), object)).collect();
                self.revision = revision;
                self.resets += 1;
            }
            Input::Changes { changes, revision, .. } => {
                for (key, object) in changes {
                    match object {
                        Some(object) => self.objects.insert(key, object),
                        None => self.objects.remove(&key),
                    };
                }
                self.revision = revision;
            }
        }
    }

    /// Waits until what is known meets a condition.
    pub(crate) async fn until(&mut self, what: &str, met: impl Fn(&Self) -> bool) {
        let end = tokio::time::Instant::now() + LIMIT;
        while !met(self) {
            match tokio::time::timeout_at(end, self.inputs.recv()).await {
                Ok(Some(input)) => self.take(input),
                Ok(None) => panic!("the source ended before {what}"),
                Err(_) => panic!("waited in vain for {what}; known: {:?}", self.objects.keys()),
            }
        }
    }

    /// The label `v` of a Service in the namespace `default`.
    pub(crate) fn version(&self, name: &str) -> Option<&str> {
        self.objects.get(&service(name))?.label("v")
    }
}

pub(crate) fn service(name: &str) -> Key {
    Key::new(Kind::Service, "default", name)
}

/// A manifest of a Service with a label `v`; lines after it are of its `spec`.
pub(crate) fn manifest(name: &str, version: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  labels:\n    v: \"{version}\"\n\
         spec:\n  clusterIP: None\n"
    )
}

/// The same as JSON.
pub(crate) fn json(name: &str, version: &str) -> bytes::Bytes {
    format!(
        "{{\"apiVersion\":\"v1\",\"kind\":\"Service\",\"metadata\":{{\"name\":\"{name}\",\"labels\":{{\"v\":\"{version}\"}}}},\
         \"spec\":{{\"clusterIP\":\"None\"}}}}"
    )
    .into()
}
