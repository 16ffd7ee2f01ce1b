//! What signs: a certificate with its key, those above it up to a root, judged as a whole before the first use. No I/O.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rcgen::{
    CertificateParams, DistinguishedName, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    PublicKeyData as _, SanType, SerialNumber,
};
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::ClientCertVerifier;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::key::{KeyKind, WorkloadKey};

/// Clocks differ: a certificate is valid from a little while ago on.
pub const BACKDATE: Duration = Duration::from_secs(60);
/// What is left of an issuer's life at least when it still signs.
const LEFT: Duration = Duration::from_secs(120);
/// The most certificates between a leaf and its root.
const LONGEST_CHAIN: usize = 8;

/// Signs certificates of workloads.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    chain: Arc<[CertificateDer<'static>]>,
    root: CertificateDer<'static>,
    not_before: i64,
    /// The earliest end of all in the chain and the root.
    not_after: i64,
}

/// A certificate that was signed.
#[derive(Clone, Debug)]
pub struct Signed {
    /// It, and then those between it and the root, without the root.
    pub chain: Vec<CertificateDer<'static>>,
    /// The root that it hangs from.
    pub root: CertificateDer<'static>,
    /// Its serial number in hexadecimal.
    pub serial: String,
    /// From when it is valid, in seconds since 1970.
    pub not_before: i64,
    /// Until when.
    pub not_after: i64,
}

/// Why something cannot sign, or does not any more.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    /// It cannot be read.
    #[error("certificate {0} of the chain cannot be read: {1}")]
    Unreadable(usize, String),
    /// There is none, or there are too many.
    #[error("{0} certificates; want the issuing one first, then those above it, {LONGEST_CHAIN} at most")]
    Count(usize),
    /// It is no authority's.
    #[error("{0} is no authority's certificate (basicConstraints has no CA:TRUE)")]
    NoAuthority(String),
    /// It may not sign certificates.
    #[error("{0} must not sign certificates (keyUsage has no keyCertSign)")]
    Usage(String),
    /// The key is another one's.
    #[error("the key does not belong to {0}")]
    Key(String),
    /// Too early or too late.
    #[error("{name} is valid from {from} to {until}, which is not now; renew it, or mend the clock")]
    Validity {
        /// Its subject.
        name: String,
        /// When it begins.
        from: String,
        /// When it ends.
        until: String,
    },
    /// No root.
    #[error(
        "there is no root above {0}: give it by --ca-root, or as the last certificate of --ca-cert (self-signed)"
    )]
    NoRoot(String),
    /// What it signs would not be believed.
    #[error("what {name} signs for workloads is not believed by those who have its root: {reason}")]
    Unbelieved {
        /// Its subject.
        name: String,
        /// Why, in a verifier's words.
        reason: String,
    },
    /// It ends.
    #[error("the authority's certificate ended, or is about to end ({0}); renew it")]
    Ended(String),
    /// Signing failed.
    #[error("signing failed: {0}")]
    Signing(String),
}

