//! `envoy.filters.http.basic_auth`: requests must carry a user's name and password.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::header::WWW_AUTHENTICATE;
use http::{HeaderMap, HeaderValue, StatusCode};
use outrider_config::model::{BasicAuth as Settings, BasicUsers, RouteFilterConfig};
use outrider_core::credentials::{HtpasswdError, User, Users, decode_basic, halves};
use outrider_core::stats::Scope;
use outrider_core::{LocalReply, MetadataValue, metadata};

use super::uri::Uri;
use super::{FilterError, RequestCx, Step, places};
use crate::routing::direct;

/// What the user's name is noted as, in the namespace of the filter's name.
static USERNAME: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("username"));

outrider_core::stat_struct! {
    /// `http.<stat_prefix>.basic_auth.`
    struct BasicAuthStats {
        counters { allowed, denied }
        gauges { }
        histograms { }
    }
}

/// The filter.
#[derive(Debug)]
pub(crate) struct BasicAuth {
    settings: Arc<Settings>,
    users: Arc<Users>,
    stats: BasicAuthStats,
}

/// Why a request is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Denial {
    Missing,
    Scheme,
    Format,
    Credential,
}

impl Denial {
    const fn text(self) -> &'static str {
        match self {
            Self::Missing => "User authentication failed. Missing username and password.",
            Self::Scheme => "User authentication failed. Expected 'Basic' authentication scheme.",
            Self::Format => "User authentication failed. Invalid basic credential format.",
            Self::Credential => "User authentication failed. Invalid username/password combination.",
        }
    }

    const fn details(self) -> &'static str {
        match self {
            Self::Missing => "no_credential_for_basic_auth",
            Self::Scheme => "invalid_scheme_for_basic_auth",
            Self::Format => "invalid_format_for_basic_auth",
            Self::Credential => "invalid_credential_for_basic_auth",
        }
    }
}

/// The users, read if they are not here yet. An empty source is an error unless `may_be_empty`. Control thread.
///
/// # Errors
/// A file or variable cannot be read, or holds no users.
pub(super) fn read(users: &BasicUsers, may_be_empty: bool) -> Result<Arc<Users>, FilterError> {
    let source = match users {
        BasicUsers::Here(users) => return Ok(users.clone()),
        BasicUsers::Source(source) => source,
    };
    let wrong = |error| FilterError::Users { field: source.field.to_string(), error };
    let text = direct::read(source)?;
    if text.is_empty() && !may_be_empty {
        return Err(wrong(HtpasswdError::Empty));
    }
    Users::parse(&text).map(Arc::new).map_err(wrong)
}

impl BasicAuth {
    /// `scope` is the connection manager's. Control thread.
    ///
    /// # Errors
    /// The users cannot be read.
    pub(super) fn build(settings: Arc<Settings>, scope: &Scope) -> Result<Self, FilterError> {
        let users = read(&settings.users, false)?;
        Ok(Self { settings, users, stats: BasicAuthStats::new(scope.child("basic_auth.")) })
    }

    pub(super) fn request<'a>(&'a self, mut cx: RequestCx<'a>) -> Step<'a> {
        let (stream, name) = (cx.stream, cx.name);
        let (parts, levels) = cx.split();
        let users = match levels.last() {
            Some(RouteFilterConfig::BasicAuth(BasicUsers::Here(users))) => Some(users),
            // Tables read them when they are built; nobody is known if one did not.
            Some(RouteFilterConfig::BasicAuth(BasicUsers::Source(_))) => None,
            _ => Some(&self.users),
        };
        match self.check(users.map(|users| &**users), &parts.headers) {
            Ok(None) => Step::GO_ON,
            Ok(Some(user)) => {
                if let Some(header) = &self.settings.forward_username {
                    parts.headers.insert(header.clone(), user.header.clone());
                }
                if self.settings.emit_metadata && metadata::is_read() {
                    let value = MetadataValue::Text(user.name.clone());
                    stream.info.borrow_mut().set_metadata(name.text(), &USERNAME, value);
                }
                self.stats.allowed().inc();
                Step::GO_ON
            }
            Err(denial) => {
                self.stats.denied().inc();
                let reply = LocalReply::new(StatusCode::UNAUTHORIZED, denial.details())
                    .body(Bytes::from_static(denial.text().as_bytes()));
                let challenge = format!("Basic realm=\"{}\"", Uri::of(stream, parts, &parts.uri).0);
                Step::reply(match HeaderValue::from_maybe_shared(Bytes::from(challenge)) {
                    Ok(challenge) => reply.header(WWW_AUTHENTICATE, challenge),
                    Err(_) => reply,
                })
            }
        }
    }

