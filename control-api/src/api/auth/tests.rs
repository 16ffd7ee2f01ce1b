//! Tokens, certificates, roles, files.

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use proptest::prelude::*;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, KeyPair, SanType};
use tonic::Code;

use super::roles::Names;
use super::*;

fn folder(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("outrider-auth-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    path
}

fn certificate(change: impl FnOnce(&mut CertificateParams)) -> Peer {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    change(&mut params);
    let certificate = params.self_signed(&KeyPair::generate().unwrap()).unwrap();
    Peer { certificate: Some(certificate.der().as_ref().into()), ..Peer::default() }
}

/// A certificate with one URI.
fn named(uri: &str) -> Peer {
    certificate(|it| it.subject_alt_names.push(SanType::URI(uri.try_into().unwrap())))
}

#[test]
fn the_first_start_makes_what_is_needed_for_its_owner_alone() {
    let folder = folder("first");
    let security = AuthArgs::default().build(Some(&folder), &[]).unwrap();
    let names = [
        "tls/ca.pem",
        "tls/ca.key",
        "tls/server.pem",
        "tls/server.key",
        "tokens/tokens",
        "tokens/admin.token",
    ];
    for name in names {
        let mode = std::fs::metadata(folder.join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let token = std::fs::read_to_string(folder.join("tokens/admin.token")).unwrap();
    let header = format!("Bearer {}", token.trim());
    let identity = security.authenticator.identify(Some(header.as_bytes()), None).unwrap();
    assert_eq!((&*identity.name, identity.role), ("admin", Role::Admin));
    let stored = std::fs::read_to_string(folder.join("tokens/tokens")).unwrap();
    assert!(!stored.contains(token.trim()), "the file of tokens has hashes alone");

    // The second start keeps all of it.
    let read = |name: &str| std::fs::read(folder.join(name)).unwrap();
    let before = names.map(read);
    AuthArgs::default().build(Some(&folder), &[]).unwrap();
    assert_eq!(names.map(read), before);
    // Another name makes another certificate of the same CA.
    let args = AuthArgs { tls_name: vec!["control.test".into()], ..Default::default() };
    args.build(Some(&folder), &[]).unwrap();
    assert_ne!(read("tls/server.pem"), before[2]);
    assert_eq!(read("tls/ca.pem"), before[0]);
}

#[test]
fn a_start_that_ended_half_way_is_no_reason_not_to_start() {
    let folder = folder("half-way");
    let at = |name: &str| folder.join("tls").join(name);
    let build = |names: &[&str]| {
        let tls_name = names.iter().map(|it| (*it).to_owned()).collect();
        AuthArgs { tls_name, ..Default::default() }.build(Some(&folder), &[]).map(drop)
    };
    build(&[]).unwrap();
    let (certificate, key) =
        (std::fs::read(at("server.pem")).unwrap(), std::fs::read(at("server.key")).unwrap());
    // In the midst of a renewal for another name: its key is there, its certificate is not. Then with the names from before.
    build(&["control.test"]).unwrap();
    assert_ne!(std::fs::read(at("server.key")).unwrap(), key);
    std::fs::write(at("server.pem"), &certificate).unwrap();
    build(&[]).unwrap();
    assert_ne!(std::fs::read(at("server.pem")).unwrap(), certificate, "it is another key's");

    // A CA that has signed is not made anew.
    let ca = std::fs::read(at("ca.pem")).unwrap();
    std::fs::remove_file(at("ca.key")).unwrap();
    let error = build(&[]).unwrap_err().to_string();
    assert!(error.contains("one is missing"), "{error}");
    assert_eq!(std::fs::read(at("ca.pem")).unwrap(), ca);
    // One that has not is.
    std::fs::remove_file(at("server.key")).unwrap();
    std::fs::remove_file(at("server.pem")).unwrap();
    build(&[]).unwrap();
    assert_ne!(std::fs::read(at("ca.pem")).unwrap(), ca);
}

#[test]
fn without_a_place_for_them_flags_must_name_files() {
    let error = AuthArgs::default().build(None, &[]).unwrap_err().to_string();
    assert!(error.contains("--tls-cert") && error.contains("--insecure-loopback"), "{error}");
}

#[test]
fn the_insecure_mode_ends_at_the_loopback() {
    let args = AuthArgs { insecure_loopback: true, ..Default::default() };
    let loopback = "127.0.0.1:15020".parse().unwrap();
    assert!(args.build(None, &[loopback, "[::1]:15010".parse().unwrap()]).is_ok());
    let error = args.build(None, &[loopback, "0.0.0.0:15010".parse().unwrap()]).unwrap_err().to_string();
    assert!(error.contains("0.0.0.0:15010"), "{error}");
}

#[test]
fn tls_files_that_change_are_taken_over_and_wrong_ones_are_not() {
    let folder = folder("reload");
    AuthArgs::default().build(Some(&folder), &[]).unwrap();
    let at = |name: &str| folder.join("tls").join(name);
    let files = TlsFiles { certificate: at("server.pem"), key: at("server.key"), client_ca: None };
    let tls = Tls::load(files).unwrap();
    let first = tls.config();
    assert!(!tls.refresh().unwrap(), "nothing changed");
    let touch = |path: &std::path::Path, seconds: u64| {
        let time = std::time::SystemTime::now() + std::time::Duration::from_secs(seconds);
        std::fs::File::options().append(true).open(path).unwrap().set_modified(time).unwrap();
    };
    std::fs::write(at("server.pem"), "rubbish").unwrap();
    touch(&at("server.pem"), 10);
    let error = format!("{:#}", tls.refresh().unwrap_err());
    assert!(error.contains("server.pem"), "{error}");
    assert!(Arc::ptr_eq(&first, &tls.config()), "what was in force stays");
    std::fs::remove_file(at("server.pem")).unwrap();
    AuthArgs::default().build(Some(&folder), &[]).unwrap();
    touch(&at("server.pem"), 20);
    assert!(tls.refresh().unwrap());
    assert!(!Arc::ptr_eq(&first, &tls.config()));
}

#[test]
fn certificates_have_roles_by_their_names() {
    let authenticator = Authenticator::new(Tokens::default(), CertificateRule::defaults());
    authenticator.set_trust_domain("cluster.local".parse().unwrap());
    let workload = named("spiffe://cluster.local/ns/shop/sa/web");
    let identity = authenticator.identify(None, Some(&workload)).unwrap();
    assert_eq!((&*identity.name, identity.role), ("spiffe://cluster.local/ns/shop/sa/web", Role::Proxy));
    let admin = certificate(|it| {
        it.distinguished_name.push(DnType::CommonName, "jane");
        it.distinguished_name.push(DnType::OrganizationName, "outrider:admin");
    });
    assert_eq!(authenticator.identify(None, Some(&admin)).unwrap().role, Role::Admin);
    let stranger = certificate(|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    let status = authenticator.identify(None, Some(&stranger)).unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated);
    assert!(status.message().contains("--client-role"), "{status}");
    // A token that is wrong is no reason to look at the certificate.
    assert!(authenticator.identify(Some(b"Bearer x"), Some(&admin)).is_err());
    assert!(authenticator.identify(Some(b"Basic x"), Some(&admin)).is_err());
}

#[test]
fn a_workload_of_another_trust_domain_is_no_proxy_here_unless_the_operator_says_so() {
    let mesh = |rules| {
        let authenticator = Authenticator::new(Tokens::default(), rules);
        authenticator.set_trust_domain("cluster.local".parse().unwrap());
        authenticator
    };
    let role = |authenticator: &Authenticator, peer: &Peer| {
        authenticator.identify(None, Some(peer)).map(|it| it.role).map_err(|it| it.message().to_owned())
    };
    let without = mesh(CertificateRule::defaults());
    assert_eq!(role(&without, &named("spiffe://cluster.local/ns/shop/sa/web")), Ok(Role::Proxy));
    for uri in [
        "spiffe://partner/ns/shop/sa/web",
        "spiffe://cluster.local.partner/ns/shop/sa/web",
        "spiffe://cluster.local/web",
        "spiffe://cluster.local/ns/shop/sa/web/more",
    ] {
        let message = role(&without, &named(uri)).unwrap_err();
        assert!(
            message.contains("spiffe://cluster.local/ns/NAMESPACE") && message.contains(uri),
            "{message}"
        );
    }
    // Whose name has no namespace would be any proxy.
    let nameless = certificate(|it| {
        it.distinguished_name.push(DnType::CommonName, "edge");
        it.distinguished_name.push(DnType::OrganizationName, "outrider:proxy");
    });
    assert!(role(&without, &nameless).is_err());
    let with = mesh(vec![
        "o:outrider:proxy=proxy".parse().unwrap(),
        "uri:spiffe://partner/ns/shop/sa/*=proxy".parse().unwrap(),
    ]);
    assert_eq!(role(&with, &nameless), Ok(Role::Proxy));
    assert_eq!(role(&with, &named("spiffe://partner/ns/shop/sa/web")), Ok(Role::Proxy));
    assert!(role(&with, &named("spiffe://partner/ns/bank/sa/web")).is_err());
}

#[test]
fn a_workloads_certificate_is_good_for_its_own_namespace() {
    use outrider_proto::pb::envoy::config::core::v3::Node;
    let who = |name: &str, how, role| Identity {
        name: name.into(),
        role,
        how,
        peer: None,
        lease: Lease::default(),
    };
    let proxy = |id: &str| Proxy::from_node(&Node { id: id.into(), ..Default::default() }).unwrap();
    let shop = proxy("sidecar~10.0.0.1~web-0.shop~shop.svc.cluster.local");
    let workload = who("spiffe://cluster.local/ns/shop/sa/web", How::Certificate, Role::Proxy);
    let world = World::default();
    assert!(workload.may_be(&shop, &world).is_ok());
    let bank = proxy("sidecar~10.0.0.1~web-0.bank~bank.svc.cluster.local");
    let status = workload.may_be(&bank, &world).unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert!(status.message().contains("namespace bank"), "{status}");
    let edge = Proxy { gateway: Some(("bank".into(), "edge".into())), ..shop };
    assert!(workload.may_be(&edge, &world).is_err(), "another namespace's Gateway has its keys");
    assert!(who("proxy", How::Token, Role::Proxy).may_be(&edge, &world).is_ok());
}

#[test]
fn a_workload_is_no_other_pod_and_no_gateway_that_is_not_for_it() {
    use crate::model::read_json;
    use outrider_proto::pb::envoy::config::core::v3::Node;
    use serde_json::json;
    let object =
        |value: serde_json::Value| read_json("", value.to_string().as_bytes(), "shop").unwrap().unwrap();
    let pod = |name: &str, account: &str, ip: &str| {
        object(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop"},
            "spec": {"serviceAccountName": account, "containers": [{"name": "a"}]}, "status": {"podIP": ip, "podIPs": [{"ip": ip}]}}))
    };
    let gateway = |name: &str, annotations: serde_json::Value| {
        object(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": {"name": name, "namespace": "shop", "annotations": annotations},
            "spec": {"gatewayClassName": "outrider", "listeners": [{"name": "http", "port": 80, "protocol": "HTTP"}]}}))
    };
    let world = World::of([
        pod("web-0", "web", "10.0.0.1"),
        pod("pay-0", "pay", "10.0.0.2"),
        gateway("edge", json!({})),
        gateway("inner", json!({"outrider.dev/service-accounts": "web, other"})),
    ]);
    let may = |account: &str, id: &str, gateway: Option<&str>| {
        let proxy = Proxy::from_node(&Node { id: id.into(), ..Default::default() }).unwrap();
        let proxy = Proxy { gateway: gateway.map(|it| ("shop".into(), it.into())), ..proxy };
        let name = format!("spiffe://cluster.local/ns/shop/sa/{account}").into();
        let lease = Lease::default();
        let who = Identity { name, role: Role::Proxy, how: How::Certificate, peer: None, lease };
        who.may_be(&proxy, &world).map_err(|status| status.message().to_owned())
    };
    let web = "sidecar~10.0.0.1~web-0.shop~shop.svc.cluster.local";
    assert_eq!(may("web", web, None), Ok(()));
    assert!(may("pay", web, None).unwrap_err().contains("runs as web"));
    let elsewhere = "sidecar~10.0.0.2~web-0.shop~shop.svc.cluster.local";
    assert!(may("web", elsewhere, None).unwrap_err().contains("10.0.0.1"));
    // A pod that is not known: a virtual machine.
    assert_eq!(may("pay", "sidecar~10.9.9.9~vm-1.shop~shop.svc.cluster.local", None), Ok(()));
    let router = "router~10.0.0.9~edge-x.shop~shop.svc.cluster.local";
    assert!(may("web", router, Some("edge")).unwrap_err().contains("outrider.dev/service-accounts"));
    assert_eq!(may("edge", router, Some("edge")), Ok(()));
    assert_eq!(may("edge-outrider", router, Some("edge")), Ok(()));
    assert_eq!(may("web", router, Some("inner")), Ok(()));
    assert!(may("inner", router, Some("inner")).unwrap_err().contains("web, other"));
    assert!(may("web", router, Some("not-there")).is_err());
}

