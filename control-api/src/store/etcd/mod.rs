//! etcd: the state of any number of control planes, none of which is more than the others.
//!
//! An object is the key `PREFIX/KIND/NAMESPACE/NAME` with its JSON as the value, so `etcdctl get --prefix` shows it all. A
//! commit is one transaction that compares revisions; etcd's revision is the store's.

mod client;
mod spec;
mod watch;

use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream::BoxStream;
use outrider_control_proto::etcd as pb;
use pb::compare::{CompareResult, CompareTarget, TargetUnion};
use pb::{request_op, response_op};
pub use spec::Spec;

use self::client::{Client, Connection, Failed, LARGEST};
use super::{Change, Expect, Listing, Record, Store, StoreError, Write, image};
use crate::model::{Key, Kind};

/// How many objects an answer has at most.
const PAGE: i64 = 256;

/// A store in etcd.
#[derive(Debug)]
pub struct Etcd {
    client: Arc<Client>,
    keys: Keys,
}

impl Etcd {
    /// Prepares to use an etcd. It is first spoken to when something is asked of the store, so it may start later than this.
    ///
    /// # Errors
    /// When a certificate, key or password file that the address names cannot be used.
    pub fn new(spec: Spec) -> Result<Self, StoreError> {
        let keys = Keys { prefix: spec.prefix.clone() };
        Ok(Self { client: Arc::new(Client::new(spec)?), keys })
    }

    async fn range(&self, request: pb::RangeRequest) -> Result<pb::RangeResponse, StoreError> {
        let send = |connection: Arc<Connection>| {
            let request = connection.request(request.clone());
            async move { kv(&connection).range(request).await.map(tonic::Response::into_inner) }
        };
        self.client.call(true, send).await.map_err(Failed::into_error)
    }

    /// All objects at one revision, page by page.
    async fn pages(&self) -> Result<Listing, StoreError> {
        let (from, end) = self.keys.all();
        let mut request =
            pb::RangeRequest { key: from, range_end: end, limit: PAGE, ..pb::RangeRequest::default() };
        let mut records = Vec::new();
        loop {
            let page = self.range(request.clone()).await?;
            if request.revision == 0 {
                request.revision = page.header.unwrap_or_default().revision;
            }
            let last = page.kvs.last().map(|kv| kv.key.clone());
            records.extend(page.kvs.into_iter().filter_map(|kv| self.keys.record(kv)));
            match last {
                Some(last) if page.more => request.key = [&last[..], b"\0"].concat().into(),
                _ => break,
            }
        }
        records.sort_by(|one, other| one.key.cmp(&other.key));
        Ok(Listing { revision: revision(request.revision), records })
    }
}

fn kv(connection: &Connection) -> pb::kv_client::KvClient<tonic::transport::Channel> {
    pb::kv_client::KvClient::new(connection.channel.clone()).max_decoding_message_size(LARGEST)
}

/// etcd's revisions are signed, and never negative.
fn revision(revision: i64) -> u64 {
    u64::try_from(revision).unwrap_or(0)
}

/// How keys are named.
#[derive(Clone, Debug)]
struct Keys {
    prefix: String,
}

impl Keys {
    fn of(&self, key: &Key) -> Bytes {
        format!("{}/{}/{}/{}", self.prefix, key.kind.name(), key.namespace, key.name).into()
    }

    /// From the first key to the one after the last: `0` follows `/`.
    fn all(&self) -> (Bytes, Bytes) {
        (format!("{}/", self.prefix).into(), format!("{}0", self.prefix).into())
    }

    /// What a key names; `None` for what this version does not know, which is left alone.
    fn parse(&self, key: &[u8]) -> Option<Key> {
        let known = (|| {
            let rest = std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?.strip_prefix('/')?;
            let mut parts = rest.splitn(3, '/');
            let (kind, namespace, name) = (parts.next()?, parts.next()?, parts.next()?);
            let kind = Kind::ALL.iter().copied().find(|known| known.name() == kind)?;
            let fits = !name.is_empty() && kind.namespaced() != namespace.is_empty();
            fits.then(|| Key::new(kind, namespace, name))
        })();
        if known.is_none() {
            let key = String::from_utf8_lossy(key);
            tracing::warn!(%key, "etcd: no object that this version knows has such a key; it is left alone");
        }
        known
    }

    fn record(&self, kv: pb::KeyValue) -> Option<Record> {
        Some(Record { key: self.parse(&kv.key)?, revision: revision(kv.mod_revision), json: kv.value })
    }
}

