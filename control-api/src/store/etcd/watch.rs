//! A watch: a call that lasts, over which etcd tells of changes.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, BoxStream, StreamExt as _};
use outrider_control_proto::etcd as pb;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::client::{Client, Connection, Failed, LARGEST};
use super::{Keys, revision};
use crate::store::{Change, StoreError};

/// How long etcd may take to begin.
const BEGIN: Duration = Duration::from_secs(5);

/// Begins a watch of what comes after a revision.
pub(super) async fn start(
    client: Arc<Client>,
    keys: Keys,
    after: u64,
) -> Result<BoxStream<'static, Result<Change, StoreError>>, StoreError> {
    let connection = client.connection().await.map_err(Failed::into_error)?;
    let begun = tokio::time::timeout(BEGIN, begin(&connection, &keys, after)).await;
    let (requests, answers) = match begun {
        Ok(Ok(begun)) => begun,
        Ok(Err(failed)) => {
            client.leave(&connection).await;
            return Err(reading(failed));
        }
        Err(_) => {
            client.leave(&connection).await;
            return Err(reading(Failed::Unknown(format!("{}: no answer", connection.endpoint))));
        }
    };
    let watch = Watch {
        client,
        connection,
        keys,
        after,
        answers,
        _requests: requests,
        ready: VecDeque::new(),
        held: None,
        ended: false,
    };
    Ok(stream::unfold(watch, |mut watch| async move { Some((watch.next().await?, watch)) }).boxed())
}

async fn begin(
    connection: &Connection,
    keys: &Keys,
    after: u64,
) -> Result<(mpsc::Sender<pb::WatchRequest>, Streaming<pb::WatchResponse>), Failed> {
    let (requests, receiver) = mpsc::channel(1);
    let (key, range_end) = keys.all();
    let start_revision = i64::try_from(after).unwrap_or(i64::MAX).saturating_add(1);
    let create = pb::WatchCreateRequest { key, range_end, start_revision, fragment: true };
    let create = pb::watch_request::RequestUnion::CreateRequest(create);
    // There is room for one.
    let _ = requests.try_send(pb::WatchRequest { request_union: Some(create) });
    let mut client =
        pb::watch_client::WatchClient::new(connection.channel.clone()).max_decoding_message_size(LARGEST);
    let answers = client.watch(connection.request(ReceiverStream::new(receiver))).await;
    let answers = answers.map_err(|status| Failed::of(&connection.endpoint, &status))?;
    Ok((requests, answers.into_inner()))
}

/// A watch does nothing, so nothing about it is unknown.
fn reading(failed: Failed) -> StoreError {
    match failed {
        Failed::Unknown(why) => Failed::NotDone(why).into_error(),
        failed => failed.into_error(),
    }
}

struct Watch {
    client: Arc<Client>,
    connection: Arc<Connection>,
    keys: Keys,
    after: u64,
    answers: Streaming<pb::WatchResponse>,
    /// The call lasts as long as this side of it is open.
    _requests: mpsc::Sender<pb::WatchRequest>,
    ready: VecDeque<Change>,
    /// The last change, until it is known whether more of its commit follow.
    held: Option<Change>,
    ended: bool,
}

impl Watch {
    async fn next(&mut self) -> Option<Result<Change, StoreError>> {
        loop {
            if let Some(change) = self.ready.pop_front() {
                return Some(Ok(change));
            }
            if self.ended {
                return None;
            }
            let error = match self.answers.message().await {
                Ok(Some(answer)) => match self.take(answer) {
                    Ok(()) => continue,
                    Err(error) => error,
                },
                Ok(None) => {
                    reading(Failed::NotDone(format!("{}: the watch ended", self.connection.endpoint)))
                }
                Err(status) => reading(Failed::of(&self.connection.endpoint, &status)),
            };
            self.ended = true;
            if !matches!(error, StoreError::Compacted { .. }) {
                self.client.leave(&self.connection).await;
            }
            // Half a commit is not told: whoever resumes begins after the last whole one.
            return Some(Err(error));
        }
    }

    fn take(&mut self, answer: pb::WatchResponse) -> Result<(), StoreError> {
        if answer.compact_revision > 0 {
            let oldest = revision(answer.compact_revision).saturating_sub(1);
            return Err(StoreError::Compacted { revision: self.after, oldest });
        }
        if answer.canceled {
            let why = format!("{}: the watch was ended: {}", self.connection.endpoint, answer.cancel_reason);
            return Err(reading(Failed::NotDone(why)));
        }
        for event in answer.events {
            let deleted = event.r#type() == pb::event::Type::Delete;
            let Some(kv) = event.kv else { continue };
            let Some(key) = self.keys.parse(&kv.key) else { continue };
            let at = revision(kv.mod_revision);
            self.release(Some(at));
            let json = (!deleted).then_some(kv.value);
            self.held = Some(Change { revision: at, key, version: at, json, more: false });
        }
        // All changes of a revision come in one answer, which may be in parts.
        if !answer.fragment {
            self.release(None);
        }
        Ok(())
    }

    /// Lets the held change go; `next` is the revision of the change after it.
    fn release(&mut self, next: Option<u64>) {
        if let Some(mut change) = self.held.take() {
            change.more = next == Some(change.revision);
            self.after = change.revision;
            self.ready.push_back(change);
        }
    }
}
