//! Both services over TLS, with real clients.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use outrider_proto::pb::envoy::config::core::v3::Node;
use outrider_proto::pb::envoy::service::discovery::v3::DiscoveryRequest;
use outrider_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server};
use tonic::{Code, Request, Status};

use super::harness::{HOUR, domain, own, pem, request};
use super::tokens::{TokenIssuer, claims, join_token, jwks};
use crate::ads::{Ads, AdsServer, Connected};
use crate::api::audit::Audit;
use crate::api::auth::{AuthArgs, Bounds, Guard, Security, Tokens, incoming};
use crate::ca::credential::{Accounts, Credentials};
use crate::ca::limits::{ADDRESS, ALL, IDENTITY, Limits, Rate};
use crate::ca::service::{CertificateService, REASON};
use crate::ca::{Ca, NoAuthority, own as folder};
use crate::engine::Engine;
use crate::pb::identity as pb;
use crate::pb::identity::identity_client::IdentityClient;
use crate::pb::identity::issue_request::Credential;
use crate::pb::istio::IstioCertificateRequest;
use crate::pb::istio::istio_certificate_service_client::IstioCertificateServiceClient;
use crate::source::{Input, Inputs, Origin};
use crate::store::SharedStore;
use crate::store::memory::Memory;

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";
const DEADLINE: Duration = Duration::from_secs(20);

/// A control plane's xDS port.
struct Plane {
    dir: TempDir,
    ca: Arc<Ca>,
    security: Arc<Security>,
    audit: Arc<Audit>,
    store: SharedStore,
    issuer: TokenIssuer,
    address: SocketAddr,
    leave: watch::Sender<bool>,
    engine: Arc<Engine>,
    inputs: Inputs,
}

struct Setup {
    audit: Audit,
    limits: Limits,
    authority: bool,
}

impl Default for Setup {
    fn default() -> Self {
        Self { audit: Audit::memory(), limits: Limits::default(), authority: true }
    }
}

impl Plane {
    async fn start(setup: Setup) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let security = Arc::new(AuthArgs::default().build(Some(dir.path()), &[]).unwrap());
        let ca = Arc::new(own(dir.path(), SystemTime::now()).unwrap());
        security.authenticator.set_trust_domain(domain());
        security.tls.as_ref().unwrap().set_workloads(ca.bundle().borrow().roots.clone()).unwrap();
        let (store, audit): (SharedStore, _) = (Arc::new(Memory::default()), Arc::new(setup.audit));
        let issuer = TokenIssuer::new("one");
        let accounts = Accounts::Jwks(jwks(dir.path(), &issuer.jwks()));
        let (leave, leaving) = watch::channel(false);
        let service = CertificateService::new(
            if setup.authority { Ok(Arc::clone(&ca)) } else { Err(NoAuthority::Shared) },
            Credentials::new(accounts, Arc::clone(&store)),
            setup.limits,
            Arc::clone(&audit),
            leaving.clone(),
        );
        let (engine, inputs) = Engine::start(BTreeSet::from([Origin::Store]));
        inputs.send(Input::Reset { origin: Origin::Store, revision: 1, objects: Vec::new() }).await.unwrap();
        let service = service.following(Arc::clone(&engine));
        let ads = Ads::new(Arc::clone(&engine), Arc::new(Connected::default()), Default::default(), leaving);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let guard = Guard::new(Arc::clone(&security.authenticator), None);
        let connections = incoming(listener, security.tls.clone(), Bounds::new(100, 100));
        let server = Server::builder()
            .layer(guard)
            .add_service(AdsServer::new(ads))
            .add_service(service.own())
            .add_service(service.istio());
        tokio::spawn(server.serve_with_incoming(connections));
        Self { dir, ca, security, audit, store, issuer, address, leave, engine, inputs }
    }

    /// Connects, with a certificate or without.
    async fn channel(&self, identity: Option<Identity>) -> Channel {
        let ca = std::fs::read(self.security.ca().unwrap()).unwrap();
        let mut tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)).domain_name("localhost");
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        let endpoint = Endpoint::from_shared(format!("https://{}", self.address)).unwrap();
        endpoint.tls_config(tls).unwrap().connect().await.unwrap()
    }

    async fn issue(&self, csr: Vec<u8>, credential: Option<Credential>) -> Result<pb::IssueResponse, Status> {
        let mut client = IdentityClient::new(self.channel(None).await);
        let asked = pb::IssueRequest { csr, credential, lifetime_seconds: 0 };
        client.issue(asked).await.map(tonic::Response::into_inner)
    }

    async fn join(&self) -> Option<Credential> {
        Some(Credential::JoinToken(join_token(&self.store, 100, SystemTime::now() + HOUR).await))
    }

    async fn istio(&self, token: &str, request: IstioCertificateRequest) -> Result<Vec<String>, Status> {
        let mut client = IstioCertificateServiceClient::new(self.channel(None).await);
        let mut request = Request::new(request);
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        request.metadata_mut().insert("clusterid", "Kubernetes".parse().unwrap());
        client.create_certificate(request).await.map(|it| it.into_inner().cert_chain)
    }
}