#[test]
fn patterns_do_not_cross_slashes() {
    let rule: CertificateRule = "uri:spiffe://prod-*/ns/infra/sa/*=operator".parse().unwrap();
    let names = |uri: &str| Names::of(named(uri).certificate.as_deref().unwrap()).unwrap();
    let yes = |uri: &str| rule.matches(&names(uri), None).is_some();
    assert!(yes("spiffe://prod-eu/ns/infra/sa/ci"));
    assert!(!yes("spiffe://prod-eu/ns/shop/sa/ci"));
    assert!(!yes("spiffe://prod-eu/ns/infra/sa/ci/more"));
    assert!(!yes("spiffe://prod-eu/x/ns/infra/sa/ci"));
    assert!(!yes("spiffe://prod-eu/ns/infra/sa/"));
    for bad in ["spiffe://x=admin", "uri:x", "uri:*=admin", "cn:a=root", "dn:a=admin"] {
        assert!(bad.parse::<CertificateRule>().is_err(), "{bad}");
    }
}

#[test]
fn each_method_needs_its_role() {
    use Access::{All, Open, Read, Write, Xds};
    let table = [
        ("/outrider.control.v1.Control/Apply", Write, "operator admin"),
        ("/outrider.control.v1.Control/Delete", Write, "operator admin"),
        ("/outrider.control.v1.Control/List", Read, "reader operator admin"),
        ("/outrider.control.v1.Control/Explain", Read, "reader operator admin"),
        ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Read, "reader operator admin"),
        ("/grpc.health.v1.Health/Check", Open, "reader operator admin proxy"),
        (
            "/envoy.service.discovery.v3.AggregatedDiscoveryService/StreamAggregatedResources",
            Xds,
            "admin proxy",
        ),
        ("/something.Else/Do", All, "admin"),
    ];
    for (path, access, roles) in table {
        assert_eq!(access_of(path), access, "{path}");
        let may: Vec<_> = Role::ALL.iter().filter(|role| role.may(access)).map(|role| role.name()).collect();
        assert_eq!(may.join(" "), roles, "{path}");
    }
}

