//! Our two sides of TLS against one another, over real sockets.

#![expect(clippy::expect_used, reason = "a test that cannot go on fails")]

mod support;

use std::sync::Arc;

use outrider_config::model::{
    CertificateValidation, DownstreamTls, SanKind, SanMatcher, TlsVersion, UpstreamTls,
};
use outrider_core::matcher::{StringMatch, StringMatcher};
use outrider_core::stats::Registry;
use outrider_core::stream::TlsInfo;
use outrider_net::io::IoStream;
use outrider_net::tls::{AlpnDefault, ClientTls, ServerTls, TlsError, TlsTarget};
use support::{Authority, Leaf, Wish, dns, downstream, inline, ip, trusting, upstream, uri};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// Two contexts that talk to one another.
struct Pair {
    server: Arc<ServerTls>,
    client: Arc<ClientTls>,
    registry: Registry,
}

type Sides = (Result<TlsInfo, TlsError>, Result<TlsInfo, TlsError>);

impl Pair {
    fn new(server: &DownstreamTls, client: &UpstreamTls) -> Self {
        let registry = Registry::new();
        Self {
            server: ServerTls::build(
                &Arc::new(server.clone()).resolve(&|_| None).expect("static"),
                &registry.scope("listener.x."),
            )
            .expect("a server"),
            client: ClientTls::build(
                &Arc::new(client.clone()).resolve(&|_| None).expect("static"),
                AlpnDefault::None,
                &registry.scope("cluster.y."),
            )
            .expect("a client"),
            registry,
        }
    }

    /// What the server and the client say of a handshake; bytes have gone both ways when both agree.
    async fn shake(&self, target: TlsTarget<'_>) -> Sides {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
        let connect = TcpStream::connect(listener.local_addr().expect("an address"));
        let (accepted, connected) = tokio::join!(listener.accept(), connect);
        let accepted = IoStream::from_tcp(accepted.expect("a connection").0);
        let connected = IoStream::from_tcp(connected.expect("a connection"));
        let server = async {
            let (mut stream, info) = self.server.accept(accepted).await?;
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes).await.map_err(TlsError::Closed)?;
            stream.write_all(&bytes).await.map_err(TlsError::Closed)?;
            Ok(info)
        };
        let client = async {
            let (mut stream, info) = self.client.connect(connected, &target).await?;
            stream.write_all(b"ping").await.map_err(TlsError::Closed)?;
            // In TLS 1.3 the server's refusal of our certificate comes after the handshake.
            let mut bytes = [0; 4];
            stream.read_exact(&mut bytes).await.map_err(TlsError::Closed)?;
            assert_eq!(&bytes, b"ping");
            Ok(info)
        };
        tokio::join!(server, client)
    }

    async fn works(&self) -> (TlsInfo, TlsInfo) {
        let (server, client) = self.shake(TlsTarget::default()).await;
        (server.expect("the server agrees"), client.expect("the client agrees"))
    }

    async fn fails(&self) -> (String, String) {
        let (server, client) = self.shake(TlsTarget::default()).await;
        (
            server.expect_err("the server refuses").to_string(),
            client.expect_err("the client fails").to_string(),
        )
    }

    fn count(&self, name: &str) -> u64 {
        self.registry.value(name).unwrap_or(0)
    }
}

fn leaf(authority: &Authority, names: Vec<rcgen::SanType>) -> Leaf {
    authority.leaf(Wish { names, ..Wish::default() })
}

/// A server that verifies clients by `validation`, and a client that shows `client`.
fn mutual(ca: &Authority, client: Option<&Leaf>, validation: CertificateValidation) -> Pair {
    let mut server = downstream(&[&leaf(ca, vec![dns("server.test")])]);
    server.require_client_certificate = true;
    server.common.validation = validation.into();
    let leaves: Vec<&Leaf> = client.into_iter().collect();
    let mut client = upstream(&leaves);
    client.common.validation = trusting(ca).into();
    Pair::new(&server, &client)
}

