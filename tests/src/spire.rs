//! An SDS server on a unix socket that speaks as SPIRE's agent does: SVIDs are named by their SPIFFE id, bundles by the id of
//! their trust domain, and `ALL` is the validator of all trust domains. State of the world and incremental.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
};

use anyhow::{Context, Result};
use bytes::{Buf as _, Bytes, BytesMut};
use h2::{RecvStream, SendStream, server};
use http::{Request, Response};
use outrider_proto::pb::envoy::config::core::v3::{DataSource, TypedExtensionConfig, data_source::Specifier};
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use outrider_proto::pb::envoy::service::discovery::v3 as xds;
use outrider_proto::pb::google::protobuf::Any;
use outrider_proto::prost::{Message, Name};
use tls::spiffe_cert_validator_config::TrustDomain;
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinHandle,
};

use crate::{ca::Leaf, identity::HTTP2, lock, raw_plane::framed};

/// Each secret with its version.
type Secrets = BTreeMap<String, (u64, Any)>;

/// A running agent. It ends with this.
#[derive(Debug)]
pub struct Spire {
    socket: PathBuf,
    secrets: watch::Sender<Secrets>,
    heard: Heard,
    accepting: JoinHandle<()>,
}

/// What readers said.
#[derive(Clone, Debug, Default)]
struct Heard(Arc<Mutex<Vec<String>>>);

impl Heard {
    fn note(&self, line: String) {
        lock(&self.0).push(line);
    }
}

impl Drop for Spire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Spire {
    /// Listens on `agent.sock` in `dir`, with no secret yet.
    ///
    /// # Errors
    /// The socket cannot be bound.
    pub fn listen(dir: &Path) -> Result<Self> {
        let socket = dir.join("agent.sock");
        let listener = UnixListener::bind(&socket)?;
        let (secrets, _) = watch::channel(Secrets::new());
        let heard = Heard::default();
        let (changes, hears) = (secrets.clone(), heard.clone());
        let accepting = tokio::spawn(async move {
            // Connections end with this.
            let mut connections = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(connection(stream, changes.subscribe(), hears.clone()));
            }
        });
        Ok(Self { socket, secrets, heard, accepting })
    }

    /// The body of a cluster that leads to it; `name` is the cluster's.
    #[must_use]
    pub fn cluster(&self, name: &str) -> String {
        format!(
            "type: STATIC\n{HTTP2}load_assignment:\n  cluster_name: {name}\n  endpoints:\n  - lb_endpoints:\n    \
             - endpoint: {{ address: {{ pipe: {{ path: {} }} }} }}\n",
            self.socket.display()
        )
    }

    /// Issues an SVID, or another for the same id.
    pub fn svid(&self, id: &str, leaf: &Leaf) {
        self.put(
            id,
            tls::secret::Type::TlsCertificate(tls::TlsCertificate {
                certificate_chain: Some(inline(&leaf.cert)),
                private_key: Some(inline(&leaf.key)),
                ..Default::default()
            }),
        );
    }

    /// The bundle of one trust domain, by the name `spiffe://DOMAIN`.
    pub fn bundle(&self, domain: &str, roots: &str) {
        let context =
            tls::CertificateValidationContext { trusted_ca: Some(inline(roots)), ..Default::default() };
        self.put(&format!("spiffe://{domain}"), tls::secret::Type::ValidationContext(context));
    }

    /// The bundles of all trust domains, by the name `ALL`: of the agent's own, and of those that it federates with.
    pub fn all(&self, domains: &[(&str, &str)]) {
        let trust_domains = domains.iter().map(|(name, roots)| TrustDomain {
            name: (*name).to_owned(),
            trust_bundle: Some(inline(roots)),
            ..Default::default()
        });
        let config =
            tls::SpiffeCertValidatorConfig { trust_domains: trust_domains.collect(), ..Default::default() };
        let context = tls::CertificateValidationContext {
            custom_validator_config: Some(TypedExtensionConfig {
                name: "envoy.tls.cert_validator.spiffe".to_owned(),
                typed_config: Some(packed(&config)),
            }),
            ..Default::default()
        };
        self.put("ALL", tls::secret::Type::ValidationContext(context));
    }

    /// What readers said so far: `want NAMES`, `ack VERSION`, `nack WHY`.
    #[must_use]
    pub fn heard(&self) -> Vec<String> {
        lock(&self.heard.0).clone()
    }

    fn put(&self, name: &str, kind: tls::secret::Type) {
        let secret = tls::Secret { name: name.to_owned(), r#type: Some(kind) };
        self.secrets.send_modify(|secrets| {
            let version = secrets.values().map(|(version, _)| *version).max().unwrap_or(0) + 1;
            secrets.insert(name.to_owned(), (version, packed(&secret)));
        });
    }
}

fn inline(text: &str) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(text.as_bytes().to_vec())), ..Default::default() }
}

fn packed<M: Message + Name>(message: &M) -> Any {
    Any { type_url: format!("type.googleapis.com/{}", M::full_name()), value: message.encode_to_vec() }
}

