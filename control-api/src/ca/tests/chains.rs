//! What is signed: chains that others believe, never longer than their issuer; and authorities that are refused by what is wrong.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use super::harness::{DAY, HOUR, believed, domain, own, pem, web, workload_key};
use crate::ca::authority::seconds;
use crate::ca::supplied::Supplied;
use crate::ca::{Ca, IssueError};

#[test]
fn a_chain_is_believed_by_others_and_says_who_it_is() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let ca = own(dir.path(), now).unwrap();
    let signed = ca.issue(&workload_key(), &web(), None, now).unwrap();
    let bundle = ca.bundle().borrow().roots.clone();
    assert_eq!((signed.chain.len(), bundle.len()), (2, 1));
    assert_ne!(believed(dir.path(), &signed.chain, &bundle, now), Some(false));
    assert_eq!(ca.recognise(&signed.chain, now), Ok(web()));

    let (_, leaf) = X509Certificate::from_der(&signed.chain[0]).unwrap();
    let names = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(names.value.general_names, [GeneralName::URI("spiffe://cluster.local/ns/shop/sa/web")]);
    assert!(names.critical, "the subject is empty");
    assert_eq!(leaf.subject().iter_attributes().count(), 0);
    assert!(!leaf.basic_constraints().unwrap().unwrap().value.ca);
    let usage = leaf.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && !usage.key_cert_sign());
    let (from, until) = (leaf.validity().not_before.timestamp(), leaf.validity().not_after.timestamp());
    assert_eq!((from, until), (seconds(now) - 60, seconds(now) + 24 * 3600));
    assert_eq!((signed.not_before, signed.not_after), (from, until));

    // Another one has another serial number of the same length.
    let other = ca.issue(&workload_key(), &web(), None, now).unwrap();
    assert!(signed.serial.len() == 32 && other.serial.len() == 32 && signed.serial != other.serial);
}

#[test]
fn constraints_of_the_intermediate_hold() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let ca = own(dir.path(), now).unwrap();
    let roots = ca.bundle().borrow().roots.clone();
    let text = std::fs::read_to_string(dir.path().join("ca/1/issuer.pem")).unwrap();
    let issuer = Issuer::from_ca_cert_pem(
        &text,
        KeyPair::from_pem(&text[text.find("-----BEGIN PRIVATE").unwrap()..]).unwrap(),
    );
    let issuer = issuer.unwrap();
    let above = ca.issue(&workload_key(), &web(), None, now).unwrap().chain[1].clone();
    // Whoever stole its key can neither pass for a host nor make authorities.
    let host = CertificateParams::new(vec!["bank.example.com".to_owned()]).unwrap();
    let host = host.signed_by(&KeyPair::generate().unwrap(), &issuer).unwrap();
    assert_ne!(believed(dir.path(), &[host.der().clone(), above.clone()], &roots, now), Some(true));
    assert!(ca.recognise(&[host.der().clone(), above.clone()], now).is_err());
    let mut below = authority("below");
    below.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let key = KeyPair::generate().unwrap();
    let made = below.signed_by(&key, &issuer).unwrap();
    let mut leaf = CertificateParams::default();
    leaf.distinguished_name = DistinguishedName::new();
    leaf.subject_alt_names =
        vec![rcgen::SanType::URI("spiffe://cluster.local/ns/shop/sa/web".try_into().unwrap())];
    let leaf = leaf.signed_by(&KeyPair::generate().unwrap(), &Issuer::new(below, key)).unwrap();
    let chain = [leaf.der().clone(), made.der().clone(), above];
    assert_ne!(believed(dir.path(), &chain, &roots, now), Some(true));
    assert!(ca.recognise(&chain, now).is_err());
}

#[test]
fn a_life_is_what_was_asked_for_within_limits() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let ca = own(dir.path(), now).unwrap();
    let life = |asked| ca.issue(&workload_key(), &web(), asked, now).map(|it| it.not_after - seconds(now));
    assert_eq!(life(Some(HOUR)).unwrap(), 3600);
    assert_eq!(life(Some(DAY * 30)).unwrap(), 24 * 3600, "cut down to what is given");
    assert!(matches!(life(Some(Duration::from_secs(599))), Err(IssueError::TooShort(_))));
}

#[test]
fn a_certificate_that_ended_or_is_of_another_mesh_is_nobody() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let ca = own(dir.path(), now).unwrap();
    let signed = ca.issue(&workload_key(), &web(), Some(HOUR), now).unwrap();
    assert!(ca.recognise(&signed.chain, now + HOUR * 2).is_err());
    assert!(ca.recognise(&[], now).is_err());
    let other = tempfile::tempdir().unwrap();
    let other = Ca::own(other.path(), domain(), DAY, now).unwrap();
    assert!(other.recognise(&signed.chain, now).is_err());
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.use_authority_key_identifier_extension = true;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + DAY * 365).into();
    params
}

/// A root and an intermediate, changed, as files.
fn files(
    dir: &Path,
    root: impl FnOnce(&mut CertificateParams),
    issuer: impl FnOnce(&mut CertificateParams),
) -> Supplied {
    let write = |name: &str, text: String| -> PathBuf {
        std::fs::write(dir.join(name), text).unwrap();
        dir.join(name)
    };
    let (mut above, mut below) = (authority("root"), authority("issuer"));
    root(&mut above);
    issuer(&mut below);
    let (root_key, key) = (KeyPair::generate().unwrap(), KeyPair::generate().unwrap());
    let root = above.self_signed(&root_key).unwrap();
    let issuer = below.signed_by(&key, &Issuer::new(above, root_key)).unwrap();
    Supplied {
        certificate: write("issuer.pem", issuer.pem()),
        key: write("issuer.key", key.serialize_pem()),
        root: Some(write("roots.pem", root.pem())),
    }
}

