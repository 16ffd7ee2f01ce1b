//! SDS on the unix socket, state of the world and incremental.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use outrider_proto::pb::envoy::config::core::v3::{DataSource, data_source::Specifier};
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use outrider_proto::pb::envoy::service::discovery::v3 as xds;
use outrider_proto::pb::envoy::service::secret::v3::secret_discovery_service_server::{
    SecretDiscoveryService, SecretDiscoveryServiceServer,
};
use outrider_proto::pb::google::protobuf::Any;
use outrider_proto::prost::{Message as _, Name as _};
use tokio::net::UnixListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status, Streaming};

/// The certificate with its key, as Istio's agents name it.
const CERTIFICATE: &str = "default";
/// The roots, as Istio's agents name them.
const ROOTS: &str = "ROOTCA";
/// A reader asks for no more names than these: there are two.
const NAMES: usize = 16;
/// A request is not larger than this, bytes.
const LARGEST: usize = 64 << 10;
/// The pod's own readers at a time.
const STREAMS: u32 = 64;

/// What is served now: each secret, and which version of it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Served {
    version: u64,
    secrets: BTreeMap<&'static str, (u64, Arc<Any>)>,
    roots: Option<String>,
}

impl Served {
    /// Takes a certificate with its key (PEM) in.
    pub(crate) fn certificate(&mut self, chain: &str, key: &str) {
        self.put(
            CERTIFICATE,
            tls::secret::Type::TlsCertificate(tls::TlsCertificate {
                certificate_chain: Some(inline(chain)),
                private_key: Some(inline(key)),
                ..Default::default()
            }),
        );
    }

    /// Takes roots (PEM) in.
    pub(crate) fn roots(&mut self, roots: &str) {
        self.roots = Some(roots.to_owned());
        self.put(
            ROOTS,
            tls::secret::Type::ValidationContext(tls::CertificateValidationContext {
                trusted_ca: Some(inline(roots)),
                ..Default::default()
            }),
        );
    }

    /// The roots (PEM) that are in use, if there are any yet.
    pub(crate) fn present_roots(&self) -> Option<String> {
        self.roots.clone()
    }

    /// What is the same as before stays the version that it was: nobody is told.
    fn put(&mut self, name: &'static str, kind: tls::secret::Type) {
        let secret = tls::Secret { name: name.to_owned(), r#type: Some(kind) };
        let any = Any { type_url: type_url(), value: secret.encode_to_vec() };
        if self.secrets.get(name).is_some_and(|(_, old)| **old == any) {
            return;
        }
        self.version += 1;
        self.secrets.insert(name, (self.version, Arc::new(any)));
    }

    fn get(&self, name: &str) -> Option<&(u64, Arc<Any>)> {
        self.secrets.get(name)
    }
}

fn type_url() -> String {
    format!("type.googleapis.com/{}", tls::Secret::full_name())
}

fn inline(text: &str) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineString(text.to_owned())), ..Default::default() }
}

/// Serves until the agent is gone: then streams end, and connections with them.
pub(crate) async fn run(listener: UnixListener, served: watch::Receiver<Served>) {
    let mut agent = served.clone();
    let gone = async move { while agent.changed().await.is_ok() {} };
    let service = SecretDiscoveryServiceServer::new(Sds(served)).max_decoding_message_size(LARGEST);
    let server = tonic::transport::Server::builder()
        .max_concurrent_streams(STREAMS)
        .add_service(service)
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), gone);
    if let Err(error) = server.await {
        tracing::error!(%error, "secrets are no longer served");
    }
}

/// The service.
#[derive(Debug)]
struct Sds(watch::Receiver<Served>);

#[tonic::async_trait]
impl SecretDiscoveryService for Sds {
    type StreamSecretsStream = ReceiverStream<Result<xds::DiscoveryResponse, Status>>;
    type DeltaSecretsStream = ReceiverStream<Result<xds::DeltaDiscoveryResponse, Status>>;