#[tokio::test]
async fn mutual_tls_tells_each_side_who_the_other_is() {
    let ca = Authority::new("root");
    let client = leaf(&ca, vec![uri("spiffe://test/client"), ip("10.0.0.1")]);
    let pair = mutual(&ca, Some(&client), trusting(&ca));
    let target = TlsTarget { sni: Some("server.test"), ..TlsTarget::default() };
    let (server, client) = pair.shake(target).await;
    let (server, client) = (server.expect("agreed"), client.expect("agreed"));
    assert_eq!((server.version, server.cipher), ("TLSv1.3", "TLS_AES_128_GCM_SHA256"));
    assert_eq!(server.sni.as_deref(), Some("server.test"));
    let peer = server.peer.expect("a peer");
    assert_eq!(peer.uri_sans, ["spiffe://test/client"]);
    assert_eq!(peer.ip_sans, ["10.0.0.1"]);
    assert_eq!(peer.issuer, "O=Acme\\, Inc,CN=root");
    assert_eq!((peer.sha256.len(), peer.sha1.len(), peer.serial.as_str()), (64, 40, "01"));
    assert_eq!(client.peer.expect("a peer").dns_sans, ["server.test"]);
    assert_eq!(server.local.expect("ours").dns_sans, ["server.test"]);
    assert_eq!(pair.count("listener.x.ssl.handshake"), 1);
    assert_eq!(pair.count("listener.x.ssl.ciphers.TLS_AES_128_GCM_SHA256"), 1);
    assert_eq!(pair.count("listener.x.ssl.versions.TLSv1.3"), 1);
    assert_eq!(pair.count("cluster.y.ssl.curves.X25519"), 1);
}

#[tokio::test]
async fn a_client_without_a_certificate_or_with_a_strangers_is_refused() {
    let (ca, other) = (Authority::new("root"), Authority::new("other"));
    let pair = mutual(&ca, None, trusting(&ca));
    let (server, _) = pair.fails().await;
    assert_eq!(server, "TLS_error:PEER_DID_NOT_RETURN_A_CERTIFICATE");
    assert_eq!(pair.count("listener.x.ssl.fail_verify_no_cert"), 1);
    let stranger = leaf(&other, vec![uri("spiffe://test/client")]);
    let pair = mutual(&ca, Some(&stranger), trusting(&ca));
    let (server, _) = pair.fails().await;
    assert!(server.starts_with("TLS_error:CERTIFICATE_VERIFY_FAILED:"), "{server}");
    assert_eq!(pair.count("listener.x.ssl.fail_verify_error"), 1);
    // One failure is counted once, as in Envoy.
    assert_eq!(pair.count("listener.x.ssl.connection_error"), 0);
    assert_eq!(pair.count("listener.x.ssl.handshake"), 0);
}

#[tokio::test]
async fn a_client_certificate_that_is_not_required_may_be_absent_but_not_wrong() {
    let (ca, other) = (Authority::new("root"), Authority::new("other"));
    let mut server = downstream(&[&leaf(&ca, vec![dns("server.test")])]);
    server.common.validation = trusting(&ca).into();
    let (good, bad) = (leaf(&ca, vec![]), leaf(&other, vec![]));
    let pair = Pair::new(&server, &upstream(&[]));
    assert!(pair.works().await.0.peer.is_none());
    assert_eq!(pair.count("listener.x.ssl.no_certificate"), 1);
    assert!(Pair::new(&server, &upstream(&[&good])).works().await.0.peer.is_some());
    Pair::new(&server, &upstream(&[&bad])).fails().await;
}

#[tokio::test]
async fn a_required_certificate_without_roots_must_be_there_and_may_be_any() {
    let ca = Authority::new("root");
    let mut server = downstream(&[&leaf(&ca, vec![dns("server.test")])]);
    server.require_client_certificate = true;
    Pair::new(&server, &upstream(&[])).fails().await;
    Pair::new(&server, &upstream(&[&leaf(&ca, vec![])])).works().await;
}

#[tokio::test]
async fn the_upstream_is_verified_when_there_is_something_to_verify_with() {
    let (ca, other) = (Authority::new("root"), Authority::new("other"));
    let server = downstream(&[&leaf(&ca, vec![dns("server.test")])]);
    // No validation context at all: Envoy takes any certificate.
    Pair::new(&server, &upstream(&[])).works().await;
    let mut client = upstream(&[]);
    client.common.validation = trusting(&other).into();
    let pair = Pair::new(&server, &client);
    let (_, error) = pair.fails().await;
    assert!(error.starts_with("TLS_error:CERTIFICATE_VERIFY_FAILED:"), "{error}");
    assert_eq!(pair.count("cluster.y.ssl.fail_verify_error"), 1);
}