async fn connection(stream: UnixStream, secrets: watch::Receiver<Secrets>, heard: Heard) {
    let Ok(mut connection) = server::handshake(stream).await else { return };
    let mut streams = tokio::task::JoinSet::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let head = Response::builder().header("content-type", "application/grpc").body(());
        let Ok(Ok(send)) = head.map(|head| respond.send_response(head, false)) else { return };
        let (secrets, heard) = (secrets.clone(), heard.clone());
        streams.spawn(async move {
            let path = request.uri().path().to_owned();
            let result = match path.as_str() {
                "/envoy.service.secret.v3.SecretDiscoveryService/StreamSecrets" => {
                    state(Incoming::new(request), send, secrets, &heard).await
                }
                "/envoy.service.secret.v3.SecretDiscoveryService/DeltaSecrets" => {
                    delta(Incoming::new(request), send, secrets, &heard).await
                }
                other => {
                    heard.note(format!("unknown {other}"));
                    Ok(())
                }
            };
            if let Err(error) = result {
                heard.note(format!("ended {error:#}"));
            }
        });
    }
}

/// State of the world: all that is wanted and there, whenever one of it or the list changes.
async fn state(
    mut incoming: Incoming,
    mut send: SendStream<Bytes>,
    mut secrets: watch::Receiver<Secrets>,
    heard: &Heard,
) -> Result<()> {
    let (mut wanted, mut sent, mut nonce) = (Vec::<String>::new(), None, 0_u64);
    loop {
        tokio::select! {
            request = incoming.next::<xds::DiscoveryRequest>() => {
                let Some(request) = request? else { return Ok(()) };
                match request.error_detail {
                    Some(error) => heard.note(format!("nack {}", error.message)),
                    None if request.response_nonce.is_empty() => {}
                    None => heard.note(format!("ack {}", request.version_info)),
                }
                if request.resource_names != wanted {
                    heard.note(format!("want {}", request.resource_names.join(" ")));
                    wanted = request.resource_names;
                    sent = None;
                }
            }
            changed = secrets.changed() => changed?,
        }
        let here = secrets.borrow_and_update().clone();
        let found: Vec<&(u64, Any)> = wanted.iter().filter_map(|name| here.get(name)).collect();
        let version = found.iter().map(|(version, _)| *version).max();
        if version.is_some() && version != sent {
            (sent, nonce) = (version, nonce + 1);
            let response = xds::DiscoveryResponse {
                version_info: version.unwrap_or(0).to_string(),
                resources: found.into_iter().map(|(_, any)| any.clone()).collect(),
                type_url: format!("type.googleapis.com/{}", tls::Secret::full_name()),
                nonce: nonce.to_string(),
                ..Default::default()
            };
            send.send_data(framed(0, &response.encode_to_vec()), false)?;
        }
    }
}

/// Incremental: what is subscribed to, once, and again when it changes.
async fn delta(
    mut incoming: Incoming,
    mut send: SendStream<Bytes>,
    mut secrets: watch::Receiver<Secrets>,
    heard: &Heard,
) -> Result<()> {
    // Each name with the version that was sent; 0 for none.
    let (mut wanted, mut nonce) = (BTreeMap::<String, u64>::new(), 0_u64);
    loop {
        tokio::select! {
            request = incoming.next::<xds::DeltaDiscoveryRequest>() => {
                let Some(request) = request? else { return Ok(()) };
                match request.error_detail {
                    Some(error) => heard.note(format!("nack {}", error.message)),
                    None if request.response_nonce.is_empty() => {}
                    None => heard.note(format!("ack {}", request.response_nonce)),
                }
                for name in request.resource_names_subscribe {
                    heard.note(format!("want {name}"));
                    wanted.insert(name, 0);
                }
                for name in request.resource_names_unsubscribe {
                    wanted.remove(&name);
                }
            }
            changed = secrets.changed() => changed?,
        }
        let here = secrets.borrow_and_update().clone();
        let mut resources = Vec::new();
        for (name, sent) in &mut wanted {
            let Some((version, any)) = here.get(name).filter(|(version, _)| version != sent) else {
                continue;
            };
            *sent = *version;
            resources.push(xds::Resource {
                name: name.clone(),
                version: version.to_string(),
                resource: Some(any.clone()),
                ..Default::default()
            });
        }
        if !resources.is_empty() {
            nonce += 1;
            let response = xds::DeltaDiscoveryResponse {
                resources,
                type_url: format!("type.googleapis.com/{}", tls::Secret::full_name()),
                nonce: nonce.to_string(),
                ..Default::default()
            };
            send.send_data(framed(0, &response.encode_to_vec()), false)?;
        }
    }
}

/// The messages of a stream.
struct Incoming {
    body: RecvStream,
    buffer: BytesMut,
}

impl Incoming {
    fn new(request: Request<RecvStream>) -> Self {
        Self { body: request.into_body(), buffer: BytesMut::new() }
    }

    /// The next; `None` at the end. Nothing is lost when nobody waits for it any more.
    async fn next<M: Message + Default>(&mut self) -> Result<Option<M>> {
        loop {
            if let Some([_, a, b, c, d]) = self.buffer.first_chunk::<5>() {
                let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
                if self.buffer.len() >= 5 + length {
                    self.buffer.advance(5);
                    return Ok(Some(M::decode(self.buffer.split_to(length)).context("a request")?));
                }
            }
            let Some(data) = self.body.data().await else { return Ok(None) };
            let data = data?;
            self.body.flow_control().release_capacity(data.len())?;
            self.buffer.extend_from_slice(&data);
        }
    }
}
