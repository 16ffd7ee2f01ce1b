//! What clients and proxies of the scenarios show and verify: one CA and its leaves, one key for tokens and a token.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;
use outrider_tests::jwt::Keys;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, PKCS_RSA_SHA256,
    SanType,
};
use serde_json::Value;

use crate::config::filters::last_id;

/// The name in the server's certificate, which the client hop verifies.
pub(crate) const SERVER_NAME: &str = "server.bench.internal";
/// The name in the client's certificate, which the server hop verifies.
pub(crate) const CLIENT_NAME: &str = "client.bench.internal";
/// Who issued the token.
pub(crate) const ISSUER: &str = "https://issuer.bench.internal";
/// Whom the token is for.
pub(crate) const AUDIENCE: &str = "https://orders.bench.internal";

/// Paths of the PEM files and of the key set, and the token.
#[derive(Debug, Clone)]
pub(crate) struct Certs {
    dir: PathBuf,
    token: String,
}

impl Certs {
    /// Makes a CA, leaves (ECDSA P-256, as meshes use, and one of RSA), a key set and a token, and writes all but
    /// the token to `dir`.
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
        for (file, key, leaf) in [
            ("server", KeyPair::generate()?, named(SERVER_NAME)?),
            ("server-rsa", KeyPair::generate_for(&PKCS_RSA_SHA256)?, named(SERVER_NAME)?),
            ("client", KeyPair::generate()?, named(CLIENT_NAME)?),
            ("workload", KeyPair::generate()?, workload()?),
        ] {
            let cert = leaf.signed_by(&key, &issuer)?;
            fs::write(dir.join(format!("{file}.pem")), cert.pem())?;
            fs::write(dir.join(format!("{file}.key")), key.serialize_pem())?;
            // HAProxy reads certificate and key from one file.
            fs::write(
                dir.join(format!("{file}.both.pem")),
                format!("{}{}", cert.pem(), key.serialize_pem()),
            )?;
        }
        let keys = Keys::new()?;
        fs::write(dir.join("jwks.json"), only(&keys.set()?, "p256")?)?;
        let token =
            keys.with_header("ES256", r#"{"alg":"ES256","kid":"p256","typ":"JWT"}"#, &claims().to_string())?;
        Ok(Self { dir: dir.to_owned(), token })
    }

    /// The path of one of the files, e.g. `ca.pem`, `server.pem`, `server.key`, `server.both.pem`, `jwks.json`.
    pub(crate) fn path(&self, file: &str) -> String {
        self.dir.join(file).display().to_string()
    }

    /// Where the files are.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The token.
    pub(crate) fn token(&self) -> &str {
        &self.token
    }
}

/// A leaf with a DNS name.
fn named(name: &str) -> Result<CertificateParams> {
    let mut leaf = CertificateParams::new(vec![name.to_owned()])?;
    leaf.distinguished_name.push(DnType::CommonName, name);
    Ok(leaf)
}

/// A leaf with the SPIFFE id that the last policy lets in.
fn workload() -> Result<CertificateParams> {
    let mut leaf = CertificateParams::new(Vec::<String>::new())?;
    leaf.subject_alt_names = vec![SanType::URI(last_id().try_into()?)];
    Ok(leaf)
}

/// The key with this id alone: what is measured is one verification, not the choice among keys.
fn only(set: &str, id: &str) -> Result<String> {
    let mut set: Value = serde_json::from_str(set)?;
    if let Some(keys) = set.get_mut("keys").and_then(Value::as_array_mut) {
        keys.retain(|key| key.get("kid").and_then(Value::as_str) == Some(id));
    }
    Ok(set.to_string())
}

/// What identity providers put into access tokens; it holds until the year 2100.
fn claims() -> Value {
    serde_json::json!({
        "iss": ISSUER,
        "sub": "user-5f7c8ec7c33c6c004bbafe82",
        "aud": [AUDIENCE, "https://issuer.bench.internal/userinfo"],
        "iat": 1_700_000_000,
        "exp": 4_102_444_800_u64,
        "azp": "shop-web",
        "scope": "openid profile email orders:read orders:write",
        "jti": "4f9cf6a2-3e06-4a2e-9d8e-2f35e3d7b1a5",
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_set_one_key_is_left() {
        let set = r#"{"keys":[{"kid":"a"},{"kid":"b","x":"1"},{}]}"#;
        assert_eq!(only(set, "b").unwrap(), r#"{"keys":[{"kid":"b","x":"1"}]}"#);
    }
}
