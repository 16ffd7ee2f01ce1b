//! `envoy.filters.http.oauth2`

mod cookies;
mod endpoint;

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;
use http::header::{AUTHORIZATION, HOST};
use outrider_core::format::Format;
use outrider_core::matcher::{HeaderMatcher, StringMatcher};
use outrider_core::oauth2::exchange::{ClientAuth, encode_query};
use outrider_proto::Path;
use outrider_proto::pb::envoy::config::route::v3::HeaderMatcher as HeaderMatcherMessage;
use outrider_proto::pb::envoy::extensions::filters::http::oauth2::v3 as pb;
use outrider_proto::pb::envoy::extensions::filters::http::oauth2::v3::o_auth2_config::AuthType;
use outrider_proto::pb::envoy::extensions::filters::http::oauth2::v3::o_auth2_credentials::TokenFormation;
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3::SdsSecretConfig;
use outrider_proto::pb::envoy::r#type::matcher::v3::{PathMatcher, path_matcher};
use outrider_proto::pb::google::protobuf as google;

use crate::convert::cx::{Cx, refuse};
use crate::convert::header::format;
use crate::convert::matcher;
use crate::convert::scalar::{bool_of, duration, enumeration, header_name};
use crate::convert::secret::named_generic;
use crate::model::{DataSource, OAuth2Login, PostLogout, SecretRef};

/// How long refresh tokens are good that do not say it themselves, by default.
const REFRESH: Duration = Duration::from_secs(604_800);

/// The filter at `path`; `Some(None)` when routes alone say what it does.
#[expect(clippy::option_option, reason = "not usable, nothing, settings")]
pub(super) fn filter(cx: &Cx, path: &Path<'_>, message: &pb::OAuth2) -> Option<Option<OAuth2Login>> {
    let pb::OAuth2 { config } = message;
    match config {
        None => Some(None),
        Some(message) => login(cx, &path.field("config"), message).map(Some),
    }
}

/// What a route says in place of the filter's own.
pub(super) fn per_route(cx: &Cx, path: &Path<'_>, message: &pb::OAuth2PerRoute) -> Option<OAuth2Login> {
    let pb::OAuth2PerRoute { config } = message;
    let path = path.field("config");
    let Some(message) = config else {
        cx.error(&path, "settings are needed; to turn the filter off here, say disabled");
        return None;
    };
    let login = login(cx, &path, message)?;
    let credentials = path.field("credentials");
    for (field, secret) in
        [("token_secret", login.token_secret.as_ref()), ("hmac_secret", Some(&login.hmac_secret))]
    {
        if secret.is_some_and(|secret| secret.dynamic().is_some()) {
            cx.refuse(
                &credentials.field(field).field("sds_config"),
                "secrets of routes are those of the bootstrap; name one of static_resources.secrets, or set the filter itself",
            );
        }
    }
    Some(login)
}

