//! Secrets that a TLS context names, and how they come together.
//!
//! A context says only what it needs. What a handshake needs is [`Resolved`], and the one way to it is `resolve`, which gives
//! nothing while a secret is missing: so a context that is not ready can never read as one that verifies nobody.

use std::ops::Deref;
use std::sync::Arc;

use super::{
    CertificateValidation, CommonTls, ConfigSource, DataSource, DownstreamTls, SanKind, Secret, SecretKind,
    TlsCertificate, UpstreamTls,
};

/// A secret that is not in the bootstrap.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct DynamicSecret {
    /// Its name.
    pub name: Arc<str>,
    /// Where it comes from.
    pub source: ConfigSource,
}

/// A secret that is in the configuration, or comes later.
#[derive(Debug, Clone)]
pub enum SecretRef<T> {
    /// It is here.
    Static(T),
    /// It comes from elsewhere.
    Dynamic(Arc<DynamicSecret>),
}

impl<T> From<T> for SecretRef<T> {
    fn from(secret: T) -> Self {
        Self::Static(secret)
    }
}

/// How a peer is verified, as far as the configuration says.
#[derive(Debug, Clone, Default)]
pub enum ValidationRef {
    /// It is not.
    #[default]
    None,
    /// By this.
    Static(Arc<CertificateValidation>),
    /// By a secret, over what the context itself gives.
    Dynamic {
        /// `default_validation_context`; empty where only a secret is named.
        default: Arc<CertificateValidation>,
        /// The secret.
        secret: Arc<DynamicSecret>,
    },
}

impl ValidationRef {
    /// What the configuration itself holds: for those who look for files, not for those who verify.
    pub fn configured(&self) -> impl Iterator<Item = &CertificateValidation> {
        match self {
            Self::None => None,
            Self::Static(validation) | Self::Dynamic { default: validation, .. } => Some(&**validation),
        }
        .into_iter()
    }

    /// Whether the peer is verified at all.
    pub const fn is_none(&self) -> bool {
        matches!(self, Self::None)
    }
}

impl From<CertificateValidation> for ValidationRef {
    fn from(validation: CertificateValidation) -> Self {
        Self::Static(Arc::new(validation))
    }
}

/// Why a context has no secrets.
#[derive(Debug, Clone, thiserror::Error)]
pub enum SecretError {
    /// Some have not come.
    #[error("waiting for the secrets {}", names(.0))]
    Missing(Vec<Arc<DynamicSecret>>),
    /// One has come and cannot be used.
    #[error("secret {name:?}: {reason}")]
    Unusable {
        /// Its name.
        name: Arc<str>,
        /// Why.
        reason: String,
    },
}

fn names(secrets: &[Arc<DynamicSecret>]) -> String {
    let names: Vec<String> = secrets.iter().map(|secret| format!("{:?}", secret.name)).collect();
    names.join(", ")
}

/// A context with all its secrets. TLS is built from nothing else.
#[derive(Debug, Clone)]
pub struct Resolved<T> {
    context: Arc<T>,
    certificates: Vec<TlsCertificate>,
    validation: Option<Arc<CertificateValidation>>,
    ticket_keys: Vec<DataSource>,
}

impl<T> Resolved<T> {
    /// The context.
    pub const fn context(&self) -> &Arc<T> {
        &self.context
    }

    /// Our certificates.
    pub fn certificates(&self) -> &[TlsCertificate] {
        &self.certificates
    }

    /// How the peer is verified; `None`: the configuration wants no verification.
    pub fn validation(&self) -> Option<&CertificateValidation> {
        self.validation.as_deref()
    }

    /// Session ticket keys; empty for keys of our own.
    pub fn ticket_keys(&self) -> &[DataSource] {
        &self.ticket_keys
    }
}

impl<T> Deref for Resolved<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.context
    }
}

/// Finds a secret that has come.
pub type FindSecret<'a> = &'a dyn Fn(&DynamicSecret) -> Option<Arc<Secret>>;

impl CommonTls {
    fn dynamic_secrets(&self) -> Vec<&Arc<DynamicSecret>> {
        let mut secrets: Vec<_> = self.certificates.iter().filter_map(SecretRef::dynamic).collect();
        if let ValidationRef::Dynamic { secret, .. } = &self.validation {
            secrets.push(secret);
        }
        secrets
    }