    /// Who it is; `None` for somebody who may stay unknown.
    fn check<'a>(&self, users: Option<&'a Users>, headers: &HeaderMap) -> Result<Option<&'a User>, Denial> {
        let missing = |denial| if self.settings.allow_missing { Ok(None) } else { Err(denial) };
        let Some(value) = places::header(headers, &self.settings.header) else {
            return missing(Denial::Missing);
        };
        let Some(credentials) = value.strip_prefix(b"Basic ") else { return missing(Denial::Scheme) };
        let credentials = decode_basic(credentials).ok_or(Denial::Format)?;
        let (user, password) = halves(&credentials).ok_or(Denial::Format)?;
        users.and_then(|users| users.check(user, password)).map(Some).ok_or(Denial::Credential)
    }
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;
    use outrider_config::model::{DataSource, DataSourceKind};
    use outrider_core::stats::Registry;

    use super::*;

    fn filter(allow_missing: bool) -> BasicAuth {
        let users = Users::parse(b"user1:{SHA}tESsBmE/yNY3lb6a0L6vVQEZNqw=").expect("a user");
        let settings = Settings {
            users: BasicUsers::Here(Arc::new(users)),
            header: AUTHORIZATION,
            forward_username: None,
            allow_missing,
            emit_metadata: allow_missing,
        };
        BasicAuth::build(Arc::new(settings), &Registry::new().scope("http.x.")).expect("a filter")
    }

    fn judge(filter: &BasicAuth, value: Option<&'static str>) -> Result<Option<String>, Denial> {
        let mut headers = HeaderMap::new();
        headers.extend(value.map(|value| (AUTHORIZATION, HeaderValue::from_static(value))));
        filter.check(Some(&filter.users), &headers).map(|user| user.map(|user| user.name.to_string()))
    }

    #[test]
    fn credentials_are_judged_as_far_as_they_can_be_read() {
        let of = |value| judge(&filter(false), value);
        assert_eq!(of(Some("Basic dXNlcjE6dGVzdDE=")), Ok(Some("user1".to_owned())));
        assert_eq!(of(None), Err(Denial::Missing));
        assert_eq!(of(Some("basic dXNlcjE6dGVzdDE=")), Err(Denial::Scheme));
        assert_eq!(of(Some("Basic  dXNlcjE6dGVzdDE=")), Err(Denial::Format));
        assert_eq!(of(Some("Basic dXNlcjE=")), Err(Denial::Format));
        assert_eq!(of(Some("Basic dXNlcjE6bm9wZQ==")), Err(Denial::Credential));
    }

    #[test]
    fn who_may_be_missing_may_not_be_wrong() {
        let of = |value| judge(&filter(true), value);
        assert_eq!(of(None), Ok(None));
        assert_eq!(of(Some("Bearer x")), Ok(None));
        assert_eq!(of(Some("Basic dXNlcjE6bm9wZQ==")), Err(Denial::Credential));
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let kind = DataSourceKind::File("/no/such/users".into());
        let users = BasicUsers::Source(DataSource { kind, field: "some.users".into() });
        let error = read(&users, true).expect_err("no file").to_string();
        assert!(error.starts_with("some.users: file \"/no/such/users\" cannot be read"), "{error}");
    }
}
