//! TLS to upstreams: ALPN decides the protocol, and names decide the pool.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use common::{Bench, get, on_worker, until};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use outrider_config::model::{
    CertificateValidation, CommonTls, DataSource, DataSourceKind, Discovery, DownstreamTls, Metadata,
    MetadataValue, TRANSPORT_SOCKET_MATCH, TlsCertificate, TlsVersion, TransportSocketMatch,
    UpstreamProtocol, UpstreamTls, ValidationRef,
};
use outrider_core::stats::Registry;
use outrider_core::stream::Protocol;
use outrider_net::io::IoStream;
use outrider_net::tls::ServerTls;
use outrider_upstream::{AcquireContext, PickContext, PoolErrorKind};
use rcgen::{CertificateParams, CertifiedIssuer, IsCa, KeyPair};

struct Pki {
    ca: String,
    chain: String,
    key: String,
}

impl Pki {
    /// An authority, and a certificate of it for `a.example`.
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let leaf = CertificateParams::new(["a.example".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
        Self { ca: ca.pem(), chain: leaf.pem(), key: key.serialize_pem() }
    }

    fn upstream(&self) -> UpstreamTls {
        let validation = CertificateValidation { trusted_ca: Some(inline(&self.ca)), ..Default::default() };
        UpstreamTls {
            common: CommonTls { validation: validation.into(), ..common(&[]) },
            sni: String::new(),
            auto_host_sni: false,
            auto_sni_san_validation: false,
            max_session_keys: 1,
        }
    }

    /// A server that offers `alpn`, answers with the protocol, and notes the SNI of each connection.
    async fn serve(&self, alpn: &[&str]) -> (SocketAddr, Rc<RefCell<Vec<Option<String>>>>) {
        let certificate =
            TlsCertificate { chain: inline(&self.chain), key: inline(&self.key), ocsp_staple: None };
        let tls = DownstreamTls {
            common: CommonTls { certificates: vec![certificate.into()], ..common(alpn) },
            require_client_certificate: false,
            require_sni: false,
            full_scan_certs: false,
            disable_stateless_resumption: false,
            disable_stateful_resumption: false,
            session_timeout: None,
            session_ticket_keys: None,
        };
        let tls = Arc::new(tls).resolve(&|_| None).unwrap();
        let tls = ServerTls::build(&tls, &Registry::new().scope("listener.")).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let names = Rc::new(RefCell::new(Vec::new()));
        let seen = names.clone();
        tokio::task::spawn_local(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let Ok((stream, info)) = tls.accept(IoStream::from_tcp(stream)).await else { continue };
                seen.borrow_mut().push(info.sni.as_deref().map(str::to_owned));
                let alpn = info.alpn.as_deref().unwrap_or("none").to_owned();
                let http2 = alpn == "h2";
                let service = service_fn(move |_| {
                    let text = alpn.clone();
                    async move { Ok::<_, hyper::Error>(http::Response::new(Full::new(Bytes::from(text)))) }
                });
                tokio::task::spawn_local(async move {
                    let _ = if http2 {
                        hyper::server::conn::http2::Builder::new(common::LocalExec)
                            .serve_connection(stream, service)
                            .await
                    } else {
                        hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await
                    };
                });
            }
        });
        (address, names)
    }
}

fn inline(text: &str) -> DataSource {
    DataSource { kind: DataSourceKind::Inline(text.as_bytes().into()), field: "test".into() }
}

fn common(alpn: &[&str]) -> CommonTls {
    CommonTls {
        certificates: Vec::new(),
        validation: ValidationRef::None,
        alpn: alpn.iter().map(ToString::to_string).collect(),
        min_version: TlsVersion::V12,
        max_version: TlsVersion::V13,
        cipher_suites: Vec::new(),
        curves: Vec::new(),
        key_log: None,
    }
}

