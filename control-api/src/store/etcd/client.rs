//! Connections to etcd: one at a time, to whichever endpoint answers.

use std::fs;
use std::hash::{BuildHasher as _, RandomState};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use outrider_control_proto::etcd as pb;
use tokio::sync::Mutex;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Request, Status};

use super::spec::Spec;
use crate::store::StoreError;

/// How long connecting to one endpoint may take.
const CONNECT: Duration = Duration::from_secs(3);
/// How long one call may take. An etcd that is well answers in milliseconds; one without a leader waits for this long itself.
const CALL: Duration = Duration::from_secs(5);
/// How often an etcd that says nothing is asked whether it is there, and how long it may take to say so.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));
/// How large an answer may be. Lists come in pages and etcd takes no object above 1.5 MiB.
pub(super) const LARGEST: usize = 256 << 20;

/// An endpoint that answered.
#[derive(Debug)]
pub(super) struct Connection {
    /// Which one it is.
    pub endpoint: String,
    pub channel: Channel,
    token: Option<MetadataValue<Ascii>>,
}

impl Connection {
    /// A request with what etcd wants to know beside it.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        // One that lost its leader says so, instead of keeping us waiting for what it will not hear of.
        request.metadata_mut().insert("hasleader", MetadataValue::from_static("true"));
        if let Some(token) = &self.token {
            request.metadata_mut().insert("authorization", token.clone());
        }
        request
    }
}

/// Why a call failed.
#[derive(Debug)]
pub(super) enum Failed {
    /// It was certainly not done; another endpoint, or a new connection, may do it.
    NotDone(String),
    /// It may have been done.
    Unknown(String),
    /// It was not done, and no other endpoint would.
    Never(StoreError),
}

impl Failed {
    /// From etcd's answer, or the lack of one.
    pub(super) fn of(endpoint: &str, status: &Status) -> Self {
        let text = status.message();
        let said = format!("{endpoint}: {text}");
        let never = |reason: String| Self::Never(StoreError::Unavailable { reason, unknown: false });
        match status.code() {
            _ if never_sent(status) => Self::NotDone(said),
            Code::Unavailable if text.contains("no leader") => Self::NotDone(said),
            Code::Unauthenticated if text.contains("invalid auth token") => Self::NotDone(said),
            Code::InvalidArgument if text.contains("revision of auth store is old") => Self::NotDone(said),
            Code::InvalidArgument if text.contains("too many operations") => {
                Self::Never(StoreError::Unfit(format!(
                    "etcd at {said}: the commit has more objects than etcd takes at once; apply fewer at a time, or start \
                 etcd with a larger --max-txn-ops (128 when nothing is said)"
                )))
            }
            _ if too_large(status) => Self::Never(StoreError::Unfit(format!(
                "etcd at {said}: the commit is larger than etcd takes at once; apply fewer objects at a time, or start \
                 etcd with a larger --max-request-bytes (1.5 MiB when nothing is said)"
            ))),
            Code::ResourceExhausted if text.contains("space exceeded") => never(format!(
                "etcd at {said}: its disk quota is used up; compact and defragment it, then disarm its alarm; nothing \
                 was written, reads go on"
            )),
            Code::OutOfRange if text.contains("compacted") => {
                Self::Never(StoreError::Compacted { revision: 0, oldest: 0 })
            }
            Code::InvalidArgument
            | Code::PermissionDenied
            | Code::Unauthenticated
            | Code::FailedPrecondition
            | Code::ResourceExhausted
            | Code::Unimplemented => never(format!("etcd at {said}")),
            _ => Self::Unknown(said),
        }
    }

    /// What a caller is told when nothing more can be tried.
    pub(super) fn into_error(self) -> StoreError {
        match self {
            Self::NotDone(said) => {
                StoreError::Unavailable { reason: format!("etcd: {said}"), unknown: false }
            }
            Self::Unknown(said) => StoreError::Unavailable {
                reason: format!("etcd: {said}; it is not known whether it was done"),
                unknown: true,
            },
            Self::Never(error) => error,
        }
    }
}

/// Whether a request was too large for etcd, or for the gRPC in it, which has a limit a little above.
fn too_large(status: &Status) -> bool {
    match status.code() {
        Code::InvalidArgument => status.message().contains("too large"),
        Code::ResourceExhausted => status.message().contains("received message larger than max"),
        _ => false,
    }
}

