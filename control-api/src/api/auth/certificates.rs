//! A CA and a server certificate of our own, for whom brings none: made at the first start, renewed before they end.

use std::fs;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, PublicKeyData as _,
};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::TlsFiles;

const DAY: Duration = Duration::from_secs(24 * 3600);
/// How long the CA is believed.
const CA_LIFE: Duration = DAY.saturating_mul(3650);
/// How long a server certificate is.
const LIFE: Duration = DAY.saturating_mul(365);
/// The CA's subject.
const CA_NAME: &str = "Outrider control plane CA";
/// It is renewed when it has no longer than this.
const RENEW: Duration = DAY.saturating_mul(90);

/// Where they are: `<data-dir>/tls`.
#[derive(Clone, Debug)]
pub(super) struct Own {
    folder: PathBuf,
    names: Vec<String>,
}

impl Own {
    /// Those in a folder, for these names besides those of this host.
    pub(super) fn new(folder: PathBuf, names: &[String]) -> Self {
        let mut all: Vec<String> = ["localhost", "127.0.0.1", "::1"].map(str::to_owned).to_vec();
        all.extend(hostname());
        all.extend(names.iter().cloned());
        all.sort();
        all.dedup();
        Self { folder, names: all }
    }

    /// The server's files.
    pub(super) fn files(&self) -> TlsFiles {
        TlsFiles {
            certificate: self.folder.join("server.pem"),
            key: self.folder.join("server.key"),
            client_ca: None,
        }
    }

    /// What clients verify with.
    pub(super) fn ca(&self) -> PathBuf {
        self.folder.join("ca.pem")
    }

    /// Makes what is missing, renews what ends soon or has other names.
    pub(super) fn ensure(&self) -> anyhow::Result<()> {
        private_folder(&self.folder)?;
        let (ca, ca_key) = (self.ca(), self.folder.join("ca.key"));
        let files = self.files();
        if !ca.exists() || !ca_key.exists() {
            // A first start that ended between the two: nothing was signed, and nobody was served.
            let half_way = !ca_key.exists() && !files.key.exists() && !files.certificate.exists();
            anyhow::ensure!(
                half_way || (!ca.exists() && !ca_key.exists()),
                "{}: of ca.pem and ca.key one is missing; restore it, or move the other away to make new ones",
                self.folder.display()
            );
            let (certificate, key) = make_ca()?;
            // The key last: with both there the CA is whole.
            write_private(&ca, &certificate)?;
            write_private(&ca_key, &key)?;
        }
        if files.key.exists() && files.certificate.exists() && self.still_good(&files)? {
            return Ok(());
        }
        let read = |path: &Path| fs::read_to_string(path).with_context(|| format!("{}", path.display()));
        let key = KeyPair::from_pem(&read(&ca_key)?).with_context(|| format!("{}", ca_key.display()))?;
        anyhow::ensure!(
            of_ours(&read(&ca)?),
            "{}: this is another CA; sign a certificate with it and give it by --tls-cert and --tls-key",
            ca.display()
        );
        let issuer = Issuer::new(ca_params()?, key);
        let (certificate, key) = make_leaf(&issuer, &self.names)?;
        write_private(&files.key, &key)?;
        write_private(&files.certificate, &certificate)
    }

    /// Whether the certificate has some time left and the names that are wanted, and the key is its own.
    fn still_good(&self, files: &TlsFiles) -> anyhow::Result<bool> {
        let read = |path: &Path| fs::read(path).with_context(|| format!("{}", path.display()));
        let (pem, key) = (read(&files.certificate)?, read(&files.key)?);
        let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(&pem) else { return Ok(false) };
        let Ok((_, certificate)) = X509Certificate::from_der(&pem.contents) else { return Ok(false) };
        // A renewal that ended between the two left the new key with the old certificate. What is no key that we make is
        // somebody else's.
        let key = std::str::from_utf8(&key).ok().and_then(|key| KeyPair::from_pem(key).ok());
        if key.is_some_and(|key| key.subject_public_key_info() != certificate.public_key().raw) {
            return Ok(false);
        }
        let left = certificate.validity().not_after.timestamp() - chrono::Utc::now().timestamp();
        let enough = i64::try_from(RENEW.as_secs()).unwrap_or(i64::MAX);
        let Ok(Some(listed)) = certificate.subject_alternative_name() else { return Ok(false) };
        let listed: Vec<String> = listed.value.general_names.iter().filter_map(name_text).collect();
        Ok(left > enough && self.names.iter().all(|name| listed.contains(name)))
    }
}

fn name_text(name: &x509_parser::prelude::GeneralName<'_>) -> Option<String> {
    use x509_parser::prelude::GeneralName;
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let v4 = <[u8; 4]>::try_from(*bytes).map(IpAddr::from);
            v4.or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from)).ok().map(|it| it.to_string())
        }
        _ => None,
    }
}

fn make_ca() -> anyhow::Result<(String, String)> {
    let key = KeyPair::generate()?;
    Ok((ca_params()?.self_signed(&key)?.pem(), key.serialize_pem()))
}

fn ca_params() -> anyhow::Result<CertificateParams> {
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    ca.distinguished_name = rcgen::DistinguishedName::new();
    ca.distinguished_name.push(DnType::CommonName, CA_NAME);
    lives(&mut ca, CA_LIFE);
    Ok(ca)
}

/// Whether a certificate is one that [`make_ca`] made, by its subject.
fn of_ours(pem: &str) -> bool {
    let Ok((_, pem)) = x509_parser::pem::parse_x509_pem(pem.as_bytes()) else { return false };
    let Ok((_, certificate)) = X509Certificate::from_der(&pem.contents) else { return false };
    certificate.subject().iter_common_name().any(|name| name.as_str() == Ok(CA_NAME))
}

fn make_leaf(issuer: &Issuer<'_, KeyPair>, names: &[String]) -> anyhow::Result<(String, String)> {
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(names.to_vec())
        .with_context(|| format!("names for the server certificate: {}", names.join(", ")))?;
    leaf.distinguished_name.push(DnType::CommonName, "outrider-control");
    leaf.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    leaf.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    lives(&mut leaf, LIFE);
    Ok((leaf.signed_by(&key, issuer)?.pem(), key.serialize_pem()))
}

/// From yesterday (clocks differ) on.
fn lives(certificate: &mut CertificateParams, life: Duration) {
    let now = std::time::SystemTime::now();
    certificate.not_before = (now - DAY).into();
    certificate.not_after = (now + life).into();
}

fn hostname() -> Option<String> {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

/// A folder that only its owner opens.
pub(crate) fn private_folder(path: &Path) -> anyhow::Result<()> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.with_context(|| format!("{}: cannot be made", path.display()))
}

/// Writes a file that only its owner reads, whole or not at all. The disk has it when this returns.
pub(crate) fn write_private(path: &Path, text: &str) -> anyhow::Result<()> {
    let written = || -> std::io::Result<()> {
        let new = path.with_extension("new");
        let mut file =
            fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        // A file that was there keeps its mode when it is opened.
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        // The name, too: what is written next must not be there without it after a power cut.
        let folder = path.parent().filter(|it| !it.as_os_str().is_empty()).unwrap_or(Path::new("."));
        fs::File::open(folder)?.sync_all()
    };
    written().with_context(|| format!("{}: cannot be written", path.display()))
}
