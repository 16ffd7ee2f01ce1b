//! Certificates for tests: an authority, leaves of all kinds, a foreign authority, a revocation list.

mod bad;

use std::{
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SanType, SerialNumber, date_time_ymd,
};
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use x509_parser::prelude::GeneralName;

pub use self::bad::BAD;

/// A certificate authority.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A leaf certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// The certificate.
    pub cert: String,
    /// Its private key (PKCS#8).
    pub key: String,
}

/// What a leaf is to say.
#[derive(Clone, Copy, Debug, Default)]
pub struct Wish<'a> {
    /// Common name.
    pub name: &'a str,
    /// DNS names.
    pub dns: &'a [&'a str],
    /// URIs, such as SPIFFE ids.
    pub uris: &'a [&'a str],
    /// Addresses.
    pub ips: &'a [IpAddr],
    /// E-mail addresses.
    pub emails: &'a [&'a str],
    /// Ended long ago.
    pub expired: bool,
    /// Serial number, to be revoked by.
    pub serial: Option<u64>,
}

impl Authority {
    /// Makes an authority.
    ///
    /// # Errors
    /// When the crypto library refuses.
    pub fn new(name: &str) -> Result<Self> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.not_after = date_time_ymd(2045, 1, 1);
        Ok(Self(CertifiedIssuer::self_signed(params, KeyPair::generate()?)?))
    }

    /// The authority's own certificate, as PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a leaf.
    ///
    /// # Errors
    /// When a name is not ASCII or the crypto library refuses.
    pub fn leaf(&self, wish: Wish<'_>) -> Result<Leaf> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, wish.name);
        params.not_after = if wish.expired { date_time_ymd(2001, 1, 1) } else { date_time_ymd(2040, 1, 1) };
        params.serial_number = wish.serial.map(SerialNumber::from);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        let sans = &mut params.subject_alt_names;
        for dns in wish.dns {
            sans.push(SanType::DnsName((*dns).try_into()?));
        }
        for uri in wish.uris {
            sans.push(SanType::URI((*uri).try_into()?));
        }
        for email in wish.emails {
            sans.push(SanType::Rfc822Name((*email).try_into()?));
        }
        sans.extend(wish.ips.iter().copied().map(SanType::IpAddress));
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.0)?;
        Ok(Leaf { cert: cert.pem(), key: key.serialize_pem() })
    }

    /// A revocation list, as PEM.
    ///
    /// # Errors
    /// When the crypto library refuses.
    pub fn crl(&self, serials: &[u64]) -> Result<String> {
        let revoked = serials.iter().map(|serial| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: date_time_ymd(2024, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        });
        let params = CertificateRevocationListParams {
            this_update: date_time_ymd(2024, 1, 1),
            next_update: date_time_ymd(2040, 1, 1),
            crl_number: SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: revoked.collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.0)?.pem()?)
    }
}

/// A directory with one of each, written once per test process by [`Papers::new`].
///
/// `ca.pem`, `other-ca.pem`, `crl.pem` (revokes `revoked`), and for each leaf `NAME.pem` and `NAME.key`:
///
/// | leaf | names |
/// |---|---|
/// | `server` | DNS server.test, localhost; IP 127.0.0.1 |
/// | `alt` | DNS alt.test |
/// | `wild` | DNS *.wild.test |
/// | `upstream` | DNS upstream.test; URI spiffe://test/upstream; e-mail up@test; IP 127.0.0.1 |
/// | `client` | DNS client.test; URI spiffe://test/client; e-mail client@test |
/// | `expired` | as `client`, ended |
/// | `stranger` | as `client`, by the other authority |
/// | `revoked` | as `client`, serial 4242 |
///
/// And those of [`BAD`].
#[derive(Debug)]
pub struct Papers {
    /// Where the files are.
    pub dir: PathBuf,
}