/// Whether a call failed before it was sent, as there was no connection.
fn never_sent(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// All endpoints.
#[derive(Debug)]
pub(super) struct Client {
    pub spec: Spec,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    current: Option<Arc<Connection>>,
    /// Which endpoint is tried next.
    next: usize,
}

impl Client {
    /// Connects when it must.
    ///
    /// # Errors
    /// When files that it names cannot be used.
    pub(super) fn new(spec: Spec) -> Result<Self, StoreError> {
        // Many control planes should not all lean on the first endpoint.
        let count = u64::try_from(spec.endpoints.len()).unwrap_or(1).max(1);
        let next = usize::try_from(RandomState::new().hash_one(0) % count).unwrap_or(0);
        let client = Self { spec, state: Mutex::new(State { current: None, next }) };
        if let Some(first) = client.spec.endpoints.first() {
            let checked = client.endpoint(first).map(drop).and_then(|()| match &client.spec.user {
                Some((_, password)) => password.read().map(drop),
                None => Ok(()),
            });
            checked.map_err(|reason| StoreError::Unavailable {
                reason: format!("{}: {reason}", client.spec),
                unknown: false,
            })?;
        }
        Ok(client)
    }

    fn endpoint(&self, endpoint: &str) -> Result<Endpoint, String> {
        let uri = self.spec.uri(endpoint).map_err(|error| format!("{endpoint}: {error}"))?;
        let built = Endpoint::from(uri)
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1)
            .keep_alive_while_idle(true);
        // Read at each connection: certificates are renewed.
        let Some(ca) = &self.spec.ca else { return Ok(built) };
        let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(file("ca", ca)?));
        if let Some((cert, key)) = &self.spec.identity {
            tls = tls.identity(Identity::from_pem(file("cert", cert)?, file("key", key)?));
        }
        built.tls_config(tls).map_err(|error| format!("ca, cert or key: {}", chain(&error)))
    }

    async fn connect(&self, endpoint: &str) -> Result<Connection, String> {
        let built = self.endpoint(endpoint)?;
        let connected = tokio::time::timeout(CONNECT * 2, built.connect()).await;
        let channel = connected
            .map_err(|_| format!("{endpoint}: no answer"))?
            .map_err(|error| format!("{endpoint}: {}", chain(&error)))?;
        let mut connection = Connection { endpoint: endpoint.to_owned(), channel, token: None };
        if let Some((name, password)) = &self.spec.user {
            let credentials = pb::AuthenticateRequest { name: name.clone(), password: password.read()? };
            let mut auth = pb::auth_client::AuthClient::new(connection.channel.clone());
            let answer = tokio::time::timeout(CALL, auth.authenticate(credentials)).await;
            let answer = answer
                .map_err(|_| format!("{endpoint}: no answer"))?
                .map_err(|status| format!("{endpoint}: as {name}: {}", status.message()))?;
            let token = answer.into_inner().token.parse();
            connection.token = Some(token.map_err(|_| format!("{endpoint}: its token makes no sense"))?);
        }
        Ok(connection)
    }

    /// The connection there is, or one to the first endpoint that answers.
    pub(super) async fn connection(&self) -> Result<Arc<Connection>, Failed> {
        let mut state = self.state.lock().await;
        if let Some(current) = &state.current {
            return Ok(Arc::clone(current));
        }
        let mut problems = Vec::new();
        for _ in 0..self.spec.endpoints.len() {
            let index = state.next % self.spec.endpoints.len();
            let Some(endpoint) = self.spec.endpoints.get(index) else { break };
            match self.connect(endpoint).await {
                Ok(connection) => {
                    tracing::debug!(endpoint, "connected to etcd");
                    let connection = Arc::new(connection);
                    state.current = Some(Arc::clone(&connection));
                    return Ok(connection);
                }
                Err(problem) => {
                    problems.push(problem);
                    state.next = index + 1;
                }
            }
        }
        Err(Failed::NotDone(format!("no endpoint answers: {}", problems.join("; "))))
    }

    /// A connection did not serve: the next call takes another endpoint.
    pub(super) async fn leave(&self, connection: &Arc<Connection>) {
        let mut state = self.state.lock().await;
        if state.current.as_ref().is_some_and(|current| Arc::ptr_eq(current, connection)) {
            state.current = None;
            state.next += 1;
        }
    }

    /// Calls one endpoint after the other until one does it. What may have been done is tried again only if `again`.
    pub(super) async fn call<T, F: Future<Output = Result<T, Status>> + Send>(
        &self,
        again: bool,
        send: impl Fn(Arc<Connection>) -> F + Send,
    ) -> Result<T, Failed> {
        let mut tries = self.spec.endpoints.len() + 1;
        loop {
            tries -= 1;
            let connection = self.connection().await?;
            let failed = match tokio::time::timeout(CALL, send(Arc::clone(&connection))).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(status)) => Failed::of(&connection.endpoint, &status),
                Err(_) => Failed::Unknown(format!("{}: no answer within {CALL:?}", connection.endpoint)),
            };
            if !matches!(failed, Failed::Never(_)) {
                self.leave(&connection).await;
            }
            match failed {
                Failed::NotDone(why) | Failed::Unknown(why) if tries > 0 && again => {
                    tracing::debug!(why, "trying another endpoint of etcd");
                }
                Failed::NotDone(why) if tries > 0 => tracing::debug!(why, "trying another endpoint of etcd"),
                // What only reads is not done by half.
                Failed::Unknown(why) if again => return Err(Failed::NotDone(why)),
                failed => return Err(failed),
            }
        }
    }
}

fn file(what: &str, path: &Path) -> Result<Vec<u8>, String> {
    fs::read(path).map_err(|error| format!("{what}={}: {error}", path.display()))
}

/// An error with all its reasons.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = error.source();
    }
    text
}