fn login(cx: &Cx, path: &Path<'_>, message: &pb::OAuth2Config) -> Option<OAuth2Login> {
    let pb::OAuth2Config {
        token_endpoint,
        retry_policy,
        authorization_endpoint,
        end_session_endpoint,
        post_logout_redirect_uri,
        credentials,
        redirect_uri,
        redirect_path_matcher,
        signout_path,
        forward_bearer_token,
        forward_id_token,
        preserve_authorization_header,
        pass_through_matcher,
        auth_scopes,
        resources,
        auth_type,
        use_refresh_token,
        default_expires_in,
        deny_redirect_matcher,
        default_refresh_token_expires_in,
        disable_id_token_set_cookie: _,
        disable_access_token_set_cookie: _,
        disable_refresh_token_set_cookie: _,
        cookie_configs: _,
        stat_prefix,
        csrf_token_expires_in: _,
        code_verifier_token_expires_in: _,
        disable_token_encryption,
        allow_failed_matcher,
        original_request_uri,
        allowed_redirect_domains,
        use_access_token_expiry_for_id_token_cookie,
        private_key_jwt_config,
    } = message;
    let endpoint = endpoint::token(cx, path, token_endpoint.as_ref(), retry_policy.as_ref());
    let authorization = endpoint::authorization(cx, path, authorization_endpoint);
    let auth = auth(cx, path, *auth_type);
    refuse!(cx, path, "assertions signed by the client are not supported; use another auth_type"; private_key_jwt_config);
    let secrets = secrets(cx, path, credentials.as_ref(), auth);
    // What is left out above is the cookies'.
    let cookies = cookies::cookies(cx, path, message);
    let end_session = end_session(cx, path, end_session_endpoint, auth_scopes);
    let post_logout = post_logout(cx, path, post_logout_redirect_uri.as_ref());
    let authorization_fields = [*forward_bearer_token, *preserve_authorization_header];
    let forward_id = forwarded(cx, path, forward_id_token.as_ref(), authorization_fields);
    let redirect_path =
        path_matcher(cx, &path.field("redirect_path_matcher"), redirect_path_matcher.as_ref());
    let signout_path = path_matcher(cx, &path.field("signout_path"), signout_path.as_ref());
    let redirect_uri = needed_format(cx, &path.field("redirect_uri"), redirect_uri);
    let original_uri = match original_request_uri.as_str() {
        "" => Some(None),
        text => needed_format(cx, &path.field("original_request_uri"), text).map(Some),
    };
    let headers = |field: &str, messages: &[HeaderMatcherMessage]| -> Box<[HeaderMatcher]> {
        matcher::headers(cx, &path.field(field), messages).into()
    };
    let lifetime = |field: &str, value: &Option<google::Duration>| {
        // Envoy counts whole seconds.
        duration(cx, path, field, value).map(|value| Duration::from_secs(value.as_secs()))
    };
    let (client_id, token_secret, hmac_secret) = secrets?;
    Some(OAuth2Login {
        endpoint: endpoint?,
        authorization: authorization?,
        end_session,
        post_logout: post_logout?,
        client_id,
        auth,
        token_secret,
        hmac_secret,
        cookies,
        redirect_uri: redirect_uri?,
        original_uri: original_uri?,
        domains: allowed_redirect_domains.iter().map(|domain| Box::from(domain.as_str())).collect(),
        redirect_path: redirect_path?,
        signout_path: signout_path?,
        forward_bearer: *forward_bearer_token,
        forward_id: forward_id?,
        preserve_authorization: *preserve_authorization_header,
        pass_through: headers("pass_through_matcher", pass_through_matcher),
        allow_failed: headers("allow_failed_matcher", allow_failed_matcher),
        deny_redirect: headers("deny_redirect_matcher", deny_redirect_matcher),
        scope: scope_of(auth_scopes),
        resources: resource_parameters(resources),
        use_refresh: bool_of(use_refresh_token).unwrap_or(true),
        default_lifetime: lifetime("default_expires_in", default_expires_in).unwrap_or_default(),
        default_refresh_lifetime: lifetime(
            "default_refresh_token_expires_in",
            default_refresh_token_expires_in,
        )
        .unwrap_or(REFRESH),
        id_as_access: *use_access_token_expiry_for_id_token_cookie,
        plain_tokens: *disable_token_encryption,
        stat_prefix: stat_prefix_of(stat_prefix),
    })
}

fn auth(cx: &Cx, path: &Path<'_>, auth_type: i32) -> ClientAuth {
    match enumeration::<AuthType>(cx, path, "auth_type", auth_type) {
        AuthType::UrlEncodedBody => ClientAuth::Body,
        AuthType::BasicAuth => ClientAuth::Basic,
        AuthType::TlsClientAuth => ClientAuth::Certificate,
        AuthType::PrivateKeyJwt => {
            cx.refuse(
                &path.field("auth_type"),
                "assertions signed by the client are not supported; use URL_ENCODED_BODY, BASIC_AUTH or TLS_CLIENT_AUTH",
            );
            ClientAuth::Body
        }
    }
}

/// The client's name, its secret, and the one of the cookies.
type Secrets = (Box<str>, Option<SecretRef<DataSource>>, SecretRef<DataSource>);

fn secrets(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::OAuth2Credentials>,
    auth: ClientAuth,
) -> Option<Secrets> {
    let path = path.field("credentials");
    let Some(message) = message else {
        cx.error(&path, "the client's name and the secrets are needed");
        return None;
    };
    // The names and the domain of the cookies are read with them.
    let pb::OAuth2Credentials { client_id, token_secret, token_formation, cookie_names: _, cookie_domain: _ } =
        message;
    if client_id.is_empty() {
        cx.error(&path.field("client_id"), "the name of the client is needed");
    }
    let at = path.field("token_secret");
    let token = match (auth, token_secret) {
        (ClientAuth::Certificate, Some(_)) => {
            cx.inert(&at, "with TLS_CLIENT_AUTH the certificate says who the client is");
            Some(None)
        }
        (ClientAuth::Certificate, None) => Some(None),
        (ClientAuth::Body | ClientAuth::Basic, Some(message)) => named_generic(cx, &at, message).map(Some),
        (ClientAuth::Body | ClientAuth::Basic, None) => {
            cx.error(&at, "the name of a generic secret is needed");
            None
        }
    };
    let at = path.field("hmac_secret");
    let hmac: Option<&SdsSecretConfig> = token_formation.as_ref().map(|TokenFormation::HmacSecret(it)| it);
    let Some(hmac) = hmac else {
        cx.error(&at, "the name of a generic secret is needed: cookies are signed with it");
        return None;
    };
    let hmac = named_generic(cx, &at, hmac);
    Some((client_id.as_str().into(), token?, hmac?))
}

