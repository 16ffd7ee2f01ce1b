//! The cookies of sessions.

use std::time::Duration;

use http::HeaderName;
use outrider_proto::Path;
use outrider_proto::pb::envoy::extensions::filters::http::oauth2::v3 as pb;
use outrider_proto::pb::envoy::extensions::filters::http::oauth2::v3::cookie_config::SameSite;
use outrider_proto::pb::envoy::extensions::filters::http::oauth2::v3::o_auth2_credentials::CookieNames;
use outrider_proto::pb::google::protobuf as google;

use crate::convert::cx::Cx;
use crate::convert::scalar::{duration, enumeration};
use crate::model::{LoginCookie, LoginCookies};

/// How long a login may take, by default.
const LOGIN: Duration = Duration::from_secs(600);

/// The cookies of the settings at `path`.
pub(super) fn cookies(cx: &Cx, path: &Path<'_>, message: &pb::OAuth2Config) -> LoginCookies {
    // The caller decides about the rest.
    let pb::OAuth2Config {
        credentials,
        cookie_configs,
        csrf_token_expires_in,
        code_verifier_token_expires_in,
        disable_id_token_set_cookie,
        disable_access_token_set_cookie,
        disable_refresh_token_set_cookie,
        ..
    } = message;
    let none = CookieNames::default();
    let names = credentials.as_ref().and_then(|credentials| credentials.cookie_names.as_ref());
    let CookieNames {
        bearer_token,
        oauth_hmac,
        oauth_expires,
        id_token,
        refresh_token,
        oauth_nonce,
        code_verifier,
    } = names.unwrap_or(&none);
    let plain = pb::CookieConfigs::default();
    let pb::CookieConfigs {
        bearer_token_cookie_config,
        oauth_hmac_cookie_config,
        oauth_expires_cookie_config,
        id_token_cookie_config,
        refresh_token_cookie_config,
        oauth_nonce_cookie_config,
        code_verifier_cookie_config,
    } = cookie_configs.as_ref().unwrap_or(&plain);
    let all = All { cx, names: path.field("credentials"), configs: path.field("cookie_configs") };
    let lifetime = |field: &str, value: &Option<google::Duration>| {
        duration(cx, path, field, value).map_or(LOGIN, |value| Duration::from_secs(value.as_secs()))
    };
    LoginCookies {
        domain: credentials.as_ref().and_then(|credentials| all.domain(&credentials.cookie_domain)),
        access: all.cookie(("bearer_token", bearer_token, "BearerToken"), bearer_token_cookie_config),
        hmac: all.cookie(("oauth_hmac", oauth_hmac, "OauthHMAC"), oauth_hmac_cookie_config),
        expires: all.cookie(("oauth_expires", oauth_expires, "OauthExpires"), oauth_expires_cookie_config),
        id: all.cookie(("id_token", id_token, "IdToken"), id_token_cookie_config),
        refresh: all.cookie(("refresh_token", refresh_token, "RefreshToken"), refresh_token_cookie_config),
        nonce: all.cookie(("oauth_nonce", oauth_nonce, "OauthNonce"), oauth_nonce_cookie_config),
        nonce_lifetime: lifetime("csrf_token_expires_in", csrf_token_expires_in),
        verifier: all.cookie(("code_verifier", code_verifier, "CodeVerifier"), code_verifier_cookie_config),
        verifier_lifetime: lifetime("code_verifier_token_expires_in", code_verifier_token_expires_in),
        no_access: *disable_access_token_set_cookie,
        no_id: *disable_id_token_set_cookie,
        no_refresh: *disable_refresh_token_set_cookie,
    }
}

/// Where what is said of cookies is.
struct All<'a> {
    cx: &'a Cx,
    names: Path<'a>,
    configs: Path<'a>,
}

impl All<'_> {
    fn domain(&self, text: &str) -> Option<Box<str>> {
        if !text.bytes().all(is_plain) {
            let why = format!("{text:?} is no domain: it holds what would end it in a cookie");
            self.cx.error(&self.names.field("cookie_domain"), why);
        }
        (!text.is_empty()).then(|| text.into())
    }

    /// A cookie: the field with its name, that name, its name by default, and what else is said of it.
    fn cookie(
        &self,
        (field, name, default): (&str, &str, &str),
        message: &Option<pb::CookieConfig>,
    ) -> LoginCookie {
        if !name.is_empty() && HeaderName::from_bytes(name.as_bytes()).is_err() {
            let path = self.names.field("cookie_names");
            self.cx.error(&path.field(field), format!("{name:?} is no name of a cookie"));
        }
        let none = pb::CookieConfig::default();
        let pb::CookieConfig { same_site, path, partitioned } = message.as_ref().unwrap_or(&none);
        let config = format!("{field}_cookie_config");
        let at = self.configs.field(&config);
        let is_path = path.starts_with('/') && path.bytes().all(is_plain);
        if !path.is_empty() && !is_path {
            let why = format!("{path:?} is no path of a cookie: it must begin with a slash");
            self.cx.error(&at.field("path"), why);
        }
        LoginCookie {
            name: if name.is_empty() { default } else { name }.into(),
            path: if path.is_empty() { "/" } else { path }.into(),
            same_site: match enumeration::<SameSite>(self.cx, &at, "same_site", *same_site) {
                SameSite::Disabled => "",
                SameSite::Strict => ";SameSite=Strict",
                SameSite::Lax => ";SameSite=Lax",
                SameSite::None => ";SameSite=None",
            },
            partitioned: *partitioned,
        }
    }
}

/// Whether a byte ends no attribute of a cookie.
fn is_plain(byte: u8) -> bool {
    !byte.is_ascii_control() && !b" \",;<>\\".contains(&byte)
}