impl Authority {
    /// One of a chain (the issuing certificate first, then those above it, with or without the root) and the issuing one's key.
    /// `roots`: where the chain may end; when there are none, it ends at its own last certificate.
    ///
    /// A trial certificate for `trial` (an identity) is signed and verified, so that path lengths, name constraints, extended key
    /// usages and algorithms are judged by those rules that peers go by.
    ///
    /// # Errors
    /// What would keep peers from believing what it signs.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: KeyPair,
        roots: &[CertificateDer<'static>],
        trial: &str,
        now: SystemTime,
    ) -> Result<Self, AuthorityError> {
        if chain.is_empty() || chain.len() > LONGEST_CHAIN {
            return Err(AuthorityError::Count(chain.len()));
        }
        let seconds = seconds(now);
        let (mut from, mut until) = (i64::MIN, i64::MAX);
        let mut names = Vec::new();
        for (index, der) in chain.iter().enumerate() {
            let read = judge(der, index, seconds)?;
            (from, until) = (from.max(read.not_before), until.min(read.not_after));
            names.push(read);
        }
        let first = names.first().ok_or(AuthorityError::Count(0))?;
        let last = names.last().ok_or(AuthorityError::Count(0))?;
        if first.key != key.subject_public_key_info() {
            return Err(AuthorityError::Key(first.name.clone()));
        }
        let own_root = last.self_signed.then(|| chain.last().cloned()).flatten();
        let roots = if roots.is_empty() {
            vec![own_root.clone().ok_or_else(|| AuthorityError::NoRoot(last.name.clone()))?]
        } else {
            roots.to_vec()
        };
        let name = first.name.clone();
        let issuer = chain.first().ok_or(AuthorityError::Count(0))?;
        let issuer = Issuer::from_ca_cert_der(issuer, key)
            .map_err(|error| AuthorityError::Unreadable(1, error.to_string()))?;
        let above: Vec<_> = chain.iter().filter(|it| own_root.as_ref() != Some(*it)).cloned().collect();
        let mut this = Self {
            issuer,
            chain: above.into(),
            root: CertificateDer::from(Vec::new()),
            not_before: from,
            not_after: until,
        };
        let unbelieved = |reason: String| AuthorityError::Unbelieved { name: name.clone(), reason };
        let sample = this.trial(trial, now)?;
        // The first root that makes it whole.
        let mut reasons = Vec::new();
        for root in &roots {
            let ends = judge(root, 0, seconds).and_then(|ends| {
                verifier(std::slice::from_ref(root))
                    .and_then(|it| verify(&*it, &sample, now))
                    .map_err(&unbelieved)?;
                Ok(ends)
            });
            match ends {
                Ok(ends) => {
                    this.root = root.clone();
                    this.not_before = this.not_before.max(ends.not_before);
                    this.not_after = this.not_after.min(ends.not_after);
                    return Ok(this);
                }
                Err(error) => reasons.push(error),
            }
        }
        Err(reasons.into_iter().next().unwrap_or_else(|| AuthorityError::NoRoot(name.clone())))
    }

    /// Until when it can sign, in seconds since 1970.
    pub fn not_after(&self) -> i64 {
        self.not_after
    }

    /// The root that it signs under.
    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// Signs a certificate for a URI: from a minute ago, as long as `lifetime`, but never longer than the authority itself.
    ///
    /// # Errors
    /// When the authority ends, or cannot sign.
    pub fn sign(
        &self,
        key: &WorkloadKey,
        uri: &str,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Signed, AuthorityError> {
        let usages: &[KeyUsagePurpose] = match key.kind() {
            // What TLS 1.2 without ephemeral keys would need.
            KeyKind::Rsa => &[KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment],
            _ => &[KeyUsagePurpose::DigitalSignature],
        };
        self.sign_any(key, usages, uri, lifetime, now)
    }

    fn sign_any(
        &self,
        key: &impl rcgen::PublicKeyData,
        usages: &[KeyUsagePurpose],
        uri: &str,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<Signed, AuthorityError> {
        let failed = |error: rcgen::Error| AuthorityError::Signing(error.to_string());
        let moment = seconds(now);
        if self.not_after - moment < as_seconds(LEFT) {
            return Err(AuthorityError::Ended(date(self.not_after)));
        }
        let not_before = (moment - as_seconds(BACKDATE)).max(self.not_before);
        let not_after = (moment + as_seconds(lifetime)).min(self.not_after);
        let serial = serial()?;
        let mut leaf = CertificateParams::default();
        leaf.distinguished_name = DistinguishedName::new();
        leaf.subject_alt_names = vec![SanType::URI(uri.try_into().map_err(failed)?)];
        leaf.is_ca = IsCa::ExplicitNoCa;
        leaf.key_usages = usages.to_vec();
        leaf.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        leaf.use_authority_key_identifier_extension = true;
        leaf.serial_number = Some(SerialNumber::from_slice(&serial));
        leaf.not_before = moment_of(not_before).into();
        leaf.not_after = moment_of(not_after).into();
        let leaf = leaf.signed_by(key, &self.issuer).map_err(failed)?;
        let chain = std::iter::once(leaf.der().clone()).chain(self.chain.iter().cloned()).collect();
        let serial = serial.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Signed { chain, root: self.root.clone(), serial, not_before, not_after })
    }

    /// A certificate whose key nobody has.
    fn trial(&self, uri: &str, now: SystemTime) -> Result<Vec<CertificateDer<'static>>, AuthorityError> {
        let key = KeyPair::generate().map_err(|error| AuthorityError::Signing(error.to_string()))?;
        let usages = [KeyUsagePurpose::DigitalSignature];
        Ok(self.sign_any(&key, &usages, uri, Duration::from_secs(300), now)?.chain)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("not_after", &date(self.not_after)).finish_non_exhaustive()
    }
}