fn supplied(files: Supplied) -> Result<Ca, String> {
    Ca::supplied(files, None, domain(), DAY, SystemTime::now()).map_err(|error| format!("{error:#}"))
}

#[test]
fn a_supplied_authority_signs_and_never_beyond_its_own_end() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let ca = supplied(files(dir.path(), |_| (), |it| it.not_after = (now + HOUR * 3).into())).unwrap();
    let signed = ca.issue(&workload_key(), &web(), None, now).unwrap();
    assert!((seconds(now) + 3 * 3600 - signed.not_after).abs() <= 1);
    assert_ne!(believed(dir.path(), &signed.chain, &ca.bundle().borrow().roots, now), Some(false));
    // Shortly before its end it signs no more.
    let late = now + HOUR * 3 - Duration::from_secs(60);
    assert!(matches!(ca.issue(&workload_key(), &web(), None, late), Err(IssueError::Authority(_))));
}

#[test]
fn a_root_alone_signs_too() {
    let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap();
    let (certificate, at) = (dir.path().join("ca.pem"), dir.path().join("ca.key"));
    std::fs::write(&certificate, authority("alone").self_signed(&key).unwrap().pem()).unwrap();
    std::fs::write(&at, key.serialize_pem()).unwrap();
    let ca = supplied(Supplied { certificate, key: at, root: None }).unwrap();
    let signed = ca.issue(&workload_key(), &web(), None, now).unwrap();
    assert_eq!(signed.chain.len(), 1);
    assert_ne!(believed(dir.path(), &signed.chain, &ca.bundle().borrow().roots, now), Some(false));
}

#[test]
fn an_authority_that_peers_would_not_believe_is_refused_by_what_is_wrong() {
    let now = SystemTime::now();
    type Change = Box<dyn FnOnce(&mut CertificateParams)>;
    let keep = || -> Change { Box::new(|_| ()) };
    let cases: Vec<(Change, Change, &str)> = vec![
        (keep(), Box::new(|it| it.is_ca = IsCa::ExplicitNoCa), "CA:TRUE"),
        (keep(), Box::new(|it| it.key_usages = vec![KeyUsagePurpose::CrlSign]), "keyCertSign"),
        (keep(), Box::new(move |it| it.not_after = (now - HOUR / 2).into()), "mend the clock"),
        (keep(), Box::new(move |it| it.not_before = (now + HOUR).into()), "mend the clock"),
        (Box::new(|it| it.is_ca = IsCa::ExplicitNoCa), keep(), "CA:TRUE"),
        (Box::new(move |it| it.not_after = (now - HOUR / 2).into()), keep(), "ended"),
        (
            keep(),
            Box::new(|it| it.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::CodeSigning]),
            "not believed",
        ),
        (
            keep(),
            Box::new(|it| {
                // URIs of "elsewhere" alone.
                let content = [&[0x30, 0x0f, 0xa0, 0x0d, 0x30, 0x0b, 0x86, 0x09], &b"elsewhere"[..]].concat();
                let mut constraints = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
                constraints.set_criticality(true);
                it.custom_extensions = vec![constraints];
            }),
            "not believed",
        ),
    ];
    for (index, (root, issuer, part)) in cases.into_iter().enumerate() {
        let dir = tempfile::tempdir().unwrap();
        let error = supplied(files(dir.path(), root, issuer)).unwrap_err();
        assert!(error.contains(part) && error.contains("--ca-"), "case {index}: {error}");
    }
}

#[test]
fn files_that_do_not_go_together_are_refused_by_name() {
    let dir = tempfile::tempdir().unwrap();
    let good = files(dir.path(), |_| (), |_| ());
    assert!(supplied(good.clone()).is_ok());
    let refused = |files: Supplied, part: &str| {
        let error = supplied(files).unwrap_err();
        assert!(error.contains(part), "{error}");
    };
    let write = |name: &str, text: &str| -> PathBuf {
        std::fs::write(dir.path().join(name), text).unwrap();
        dir.path().join(name)
    };
    let other = KeyPair::generate().unwrap().serialize_pem();
    refused(Supplied { key: write("other.key", &other), ..good.clone() }, "does not belong");
    refused(Supplied { root: None, ..good.clone() }, "--ca-root");
    let stranger = authority("root").self_signed(&KeyPair::generate().unwrap()).unwrap();
    let roots = write("stranger.pem", &pem(stranger.der()));
    refused(Supplied { root: Some(roots), ..good.clone() }, "not believed");
    refused(Supplied { key: write("cut.key", &other[..60]), ..good.clone() }, "--ca-key");
    refused(Supplied { certificate: write("empty.pem", ""), ..good.clone() }, "empty.pem");
    refused(Supplied { certificate: dir.path().join("none"), ..good.clone() }, "--ca-cert");
    let error = supplied(Supplied { key: write("bad.key", &other.replace('M', "N")), ..good }).unwrap_err();
    assert!(!error.contains(&other[40..80]), "no part of a key is in a message: {error}");
}