impl Papers {
    /// Makes all of them in `dir`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn new(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let (ca, other) = (Authority::new("Test CA")?, Authority::new("Other CA")?);
        let home: &[IpAddr] = &[[127, 0, 0, 1].into()];
        let client = Wish {
            name: "client",
            dns: &["client.test"],
            uris: &["spiffe://test/client"],
            emails: &["client@test"],
            ..Wish::default()
        };
        let server =
            Wish { name: "server", dns: &["server.test", "localhost"], ips: home, ..Wish::default() };
        let upstream = Wish {
            name: "upstream",
            dns: &["upstream.test"],
            uris: &["spiffe://test/upstream"],
            emails: &["up@test"],
            ips: home,
            ..Wish::default()
        };
        fs::write(dir.join("ca.pem"), ca.pem())?;
        fs::write(dir.join("other-ca.pem"), other.pem())?;
        fs::write(dir.join("crl.pem"), ca.crl(&[4242])?)?;
        for (file, authority, wish) in [
            ("server", &ca, server),
            ("alt", &ca, Wish { name: "alt", dns: &["alt.test"], ..Wish::default() }),
            ("wild", &ca, Wish { name: "wild", dns: &["*.wild.test"], ..Wish::default() }),
            ("upstream", &ca, upstream),
            ("client", &ca, client),
            ("expired", &ca, Wish { expired: true, ..client }),
            ("stranger", &other, client),
            ("revoked", &ca, Wish { serial: Some(4242), ..client }),
        ] {
            let leaf = authority.leaf(wish)?;
            fs::write(dir.join(format!("{file}.pem")), leaf.cert)?;
            fs::write(dir.join(format!("{file}.key")), leaf.key)?;
        }
        bad::write_all(dir, &ca, &other)?;
        Ok(Self { dir: dir.to_owned() })
    }

    /// The text of one of the files, for inline PEM.
    ///
    /// # Errors
    /// When there is no such file.
    pub fn pem(&self, file: &str) -> Result<String> {
        fs::read_to_string(self.dir.join(file)).with_context(|| format!("no {file}"))
    }

    /// The authority as a root store.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn roots(&self) -> Result<RootCertStore> {
        let mut roots = RootCertStore::empty();
        for cert in CertificateDer::pem_file_iter(self.dir.join("ca.pem"))? {
            roots.add(cert?)?;
        }
        Ok(roots)
    }

    /// A leaf as rustls wants it. Whether the key is the certificate's is for the other side to find out.
    ///
    /// # Errors
    /// When there is no such leaf.
    pub fn leaf(&self, name: &str) -> Result<Arc<CertifiedKey>> {
        let chain = CertificateDer::pem_file_iter(self.dir.join(format!("{name}.pem")))
            .with_context(|| format!("no leaf {name}"))?
            .collect::<Result<Vec<_>, _>>()?;
        let key = PrivateKeyDer::from_pem_file(self.dir.join(format!("{name}.key")))?;
        Ok(Arc::new(CertifiedKey::new(chain, provider().key_provider.load_private_key(key)?)))
    }

    /// A TLS server for an upstream: its leaf, its protocols, and whether it demands a client certificate.
    ///
    /// # Errors
    /// When there is no such leaf.
    pub fn server(&self, leaf: &str, alpn: &[&str], mutual: bool) -> Result<Arc<ServerConfig>> {
        let builder =
            ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
        let builder = if mutual {
            let roots = Arc::new(self.roots()?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?;
            builder.with_client_cert_verifier(verifier)
        } else {
            builder.with_no_client_auth()
        };
        let key = self.leaf(leaf)?;
        let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = alpn.iter().map(|p| p.as_bytes().to_vec()).collect();
        Ok(Arc::new(config))
    }
}

/// The one crypto provider.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// The subject alternative names of a certificate, `DNS:..`, `URI:..`, `email:..`, `IP:..`, in its order.
#[must_use]
pub fn names_of(cert: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, parsed)) = x509_parser::parse_x509_certificate(cert) else { return Vec::new() };
    let Ok(Some(names)) = parsed.subject_alternative_name() else { return Vec::new() };
    let names = names.value.general_names.iter();
    names
        .map(|name| match name {
            GeneralName::DNSName(name) => format!("DNS:{name}"),
            GeneralName::URI(uri) => format!("URI:{uri}"),
            GeneralName::RFC822Name(mail) => format!("email:{mail}"),
            GeneralName::IPAddress(bytes) => format!("IP:{bytes:?}"),
            other => format!("{other:?}"),
        })
        .collect()
}
