//! Credentials that requests get on their way.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, Uri};

use super::{DataSource, DynamicSecret, SecretRef};

/// `envoy.filters.http.credential_injector`
#[derive(Debug, Clone)]
pub struct CredentialInjector {
    /// A credential that a request has already gives way.
    pub overwrite: bool,
    /// Requests go on without one where there is none.
    pub allow_without: bool,
    /// The credential.
    pub credential: Credential,
}

/// A credential.
#[derive(Debug, Clone)]
pub enum Credential {
    /// `envoy.http.injected_credentials.generic`
    Generic(GenericCredential),
    /// `envoy.http.injected_credentials.oauth2`
    OAuth2(Arc<OAuth2>),
}

/// A credential that is a secret.
#[derive(Debug, Clone)]
pub struct GenericCredential {
    /// The secret.
    pub secret: SecretRef<DataSource>,
    /// The header that takes it.
    pub header: HeaderName,
    /// What stands in front of it.
    pub prefix: Box<str>,
}

/// A credential that is a token, which a server gives to who shows the secret of a client.
#[derive(Debug, Clone)]
pub struct OAuth2 {
    /// What is asked for.
    pub uri: Uri,
    /// The cluster that is asked.
    pub cluster: Arc<str>,
    /// How long an answer may take; zero for as long as it likes.
    pub timeout: Duration,
    /// Who asks.
    pub client_id: Box<str>,
    /// The client's secret.
    pub secret: SecretRef<DataSource>,
    /// What the token is to be good for.
    pub scopes: Box<[Box<str>]>,
    /// What else the server is told, names with values.
    pub params: Box<[(Box<str>, Box<str>)]>,
    /// How long after a failure the server is asked again.
    pub retry_interval: Duration,
}

impl CredentialInjector {
    /// The secret that comes from elsewhere, if it does.
    pub fn dynamic_secret(&self) -> Option<&Arc<DynamicSecret>> {
        match &self.credential {
            Credential::Generic(generic) => generic.secret.dynamic(),
            Credential::OAuth2(oauth2) => oauth2.secret.dynamic(),
        }
    }
}