#[test]
fn lines_of_tokens_say_what_is_wrong_with_them() {
    let hash = "0".repeat(64);
    let bad = [
        ("ci operator", "2 words"),
        (&format!("ci root sha256:{hash}"), "\"root\" is no role"),
        ("ci admin secret", "a token itself must not stand here"),
        ("ci admin sha256:00", "64 hexadecimal digits"),
        (&format!("a admin sha256:{hash}\nb admin sha256:{hash}"), "line 2: this token stands here twice"),
    ];
    for (text, reason) in bad {
        let error = format!("{:#}", Tokens::parse(text).unwrap_err());
        assert!(error.contains(reason), "{text}: {error}");
    }
}

proptest! {
    #[test]
    fn tokens_never_panic(text in "[a-z0-9: #\\n]{0,200}") {
        let _ = Tokens::parse(&text);
    }

    #[test]
    fn only_the_token_itself_is_known(flip in 0usize..50) {
        let token = new_token("ci", Role::Operator).unwrap();
        let tokens = Tokens::parse(&token.line).unwrap();
        prop_assert_eq!(tokens.find(token.secret.as_bytes()).map(|it| it.1), Some(Role::Operator));
        let mut other = token.secret.into_bytes();
        let at = flip % other.len();
        other[at] ^= 1;
        prop_assert!(tokens.find(&other).is_none());
    }
}
