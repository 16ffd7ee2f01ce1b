//! Who may look. On the loopback: whoever is on this host, but no page of somebody else in a browser of theirs. Elsewhere: over TLS,
//! with a token or a certificate that may read.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{AUTHORIZATION, HOST};
use http::request::Parts;
use http::uri::Authority;
use http::{Method, StatusCode};

use crate::api::auth::{Access as What, Authenticator, Identity, Peer};

/// Who is asked for what.
#[derive(Clone, Debug)]
pub(super) enum Access {
    /// Nobody has to say who they are; the name by which they call this server must be one of this host.
    Loopback,
    /// A credential with a role that reads.
    Credential(Arc<Authenticator>),
}

/// Why somebody may not look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Refused {
    /// 400 to 421.
    pub(super) status: StatusCode,
    /// What to do.
    pub(super) words: String,
}

impl Access {
    /// Judges a request before anything else is looked at; says who it is, where that is asked.
    pub(super) fn judge(&self, request: &Parts, peer: &Peer) -> Result<Option<Identity>, Refused> {
        let refused = |status, words: &str| Err(Refused { status, words: words.to_owned() });
        let who = match self {
            Self::Loopback if !called_by_a_name_of_this_host(request) => {
                // A stranger's page whose name was made to lead here (DNS rebinding) calls this server by that name.
                return refused(
                    StatusCode::MISDIRECTED_REQUEST,
                    "this page is served on the loopback alone: call it by localhost, 127.0.0.1 or [::1]",
                );
            }
            Self::Loopback => None,
            Self::Credential(authenticator) => {
                let authorization = request.headers.get(AUTHORIZATION).map(|it| bearer(it.as_bytes()));
                let identity =
                    authenticator.identify(authorization.as_deref(), Some(peer)).map_err(|status| {
                        Refused { status: StatusCode::UNAUTHORIZED, words: status.message().to_owned() }
                    })?;
                if !identity.role.may(What::Read) {
                    return refused(
                        StatusCode::FORBIDDEN,
                        "this page needs the role reader, operator or admin",
                    );
                }
                Some(identity)
            }
        };
        peer.introduced.store(true, Ordering::Relaxed);
        if request.method != Method::GET && request.method != Method::HEAD {
            return refused(StatusCode::METHOD_NOT_ALLOWED, "everything here is only read: GET or HEAD");
        }
        if request.headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site")
            && request.uri.path() != "/"
        {
            return refused(StatusCode::FORBIDDEN, "pages of other sites get nothing from here");
        }
        Ok(who)
    }
}

/// Whether the host that is asked for is `localhost` or an address of the loopback. The port may be another one: whoever forwards a
/// port to here chooses it.
fn called_by_a_name_of_this_host(request: &Parts) -> bool {
    let mut hosts = request.headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(authority) = Authority::try_from(host.as_bytes()) else { return false };
    let host = authority.host();
    let bare = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(host);
    bare.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok_and(|it| it.is_loopback())
}

/// A browser sends a token as the password of HTTP's basic authentication (RFC 7617); everybody else as it is.
fn bearer(header: &[u8]) -> Vec<u8> {
    let basic = || {
        let (scheme, rest) = header.split_at_checked(6)?;
        if !scheme.eq_ignore_ascii_case(b"basic ") {
            return None;
        }
        let pair = STANDARD.decode(rest.trim_ascii()).ok()?;
        let colon = pair.iter().position(|byte| *byte == b':')?;
        Some([b"Bearer ".as_slice(), pair.get(colon + 1..)?].concat())
    };
    basic().unwrap_or_else(|| header.to_vec())
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    fn judge(access: &Access, headers: &[(&str, &str)], method: &str, path: &str) -> Result<(), u16> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        access.judge(&parts, &Peer::default()).map(drop).map_err(|it| it.status.as_u16())
    }

    #[test]
    fn on_the_loopback_a_page_of_a_stranger_gets_nothing() {
        let get = |host: &str| judge(&Access::Loopback, &[("host", host)], "GET", "/api/overview");
        for good in ["localhost", "LOCALHOST:15021", "127.0.0.1:80", "127.0.0.2", "[::1]:15021", "[::1]"] {
            assert_eq!(get(good), Ok(()), "{good}");
        }
        for bad in
            ["evil.example", "localhost.evil.example:80", "10.0.0.1", "127.0.0.1.evil.example", "", "[::2]"]
        {
            assert_eq!(get(bad), Err(421), "{bad}");
        }
        assert_eq!(judge(&Access::Loopback, &[], "GET", "/"), Err(421), "nobody said a name");
        let twice = [("host", "localhost"), ("host", "evil.example")];
        assert_eq!(judge(&Access::Loopback, &twice, "GET", "/"), Err(421));
        let cross = [("host", "localhost"), ("sec-fetch-site", "cross-site")];
        assert_eq!(judge(&Access::Loopback, &cross, "GET", "/api/live"), Err(403));
        assert_eq!(judge(&Access::Loopback, &cross, "GET", "/"), Ok(()), "a link may lead here");
    }

    #[test]
    fn nothing_can_be_changed() {
        for method in ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "CONNECT"] {
            let path = if method == "CONNECT" { "localhost:1" } else { "/" };
            assert_eq!(
                judge(&Access::Loopback, &[("host", "localhost")], method, path),
                Err(405),
                "{method}"
            );
        }
    }

    #[test]
    fn elsewhere_nobody_looks_without_a_credential() {
        use crate::api::auth::{Role, Tokens, new_token};
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens");
        let (reader, proxy) =
            (new_token("eve", Role::Reader).unwrap(), new_token("web", Role::Proxy).unwrap());
        std::fs::write(&path, format!("{}\n{}\n", reader.line, proxy.line)).unwrap();
        let known = Tokens::load(&path).unwrap();
        let access = Access::Credential(Arc::new(Authenticator::new(known, Vec::new())));
        let with = |value: &str| judge(&access, &[("authorization", value)], "GET", "/");
        assert_eq!(judge(&access, &[("host", "localhost")], "GET", "/"), Err(401));
        assert_eq!(with(&format!("Bearer {}", reader.secret)), Ok(()));
        assert_eq!(with(&format!("Basic {}", STANDARD.encode(format!("any:{}", reader.secret)))), Ok(()));
        assert_eq!(with(&format!("Bearer {}", proxy.secret)), Err(403), "xDS is all that a proxy gets");
        for bad in ["", "Basic", "Basic ====", "Basic b25l", "Bearer x", "Basic Og=="] {
            assert_eq!(with(bad), Err(401), "{bad:?}");
        }
    }
}
