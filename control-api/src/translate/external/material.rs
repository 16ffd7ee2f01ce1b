//! What an ExternalService needs of Secrets and ConfigMaps, and what is missing of it.

use base64::Engine as _;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use crate::model::own::{
    CaKind, Credential, CredentialType, ExternalPort, ExternalProtocol, ExternalService, ExternalServiceSpec,
};
use crate::translate::names;
use crate::world::{Of, World, pem};

/// A certificate and its key, in PEM.
pub(super) struct Identity {
    pub(super) chain: Vec<u8>,
    pub(super) key: Vec<u8>,
}

/// A credential that requests get.
pub(super) struct Injected {
    /// The header, in lower case.
    pub(super) header: String,
    /// The name of the secret in SDS, and of the filter.
    pub(super) secret: String,
    /// The header's value.
    pub(super) value: String,
}

/// All that an ExternalService refers to; an error where something cannot be had, with the field in front.
pub struct Material {
    /// The same for each port that speaks HTTP.
    credentials: Result<Vec<Injected>, String>,
    /// Authorities in PEM; `None`: those of the proxy's system.
    pub(super) roots: Result<Option<Vec<u8>>, String>,
    /// What the client shows.
    pub(super) identity: Result<Option<Identity>, String>,
}

/// What ExternalServices have of secrets is never printed.
impl std::fmt::Debug for Material {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Material").finish_non_exhaustive()
    }
}

impl Material {
    /// Looks everything up.
    pub(super) fn of(world: &World, it: &Of<'_, ExternalService>) -> Self {
        let (namespace, spec) = (&**it.namespace(), &it.body().spec);
        let credentials = spec
            .credentials
            .iter()
            .enumerate()
            .map(|(index, credential)| {
                let header =
                    credential.header.clone().unwrap_or_else(|| "authorization".to_owned()).to_lowercase();
                let value = value(world, namespace, credential)
                    .map_err(|reason| format!("spec.credentials[{index}].secretRef: {reason}"))?;
                let secret = names::credential((namespace, &**it.name()), &header, credential);
                Ok(Injected { header, secret, value })
            })
            .collect();
        Self {
            credentials,
            roots: roots(world, namespace, spec).map_err(|why| format!("spec.tls.caCertificateRefs{why}")),
            identity: identity(world, namespace, spec)
                .map_err(|why| format!("spec.tls.clientCertificateRef: {why}")),
        }
    }

    /// Why a port cannot be called, when something that it needs is missing.
    pub(super) fn missing(&self, port: &ExternalPort) -> Option<String> {
        // An application that speaks TLS itself brings its own.
        if port.protocol == ExternalProtocol::TLS {
            return None;
        }
        let tls = self.roots.as_ref().err().or(self.identity.as_ref().err());
        tls.or(self.credentials.as_ref().err().filter(|_| port.protocol.is_http())).cloned()
    }

    /// All that is missing.
    pub(super) fn problems(&self) -> Vec<String> {
        let all = [self.credentials.as_ref().err(), self.roots.as_ref().err(), self.identity.as_ref().err()];
        let told = "requests that need it are answered with 503";
        all.into_iter().flatten().map(|reason| format!("{reason}; {told}")).collect()
    }

    /// The credentials of requests to a port: they go in place of what the client sent.
    pub(super) fn credentials(&self, port: &ExternalPort) -> &[Injected] {
        if port.protocol.is_http() { self.credentials.as_deref().unwrap_or_default() } else { &[] }
    }

    /// Whether any port has some.
    pub(super) fn has_credentials(&self) -> bool {
        self.credentials.as_ref().is_ok_and(|it| !it.is_empty())
    }
}

fn secret<'w>(world: &'w World, namespace: &str, name: &str) -> Result<&'w Secret, String> {
    let found = world.get::<Secret>(namespace, name);
    found.map(Of::body).ok_or_else(|| format!("there is no Secret {namespace}/{name}"))
}

