//! The certificates of the mesh scenario: one CA, one leaf for the server hop and one for the client hop.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};

/// The name in the server's certificate, which the client hop verifies.
pub(crate) const SERVER_NAME: &str = "server.bench.internal";
/// The name in the client's certificate, which the server hop verifies.
pub(crate) const CLIENT_NAME: &str = "client.bench.internal";

/// Paths of the PEM files.
#[derive(Debug, Clone)]
pub(crate) struct Certs {
    dir: PathBuf,
}

impl Certs {
    /// Makes a CA and two leaves (ECDSA P-256, as meshes use) and writes them to `dir`.
    pub(crate) fn create(dir: &Path) -> Result<Self> {
        fs::create_dir_all(dir)?;
        let ca_key = KeyPair::generate()?;
        let mut ca = CertificateParams::new(Vec::<String>::new())?;
        ca.distinguished_name.push(DnType::CommonName, "bench CA");
        ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        ca.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let ca_cert = ca.self_signed(&ca_key)?;
        fs::write(dir.join("ca.pem"), ca_cert.pem())?;
        let issuer = Issuer::new(ca, ca_key);
        for (file, name) in [("server", SERVER_NAME), ("client", CLIENT_NAME)] {
            let key = KeyPair::generate()?;
            let mut leaf = CertificateParams::new(vec![name.to_owned()])?;
            leaf.distinguished_name.push(DnType::CommonName, name);
            let cert = leaf.signed_by(&key, &issuer)?;
            fs::write(dir.join(format!("{file}.pem")), cert.pem())?;
            fs::write(dir.join(format!("{file}.key")), key.serialize_pem())?;
            // HAProxy reads certificate and key from one file.
            fs::write(
                dir.join(format!("{file}.both.pem")),
                format!("{}{}", cert.pem(), key.serialize_pem()),
            )?;
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// The path of one of the files, e.g. `ca.pem`, `server.pem`, `server.key`, `server.both.pem`.
    pub(crate) fn path(&self, file: &str) -> String {
        self.dir.join(file).display().to_string()
    }
}