/// A commit as a transaction: compares, what to do then, and what else to look at.
struct Transaction {
    request: pb::TxnRequest,
    /// The writes that are looked at when it does not happen.
    expecting: Vec<Write>,
}

impl Transaction {
    fn of(keys: &Keys, writes: Vec<Write>) -> Self {
        let mut out = Self { request: pb::TxnRequest::default(), expecting: Vec::new() };
        for write in writes {
            let key = keys.of(&write.key);
            let operation = match &write.json {
                Some(json) => {
                    request_op::Request::RequestPut(pb::PutRequest { key: key.clone(), value: json.clone() })
                }
                None => request_op::Request::RequestDeleteRange(pb::DeleteRangeRequest { key: key.clone() }),
            };
            out.request.success.push(pb::RequestOp { request: Some(operation) });
            let wanted = match write.expect {
                Expect::Any => continue,
                Expect::Absent => 0,
                // Beyond what a revision can be: nothing has it, and the comparison says so.
                Expect::Revision(wanted) => i64::try_from(wanted).unwrap_or(i64::MAX),
            };
            out.request.compare.push(pb::Compare {
                result: CompareResult::Equal.into(),
                target: CompareTarget::Mod.into(),
                key: key.clone(),
                target_union: Some(TargetUnion::ModRevision(wanted)),
            });
            let look = pb::RangeRequest { key, ..pb::RangeRequest::default() };
            let look = request_op::Request::RequestRange(look);
            out.request.failure.push(pb::RequestOp { request: Some(look) });
            out.expecting.push(write);
        }
        out
    }

    /// Which expectation was not met.
    fn conflict(&self, responses: &[pb::ResponseOp]) -> StoreError {
        let found = responses.iter().map(|response| match &response.response {
            Some(response_op::Response::ResponseRange(range)) => {
                range.kvs.first().map(|kv| revision(kv.mod_revision))
            }
            _ => None,
        });
        let unmet =
            self.expecting.iter().zip(found).find(|(write, found)| image::judge(write, *found).is_err());
        match unmet {
            Some((write, found)) => image::conflict(write, found),
            None => StoreError::Unavailable {
                reason: "etcd: a commit did not happen, and it did not say why".into(),
                unknown: false,
            },
        }
    }
}

#[tonic::async_trait]
impl Store for Etcd {
    async fn list(&self) -> Result<Listing, StoreError> {
        // A list that takes so long that its revision is compacted meanwhile starts again.
        for _ in 0..2 {
            match self.pages().await {
                Err(StoreError::Compacted { .. }) => {}
                listing => return listing,
            }
        }
        self.pages().await
    }

    async fn get(&self, key: &Key) -> Result<Option<Record>, StoreError> {
        let request = pb::RangeRequest { key: self.keys.of(key), ..pb::RangeRequest::default() };
        let answer = self.range(request).await?;
        Ok(answer.kvs.into_iter().next().and_then(|kv| self.keys.record(kv)))
    }

    async fn commit(&self, writes: Vec<Write>) -> Result<u64, StoreError> {
        image::once_each(&writes)?;
        // For etcd, 0 is the revision of what does not exist.
        if let Some(never) = writes.iter().find(|write| write.expect == Expect::Revision(0)) {
            return Err(image::conflict(never, None));
        }
        let transaction = Transaction::of(&self.keys, writes);
        let send = |connection: Arc<Connection>| {
            let request = connection.request(transaction.request.clone());
            async move { kv(&connection).txn(request).await.map(tonic::Response::into_inner) }
        };
        let answer = self.client.call(false, send).await.map_err(Failed::into_error)?;
        if answer.succeeded {
            return Ok(revision(answer.header.unwrap_or_default().revision));
        }
        Err(transaction.conflict(&answer.responses))
    }

    async fn watch(
        &self,
        revision: u64,
    ) -> Result<BoxStream<'static, Result<Change, StoreError>>, StoreError> {
        // Also sees to it that this endpoint has come as far as the revision: one that lags behind would just wait.
        let (key, range_end) = self.keys.all();
        let count = pb::RangeRequest { key, range_end, count_only: true, ..pb::RangeRequest::default() };
        let now = self::revision(self.range(count).await?.header.unwrap_or_default().revision);
        if revision > now {
            // It is of another life of this etcd: a backup was restored, say.
            return Err(StoreError::Compacted { revision, oldest: now });
        }
        watch::start(Arc::clone(&self.client), self.keys.clone(), revision).await
    }

    fn describe(&self) -> String {
        self.client.spec.to_string()
    }
}
