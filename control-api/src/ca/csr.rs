//! What a signing request (PKCS #10, RFC 2986) says, and whether it may be granted. No I/O; what it says is never copied into a
//! certificate but for the key.

use tonic::Code;
use x509_parser::certification_request::X509CertificationRequest;
use x509_parser::cri_attributes::ParsedCriAttribute;
use x509_parser::extensions::{GeneralName, ParsedExtension, X509Extension};
use x509_parser::pem::Pem;
use x509_parser::prelude::FromDer as _;

use super::key::{KeyKind, WorkloadKey};

/// The most bytes of a request, in DER or PEM.
pub const LARGEST: usize = 16 * 1024;
/// How much of a name that somebody sent is repeated.
const SHOWN: usize = 256;

/// Why a request is not granted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CsrError {
    /// Nothing was sent.
    #[error("there is no signing request in it")]
    Empty,
    /// Too many bytes.
    #[error("the signing request has {0} bytes; {LARGEST} are the most")]
    TooLarge(usize),
    /// Not a request at all.
    #[error("this is no signing request (PKCS #10 in DER or PEM): {0}")]
    Malformed(String),
    /// A kind of key that is not taken.
    #[error("the signing request's key is of another kind ({0}); use P-256, P-384, Ed25519 or RSA")]
    KeyKind(String),
    /// A key that is too weak.
    #[error("the signing request's key is weak: {0}")]
    KeyWeak(String),
    /// A hash that is broken.
    #[error("the signing request is signed with a broken hash ({0}); use SHA-256")]
    SignatureWeak(String),
    /// A signature of another kind than the key.
    #[error(
        "the signing request is signed with {0}, which is not taken of {1} keys; use SHA-256, 384 or 512"
    )]
    SignatureKind(String, KeyKind),
    /// Somebody else's signature.
    #[error("the signing request is not signed by the key in it")]
    Signature,
    /// A subject.
    #[error("the signing request's subject is {0:?}; leave it empty, as who it is stands in the URI alone")]
    Subject(String),
    /// Another name.
    #[error("the signing request asks for {asked}, and the credential is good for {granted}")]
    Name {
        /// What it asks for.
        asked: String,
        /// What it would get.
        granted: String,
    },
    /// It wants to be an authority.
    #[error("the signing request asks for an authority's certificate; workloads sign nothing")]
    Authority,
    /// Usages that no workload gets.
    #[error("the signing request asks for a usage that workloads do not get: {0}")]
    Usage(String),
    /// Another extension.
    #[error("the signing request asks for extension {0}, which is not given; leave it out")]
    Extension(String),
    /// An attribute.
    #[error("the signing request has attribute {0}, which is not known; leave it out")]
    Attribute(String),
}

impl CsrError {
    /// A word for it that does not change, for clients and counts.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Empty => "csr_empty",
            Self::TooLarge(_) => "csr_too_large",
            Self::Malformed(_) => "csr_malformed",
            Self::KeyKind(_) => "csr_key_kind",
            Self::KeyWeak(_) => "csr_key_weak",
            Self::SignatureWeak(_) => "csr_signature_weak",
            Self::SignatureKind(..) => "csr_signature_kind",
            Self::Signature => "csr_signature",
            Self::Subject(_) => "csr_subject",
            Self::Name { .. } => "csr_name",
            Self::Authority => "csr_authority",
            Self::Usage(_) => "csr_usage",
            Self::Extension(_) => "csr_extension",
            Self::Attribute(_) => "csr_attribute",
        }
    }

    /// As gRPC has it.
    pub const fn code(&self) -> Code {
        match self {
            Self::Name { .. } | Self::Authority => Code::PermissionDenied,
            _ => Code::InvalidArgument,
        }
    }
}

/// Judges a request: reads it, verifies that whoever made it has the key, and that it asks for nothing but `identity` (a URI).
/// Gives the key.
///
/// # Errors
/// By what is wrong first.
pub fn judge(request: &[u8], identity: &str) -> Result<WorkloadKey, CsrError> {
    match request.len() {
        0 => return Err(CsrError::Empty),
        1..=LARGEST => {}
        more => return Err(CsrError::TooLarge(more)),
    }
    let text = request.trim_ascii();
    if text.starts_with(b"-----BEGIN") {
        judge_der(&der_of(text)?, identity)
    } else {
        judge_der(request, identity)
    }
}