fn needed<'w>(world: &'w World, namespace: &str, name: &str, key: &str) -> Result<&'w [u8], String> {
    let secret = secret(world, namespace, name)?;
    pem::entry(secret, key).ok_or_else(|| format!("Secret {namespace}/{name} has no entry {key:?}"))
}

fn text<'w>(world: &'w World, namespace: &str, name: &str, key: &str) -> Result<&'w str, String> {
    let bytes = needed(world, namespace, name, key)?;
    // Editors and shells like to end files with a line's end; a header cannot have one.
    let text = std::str::from_utf8(bytes).unwrap_or("\n").trim_end_matches(['\r', '\n']);
    if text.is_empty() || http::HeaderValue::try_from(text).is_err() {
        return Err(format!(
            "entry {key:?} of Secret {namespace}/{name} is empty or has characters that no header can have"
        ));
    }
    Ok(text)
}

fn value(world: &World, namespace: &str, it: &Credential) -> Result<String, String> {
    let (name, key) = (it.secret_ref.name.as_str(), it.secret_ref.key.as_deref());
    let get = |key: &str| text(world, namespace, name, key);
    match it.r#type {
        CredentialType::Bearer => Ok(format!("Bearer {}", get(key.unwrap_or("token"))?)),
        CredentialType::Header => Ok(get(key.unwrap_or("value"))?.to_owned()),
        CredentialType::Basic => {
            let pair = match key {
                Some(key) => get(key)?.to_owned(),
                None => {
                    let user = get("username")?;
                    if user.contains(':') {
                        return Err(format!("entry \"username\" of Secret {namespace}/{name} has a colon"));
                    }
                    format!("{user}:{}", get("password")?)
                }
            };
            if !pair.contains(':') {
                return Err(format!(
                    "Secret {namespace}/{name}: want user and password with a colon between"
                ));
            }
            Ok(format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair)))
        }
    }
}

fn roots(world: &World, namespace: &str, spec: &ExternalServiceSpec) -> Result<Option<Vec<u8>>, String> {
    let listed = spec.tls.as_ref().map(|tls| tls.ca_certificate_refs.as_slice()).unwrap_or_default();
    if listed.is_empty() {
        return Ok(None);
    }
    let mut out = Vec::new();
    for (index, reference) in listed.iter().enumerate() {
        let (name, key) = (reference.name.as_str(), reference.key.as_deref().unwrap_or("ca.crt"));
        let found = match reference.kind {
            CaKind::Secret => needed(world, namespace, name, key),
            CaKind::ConfigMap => match world.get::<ConfigMap>(namespace, name) {
                None => Err(format!("there is no ConfigMap {namespace}/{name}")),
                Some(map) => map
                    .body()
                    .data
                    .as_ref()
                    .and_then(|data| data.get(key))
                    .map(String::as_bytes)
                    .ok_or_else(|| format!("ConfigMap {namespace}/{name} has no entry {key:?}")),
            },
        };
        let found = found.map_err(|why| format!("[{index}]: {why}"))?;
        pem::certificates(found).map_err(|why| {
            format!("[{index}]: {:?} {namespace}/{name} has an entry {key:?} {why}", reference.kind)
        })?;
        out.extend_from_slice(found);
        if !found.ends_with(b"\n") {
            out.push(b'\n');
        }
    }
    Ok(Some(out))
}

fn identity(world: &World, namespace: &str, spec: &ExternalServiceSpec) -> Result<Option<Identity>, String> {
    let Some(reference) = spec.tls.as_ref().and_then(|tls| tls.client_certificate_ref.as_ref()) else {
        return Ok(None);
    };
    let name = reference.name.as_str();
    let (chain, key) =
        (needed(world, namespace, name, "tls.crt")?, needed(world, namespace, name, "tls.key")?);
    pem::key_pair(chain, key).map_err(|why| format!("Secret {namespace}/{name} {why}"))?;
    Ok(Some(Identity { chain: chain.to_vec(), key: key.to_vec() }))
}