#[tokio::test]
async fn a_peer_must_have_one_of_the_wanted_names() {
    let ca = Authority::new("root");
    let names = vec![dns("*.svc.test"), uri("spiffe://test/ns/a/sa/b"), ip("10.1.2.3")];
    let client = leaf(&ca, names);
    let wanted = |kind, matcher| CertificateValidation {
        san_matchers: vec![SanMatcher { kind, matcher: StringMatcher { matcher, ignore_case: false } }],
        ..trusting(&ca)
    };
    let good = [
        (SanKind::Dns, StringMatch::Exact("a.svc.test".into())),
        (SanKind::Dns, StringMatch::Suffix(".svc.test".into())),
        (SanKind::Uri, StringMatch::Prefix("spiffe://test/".into())),
        (SanKind::Uri, StringMatch::Contains("/ns/a/".into())),
        (SanKind::Ip, StringMatch::Exact("10.1.2.3".into())),
    ];
    for (kind, matcher) in good {
        mutual(&ca, Some(&client), wanted(kind, matcher)).works().await;
    }
    let bad = [
        (SanKind::Dns, StringMatch::Exact("a.b.svc.test".into())),
        (SanKind::Uri, StringMatch::Exact("spiffe://test/".into())),
        (SanKind::Email, StringMatch::Contains("".into())),
    ];
    for (kind, matcher) in bad {
        let pair = mutual(&ca, Some(&client), wanted(kind, matcher));
        let (error, _) = pair.fails().await;
        assert!(error.ends_with("verify cert failed: SAN matcher"), "{error}");
        assert_eq!(pair.count("listener.x.ssl.fail_verify_san"), 1);
    }
}

#[tokio::test]
async fn revoked_and_unknown_certificates_are_refused() {
    let ca = Authority::new("root");
    let leaf_of = |serial| ca.leaf(Wish { serial, ..Wish::default() });
    let listing = |text: String| CertificateValidation { crl: Some(inline(&text)), ..trusting(&ca) };
    mutual(&ca, Some(&leaf_of(7)), listing(ca.crl(&[8]))).works().await;
    mutual(&ca, Some(&leaf_of(8)), listing(ca.crl(&[8]))).fails().await;
    // A list of another authority says nothing of ours: unknown is refused.
    mutual(&ca, Some(&leaf_of(7)), listing(Authority::new("other").crl(&[]))).fails().await;
}

#[tokio::test]
async fn an_expired_certificate_passes_only_where_that_is_allowed() {
    let (ca, other) = (Authority::new("root"), Authority::new("other"));
    let old = |ca: &Authority| ca.leaf(Wish { expired: true, ..Wish::default() });
    let allowing = CertificateValidation { allow_expired: true, ..trusting(&ca) };
    mutual(&ca, Some(&old(&ca)), trusting(&ca)).fails().await;
    mutual(&ca, Some(&old(&ca)), allowing.clone()).works().await;
    mutual(&ca, Some(&old(&other)), allowing).fails().await;
}

#[tokio::test]
async fn hashes_depth_and_untrusted_chains_follow_their_settings() {
    let ca = Authority::new("root");
    let middle = ca.intermediate("middle");
    let mut client = leaf(&middle, vec![uri("spiffe://test/client")]);
    client.cert.push_str(&middle.pem());
    let depth = |depth| CertificateValidation { max_verify_depth: Some(depth), ..trusting(&ca) };
    let (server, _) = mutual(&ca, Some(&client), depth(2)).works().await;
    mutual(&ca, Some(&client), depth(1)).fails().await;
    let hash = server.peer.expect("a peer").sha256.clone();
    let bytes: Vec<u8> =
        (0..32).map(|i| u8::from_str_radix(&hash[2 * i..2 * i + 2], 16).expect("hex")).collect();
    let hashes =
        |hash: [u8; 32]| CertificateValidation { certificate_hashes: vec![hash], ..Default::default() };
    mutual(&ca, Some(&client), hashes(bytes.try_into().expect("32"))).works().await;
    let pair = mutual(&ca, Some(&client), hashes([7; 32]));
    pair.fails().await;
    assert_eq!(pair.count("listener.x.ssl.fail_verify_cert_hash"), 1);
    // What trusted_ca names is trusted itself, be it a leaf or an intermediate.
    mutual(&ca, Some(&client), trusting(&middle)).works().await;
    let own = CertificateValidation { trusted_ca: Some(inline(&client.cert)), ..Default::default() };
    mutual(&ca, Some(&client), own).works().await;
    let untrusted = CertificateValidation { accept_untrusted: true, ..trusting(&Authority::new("other")) };
    mutual(&ca, Some(&client), untrusted).works().await;
}

