//! Authorities, requests and moments for tests.

use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, DistinguishedName, KeyPair, SanType};
use rustls_pki_types::CertificateDer;

use crate::ca::authority::seconds;
use crate::ca::identity::{TrustDomain, Workload};
use crate::ca::key::WorkloadKey;
use crate::ca::{Ca, csr};

pub(super) const DAY: Duration = Duration::from_secs(24 * 3600);
pub(super) const HOUR: Duration = Duration::from_secs(3600);

pub(super) fn domain() -> TrustDomain {
    "cluster.local".parse().unwrap()
}

pub(super) fn web() -> Workload {
    Workload::new("shop", "web").unwrap()
}

/// A key of a workload, and a request for it in DER.
pub(super) fn request(uri: Option<&str>) -> (KeyPair, Vec<u8>) {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.subject_alt_names = uri.map(|it| SanType::URI(it.try_into().unwrap())).into_iter().collect();
    let key = KeyPair::generate().unwrap();
    let der = params.serialize_request(&key).unwrap().der().to_vec();
    (key, der)
}

pub(super) fn workload_key() -> WorkloadKey {
    csr::judge(&request(None).1, "").unwrap()
}

/// A new authority in a folder.
pub(super) fn own(dir: &Path, now: SystemTime) -> anyhow::Result<Ca> {
    Ca::own(dir, domain(), DAY, now)
}

pub(super) fn pem(der: &CertificateDer<'_>) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(|it| std::str::from_utf8(it).unwrap()).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}

/// Runs openssl; `None` where it is not installed.
pub(super) fn openssl(args: &[&str]) -> Option<Output> {
    match Command::new("openssl").args(args).output() {
        Ok(output) => Some(output),
        Err(error) => {
            assert_eq!(error.kind(), std::io::ErrorKind::NotFound, "{error}");
            None
        }
    }
}

/// Whether openssl believes a chain, leaf first, by roots alone, at a moment.
pub(super) fn believed(
    dir: &Path,
    chain: &[CertificateDer<'_>],
    roots: &[CertificateDer<'_>],
    at: SystemTime,
) -> Option<bool> {
    let write = |name: &str, listed: &[CertificateDer<'_>]| {
        let path = dir.join(name);
        std::fs::write(&path, listed.iter().map(pem).collect::<String>()).unwrap();
        path.display().to_string()
    };
    let (leaf, above) = chain.split_first().unwrap();
    let leaf = write("verify-leaf.pem", std::slice::from_ref(leaf));
    let (below, roots) = (write("verify-above.pem", above), write("verify-roots.pem", roots));
    let at = seconds(at).to_string();
    let mut believed = true;
    for purpose in ["sslclient", "sslserver"] {
        let mut args = vec!["verify", "-x509_strict", "-no-CApath", "-no-CAstore", "-attime", &at];
        args.extend(["-purpose", purpose, "-CAfile", &roots]);
        if !above.is_empty() {
            args.extend(["-untrusted", &below]);
        }
        args.push(&leaf);
        let output = openssl(&args)?;
        if !output.status.success() {
            println_to_stderr(&format!("openssl: {}", String::from_utf8_lossy(&output.stderr)));
            believed = false;
        }
    }
    Some(believed)
}

fn println_to_stderr(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{text}");
}