/// The one block of a text in PEM.
fn der_of(text: &[u8]) -> Result<Vec<u8>, CsrError> {
    let mut blocks = Pem::iter_from_buffer(text);
    let first = blocks.next().ok_or(CsrError::Empty)?;
    let first = first.map_err(|error| CsrError::Malformed(error.to_string()))?;
    if !matches!(first.label.as_str(), "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST") {
        return Err(CsrError::Malformed(format!("the PEM block is {:?}", cut(&first.label))));
    }
    if blocks.next().is_some() {
        return Err(CsrError::Malformed("there is more than one PEM block; send one".into()));
    }
    Ok(first.contents)
}

fn judge_der(der: &[u8], identity: &str) -> Result<WorkloadKey, CsrError> {
    let (rest, request) =
        X509CertificationRequest::from_der(der).map_err(|error| CsrError::Malformed(error.to_string()))?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed(format!("{} bytes follow it", rest.len())));
    }
    let info = &request.certification_request_info;
    if info.version.0 != 0 {
        return Err(CsrError::Malformed(format!("version {} is not known", info.version.0)));
    }
    let key = WorkloadKey::read(&info.subject_pki)?;
    if request.signature_value.unused_bits != 0 {
        return Err(CsrError::Malformed("its signature has no whole bytes".into()));
    }
    key.verify(&request.signature_algorithm, info.raw, &request.signature_value.data)?;

    // Istio's agents send an organisation that is empty.
    if info.subject.iter_attributes().any(|it| !it.attr_value().data.is_empty()) {
        return Err(CsrError::Subject(cut(&info.subject.to_string())));
    }
    let mut extensions: Option<&[X509Extension<'_>]> = None;
    for attribute in info.attributes() {
        match attribute.parsed_attribute() {
            ParsedCriAttribute::ExtensionRequest(_) if extensions.is_some() => {
                return Err(CsrError::Malformed("it has two lists of extensions".into()));
            }
            ParsedCriAttribute::ExtensionRequest(asked) => extensions = Some(&asked.extensions),
            _ => return Err(CsrError::Attribute(attribute.oid.to_id_string())),
        }
    }
    let extensions = extensions.unwrap_or_default();
    for (index, extension) in extensions.iter().enumerate() {
        if extensions.iter().take(index).any(|other| other.oid == extension.oid) {
            return Err(CsrError::Malformed(format!("extension {} stands there twice", extension.oid)));
        }
        judge_extension(extension, identity)?;
    }
    Ok(key)
}

fn judge_extension(extension: &X509Extension<'_>, identity: &str) -> Result<(), CsrError> {
    match extension.parsed_extension() {
        ParsedExtension::SubjectAlternativeName(names) => {
            for name in &names.general_names {
                if !matches!(name, GeneralName::URI(uri) if *uri == identity) {
                    let (asked, granted) = (cut(&name.to_string()), identity.to_owned());
                    return Err(CsrError::Name { asked, granted });
                }
            }
            Ok(())
        }
        ParsedExtension::BasicConstraints(it) if it.ca => Err(CsrError::Authority),
        ParsedExtension::BasicConstraints(_) => Ok(()),
        ParsedExtension::KeyUsage(it) if it.key_cert_sign() || it.crl_sign() => Err(CsrError::Authority),
        ParsedExtension::KeyUsage(it) => {
            let granted = it.digital_signature() || it.key_encipherment() || it.key_agreement();
            let further =
                it.non_repudiation() || it.data_encipherment() || it.encipher_only() || it.decipher_only();
            if granted && !further { Ok(()) } else { Err(CsrError::Usage(cut(&it.to_string()))) }
        }
        ParsedExtension::ExtendedKeyUsage(it) => {
            let further =
                it.any || it.code_signing || it.email_protection || it.time_stamping || it.ocsp_signing;
            if further || !it.other.is_empty() {
                return Err(CsrError::Usage("extended usages other than TLS server and client".into()));
            }
            Ok(())
        }
        ParsedExtension::ParseError { error } => {
            Err(CsrError::Malformed(format!("extension {} cannot be read: {error}", extension.oid)))
        }
        _ => Err(CsrError::Extension(extension.oid.to_id_string())),
    }
}

fn cut(text: &str) -> String {
    text.chars().take(SHOWN).collect()
}