#[tokio::test]
async fn the_certificate_is_chosen_by_name_and_by_what_the_client_can_check() {
    let ca = Authority::new("root");
    let rsa = |name: &str| {
        ca.leaf(Wish { names: vec![dns(name)], algorithm: &rcgen::PKCS_RSA_SHA256, ..Wish::default() })
    };
    let first = leaf(&ca, vec![dns("first.test")]);
    let wild = leaf(&ca, vec![dns("*.wild.test")]);
    let (both_rsa, both_ecdsa) = (rsa("both.test"), leaf(&ca, vec![dns("both.test")]));
    let server = downstream(&[&first, &wild, &both_rsa, &both_ecdsa]);
    let pair = Pair::new(&server, &upstream(&[]));
    let ask = async |name| {
        let target = TlsTarget { sni: Some(name), ..TlsTarget::default() };
        let (server, client) = pair.shake(target).await;
        let shown = client.expect("agreed").peer.expect("a certificate");
        assert_eq!(server.expect("agreed").local.expect("ours").sha256, shown.sha256);
        shown
    };
    assert_eq!(ask("first.test").await.dns_sans, ["first.test"]);
    assert_eq!(ask("a.wild.test").await.dns_sans, ["*.wild.test"]);
    assert_eq!(ask("other.test").await.dns_sans, ["first.test"]);
    assert_eq!(ask("outbound_.80_._.both.test").await.dns_sans, ["first.test"]);
    let mut limited = upstream(&[]);
    limited.common.max_version = TlsVersion::V12;
    limited.common.cipher_suites = vec!["ECDHE-RSA-AES256-GCM-SHA384".into()];
    limited.sni = "both.test".into();
    let (_, client) = Pair::new(&server, &upstream(&[]))
        .shake(TlsTarget { sni: Some("both.test"), ..Default::default() })
        .await;
    let ecdsa = client.expect("agreed").peer.expect("a certificate").sha256.clone();
    let (_, info) = Pair::new(&server, &limited).works().await;
    assert_eq!((info.version, info.cipher), ("TLSv1.2", "ECDHE-RSA-AES256-GCM-SHA384"));
    assert_ne!(info.peer.expect("a certificate").sha256, ecdsa);
    let mut strict = server.clone();
    strict.require_sni = true;
    Pair::new(&strict, &upstream(&[])).fails().await;
}

#[tokio::test]
async fn alpn_goes_by_the_servers_order_and_its_absence_is_no_failure() {
    let ca = Authority::new("root");
    let mut server = downstream(&[&leaf(&ca, vec![dns("server.test")])]);
    server.common.alpn = vec!["h2".into(), "http/1.1".into()];
    let pair = Pair::new(&server, &upstream(&[]));
    let offer = async |alpn| {
        let (server, client) = pair.shake(TlsTarget { alpn: Some(alpn), ..TlsTarget::default() }).await;
        let (server, client) = (server.expect("agreed").alpn, client.expect("agreed").alpn);
        assert_eq!(server, client);
        server
    };
    assert_eq!(offer(AlpnDefault::Auto).await.as_deref(), Some("h2"));
    assert_eq!(offer(AlpnDefault::Http1).await.as_deref(), Some("http/1.1"));
    assert_eq!(offer(AlpnDefault::None).await, None);
    let mut client = upstream(&[]);
    client.common.alpn = vec!["http/1.1".into(), "h2".into()];
    assert_eq!(Pair::new(&server, &client).works().await.0.alpn.as_deref(), Some("h2"));
    client.common.alpn = vec!["istio".into()];
    assert_eq!(Pair::new(&server, &client).works().await.0.alpn, None);
}