fn identity_of(given: &pb::IssueResponse, key: &KeyPair) -> Identity {
    let chain: String = given.chain.iter().map(|it| pem(&CertificateDer::from(it.clone()))).collect();
    Identity::from_pem(chain, key.serialize_pem())
}

pub(super) fn reason(status: &Status) -> &str {
    status.metadata().get(REASON).map_or("", |it| it.to_str().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_workload_joins_renews_by_its_certificate_and_gets_xds_for_itself_alone() {
    let plane = Plane::start(Setup::default()).await;
    let token = join_token(&plane.store, 1, SystemTime::now() + HOUR).await;
    let join = || Some(Credential::JoinToken(token.clone()));
    let (key, csr) = request(Some(WEB));
    let given = plane.issue(csr.clone(), join()).await.unwrap();
    assert_eq!(given.identity, WEB);
    assert_eq!(given.not_after - given.not_before, 24 * 3600 + 60);
    assert!(given.not_before < given.renew_at && given.renew_at < given.not_after);
    let bundle = given.trust_bundle.clone().unwrap();
    assert_eq!((bundle.trust_domain.as_str(), bundle.roots.len()), ("cluster.local", 1));
    // It was good once.
    let status = plane.issue(csr, join()).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::Unauthenticated, "join_token_unknown"));

    // The certificate is the credential of the next one, with another key.
    let mut client = IdentityClient::new(plane.channel(Some(identity_of(&given, &key))).await);
    let (new_key, csr) = request(None);
    let asked = pb::IssueRequest { csr, credential: None, lifetime_seconds: 3600 };
    let renewed = client.issue(asked).await.unwrap().into_inner();
    assert_eq!((renewed.identity.as_str(), renewed.not_after - renewed.not_before), (WEB, 3660));
    // And for nobody else.
    let (_, csr) = request(Some("spiffe://cluster.local/ns/shop/sa/admin"));
    let asked = pb::IssueRequest { csr, credential: None, lifetime_seconds: 0 };
    let status = client.issue(asked).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::PermissionDenied, "csr_name"));

    // xDS by the same certificate, for proxies of its namespace.
    let channel = plane.channel(Some(identity_of(&renewed, &new_key))).await;
    for (pod, refused) in [("web-0.shop", None), ("till-0.bank", Some(Code::PermissionDenied))] {
        let node = Node { id: format!("sidecar~10.0.0.1~{pod}~svc.cluster.local"), ..Default::default() };
        let url = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
        let asked = DiscoveryRequest { node: Some(node), type_url: url.into(), ..Default::default() };
        let asked = tokio_stream::StreamExt::chain(tokio_stream::once(asked), tokio_stream::pending());
        let mut client = AggregatedDiscoveryServiceClient::new(channel.clone());
        let mut answers = client.stream_aggregated_resources(asked).await.unwrap().into_inner();
        let answer = tokio::time::timeout(DEADLINE, answers.message()).await.unwrap();
        assert_eq!(answer.as_ref().err().map(Status::code), refused, "{pod}: {answer:?}");
    }

    let lines = plane.audit.lines();
    let told: Vec<_> = lines.iter().map(|it| (it["stage"].as_str().unwrap(), it["how"].as_str())).collect();
    assert_eq!(
        told,
        [
            ("requested", Some("join-token")),
            ("done", Some("join-token")),
            ("refused", None),
            ("done", Some("certificate")),
            ("refused", Some("certificate")),
        ]
    );
    assert_eq!(lines[0]["who"], WEB);
    assert!(lines[0]["objects"][0]["object"].as_str().unwrap().starts_with("Certificate "), "{}", lines[0]);
    let name = token.split('.').nth(2).unwrap();
    assert_eq!(lines[0]["objects"][1]["object"], format!("JoinToken shop/{name}"));
    assert_eq!((&lines[1]["id"], &lines[1]["objects"]), (&lines[0]["id"], &lines[0]["objects"]));
    let text = serde_json::to_string(&lines).unwrap();
    assert!(!text.contains(token.rsplit('.').next().unwrap()), "no secret is in the audit log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn istios_agents_get_a_chain_and_the_roots_in_its_last_entry() {
    let plane = Plane::start(Setup::default()).await;
    let csr = include_str!("fixtures/good_p256.pem").to_owned();
    // As an agent sends it: its signer is named by nothing.
    let fields = [(
        "CertSigner".to_owned(),
        prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(String::new())) },
    )];
    let metadata = Some(prost_types::Struct { fields: fields.into() });
    let asked = IstioCertificateRequest { csr: csr.clone(), validity_duration: 86_400, metadata };
    let token = plane.issuer.token(&claims());
    let chain = plane.istio(&token, asked.clone()).await.unwrap();
    assert_eq!(chain.len(), 3);
    assert!(chain.iter().all(|it| it.starts_with("-----BEGIN CERTIFICATE-----\n")));
    let roots = plane.ca.bundle().borrow().roots.clone();
    assert_eq!(chain[2], pem(&roots[0]));
    use rustls_pki_types::pem::PemObject as _;
    let der: Vec<_> =
        chain[..2].iter().map(|it| CertificateDer::from_pem_slice(it.as_bytes()).unwrap()).collect();
    assert!(plane.ca.recognise(&der, SystemTime::now()).is_ok());

    // While a root takes the place of another, agents get both.
    folder::rotate(plane.dir.path(), &domain(), SystemTime::now()).unwrap();
    plane.ca.refresh(SystemTime::now()).unwrap();
    let chain = plane.istio(&token, asked.clone()).await.unwrap();
    assert_eq!(chain[2].matches("BEGIN CERTIFICATE").count(), 2);

    // A join token instead, on a machine without Kubernetes.
    let join = join_token(&plane.store, 1, SystemTime::now() + HOUR).await;
    assert_eq!(plane.istio(&join, asked.clone()).await.unwrap().len(), 3);

    let value =
        |text: &str| prost_types::Value { kind: Some(prost_types::value::Kind::StringValue(text.into())) };
    let with = |name: &str| IstioCertificateRequest {
        metadata: Some(prost_types::Struct { fields: [(name.to_owned(), value("spiffe://x"))].into() }),
        ..asked.clone()
    };
    for (token, request, code, word) in [
        (token.as_str(), with("ImpersonatedIdentity"), Code::InvalidArgument, "metadata"),
        (token.as_str(), with("CertSigner"), Code::InvalidArgument, "metadata"),
        (
            token.as_str(),
            IstioCertificateRequest { validity_duration: -1, ..asked.clone() },
            Code::InvalidArgument,
            "lifetime_too_short",
        ),
        (
            token.as_str(),
            IstioCertificateRequest { csr: include_str!("fixtures/rsa1024.pem").into(), ..asked.clone() },
            Code::InvalidArgument,
            "csr_key_weak",
        ),
        ("a.b.c", asked.clone(), Code::Unauthenticated, "token_malformed"),
    ] {
        let status = plane.istio(token, request).await.unwrap_err();
        assert_eq!((status.code(), reason(&status)), (code, word), "{status}");
    }
    let mut client = IstioCertificateServiceClient::new(plane.channel(None).await);
    let status = client.create_certificate(asked).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::Unauthenticated, "credential_missing"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_the_trust_bundle_hears_of_a_new_root_at_once() {
    let plane = Plane::start(Setup::default()).await;
    let (key, csr) = request(None);
    let given = plane.issue(csr, plane.join().await).await.unwrap();
    // A connection of nobody would be closed after a while.
    let mut client = IdentityClient::new(plane.channel(Some(identity_of(&given, &key))).await);
    let mut bundles = client.watch_trust_bundle(pb::WatchTrustBundleRequest {}).await.unwrap().into_inner();
    let first = bundles.message().await.unwrap().unwrap();
    assert_eq!(first.roots.len(), 1);
    folder::rotate(plane.dir.path(), &domain(), SystemTime::now()).unwrap();
    plane.ca.refresh(SystemTime::now()).unwrap();
    let next = tokio::time::timeout(DEADLINE, bundles.message()).await.unwrap().unwrap().unwrap();
    assert_eq!((next.roots.len(), &next.roots[0]), (2, &first.roots[0]));
    // A control plane that leaves ends it.
    plane.leave.send_replace(true);
    let end = tokio::time::timeout(DEADLINE, bundles.message()).await.unwrap();
    assert!(matches!(end, Ok(None)), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_of_another_mesh_is_let_in_nowhere() {
    let plane = Plane::start(Setup::default()).await;
    let other = Plane::start(Setup::default()).await;
    let (key, csr) = request(None);
    let given = other.issue(csr, other.join().await).await.unwrap();
    let channel = plane.channel(Some(identity_of(&given, &key))).await;
    let (_, csr) = request(None);
    let asked = pb::IssueRequest { csr, credential: None, lifetime_seconds: 0 };
    assert!(IdentityClient::new(channel).issue(asked).await.is_err());
    assert!(plane.audit.lines().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxys_stream_ends_with_the_token_that_it_was_opened_by() {
    let plane = Plane::start(Setup::default()).await;
    let token = std::fs::read_to_string(plane.dir.path().join("tokens/proxy.token")).unwrap();
    let node = Node { id: "sidecar~10.0.0.1~web-0.shop~svc.cluster.local".into(), ..Default::default() };
    let url = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    let asked = DiscoveryRequest { node: Some(node), type_url: url.into(), ..Default::default() };
    let asked = tokio_stream::StreamExt::chain(tokio_stream::once(asked), tokio_stream::pending());
    let mut request = Request::new(asked);
    request.metadata_mut().insert("authorization", format!("Bearer {}", token.trim()).parse().unwrap());
    let mut client = AggregatedDiscoveryServiceClient::new(plane.channel(None).await);
    let mut answers = client.stream_aggregated_resources(request).await.unwrap().into_inner();
    let answer = tokio::time::timeout(DEADLINE, answers.message()).await.unwrap().unwrap();
    assert!(answer.is_some());
    plane.security.authenticator.set_tokens(Tokens::default());
    let end = tokio::time::timeout(DEADLINE, answers.message()).await.expect("it ends");
    assert_eq!(end.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_given_out_that_is_not_written_down() {
    let plane = Plane::start(Setup { audit: Audit::broken(), ..Default::default() }).await;
    let (_, csr) = request(None);
    let status = plane.issue(csr, plane.join().await).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("audit log"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_an_authority_it_says_what_to_give() {
    let plane = Plane::start(Setup { authority: false, ..Default::default() }).await;
    let (_, csr) = request(None);
    let status = plane.issue(csr, plane.join().await).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::FailedPrecondition, "no_authority"));
    assert!(status.message().contains("--ca-cert"), "{status}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_asks_too_often_is_told_to_come_back_and_one_address_does_not_fill_the_log() {
    let slow = |burst| Rate { per_second: 0.001, burst };
    let limits = Limits::new(slow(2.0), ALL, ADDRESS, Instant::now());
    let plane = Plane::start(Setup { limits, ..Default::default() }).await;
    let join = plane.join().await;
    for expected in [None, None, Some("limit_issue")] {
        let answer = plane.issue(request(None).1, join.clone()).await;
        assert_eq!(answer.as_ref().err().map(reason), expected);
    }
    let limits = Limits::new(IDENTITY, ALL, slow(20.0), Instant::now());
    let plane = Plane::start(Setup { limits, ..Default::default() }).await;
    let mut client = IdentityClient::new(plane.channel(None).await);
    let mut reasons = BTreeSet::new();
    let second = || chrono::Utc::now().timestamp();
    let began = second();
    for _ in 0..60 {
        let credential = Some(Credential::JoinToken("outrider_join.shop.a.b".into()));
        let asked = pb::IssueRequest { csr: vec![1], credential, lifetime_seconds: 0 };
        reasons.insert(reason(&client.issue(asked).await.unwrap_err()).to_owned());
    }
    assert_eq!(reasons, BTreeSet::from(["join_token_unknown".to_owned(), "limit_address".to_owned()]));
    // Ten lines in each second that it took: on a machine with much to do it took several.
    let (lines, seconds) = (plane.audit.lines().len(), second() - began + 1);
    assert!(i64::try_from(lines).unwrap() <= 10 * seconds, "{lines} lines in {seconds} s");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_revoked_gets_no_certificate_and_its_streams_end() {
    let plane = Plane::start(Setup::default()).await;
    let join = plane.join().await;
    let (key, csr) = request(None);
    let given = plane.issue(csr, join.clone()).await.unwrap();
    // A stream of that identity.
    let node = Node { id: "sidecar~10.0.0.1~web-0.shop~svc.cluster.local".into(), ..Default::default() };
    let url = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    let asked = DiscoveryRequest { node: Some(node), type_url: url.into(), ..Default::default() };
    let asked = tokio_stream::StreamExt::chain(tokio_stream::once(asked), tokio_stream::pending());
    let channel = plane.channel(Some(identity_of(&given, &key))).await;
    let mut client = AggregatedDiscoveryServiceClient::new(channel);
    let mut answers = client.stream_aggregated_resources(Request::new(asked)).await.unwrap().into_inner();
    assert!(tokio::time::timeout(DEADLINE, answers.message()).await.unwrap().unwrap().is_some());

    let yaml = format!(
        "apiVersion: outrider.dev/v1\nkind: Revocation\nmetadata: {{name: lost, namespace: outrider-system}}\nspec: {{identities: ['{}']}}\n",
        given.identity
    );
    let value = crate::model::documents("test.yaml", &yaml).unwrap().remove(0);
    let object = crate::model::read_value("test.yaml", value, "outrider-system").unwrap().unwrap();
    let changes = vec![(object.key.clone(), Some(object))];
    plane.inputs.send(Input::Changes { origin: Origin::Store, revision: 2, changes }).await.unwrap();
    plane.engine.applied(2).await;
    let ended = async {
        loop {
            if let Err(status) = answers.message().await {
                return status;
            }
        }
    };
    let status = tokio::time::timeout(DEADLINE, ended).await.expect("it ends");
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("revoked"), "{status}");
    let status = plane.issue(request(None).1, join).await.unwrap_err();
    assert_eq!((status.code(), reason(&status)), (Code::PermissionDenied, "revoked"));
}