    async fn stream_secrets(
        &self,
        request: Request<Streaming<xds::DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamSecretsStream>, Status> {
        let (answers, stream) = mpsc::channel(1);
        let (mut incoming, mut served) = (request.into_inner(), self.0.clone());
        tokio::spawn(async move {
            let mut reader = Reader::default();
            while let Some(said) = turn(&mut incoming, &mut served).await {
                match said {
                    Ok(Some(request)) => {
                        complain(request.error_detail.as_ref().map(|it| it.message.as_str()));
                        if let Err(refused) = reader.wants(request.resource_names) {
                            let _ = answers.send(Err(refused)).await;
                            return;
                        }
                    }
                    Ok(None) => {}
                    Err(status) => return tracing::debug!(%status, "a reader of secrets left"),
                }
                let now = served.borrow_and_update().clone();
                let news = reader.news(&now);
                if news.is_empty() {
                    continue;
                }
                let answer = xds::DiscoveryResponse {
                    version_info: now.version.to_string(),
                    resources: news.into_iter().map(|(_, _, any)| (*any).clone()).collect(),
                    type_url: type_url(),
                    nonce: reader.nonce(),
                    ..Default::default()
                };
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn delta_secrets(
        &self,
        request: Request<Streaming<xds::DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaSecretsStream>, Status> {
        let (answers, stream) = mpsc::channel(1);
        let (mut incoming, mut served) = (request.into_inner(), self.0.clone());
        tokio::spawn(async move {
            let mut reader = Reader::default();
            while let Some(said) = turn(&mut incoming, &mut served).await {
                match said {
                    Ok(Some(request)) => {
                        complain(request.error_detail.as_ref().map(|it| it.message.as_str()));
                        reader.leaves(&request.resource_names_unsubscribe);
                        let mut names: Vec<String> = reader.names.keys().cloned().collect();
                        names.extend(request.resource_names_subscribe);
                        if let Err(refused) = reader.wants(names) {
                            let _ = answers.send(Err(refused)).await;
                            return;
                        }
                    }
                    Ok(None) => {}
                    Err(status) => return tracing::debug!(%status, "a reader of secrets left"),
                }
                let now = served.borrow_and_update().clone();
                let news = reader.news(&now);
                if news.is_empty() {
                    continue;
                }
                let resource = |(name, version, any): (String, u64, Arc<Any>)| xds::Resource {
                    name,
                    version: version.to_string(),
                    resource: Some((*any).clone()),
                    ..Default::default()
                };
                let answer = xds::DeltaDiscoveryResponse {
                    system_version_info: now.version.to_string(),
                    resources: news.into_iter().map(resource).collect(),
                    type_url: type_url(),
                    nonce: reader.nonce(),
                    ..Default::default()
                };
                if answers.send(Ok(answer)).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn fetch_secrets(
        &self,
        _: Request<xds::DiscoveryRequest>,
    ) -> Result<Response<xds::DiscoveryResponse>, Status> {
        Err(Status::unimplemented("secrets are streamed; use StreamSecrets or DeltaSecrets"))
    }
}

/// What comes next: a request, or `Ok(None)` for other secrets. `None`: it is over.
async fn turn<M>(
    incoming: &mut Streaming<M>,
    served: &mut watch::Receiver<Served>,
) -> Option<Result<Option<M>, Status>> {
    tokio::select! {
        said = incoming.message() => match said {
            Ok(Some(message)) => Some(Ok(Some(message))),
            Ok(None) => None,
            Err(status) => Some(Err(status)),
        },
        changed = served.changed() => changed.ok().map(|()| Ok(None)),
    }
}

fn complain(refused: Option<&str>) {
    if let Some(reason) = refused {
        let reason: String = reason.chars().take(500).collect();
        tracing::error!(reason, "a reader refused a secret of ours");
    }
}

/// What one stream wants, and which version of it it has.
#[derive(Debug, Default)]
struct Reader {
    names: BTreeMap<String, u64>,
    nonce: u64,
}

impl Reader {
    /// The names that are wanted from now on. One that was wanted before keeps what was sent of it.
    fn wants(&mut self, names: Vec<String>) -> Result<(), Status> {
        let names: BTreeSet<String> = names.into_iter().collect();
        if names.len() > NAMES {
            return Err(Status::invalid_argument(format!(
                "more than {NAMES} names; there are {CERTIFICATE} and {ROOTS}"
            )));
        }
        for name in names.iter().filter(|name| ![CERTIFICATE, ROOTS].contains(&name.as_str())) {
            if !self.names.contains_key(name) {
                let name: String = name.chars().take(100).collect();
                tracing::warn!(
                    name,
                    "a secret is asked for that is not ours; there are {CERTIFICATE} and {ROOTS}"
                );
            }
        }
        let old = std::mem::take(&mut self.names);
        self.names = names
            .into_iter()
            .map(|name| {
                let had = old.get(&name).copied().unwrap_or(0);
                (name, had)
            })
            .collect();
        Ok(())
    }

    /// Names that are no longer wanted.
    fn leaves(&mut self, names: &[String]) {
        for name in names {
            self.names.remove(name);
        }
    }

    /// What it wants and does not have yet; from now on it has it.
    fn news(&mut self, now: &Served) -> Vec<(String, u64, Arc<Any>)> {
        let mut news = Vec::new();
        for (name, had) in &mut self.names {
            if let Some((version, any)) = now.get(name).filter(|(version, _)| version != had) {
                *had = *version;
                news.push((name.clone(), *version, Arc::clone(any)));
            }
        }
        news
    }

    fn nonce(&mut self) -> String {
        self.nonce += 1;
        self.nonce.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(news: &[(String, u64, Arc<Any>)]) -> Vec<&str> {
        news.iter().map(|(name, ..)| name.as_str()).collect()
    }

    #[test]
    fn a_reader_gets_what_it_wants_once_and_again_when_it_is_another() {
        let (mut served, mut reader) = (Served::default(), Reader::default());
        reader.wants(vec![CERTIFICATE.into(), "other".into()]).unwrap();
        assert!(reader.news(&served).is_empty());
        served.certificate("chain", "key");
        served.roots("roots");
        assert_eq!(names(&reader.news(&served)), [CERTIFICATE]);
        assert!(reader.news(&served).is_empty(), "the same was sent twice");
        // The same certificate once more is no news.
        served.certificate("chain", "key");
        assert!(reader.news(&served).is_empty());
        reader.wants(vec![CERTIFICATE.into(), ROOTS.into()]).unwrap();
        assert_eq!(names(&reader.news(&served)), [ROOTS]);
        served.certificate("chain 2", "key 2");
        assert_eq!(names(&reader.news(&served)), [CERTIFICATE]);
        // Who left and comes back gets it again.
        reader.leaves(&[CERTIFICATE.into()]);
        reader.wants(vec![CERTIFICATE.into(), ROOTS.into()]).unwrap();
        assert_eq!(names(&reader.news(&served)), [CERTIFICATE]);
    }

    #[test]
    fn nobody_makes_a_reader_remember_many_names() {
        let mut reader = Reader::default();
        assert!(reader.wants((0..=NAMES).map(|it| it.to_string()).collect()).is_err());
        assert!(reader.names.is_empty());
    }
}
