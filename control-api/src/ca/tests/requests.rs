//! Signing requests: the good ones give their key, each bad one has its own reason.

use proptest::prelude::*;
use rcgen::{
    Attribute, BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};

use crate::ca::csr::{CsrError, LARGEST, judge};
use crate::ca::key::KeyKind;

const WEB: &str = "spiffe://cluster.local/ns/shop/sa/web";

fn san(uri: &str) -> SanType {
    SanType::URI(uri.try_into().unwrap())
}

/// A request in DER, of a P-256 key.
fn request(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    change(&mut params);
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
}

/// One with a password in it (RFC 2985, 5.4.1).
fn challenge() -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    let password = Attribute { oid: &[1, 2, 840, 113_549, 1, 9, 7], values: b"\x31\x05\x0c\x03abc".to_vec() };
    let key = KeyPair::generate().unwrap();
    params.serialize_request_with_attributes(&key, vec![password]).unwrap().der().to_vec()
}

fn reason(request: &[u8]) -> &'static str {
    judge(request, WEB).map_or_else(|error| error.reason(), |_| "granted")
}

#[test]
fn every_kind_of_key_that_is_strong_enough_is_taken() {
    for (algorithm, kind) in [
        (&rcgen::PKCS_ECDSA_P256_SHA256, KeyKind::P256),
        (&rcgen::PKCS_ECDSA_P384_SHA384, KeyKind::P384),
        (&rcgen::PKCS_ED25519, KeyKind::Ed25519),
        (&rcgen::PKCS_RSA_SHA256, KeyKind::Rsa),
        (&rcgen::PKCS_RSA_SHA512, KeyKind::Rsa),
    ] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names = vec![san(WEB)];
        let made = params.serialize_request(&key).unwrap();
        for bytes in [made.der().to_vec(), made.pem().unwrap().into_bytes()] {
            assert_eq!(judge(&bytes, WEB).map(|key| key.kind()), Ok(kind));
        }
    }
    // As openssl and Istio's agents write them: an organisation that is empty, names marked critical.
    for good in [include_str!("fixtures/good_p256.pem"), include_str!("fixtures/good_rsa.pem")] {
        assert_eq!(reason(good.as_bytes()), "granted");
    }
}

#[test]
fn a_request_without_names_or_with_the_usages_that_are_given_anyway_is_granted() {
    assert_eq!(reason(&request(|_| ())), "granted");
    let usages = request(|it| {
        it.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        it.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        it.is_ca = IsCa::ExplicitNoCa;
    });
    assert_eq!(reason(&usages), "granted");
}

#[test]
fn each_bad_request_has_its_own_reason() {
    let named = |name: SanType| request(|it| it.subject_alt_names = vec![name]);
    let cases: Vec<(Vec<u8>, &str)> = vec![
        (Vec::new(), "csr_empty"),
        (vec![0x30; LARGEST + 1], "csr_too_large"),
        (b"hello".to_vec(), "csr_malformed"),
        (include_bytes!("fixtures/rsa1024.pem").to_vec(), "csr_key_weak"),
        (include_bytes!("fixtures/rsa_e3.pem").to_vec(), "csr_key_weak"),
        (include_bytes!("fixtures/secp256k1.pem").to_vec(), "csr_key_kind"),
        (include_bytes!("fixtures/p521.pem").to_vec(), "csr_key_kind"),
        (include_bytes!("fixtures/explicit.pem").to_vec(), "csr_key_kind"),
        (include_bytes!("fixtures/sha1.pem").to_vec(), "csr_signature_weak"),
        (include_bytes!("fixtures/pss.pem").to_vec(), "csr_signature_kind"),
        (challenge(), "csr_attribute"),
        (request(|it| it.distinguished_name.push(DnType::CommonName, "web.shop")), "csr_subject"),
        (request(|it| it.distinguished_name.push(DnType::OrganizationName, "outrider:admin")), "csr_subject"),
        (named(san("spiffe://cluster.local/ns/shop/sa/admin")), "csr_name"),
        (named(san("spiffe://cluster.local/ns/shop/sa/web/")), "csr_name"),
        (named(SanType::DnsName("web.shop".try_into().unwrap())), "csr_name"),
        (named(SanType::IpAddress([10, 0, 0, 1].into())), "csr_name"),
        (
            request(|it| {
                it.subject_alt_names = vec![san(WEB), san("spiffe://cluster.local/ns/bank/sa/till")]
            }),
            "csr_name",
        ),
        (request(|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)), "csr_authority"),
        (request(|it| it.key_usages = vec![KeyUsagePurpose::KeyCertSign]), "csr_authority"),
        (request(|it| it.key_usages = vec![KeyUsagePurpose::ContentCommitment]), "csr_usage"),
        (request(|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::Any]), "csr_usage"),
        (request(|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning]), "csr_usage"),
        (
            request(|it| {
                let extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], vec![5, 0]);
                it.custom_extensions = vec![extension];
            }),
            "csr_extension",
        ),
    ];
    for (index, (request, want)) in cases.iter().enumerate() {
        assert_eq!(reason(request), *want, "case {index}: {:?}", judge(request, WEB));
    }
}

