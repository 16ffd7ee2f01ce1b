//! A test authority, and model values with their defaults.

#![expect(dead_code, unreachable_pub, reason = "each test binary uses its own part of this")]

pub mod listen;

use std::net::IpAddr;
use std::sync::Arc;

use outrider_config::model::{
    CertificateValidation, CommonTls, DataSource, DataSourceKind, DownstreamTls, TlsCertificate, TlsVersion,
    UpstreamTls, ValidationRef,
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType, IsCa,
    KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};

pub type Key = &'static rcgen::SignatureAlgorithm;

/// An authority.
pub struct Authority(pub CertifiedIssuer<'static, KeyPair>);

/// A leaf as PEM.
#[derive(Clone)]
pub struct Leaf {
    pub cert: String,
    pub key: String,
}

/// What a leaf says.
pub struct Wish {
    pub names: Vec<SanType>,
    pub expired: bool,
    pub serial: u64,
    pub algorithm: Key,
}

impl Default for Wish {
    fn default() -> Self {
        Self { names: Vec::new(), expired: false, serial: 1, algorithm: &rcgen::PKCS_ECDSA_P256_SHA256 }
    }
}

pub fn dns(name: &str) -> SanType {
    SanType::DnsName(name.try_into().expect("a DNS name"))
}

pub fn uri(name: &str) -> SanType {
    SanType::URI(name.try_into().expect("a URI"))
}

pub fn ip(name: &str) -> SanType {
    SanType::IpAddress(name.parse::<IpAddr>().expect("an address"))
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.distinguished_name.push(DnType::OrganizationName, "Acme, Inc");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn key(algorithm: Key) -> KeyPair {
    KeyPair::generate_for(algorithm).expect("a key")
}

impl Authority {
    pub fn new(name: &str) -> Self {
        let key = key(&rcgen::PKCS_ECDSA_P256_SHA256);
        Self(CertifiedIssuer::self_signed(ca_params(name), key).expect("an authority"))
    }

    /// An authority under this one.
    pub fn intermediate(&self, name: &str) -> Self {
        let key = key(&rcgen::PKCS_ECDSA_P256_SHA256);
        Self(CertifiedIssuer::signed_by(ca_params(name), key, &self.0).expect("an intermediate"))
    }

    pub fn pem(&self) -> String {
        self.0.pem()
    }

    pub fn leaf(&self, wish: Wish) -> Leaf {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "leaf");
        params.subject_alt_names = wish.names;
        params.serial_number = Some(SerialNumber::from(wish.serial));
        params.not_before = date_time_ymd(2000, 1, 1);
        params.not_after = if wish.expired { date_time_ymd(2001, 1, 1) } else { date_time_ymd(2090, 1, 1) };
        let key = key(wish.algorithm);
        let cert = params.signed_by(&key, &self.0).expect("a leaf");
        Leaf { cert: cert.pem(), key: key.serialize_pem() }
    }

    pub fn crl(&self, serials: &[u64]) -> String {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: None,
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2090, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).expect("a list").pem().expect("PEM")
    }
}

pub fn inline(text: &str) -> DataSource {
    DataSource { kind: DataSourceKind::Inline(text.as_bytes().into()), field: "test.field".into() }
}

pub fn common(leaves: &[&Leaf]) -> CommonTls {
    let certificate = |leaf: &&Leaf| {
        TlsCertificate { chain: inline(&leaf.cert), key: inline(&leaf.key), ocsp_staple: None }.into()
    };
    CommonTls {
        certificates: leaves.iter().map(certificate).collect(),
        validation: ValidationRef::None,
        alpn: Vec::new(),
        min_version: TlsVersion::V12,
        max_version: TlsVersion::V13,
        cipher_suites: Vec::new(),
        curves: Vec::new(),
        key_log: None,
    }
}

pub fn downstream(leaves: &[&Leaf]) -> DownstreamTls {
    DownstreamTls {
        common: common(leaves),
        require_client_certificate: false,
        require_sni: false,
        full_scan_certs: false,
        disable_stateless_resumption: false,
        disable_stateful_resumption: false,
        session_timeout: None,
        session_ticket_keys: None,
    }
}

pub fn upstream(leaves: &[&Leaf]) -> UpstreamTls {
    UpstreamTls {
        common: common(leaves),
        sni: String::new(),
        auto_host_sni: false,
        auto_sni_san_validation: false,
        max_session_keys: 1,
    }
}

pub fn trusting(authority: &Authority) -> CertificateValidation {
    CertificateValidation { trusted_ca: Some(inline(&authority.pem())), ..CertificateValidation::default() }
}

pub fn arcs(all: &[&str]) -> Vec<Arc<str>> {
    all.iter().map(|one| Arc::from(*one)).collect()
}
