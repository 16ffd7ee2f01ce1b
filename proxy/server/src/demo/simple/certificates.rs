//! The demo's certificates: made anew at each start, gone with it.

use std::path::{Path, PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};

/// A directory of our own that is removed at the end.
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn new() -> std::io::Result<Self> {
        let path = std::env::temp_dir().join(format!("outrider-demo-{}", std::process::id()));
        std::fs::create_dir_all(&path)?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Writes `ca.pem`, and for `proxy` and `secure` a `.pem` and a `.key` that the CA signed.
pub(super) fn write(directory: &Path) -> anyhow::Result<()> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(DnType::CommonName, "Outrider demo CA");
    let certificate = ca.self_signed(&ca_key)?;
    std::fs::write(directory.join("ca.pem"), certificate.pem())?;
    let issuer = Issuer::new(ca, ca_key);
    for name in ["proxy", "secure"] {
        let key = KeyPair::generate()?;
        let mut leaf = CertificateParams::new(vec![format!("{name}.demo")])?;
        leaf.subject_alt_names.push(SanType::URI(format!("spiffe://demo/{name}").try_into()?));
        leaf.distinguished_name.push(DnType::CommonName, name);
        std::fs::write(directory.join(format!("{name}.pem")), leaf.signed_by(&key, &issuer)?.pem())?;
        std::fs::write(directory.join(format!("{name}.key")), key.serialize_pem())?;
    }
    Ok(())
}