#[test]
fn alpn_decides_the_protocol() {
    on_worker(async {
        let pki = Pki::new();
        for (offered, protocol) in [
            (&["h2", "http/1.1"][..], Protocol::Http2),
            (&["http/1.1"][..], Protocol::Http11),
            (&[][..], Protocol::Http11),
        ] {
            let (address, _) = pki.serve(offered).await;
            let bench = Bench::fixed(&[address], |c| {
                c.tls = Some(Arc::new(pki.upstream()));
                c.http.protocol = UpstreamProtocol::Auto;
            });
            for _ in 0..2 {
                let text = bench.get("/").await.unwrap();
                assert_eq!(text, offered.first().copied().unwrap_or("none"));
            }
            let lease = bench.lease().await.unwrap();
            assert_eq!(lease.protocol(), protocol);
            assert!(lease.tls().is_some());
            assert_eq!(bench.stat("upstream_cx_total"), 1);
            let http2 = u64::from(protocol == Protocol::Http2);
            assert_eq!(bench.stat("upstream_cx_http2_total"), http2);
            assert_eq!(bench.stat("upstream_cx_http1_total"), 1 - http2);
        }
    });
}

#[test]
fn each_pool_offers_its_own_protocol() {
    on_worker(async {
        let pki = Pki::new();
        let (address, _) = pki.serve(&["h2", "http/1.1"]).await;
        let bench = Bench::fixed(&[address], |c| {
            c.tls = Some(Arc::new(pki.upstream()));
            c.http.protocol = UpstreamProtocol::UseDownstream;
        });
        let cluster = bench.cluster();
        let host = cluster.pick(&PickContext::default()).unwrap();
        for protocol in [Protocol::Http11, Protocol::Http2] {
            let context = AcquireContext { downstream_protocol: Some(protocol), ..Default::default() };
            let mut lease = cluster.acquire(&host, &context).await.unwrap();
            assert_eq!(lease.protocol(), protocol);
            let response = lease.send(get("/")).await.unwrap();
            let text = response.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(text, if protocol == Protocol::Http2 { "h2" } else { "http/1.1" });
        }
    });
}

#[test]
fn an_untrusted_certificate_never_connects() {
    on_worker(async {
        let (address, _) = Pki::new().serve(&[]).await;
        let bench = Bench::fixed(&[address], |c| c.tls = Some(Arc::new(Pki::new().upstream())));
        let error = bench.lease().await.unwrap_err();
        assert_eq!(error.kind, PoolErrorKind::TlsFailed);
        assert!(error.details.starts_with("TLS_error:"), "{}", error.details);
        assert_eq!(bench.stat("upstream_cx_connect_fail"), 1);
    });
}

#[test]
fn with_auto_sni_the_authority_decides_name_and_pool_and_without_it_nothing_does() {
    on_worker(async {
        let pki = Pki::new();
        let (address, names) = pki.serve(&[]).await;
        let ask = async |bench: &Bench, authority| {
            let cluster = bench.cluster();
            let host = cluster.pick(&PickContext::default()).unwrap();
            let context = AcquireContext { sni_from: Some(authority), ..Default::default() };
            cluster.acquire(&host, &context).await.map(|_| ())
        };
        let bench = Bench::fixed(&[address], |c| c.tls = Some(Arc::new(pki.upstream())));
        ask(&bench, "a.example").await.unwrap();
        ask(&bench, "b.example").await.unwrap();
        assert_eq!(bench.stat("upstream_cx_total"), 1);
        until("accepted", || names.borrow().len() == 1).await;
        assert_eq!(names.take(), [None]);
        let auto = |validate| {
            Bench::fixed(&[address], |c| {
                c.tls = Some(Arc::new(pki.upstream()));
                c.http.auto_sni = true;
                c.http.auto_san_validation = validate;
            })
        };
        let bench = auto(false);
        for authority in ["a.example:443", "a.example", "b.example", "127.0.0.1"] {
            ask(&bench, authority).await.unwrap();
        }
        assert_eq!(bench.stat("upstream_cx_total"), 3);
        until("accepted", || names.borrow().len() == 3).await;
        let name = |name: &str| Some(name.to_owned());
        assert_eq!(names.take(), [name("a.example"), name("b.example"), None]);
        let bench = auto(true);
        ask(&bench, "a.example").await.unwrap();
        assert_eq!(ask(&bench, "b.example").await.unwrap_err().kind, PoolErrorKind::TlsFailed);
        assert_eq!(ask(&bench, "").await.unwrap_err().kind, PoolErrorKind::TlsFailed);
    });
}

