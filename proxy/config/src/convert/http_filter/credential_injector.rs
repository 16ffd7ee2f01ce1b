//! `envoy.filters.http.credential_injector`

mod oauth2;

use std::sync::Arc;

use http::header::{AUTHORIZATION, HeaderValue};
use outrider_proto::Path;
use outrider_proto::any::is;
use outrider_proto::pb::envoy::config::core::v3::TypedExtensionConfig;
use outrider_proto::pb::envoy::extensions::filters::http::credential_injector::v3 as pb;
use outrider_proto::pb::envoy::extensions::http::injected_credentials::generic::v3 as generic_pb;
use outrider_proto::pb::envoy::extensions::http::injected_credentials::oauth2::v3 as oauth2_pb;
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3::SdsSecretConfig;

use crate::convert::cx::{Cx, inert};
use crate::convert::scalar::{request_header, type_of, unpack};
use crate::convert::secret::named_generic;
use crate::model::{Credential, CredentialInjector, DataSource, GenericCredential, SecretRef};

/// The filter at `path`; `None`, and an error, when it is not usable.
pub(super) fn filter(
    cx: &Cx,
    path: &Path<'_>,
    message: &pb::CredentialInjector,
) -> Option<CredentialInjector> {
    let pb::CredentialInjector { overwrite, allow_request_without_credential, credential } = message;
    let at = path.field("credential");
    let Some(TypedExtensionConfig { name, typed_config }) = credential else {
        cx.error(&at, "a credential is needed");
        return None;
    };
    inert!(cx, at, "the credential is known by its @type"; name);
    let at = at.field("typed_config");
    let Some(any) = typed_config else {
        cx.error(&at, "settings with their @type are needed");
        return None;
    };
    let credential = if is::<generic_pb::Generic>(any) {
        Credential::Generic(generic(cx, &at, &unpack(cx, &at, any)?)?)
    } else if is::<oauth2_pb::OAuth2>(any) {
        Credential::OAuth2(Arc::new(oauth2::token(cx, &at, &unpack(cx, &at, any)?)?))
    } else {
        let why = format!(
            "the credential {} is not supported; use Generic or OAuth2 of envoy.extensions.http.injected_credentials",
            type_of(any)
        );
        cx.refuse(&at, why);
        return None;
    };
    Some(CredentialInjector {
        overwrite: *overwrite,
        allow_without: *allow_request_without_credential,
        credential,
    })
}

fn generic(cx: &Cx, path: &Path<'_>, message: &generic_pb::Generic) -> Option<GenericCredential> {
    let generic_pb::Generic { credential, header, header_value_prefix } = message;
    let header = match header.as_str() {
        "" => Some(AUTHORIZATION),
        name => request_header(cx, &path.field("header"), name),
    };
    if HeaderValue::from_str(header_value_prefix).is_err() {
        let why = format!("{header_value_prefix:?} cannot be in a header value: it holds control characters");
        cx.error(&path.field("header_value_prefix"), why);
    }
    let secret = secret(cx, &path.field("credential"), credential.as_ref());
    Some(GenericCredential { secret: secret?, header: header?, prefix: header_value_prefix.as_str().into() })
}

fn secret(cx: &Cx, path: &Path<'_>, message: Option<&SdsSecretConfig>) -> Option<SecretRef<DataSource>> {
    let Some(message) = message else {
        cx.error(path, "the name of a generic secret is needed");
        return None;
    };
    named_generic(cx, path, message)
}
