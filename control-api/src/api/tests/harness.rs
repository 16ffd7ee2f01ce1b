//! A control plane in this process.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::metadata::MetadataValue;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

use crate::ads::Connected;
use crate::api::audit::Audit;
use crate::api::auth::{AuthArgs, Security};
use crate::api::{ControlService, Parts, Served};
use crate::engine::Engine;
use crate::model::{Object, read_json};
use crate::pb::{self, control_client::ControlClient};
use crate::source::{Input, Inputs, Origin, Problems};
use crate::store::{SharedStore, memory::Memory};

pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) type Client = ControlClient<InterceptedService<Channel, Token>>;

/// Sends a token, when there is one.
#[derive(Clone, Debug)]
pub(crate) struct Token(Option<String>);

impl tonic::service::Interceptor for Token {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(token) = &self.0 {
            let value: MetadataValue<_> = format!("Bearer {token}").parse().expect("ASCII");
            request.metadata_mut().insert("authorization", value);
        }
        Ok(request)
    }
}

pub(crate) struct Harness {
    pub(crate) address: SocketAddr,
    pub(crate) store: SharedStore,
    pub(crate) inputs: Inputs,
    pub(crate) audit: Arc<Audit>,
    pub(crate) security: Arc<Security>,
    /// The control plane leaves when this becomes true.
    pub(crate) leave: watch::Sender<bool>,
    pub(crate) problems: Problems,
}

impl Harness {
    /// In clear, everybody an admin.
    pub(crate) async fn start() -> Self {
        Self::over(Arc::new(Memory::default())).await
    }

    pub(crate) async fn with(security: Security, audit: Audit, manifests: Vec<Object>) -> Self {
        Self::begin(Arc::new(Memory::default()), security, audit, Some(manifests)).await
    }

    /// In clear, everybody an admin, on this store.
    pub(crate) async fn over(store: SharedStore) -> Self {
        let args = AuthArgs { insecure_loopback: true, ..Default::default() };
        let security = args.build(None, &["127.0.0.1:1".parse().unwrap()]).unwrap();
        Self::begin(store, security, Audit::memory(), Some(Vec::new())).await
    }

    /// In clear, and its manifests are never read.
    pub(crate) async fn unready() -> Self {
        let args = AuthArgs { insecure_loopback: true, ..Default::default() };
        let security = args.build(None, &[]).unwrap();
        Self::begin(Arc::new(Memory::default()), security, Audit::memory(), None).await
    }

    async fn begin(
        store: SharedStore,
        security: Security,
        audit: Audit,
        manifests: Option<Vec<Object>>,
    ) -> Self {
        let (engine, inputs) = Engine::start(BTreeSet::from([Origin::Store, Origin::Manifests]));
        let ready = manifests.is_some();
        if let Some(objects) = manifests {
            inputs.send(Input::Reset { origin: Origin::Manifests, revision: 0, objects }).await.unwrap();
        }
        tokio::spawn(feed(Arc::clone(&store), inputs.clone()));
        let (leave, leaving) = watch::channel(false);
        let problems = Problems::default();
        let (audit, security) = (Arc::new(audit), Arc::new(security));
        let parts = Parts {
            store: Arc::clone(&store),
            engine: Arc::clone(&engine),
            connected: Arc::new(Connected::default()),
            audit: Arc::clone(&audit),
            instance: "test".into(),
            leaving,
            problems: problems.clone(),
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = Served::new(ControlService::new(parts)).unwrap();
        let guarding = Arc::clone(&security);
        tokio::spawn(async move { served.serve(listener, &guarding, std::future::pending()).await });
        if ready {
            engine.until_ready().await;
        }
        Self { address, store, inputs, audit, security, leave, problems }
    }

    pub(crate) async fn client(&self) -> Client {
        let channel = Endpoint::from_shared(format!("http://{}", self.address)).unwrap();
        ControlClient::with_interceptor(channel.connect().await.unwrap(), Token(None))
    }

    /// Over TLS, verified by the CA that was made, with a token.
    pub(crate) async fn secure(&self, token: Option<&str>) -> Client {
        ControlClient::with_interceptor(self.channel().await, Token(token.map(str::to_owned)))
    }

    pub(crate) async fn channel(&self) -> Channel {
        let ca = std::fs::read(self.security.ca().unwrap()).unwrap();
        let tls = tonic::transport::ClientTlsConfig::new()
            .ca_certificate(tonic::transport::Certificate::from_pem(ca))
            .domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    }
}

/// What a source does: all that is stored, then what changes.
async fn feed(store: SharedStore, inputs: Inputs) {
    let read = |json: &[u8], revision| {
        let object = read_json("", json, "default").unwrap().unwrap();
        Object { revision, ..object }
    };
    let listing = store.list().await.unwrap();
    let objects = listing.records.iter().map(|it| read(&it.json, it.revision)).collect();
    let origin = Origin::Store;
    inputs.send(Input::Reset { origin, revision: listing.revision, objects }).await.unwrap();
    let mut changes = store.watch(listing.revision).await.unwrap();
    let mut batch = Vec::new();
    while let Some(Ok(change)) = changes.next().await {
        let object = change.json.as_ref().map(|json| read(json, change.version));
        batch.push((change.key, object));
        if !change.more {
            let changes = std::mem::take(&mut batch);
            if inputs.send(Input::Changes { origin, revision: change.revision, changes }).await.is_err() {
                return;
            }
        }
    }
}

pub(crate) fn service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": name, "namespace": "shop", "labels": { "app": name } },
        "spec": { "ports": [{ "name": "http", "port": port }], "selector": { "app": name } },
    })
}

pub(crate) fn apply(objects: &[Value]) -> pb::ApplyRequest {
    let manifest = |(index, it): (usize, &Value)| pb::Manifest {
        source: format!("file-{index}.yaml"),
        json: it.to_string(),
    };
    pb::ApplyRequest { manifests: objects.iter().enumerate().map(manifest).collect(), dry_run: false }
}

pub(crate) fn reference(kind: &str, name: &str) -> Option<pb::Ref> {
    Some(pb::Ref { kind: kind.into(), namespace: "shop".into(), name: name.into(), ..Default::default() })
}

pub(crate) async fn get(client: &mut Client, kind: &str, name: &str) -> Result<Value, Status> {
    let answer = client.get(pb::GetRequest { r#ref: reference(kind, name) }).await?;
    Ok(serde_json::from_str(&answer.into_inner().json).unwrap())
}