fn post_logout(cx: &Cx, path: &Path<'_>, message: Option<&pb::PostLogoutRedirectUri>) -> Option<PostLogout> {
    use pb::post_logout_redirect_uri::Config;
    let path = path.field("post_logout_redirect_uri");
    let Some(pb::PostLogoutRedirectUri { config }) = message else { return Some(PostLogout::Origin) };
    match config {
        Some(Config::Disabled(true)) => Some(PostLogout::Nowhere),
        Some(Config::Disabled(false)) => {
            cx.error(&path.field("disabled"), "it can only be true");
            None
        }
        Some(Config::Uri(text)) => needed_format(cx, &path.field("uri"), text).map(PostLogout::Uri),
        None => {
            cx.error(&path, "give one of disabled and uri");
            None
        }
    }
}

fn end_session(cx: &Cx, path: &Path<'_>, uri: &str, scopes: &[String]) -> Option<Box<str>> {
    if uri.is_empty() {
        return None;
    }
    if !scopes.iter().any(|scope| scope == "openid") {
        cx.error(&path.field("end_session_endpoint"), "it is OpenID Connect's: auth_scopes must hold openid");
    }
    if http::HeaderValue::from_str(uri).is_err() {
        cx.error(&path.field("end_session_endpoint"), format!("{uri:?} can be no location"));
    }
    Some(uri.into())
}

/// The header that takes the ID token; `others` say whether other fields want `authorization`.
#[expect(clippy::option_option, reason = "not usable, none, a header")]
fn forwarded(
    cx: &Cx,
    path: &Path<'_>,
    message: Option<&pb::OAuth2TokenForwarding>,
    others: [bool; 2],
) -> Option<Option<HeaderName>> {
    let header = match message {
        None => None,
        Some(message) => Some(forward(cx, &path.field("forward_id_token"), message)?),
    };
    let is_authorization = header.as_ref().is_some_and(|header| *header == AUTHORIZATION);
    if others.into_iter().chain([is_authorization]).filter(|set| *set).count() > 1 {
        let why = "of forward_bearer_token, preserve_authorization_header and forward_id_token with authorization only one may be set: there is one such header";
        cx.error(path, why);
    }
    Some(header)
}

fn forward(cx: &Cx, path: &Path<'_>, message: &pb::OAuth2TokenForwarding) -> Option<HeaderName> {
    let pb::OAuth2TokenForwarding { header } = message;
    let path = path.field("header");
    if header.starts_with(':') || header.eq_ignore_ascii_case(HOST.as_str()) {
        cx.error(&path, format!("{header:?} may not carry a token"));
        return None;
    }
    header_name(cx, &path, header)
}

fn scope_of(scopes: &[String]) -> Box<str> {
    let scope = if scopes.is_empty() { "user".to_owned() } else { scopes.join(" ") };
    encode_query(scope.as_bytes()).into()
}

fn resource_parameters(resources: &[String]) -> Box<str> {
    let one = |resource: &String| format!("&resource={}", encode_query(resource.as_bytes()));
    resources.iter().map(one).collect::<String>().into()
}

fn stat_prefix_of(text: &str) -> Box<str> {
    match text.trim_end_matches('.') {
        "" => "".into(),
        prefix => format!("{prefix}.").into(),
    }
}

fn path_matcher(cx: &Cx, path: &Path<'_>, message: Option<&PathMatcher>) -> Option<StringMatcher> {
    let path = path.field("path");
    let Some(PathMatcher { rule: Some(path_matcher::Rule::Path(message)) }) = message else {
        cx.error(&path, "a matcher is needed");
        return None;
    };
    matcher::string(cx, &path, message)
}

fn needed_format(cx: &Cx, path: &Path<'_>, text: &str) -> Option<Arc<Format>> {
    if text.is_empty() {
        cx.error(path, "a URI is needed");
        return None;
    }
    format(cx, path, text).map(Arc::new)
}
