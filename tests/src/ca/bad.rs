//! Certificates that nobody should believe, for either side of TLS: each but for one thing as `bad-none`, which is good.

use std::{fs, path::Path};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_RSA_SHA256, PublicKeyData, SanType, SerialNumber,
    SignatureAlgorithm, date_time_ymd,
};

use super::Authority;

/// The files (`NAME.pem`, `NAME.key`), and the word by which Outrider counts why it refuses them: where names of the trust
/// domain `test` are asked for by a URI matcher, and the authority is that of `ca.pem`.
pub const BAD: [(&str, &str); 15] = [
    ("bad-expired", "expired"),
    ("bad-future", "not_yet_valid"),
    ("bad-usage", "key_usage"),
    ("bad-purpose", "extended_key_usage"),
    ("bad-domain", "trust_domain"),
    ("bad-common-name", "no_san"),
    ("bad-self-alike", "look_alike"),
    ("bad-alike", "look_alike"),
    ("bad-unknown", "unknown_issuer"),
    ("bad-path", "path_length"),
    ("bad-names", "name_constraints"),
    ("bad-middle", "key_usage"),
    ("bad-leaf-issuer", "leaf_as_authority"),
    ("bad-large", "too_large"),
    ("bad-weak", "weak_key"),
];

/// A public RSA key of 1024 bits. Nobody has the private one: who verifies the certificate first needs none to refuse it.
struct Short(Vec<u8>);

impl Short {
    fn new() -> Self {
        // RSAPublicKey: a sequence of the modulus and 65537.
        let mut der = vec![0x30, 0x81, 0x89, 0x02, 0x81, 0x81, 0x00];
        der.extend([0xc5; 128]);
        der.extend([0x02, 0x03, 0x01, 0x00, 0x01]);
        Self(der)
    }
}

impl PublicKeyData for Short {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_RSA_SHA256
    }
}

type Issuer = CertifiedIssuer<'static, KeyPair>;

/// What a good one says.
fn leaf() -> Result<CertificateParams> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "client.test");
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(2040, 1, 1);
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![
        SanType::DnsName("client.test".try_into()?),
        SanType::DnsName("upstream.test".try_into()?),
        SanType::URI("spiffe://test/client".try_into()?),
        SanType::IpAddress([127, 0, 0, 1].into()),
    ];
    Ok(params)
}

fn authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_after = date_time_ymd(2045, 1, 1);
    params
}

/// Writes a leaf by `issuer`, with what stands `behind` it in the chain.
fn write(
    dir: &Path,
    file: &str,
    params: &CertificateParams,
    issuer: &Issuer,
    behind: &[String],
) -> Result<()> {
    let key = KeyPair::generate()?;
    let cert = params.signed_by(&key, issuer)?.pem();
    put(dir, file, &format!("{cert}{}", behind.concat()), &key)
}

fn put(dir: &Path, file: &str, chain: &str, key: &KeyPair) -> Result<()> {
    fs::write(dir.join(format!("{file}.pem")), chain)?;
    Ok(fs::write(dir.join(format!("{file}.key")), key.serialize_pem())?)
}

/// Writes all of [`BAD`], and `bad-none`, which is good, into `dir`. `ca` is believed, `other` is not.
pub(super) fn write_all(dir: &Path, ca: &Authority, other: &Authority) -> Result<()> {
    let (ca, other) = (&ca.0, &other.0);
    let alone = |file: &str, change: fn(&mut CertificateParams)| {
        let mut params = leaf()?;
        change(&mut params);
        write(dir, file, &params, ca, &[])
    };
    alone("bad-none", |_| {})?;
    alone("bad-expired", |params| params.not_after = date_time_ymd(2021, 1, 1))?;
    alone("bad-future", |params| params.not_before = date_time_ymd(2039, 1, 1))?;
    alone("bad-usage", |params| params.key_usages = vec![KeyUsagePurpose::KeyAgreement])?;
    alone("bad-purpose", |params| params.extended_key_usages = vec![ExtendedKeyUsagePurpose::CodeSigning])?;
    alone("bad-common-name", |params| params.subject_alt_names.clear())?;
    let mut domain = leaf()?;
    domain.subject_alt_names = vec![
        SanType::URI("spiffe://elsewhere/client".try_into()?),
        SanType::DnsName("upstream.test".try_into()?),
    ];
    write(dir, "bad-domain", &domain, ca, &[])?;
    write(dir, "bad-unknown", &leaf()?, other, &[])?;
    look_alikes(dir)?;
    chains(dir, ca)?;

    let key = KeyPair::generate()?;
    put(dir, "bad-weak", &leaf()?.signed_by(&Short::new(), ca)?.pem(), &key)?;
    let mut long = leaf()?;
    long.serial_number = Some(SerialNumber::from(7));
    for i in 0..600 {
        let name = format!("name-{i}.of-a-certificate-that-is-far-too-long.test");
        long.subject_alt_names.push(SanType::DnsName(name.try_into()?));
    }
    let filler = long.signed_by(&KeyPair::generate()?, ca)?.pem();
    let mut behind = String::new();
    while behind.len() < 1 << 20 {
        behind.push_str(&filler);
    }
    write(dir, "bad-large", &leaf()?, ca, &[behind])
}

/// Those that have the name of the authority, but not its key.
fn look_alikes(dir: &Path) -> Result<()> {
    let mut own = leaf()?;
    own.distinguished_name.push(DnType::CommonName, "Test CA");
    let key = KeyPair::generate()?;
    put(dir, "bad-self-alike", &own.self_signed(&key)?.pem(), &key)?;
    let alike = Issuer::self_signed(authority("Test CA"), KeyPair::generate()?)?;
    write(dir, "bad-alike", &leaf()?, &alike, &[alike.pem()])
}

/// Those with authorities between that may not be there.
fn chains(dir: &Path, ca: &Issuer) -> Result<()> {
    let below = |params: CertificateParams, issuer: &Issuer| -> Result<Issuer> {
        Ok(Issuer::signed_by(params, KeyPair::generate()?, issuer)?)
    };
    let mut last = authority("The last");
    last.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    let last = below(last, ca)?;
    let one_more = below(authority("One more"), &last)?;
    write(dir, "bad-path", &leaf()?, &one_more, &[one_more.pem(), last.pem()])?;

    let mut narrow = authority("Narrow");
    narrow.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName("allowed.test".to_owned())],
        excluded_subtrees: Vec::new(),
    });
    let narrow = below(narrow, ca)?;
    write(dir, "bad-names", &leaf()?, &narrow, &[narrow.pem()])?;

    let mut no_signer = authority("No signer");
    no_signer.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    let no_signer = below(no_signer, ca)?;
    write(dir, "bad-middle", &leaf()?, &no_signer, &[no_signer.pem()])?;

    let mut pretender = leaf()?;
    pretender.distinguished_name.push(DnType::CommonName, "Pretender");
    pretender.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign];
    let pretender = below(pretender, ca)?;
    write(dir, "bad-leaf-issuer", &leaf()?, &pretender, &[pretender.pem()])
}