/// What is read of an authority's certificate.
struct Read {
    name: String,
    key: Vec<u8>,
    not_before: i64,
    not_after: i64,
    self_signed: bool,
}

/// Judges one certificate by itself.
fn judge(der: &CertificateDer<'_>, index: usize, now: i64) -> Result<Read, AuthorityError> {
    let unreadable = |reason: String| AuthorityError::Unreadable(index + 1, reason);
    let (rest, it) = X509Certificate::from_der(der).map_err(|error| unreadable(error.to_string()))?;
    if !rest.is_empty() {
        return Err(unreadable("something follows it".into()));
    }
    let name = if it.subject().as_raw().len() > 2 {
        format!("{:?}", it.subject().to_string())
    } else {
        format!("certificate {}", index + 1)
    };
    let constraints = it.basic_constraints().map_err(|error| unreadable(error.to_string()))?;
    if !constraints.is_some_and(|it| it.value.ca) {
        return Err(AuthorityError::NoAuthority(name));
    }
    let usage = it.key_usage().map_err(|error| unreadable(error.to_string()))?;
    if usage.is_some_and(|it| !it.value.key_cert_sign()) {
        return Err(AuthorityError::Usage(name));
    }
    let (not_before, not_after) = (it.validity().not_before.timestamp(), it.validity().not_after.timestamp());
    if now < not_before || now >= not_after {
        return Err(AuthorityError::Validity { name, from: date(not_before), until: date(not_after) });
    }
    let self_signed = it.subject().as_raw() == it.issuer().as_raw();
    Ok(Read { name, key: it.public_key().raw.to_vec(), not_before, not_after, self_signed })
}

/// What verifies clients by these roots.
///
/// # Errors
/// When none of them is a root, in words.
pub fn verifier(roots: &[CertificateDer<'static>]) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let mut store = RootCertStore::empty();
    for root in roots {
        store.add(root.clone()).map_err(|error| error.to_string())?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(store), provider);
    builder.build().map_err(|error| error.to_string())
}

/// Whether a chain, leaf first, is believed.
///
/// # Errors
/// Why not, in words.
pub fn verify(
    verifier: &dyn ClientCertVerifier,
    chain: &[CertificateDer<'_>],
    now: SystemTime,
) -> Result<(), String> {
    let Some((leaf, above)) = chain.split_first() else { return Err("there is no certificate".into()) };
    let now = UnixTime::since_unix_epoch(now.duration_since(UNIX_EPOCH).unwrap_or_default());
    verifier.verify_client_cert(leaf, above, now).map(drop).map_err(|error| error.to_string())
}

/// 127 random bits, as serial numbers are positive (RFC 5280, 4.1.2.2).
fn serial() -> Result<[u8; 16], AuthorityError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| AuthorityError::Signing("the system has no random numbers".into()))?;
    if let Some(first) = bytes.first_mut() {
        // Never zero in front, so that all have the same length.
        *first = (*first & 0x7f) | 0x40;
    }
    Ok(bytes)
}

/// Seconds since 1970.
pub fn seconds(time: SystemTime) -> i64 {
    time.duration_since(UNIX_EPOCH).map_or(0, as_seconds)
}

pub(super) fn as_seconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_secs()).unwrap_or(i64::MAX / 4)
}

fn moment_of(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

/// A moment for people.
pub(super) fn date(seconds: i64) -> String {
    chrono::DateTime::from_timestamp(seconds, 0)
        .map_or_else(|| seconds.to_string(), |it| it.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
}