    fn resolve<T>(
        &self,
        context: Arc<T>,
        keys: Option<&SecretRef<Vec<DataSource>>>,
        find: FindSecret<'_>,
    ) -> Result<Resolved<T>, SecretError> {
        let mut missing = Vec::new();
        let mut certificates = Vec::with_capacity(self.certificates.len());
        for certificate in &self.certificates {
            certificates.extend(certificate.get(find, &mut missing, "a certificate", |kind| match kind {
                SecretKind::Certificate(certificate) => Some(certificate.clone()),
                _ => None,
            })?);
        }
        let validation = match &self.validation {
            ValidationRef::None => None,
            ValidationRef::Static(validation) => Some(validation.clone()),
            ValidationRef::Dynamic { default, secret } => {
                let found = secret.get(find, &mut missing, "a validation context", |kind| match kind {
                    SecretKind::Validation(validation) => Some(validation.clone()),
                    _ => None,
                })?;
                let merged = found.map(|found| Arc::new(default.merged(&found)));
                if let Some(reason) = merged.as_ref().and_then(|merged| merged.unfit()) {
                    return Err(SecretError::Unusable { name: secret.name.clone(), reason });
                }
                merged
            }
        };
        let ticket_keys = match keys {
            None => Vec::new(),
            Some(keys) => keys
                .get(find, &mut missing, "session ticket keys", |kind| match kind {
                    SecretKind::TicketKeys(keys) => Some(keys.clone()),
                    _ => None,
                })?
                .unwrap_or_default(),
        };
        if missing.is_empty() {
            Ok(Resolved { context, certificates, validation, ticket_keys })
        } else {
            Err(SecretError::Missing(missing))
        }
    }
}

impl DownstreamTls {
    /// The secrets that come from elsewhere.
    pub fn dynamic_secrets(&self) -> Vec<&Arc<DynamicSecret>> {
        let mut secrets = self.common.dynamic_secrets();
        secrets.extend(self.session_ticket_keys.iter().filter_map(SecretRef::dynamic));
        secrets
    }

    /// The context with its secrets, of which `find` finds those that come from elsewhere.
    ///
    /// # Errors
    /// Some have not come, or one is not what it should be.
    pub fn resolve(self: &Arc<Self>, find: FindSecret<'_>) -> Result<Resolved<Self>, SecretError> {
        self.common.resolve(self.clone(), self.session_ticket_keys.as_ref(), find)
    }
}

impl UpstreamTls {
    /// The secrets that come from elsewhere.
    pub fn dynamic_secrets(&self) -> Vec<&Arc<DynamicSecret>> {
        self.common.dynamic_secrets()
    }

    /// The context with its secrets, of which `find` finds those that come from elsewhere.
    ///
    /// # Errors
    /// Some have not come, or one is not what it should be.
    pub fn resolve(self: &Arc<Self>, find: FindSecret<'_>) -> Result<Resolved<Self>, SecretError> {
        self.common.resolve(self.clone(), None, find)
    }
}

impl<T: Clone> SecretRef<T> {
    fn get(
        &self,
        find: FindSecret<'_>,
        missing: &mut Vec<Arc<DynamicSecret>>,
        what: &str,
        pick: impl Fn(&SecretKind) -> Option<T>,
    ) -> Result<Option<T>, SecretError> {
        match self {
            Self::Static(secret) => Ok(Some(secret.clone())),
            Self::Dynamic(secret) => secret.get(find, missing, what, pick),
        }
    }
}

impl<T> SecretRef<T> {
    /// What is here; `None` for what comes from elsewhere.
    pub const fn here(&self) -> Option<&T> {
        match self {
            Self::Static(secret) => Some(secret),
            Self::Dynamic(_) => None,
        }
    }

    /// Where it comes from, when it is not here yet.
    pub const fn dynamic(&self) -> Option<&Arc<DynamicSecret>> {
        match self {
            Self::Static(_) => None,
            Self::Dynamic(secret) => Some(secret),
        }
    }
}

impl DynamicSecret {
    /// What `pick` takes of the secret; `None`, and noted as missing, while it has not come.
    fn get<T>(
        self: &Arc<Self>,
        find: FindSecret<'_>,
        missing: &mut Vec<Arc<Self>>,
        what: &str,
        pick: impl Fn(&SecretKind) -> Option<T>,
    ) -> Result<Option<T>, SecretError> {
        let Some(secret) = find(self) else {
            missing.push(self.clone());
            return Ok(None);
        };
        match pick(&secret.kind) {
            Some(picked) => Ok(Some(picked)),
            None => Err(SecretError::Unusable {
                name: self.name.clone(),
                reason: format!("it is not {what}, which is what the context needs"),
            }),
        }
    }
}

