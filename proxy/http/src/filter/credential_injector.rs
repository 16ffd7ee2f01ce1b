//! `envoy.filters.http.credential_injector`: requests get a credential on their way.

use std::sync::Arc;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue, StatusCode};
use outrider_config::model::{Credential, CredentialInjector as Settings};
use outrider_core::LocalReply;
use outrider_core::stats::Scope;

use super::{FilterError, RequestCx, Step};
use crate::oauth2::{TokenHandle, TokenSource};
use crate::secrets::SecretSlot;

outrider_core::stat_struct! {
    /// `http.<stat_prefix>.credential_injector.`
    struct InjectorStats {
        counters { injected, failed, already_exists }
        gauges { }
        histograms { }
    }
}

/// The filter.
#[derive(Debug)]
pub(crate) struct CredentialInjector {
    overwrite: bool,
    allow_without: bool,
    header: HeaderName,
    source: Source,
    stats: InjectorStats,
}

/// Where the credential comes from.
#[derive(Debug)]
enum Source {
    Secret(Arc<SecretSlot>),
    Token(TokenHandle),
}

impl Source {
    fn value(&self) -> Option<HeaderValue> {
        match self {
            Self::Secret(slot) => slot.value(),
            Self::Token(handle) => handle.value(),
        }
    }
}

impl CredentialInjector {
    /// `scope` is the connection manager's. Control thread.
    ///
    /// # Errors
    /// The file or variable of a secret of the bootstrap cannot be read.
    pub(super) fn build(settings: &Settings, scope: &Scope) -> Result<Self, FilterError> {
        let scope = scope.child("credential_injector.");
        let (header, source) = match &settings.credential {
            Credential::Generic(generic) => {
                let slot = SecretSlot::new(&generic.secret, Some(&*generic.prefix))?;
                (generic.header.clone(), Source::Secret(slot))
            }
            Credential::OAuth2(config) => {
                let slot = SecretSlot::new(&config.secret, None)?;
                (AUTHORIZATION, Source::Token(TokenHandle::new(config.clone(), slot, &scope)))
            }
        };
        Ok(Self {
            overwrite: settings.overwrite,
            allow_without: settings.allow_without,
            header,
            source,
            stats: InjectorStats::new(scope),
        })
    }

    pub(super) fn request<'a>(&'a self, cx: RequestCx<'a>) -> Step<'a> {
        let headers = &mut cx.parts.headers;
        if !self.overwrite && headers.contains_key(&self.header) {
            self.stats.already_exists().inc();
            return Step::GO_ON;
        }
        let Some(value) = self.source.value() else {
            self.stats.failed().inc();
            return if self.allow_without { Step::GO_ON } else { Step::reply(refusal()) };
        };
        headers.insert(self.header.clone(), value);
        self.stats.injected().inc();
        Step::GO_ON
    }

    /// The place of the secret that it needs.
    pub(super) fn slot(&self) -> &Arc<SecretSlot> {
        match &self.source {
            Source::Secret(slot) => slot,
            Source::Token(handle) => handle.secret(),
        }
    }

    /// Where its token comes from, if it is one.
    pub(super) const fn token(&self) -> Option<&TokenSource> {
        match &self.source {
            Source::Secret(_) => None,
            Source::Token(handle) => Some(handle.source()),
        }
    }
}

/// As Envoy has it.
fn refusal() -> LocalReply {
    LocalReply::new(StatusCode::UNAUTHORIZED, "failed_to_inject_credential")
        .body("Failed to inject credential.")
}