#[test]
fn a_signature_of_another_key_is_noticed() {
    let mut der = request(|_| ());
    // In the last integer of the signature.
    let last = der.len() - 1;
    der[last] ^= 1;
    assert_eq!(judge(&der, WEB), Err(CsrError::Signature));
    // The key of one in the request of another: the first bytes of the point.
    let mut der = request(|_| ());
    let at = der.windows(4).position(|it| it == [0x03, 0x42, 0x00, 0x04]).unwrap();
    der[at + 10] ^= 1;
    assert_eq!(judge(&der, WEB), Err(CsrError::Signature));
}

#[test]
fn what_stands_around_a_request_is_refused() {
    let der = request(|_| ());
    let longer = [der.clone(), vec![0]].concat();
    assert_eq!(reason(&longer), "csr_malformed");
    let pem = include_str!("fixtures/good_p256.pem");
    assert_eq!(reason(format!("{pem}{pem}").as_bytes()), "csr_malformed");
    assert_eq!(reason(format!("\n {pem}\n").as_bytes()), "granted");
    assert_eq!(reason(&pem.as_bytes()[..pem.len() - 30]), "csr_malformed");
    let certificate = pem.replace("CERTIFICATE REQUEST", "CERTIFICATE");
    assert_eq!(reason(certificate.as_bytes()), "csr_malformed");
}

proptest! {
    #[test]
    fn rubbish_is_refused_and_nothing_else_happens(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        prop_assert!(judge(&bytes, WEB).is_err());
    }

    #[test]
    fn rubbish_in_pem_is_refused(bytes in proptest::collection::vec(any::<u8>(), 0..500)) {
        use base64::Engine as _;
        let text = base64::engine::general_purpose::STANDARD.encode(bytes);
        let pem = format!("-----BEGIN CERTIFICATE REQUEST-----\n{text}\n-----END CERTIFICATE REQUEST-----\n");
        prop_assert!(judge(pem.as_bytes(), WEB).is_err());
    }

    /// What is granted is signed by its key: whatever byte of it is changed, nothing but that key is ever granted (the frame
    /// around what is signed may be written in more than one way).
    #[test]
    fn a_request_with_one_byte_changed_gives_no_other_key(at in 0_usize..10_000, flip in 1_u8..=255) {
        let mut der = GOOD.with(Clone::clone);
        let at = at % der.len();
        der[at] ^= flip;
        let same = judge(&GOOD.with(Clone::clone), WEB);
        let judged = judge(&der, WEB);
        prop_assert!(judged.is_err() || judged == same, "byte {}", at);
    }

    #[test]
    fn a_request_cut_short_is_refused(length in 0_usize..10_000) {
        let der = GOOD.with(Clone::clone);
        prop_assert!(judge(&der[..length % der.len()], WEB).is_err());
    }
}

thread_local! {
    static GOOD: Vec<u8> = request(|it| it.subject_alt_names = vec![san(WEB)]);
}