/// A validation context that has a field which only makes sense with roots, and no roots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{field} needs trusted_ca: without roots anyone can make such a certificate")]
pub struct NeedsRoots {
    /// The field.
    pub field: &'static str,
}

impl CertificateValidation {
    /// The context of a secret over this default context: lists are joined, what is set takes the place of the default,
    /// truth values are joined by "or" (Envoy: `CombinedCertificateValidationContext`).
    #[must_use]
    pub fn merged(&self, secret: &Self) -> Self {
        fn join<T: Clone>(first: &[T], second: &[T]) -> Vec<T> {
            [first, second].concat()
        }
        Self {
            trusted_ca: secret.trusted_ca.as_ref().or(self.trusted_ca.as_ref()).cloned(),
            spiffe: secret.spiffe.as_ref().or(self.spiffe.as_ref()).cloned(),
            san_matchers: join(&self.san_matchers, &secret.san_matchers),
            certificate_hashes: join(&self.certificate_hashes, &secret.certificate_hashes),
            spki_hashes: join(&self.spki_hashes, &secret.spki_hashes),
            crl: secret.crl.as_ref().or(self.crl.as_ref()).cloned(),
            only_verify_leaf_crl: self.only_verify_leaf_crl || secret.only_verify_leaf_crl,
            allow_expired: self.allow_expired || secret.allow_expired,
            accept_untrusted: self.accept_untrusted || secret.accept_untrusted,
            max_verify_depth: secret.max_verify_depth.or(self.max_verify_depth),
        }
    }

    /// Why it may not stand for a verification that a secret was to bring.
    fn unfit(&self) -> Option<String> {
        let verifies = self.trusted_ca.is_some()
            || self.spiffe.is_some()
            || !self.certificate_hashes.is_empty()
            || !self.spki_hashes.is_empty()
            || self.accept_untrusted;
        if !verifies {
            // Stricter than Envoy, which would take any certificate then.
            return Some("it brings no trusted_ca and no hashes, so nobody would be verified".to_owned());
        }
        let not_read = self.not_for_spiffe().map(|(field, why)| format!("{field}: {why}"));
        not_read.or_else(|| self.incomplete().map(|reason| reason.to_string()))
    }

    /// What the SPIFFE validator would not read, which would look like verification and be none: the field, and what to do.
    /// Envoy passes it over.
    pub fn not_for_spiffe(&self) -> Option<(&'static str, &'static str)> {
        const NOT_READ: &str = "the SPIFFE validator does not look at it; remove it, or write match_typed_subject_alt_names of type URI";
        self.spiffe.as_ref()?;
        let no_uri = self.san_matchers.iter().all(|matcher| matcher.kind != SanKind::Uri);
        let fields = [
            (
                self.crl.is_some(),
                "crl",
                "the SPIFFE validator does not look at it; put the list into the trust_bundle, behind the roots",
            ),
            (
                !self.san_matchers.is_empty() && no_uri,
                "match_typed_subject_alt_names",
                "the SPIFFE validator looks at URIs alone, so these would not be asked for; write one of type URI",
            ),
            (!self.certificate_hashes.is_empty(), "verify_certificate_hash", NOT_READ),
            (!self.spki_hashes.is_empty(), "verify_certificate_spki", NOT_READ),
            (self.max_verify_depth.is_some(), "max_verify_depth", NOT_READ),
            (self.only_verify_leaf_crl, "only_verify_leaf_cert_crl", NOT_READ),
            (
                self.accept_untrusted,
                "trust_chain_verification",
                "the SPIFFE validator verifies always; remove ACCEPT_UNTRUSTED",
            ),
        ];
        fields.into_iter().find_map(|(set, field, why)| set.then_some((field, why)))
    }

    /// What it would need roots for, when it has none: it would look like verification and be none.
    pub fn incomplete(&self) -> Option<NeedsRoots> {
        let fields = [
            (!self.san_matchers.is_empty(), "match_typed_subject_alt_names"),
            (self.crl.is_some(), "crl"),
            (self.allow_expired, "allow_expired_certificate"),
        ];
        let field = fields.into_iter().find_map(|(set, field)| set.then_some(field))?;
        (self.trusted_ca.is_none() && self.spiffe.is_none()).then_some(NeedsRoots { field })
    }
}