#[tokio::test]
async fn sessions_are_resumed_unless_that_is_off_and_keep_their_peer() {
    let ca = Authority::new("root");
    let client_leaf = leaf(&ca, vec![uri("spiffe://test/client")]);
    let mut server = downstream(&[&leaf(&ca, vec![dns("server.test")])]);
    server.require_client_certificate = true;
    server.common.validation = trusting(&ca).into();
    let mut client = upstream(&[&client_leaf]);
    client.sni = "server.test".into();
    for version in [TlsVersion::V12, TlsVersion::V13] {
        client.common.max_version = version;
        for (stateless, stateful) in [(true, true), (true, false), (false, true), (false, false)] {
            server.disable_stateless_resumption = !stateless;
            server.disable_stateful_resumption = !stateful;
            let pair = Pair::new(&server, &client);
            assert!(!pair.works().await.0.resumed);
            let (again, _) = pair.works().await;
            assert_eq!(again.resumed, stateless || stateful, "{version:?} {stateless} {stateful}");
            assert_eq!(again.peer.expect("a peer").uri_sans, ["spiffe://test/client"]);
        }
    }
    server.disable_stateless_resumption = false;
    server.session_ticket_keys = Some(vec![inline(&"k".repeat(80))].into());
    let pair = Pair::new(&server, &client);
    pair.works().await;
    assert!(pair.works().await.0.resumed);
    assert_eq!(pair.count("listener.x.ssl.session_reused"), 1);
    client.max_session_keys = 0;
    let pair = Pair::new(&server, &client);
    pair.works().await;
    assert!(!pair.works().await.0.resumed);
}

#[tokio::test]
async fn the_name_to_verify_is_enforced_on_resumed_sessions_too() {
    let ca = Authority::new("root");
    let server = downstream(&[&leaf(&ca, vec![dns("server.test"), ip("127.0.0.1")])]);
    let mut client = upstream(&[]);
    client.common.validation = trusting(&ca).into();
    client.sni = "server.test".into();
    let pair = Pair::new(&server, &client);
    let verify =
        async |name| pair.shake(TlsTarget { verify_name: Some(name), ..TlsTarget::default() }).await.1;
    assert!(verify("server.test").await.is_ok());
    assert!(verify("127.0.0.1").await.expect("agreed").resumed);
    let error = verify("other.test").await.expect_err("another name").to_string();
    assert!(error.ends_with("verify SAN list"), "{error}");
    assert_eq!(pair.count("cluster.y.ssl.fail_verify_san"), 1);
}

#[test]
fn contexts_that_cannot_be_are_refused_with_the_field_and_the_reason() {
    let ca = Authority::new("root");
    let registry = Registry::new();
    let scope = registry.scope("listener.x.");
    let error = |tls: &DownstreamTls| {
        let tls = Arc::new(tls.clone()).resolve(&|_| None).expect("static");
        ServerTls::build(&tls, &scope).expect_err("an error").to_string()
    };
    let (one, other) = (leaf(&ca, vec![]), leaf(&ca, vec![]));
    let mixed = Leaf { cert: one.cert.clone(), key: other.key };
    assert!(error(&downstream(&[&mixed])).contains("does not belong to the certificate"));
    let junk = Leaf { cert: "junk".into(), key: one.key.clone() };
    assert!(error(&downstream(&[&junk])).starts_with("test.field: inline: no PEM certificate in it"));
    assert!(error(&downstream(&[])).contains("at least one certificate"));
    let mut tls = downstream(&[&one]);
    let san = SanMatcher { kind: SanKind::Dns, matcher: StringMatcher::exact("a") };
    tls.common.validation = CertificateValidation { san_matchers: vec![san], ..Default::default() }.into();
    assert!(error(&tls).contains("give a trusted_ca"));
    let mut tls = downstream(&[&one]);
    tls.session_ticket_keys = Some(vec![inline("short")].into());
    assert!(error(&tls).contains("it must have 80"));
}

#[test]
fn a_context_narrows_when_it_believes_less_and_not_when_it_believes_more() {
    let (ca, other) = (Authority::new("root"), Authority::new("other"));
    let context = |validation: Option<CertificateValidation>| {
        let mut client = upstream(&[]);
        if let Some(validation) = validation {
            client.common.validation = validation.into();
        }
        Pair::new(&downstream(&[&leaf(&ca, vec![])]), &client).client
    };
    let both = || CertificateValidation {
        trusted_ca: Some(inline(&format!("{}{}", ca.pem(), other.pem()))),
        ..CertificateValidation::default()
    };
    let (none, one, two) = (context(None), context(Some(trusting(&ca))), context(Some(both())));
    assert!(one.narrows(&none) && one.narrows(&two));
    assert!(!two.narrows(&one) && !one.narrows(&one));
    let listed = context(Some(CertificateValidation { crl: Some(inline(&ca.crl(&[8]))), ..trusting(&ca) }));
    assert!(listed.narrows(&one));
}