#[test]
fn the_metadata_of_a_host_decides_whether_it_is_spoken_to_in_tls() {
    on_worker(async {
        let pki = Pki::new();
        let (secure, _) = pki.serve(&[]).await;
        let plain = common::Upstream::start(common::Speaks::Http1).await;
        let istio = || BTreeMap::from([("tlsMode".into(), MetadataValue::Text("istio".into()))]);
        let metadata = || {
            let namespaces = BTreeMap::from([(TRANSPORT_SOCKET_MATCH.into(), istio())]);
            Some(Arc::new(Metadata { namespaces }))
        };
        let matching = |change: &dyn Fn(&mut outrider_config::model::LocalityEndpoints)| {
            let mut endpoints = common::endpoints(&[secure, plain.address]);
            change(&mut endpoints.localities[0]);
            let mut config = common::config("c", Discovery::Static(endpoints));
            config.tls_matches = [(istio(), Some(Arc::new(pki.upstream()))), (BTreeMap::new(), None)]
                .map(|(criteria, tls)| TransportSocketMatch { name: "m".into(), criteria, tls })
                .into();
            config
        };
        // In TLS by its own metadata, plain by that of the last match.
        let bench = Bench::new(matching(&|locality| locality.endpoints[0].metadata = metadata()));
        let answers = async |bench: &Bench| {
            let cluster = bench.cluster();
            let mut tls = Vec::new();
            for _ in 0..2 {
                let host = cluster.pick(&PickContext::default()).unwrap();
                let mut lease = cluster.acquire(&host, &AcquireContext::default()).await.unwrap();
                let response = lease.send(get("/")).await.unwrap();
                assert_eq!(response.status(), 200);
                tls.push((host.address.to_string(), lease.tls().is_some()));
                response.into_body().collect().await.unwrap();
                lease.into_guard().finished();
            }
            tls.sort();
            tls
        };
        let mut expected = [(secure.to_string(), true), (plain.address.to_string(), false)];
        expected.sort();
        assert_eq!(answers(&bench).await, expected);
        // The host says otherwise now: the connection that is open is not used for it any more.
        let mut config = matching(&|_| ());
        config.tls_matches.truncate(1);
        config.tls_matches[0].tls = None;
        let id = |bench: &Bench| {
            let hosts = bench.cluster().shared.hosts.load_full();
            hosts.iter().find(|host| host.address.to_string() == secure.to_string()).map(|host| host.id)
        };
        let before = id(&bench);
        bench.manager.add(Arc::new(config)).unwrap();
        assert!(before.is_some() && id(&bench) != before);
        let host = bench.cluster().shared.hosts.load_full().iter().next().cloned().unwrap();
        assert!(host.metadata.is_none());
    });
}

#[test]
fn the_metadata_of_a_locality_counts_where_a_hosts_own_says_nothing() {
    on_worker(async {
        let pki = Pki::new();
        let (secure, _) = pki.serve(&[]).await;
        let criteria = BTreeMap::from([("tlsMode".into(), MetadataValue::Text("istio".into()))]);
        let namespaces = BTreeMap::from([(TRANSPORT_SOCKET_MATCH.into(), criteria.clone())]);
        let mut endpoints = common::endpoints(&[secure]);
        endpoints.localities[0].metadata = Some(Arc::new(Metadata { namespaces }));
        let mut config = common::config("c", Discovery::Static(endpoints));
        let tls = Some(Arc::new(pki.upstream()));
        config.tls_matches = vec![TransportSocketMatch { name: "m".into(), criteria, tls }];
        let bench = Bench::new(config);
        assert!(bench.lease().await.unwrap().tls().is_some());
    });
}
