//! An identity: the key, what certifies it, and how it is kept over a restart.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::KeyPair;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// The key and its certificates. Never shown: not even `Debug` prints the key.
#[derive(Clone)]
pub(crate) struct Identity {
    /// PEM, PKCS #8.
    pub(crate) key: String,
    /// PEM: the certificate, then those between it and a root.
    pub(crate) chain: String,
    /// `spiffe://...`
    pub(crate) name: String,
    /// When it is to be renewed.
    pub(crate) renew_at: SystemTime,
    /// When it began to be valid.
    pub(crate) not_before: SystemTime,
    /// When it ends to be valid.
    pub(crate) not_after: SystemTime,
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Identity")
            .field("name", &self.name)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Seconds since 1970 as a time; what is before counts as 1970.
pub(crate) fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

/// The same the other way round.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Where an identity is kept, when it is.
#[derive(Clone, Debug)]
pub(crate) struct Place(PathBuf);

const KEY: &str = "key.pem";
const CHAIN: &str = "chain.pem";

impl Place {
    /// A folder, which is made when it is not there, for its owner alone.
    pub(crate) fn new(dir: PathBuf) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self(dir))
    }

    /// Keeps an identity. The key goes first: a chain without its key would be of no use, a key without a chain is made anew.
    pub(crate) fn store(&self, identity: &Identity) -> io::Result<()> {
        self.write(KEY, &identity.key)?;
        self.write(CHAIN, &identity.chain)
    }

    fn write(&self, name: &str, text: &str) -> io::Result<()> {
        let (path, new) = (self.0.join(name), self.0.join(format!("{name}.new")));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(&new, &path)?;
        File::open(&self.0)?.sync_all()
    }

    /// What was kept, when it is whole and still valid for a while. What is not usable is told and left where it is.
    pub(crate) fn restore(&self) -> Option<Identity> {
        let read = |name: &str| fs::read_to_string(self.0.join(name));
        let (key, chain) = match (read(KEY), read(CHAIN)) {
            (Ok(key), Ok(chain)) => (key, chain),
            (Err(error), _) | (_, Err(error)) => {
                if error.kind() != io::ErrorKind::NotFound {
                    tracing::warn!(dir = %self.0.display(), %error, "the kept identity cannot be read; a new one is asked for");
                }
                return None;
            }
        };
        match whole(key, chain) {
            Ok(identity) if identity.not_after > SystemTime::now() => Some(identity),
            Ok(_) => {
                tracing::warn!(dir = %self.0.display(), "the kept identity has expired; a new one is asked for");
                None
            }
            Err(reason) => {
                tracing::warn!(dir = %self.0.display(), reason, "the kept identity is not usable; a new one is asked for");
                None
            }
        }
    }

    /// Where it is.
    pub(crate) fn dir(&self) -> &Path {
        &self.0
    }
}

/// An identity of two texts that belong together.
pub(crate) fn whole(key: String, chain: String) -> Result<Identity, String> {
    let pair = KeyPair::from_pem(&key).map_err(|error| format!("{KEY}: {error}"))?;
    let leaf =
        CertificateDer::from_pem_slice(chain.as_bytes()).map_err(|error| format!("{CHAIN}: {error}"))?;
    let facts = Facts::of(&leaf).map_err(|reason| format!("{CHAIN}: {reason}"))?;
    if facts.public_key != rcgen::PublicKeyData::subject_public_key_info(&pair) {
        return Err(format!("{KEY} is not the key of {CHAIN}"));
    }
    let half = facts.not_after.duration_since(facts.not_before).unwrap_or_default() / 2;
    Ok(Identity {
        key,
        chain,
        name: facts.name,
        renew_at: facts.not_before + half,
        not_before: facts.not_before,
        not_after: facts.not_after,
    })
}

/// What a certificate says.
pub(crate) struct Facts {
    /// Its URI.
    pub(crate) name: String,
    /// DER.
    pub(crate) public_key: Vec<u8>,
    /// When it begins to be valid.
    pub(crate) not_before: SystemTime,
    /// When it ends.
    pub(crate) not_after: SystemTime,
}

impl Facts {
    /// Reads a certificate.
    ///
    /// # Errors
    /// It is none, or one without an identity.
    pub(crate) fn of(der: &CertificateDer<'_>) -> Result<Self, String> {
        use x509_parser::prelude::GeneralName;
        let (_, certificate) =
            X509Certificate::from_der(der).map_err(|error| format!("no certificate: {error}"))?;
        let names = certificate.subject_alternative_name().map_err(|error| error.to_string())?;
        let name = names.and_then(|names| {
            names.value.general_names.iter().find_map(|name| match name {
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            })
        });
        Ok(Self {
            name: name.ok_or("a certificate without a URI, which is no identity")?,
            public_key: certificate.public_key().raw.to_vec(),
            not_before: time(certificate.validity().not_before.timestamp()),
            not_after: time(certificate.validity().not_after.timestamp()),
        })
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, SanType};

    use super::*;

    fn identity(days: i64) -> Identity {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.subject_alt_names =
            vec![SanType::URI("spiffe://cluster.local/ns/shop/sa/web".try_into().unwrap())];
        let day = Duration::from_secs(86_400);
        params.not_before = (SystemTime::now() - day).into();
        params.not_after = (SystemTime::now() + day * u32::try_from(days.max(0)).unwrap()).into();
        if days < 0 {
            params.not_after = (SystemTime::now() - day / 2).into();
        }
        let certificate = params.self_signed(&key).unwrap();
        whole(key.serialize_pem(), certificate.pem()).unwrap()
    }

    #[test]
    fn an_identity_is_kept_for_its_owner_alone() {
        use std::os::unix::fs::PermissionsExt as _;
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path().join("identity")).unwrap();
        assert!(place.restore().is_none());
        let kept = identity(2);
        place.store(&kept).unwrap();
        let back = place.restore().unwrap();
        assert_eq!((back.name, back.key, back.chain), (kept.name, kept.key, kept.chain));
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(place.dir()), mode(&place.dir().join(KEY))), (0o700, 0o600));
    }

    #[test]
    fn what_has_expired_or_does_not_belong_together_is_not_used() {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::new(dir.path().to_owned()).unwrap();
        place.store(&identity(-1)).unwrap();
        assert!(place.restore().is_none(), "an expired certificate was restored");
        let mut mixed = identity(2);
        mixed.key = KeyPair::generate().unwrap().serialize_pem();
        place.store(&mixed).unwrap();
        assert!(place.restore().is_none(), "a key that is not the certificate's was restored");
        fs::write(dir.path().join(CHAIN), "-----BEGIN CERT").unwrap();
        assert!(place.restore().is_none(), "half a file was restored");
    }
}
