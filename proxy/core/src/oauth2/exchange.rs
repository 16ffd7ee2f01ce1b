//! What the token endpoint is asked for a code or a refresh token, and what it answers (RFC 6749, 4.1.3, 4.1.4, 6).

use std::fmt::Write as _;
use std::time::Duration;

use serde_json::{Map, Value};

use super::seconds;
use crate::jwt;

/// How a client shows who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// Name and secret in the body.
    Body,
    /// Name and secret in `authorization`.
    Basic,
    /// The certificate of the connection; the name alone is in the body.
    Certificate,
}

/// What is exchanged for tokens.
#[derive(Clone, Copy)]
pub enum Grant<'a> {
    /// A code, as it stood in the query, with where the user was sent back to and the verifier.
    Code {
        /// The code.
        code: &'a str,
        /// Where to.
        redirect_uri: &'a [u8],
        /// The verifier.
        verifier: &'a [u8],
    },
    /// A refresh token.
    Refresh(&'a [u8]),
}

/// Tokens, and how long the access token is good.
#[derive(Clone, PartialEq, Eq)]
pub struct Tokens {
    /// The access token.
    pub access: String,
    /// The ID token; empty for none.
    pub id: String,
    /// The refresh token; empty for none.
    pub refresh: String,
    /// How long the access token is good.
    pub lifetime: Duration,
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokens").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// An answer that is no use, in Envoy's words. It never shows what the answer says: that may be a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ExchangeError {
    /// It is not JSON, or a field is of another type.
    #[error("Failed to parse oauth response body")]
    Body,
    /// It has no access token.
    #[error("No access token found in the token exchange response")]
    Token,
    /// It does not say how long, and nothing else does.
    #[error("No default or explicit access token expiration found in the token exchange response")]
    Lifetime,
}

/// The form that the server is sent. What could be read as another field is percent-encoded as Envoy does it, and the percent sign
/// as well, which Envoy leaves as it is.
pub fn form(grant: &Grant<'_>, auth: ClientAuth, client: &str, secret: &[u8]) -> String {
    let mut text = match grant {
        // It came encoded.
        Grant::Code { code, .. } => format!("grant_type=authorization_code&code={code}"),
        Grant::Refresh(token) => {
            let mut text = "grant_type=refresh_token&refresh_token=".to_owned();
            encode(&mut text, token);
            text
        }
    };
    if auth != ClientAuth::Basic {
        text.push_str("&client_id=");
        encode(&mut text, client.as_bytes());
    }
    if auth == ClientAuth::Body {
        text.push_str("&client_secret=");
        encode(&mut text, secret);
    }
    if let Grant::Code { redirect_uri, verifier, .. } = grant {
        text.push_str("&redirect_uri=");
        encode(&mut text, redirect_uri);
        text.push_str("&code_verifier=");
        encode(&mut text, verifier);
    }
    text
}

fn encode(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        if (b' '..b'~').contains(byte) && !b"%:/=&?+".contains(byte) {
            text.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
}

/// `bytes` as a value of a query: all but the unreserved characters of RFC 3986 is percent-encoded.
pub fn encode_query(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
    text
}

impl Tokens {
    /// Those of an answer. Where it does not say how long they are good, `default` does. As in Envoy names may be written in camel
    /// case, and seconds as a text.
    ///
    /// # Errors
    /// It is none that is of use.
    pub fn parse(answer: &[u8], default: Duration) -> Result<Self, ExchangeError> {
        let Ok(Value::Object(fields)) = serde_json::from_slice(answer) else {
            return Err(ExchangeError::Body);
        };
        let access = text(&fields, "access_token", "accessToken")?;
        let id = text(&fields, "id_token", "idToken")?.unwrap_or_default();
        let refresh = text(&fields, "refresh_token", "refreshToken")?.unwrap_or_default();
        let lifetime = match field(&fields, "expires_in", "expiresIn") {
            None => default,
            Some(value) => Duration::from_secs(seconds(value).ok_or(ExchangeError::Body)?),
        };
        let access = access.ok_or(ExchangeError::Token)?;
        if lifetime.as_secs() == 0 {
            return Err(ExchangeError::Lifetime);
        }
        Ok(Self { access, id, refresh, lifetime })
    }
}

fn field<'a>(fields: &'a Map<String, Value>, name: &str, camel: &str) -> Option<&'a Value> {
    fields.get(name).or_else(|| fields.get(camel)).filter(|value| !value.is_null())
}

fn text(fields: &Map<String, Value>, name: &str, camel: &str) -> Result<Option<String>, ExchangeError> {
    match field(fields, name, camel) {
        None => Ok(None),
        Some(Value::String(text)) => Ok(Some(text.clone())),
        Some(_) => Err(ExchangeError::Body),
    }
}

/// How many seconds a token is good from `now` on, by what it says itself; `None` when it is no JWT, or does not say.
pub fn lifetime_of(token: &str, now: u64) -> Option<u64> {
    let mut buffers = jwt::Buffers::default();
    let expires = jwt::Token::parse(token.as_bytes(), &mut buffers).ok()?.expires?;
    Some(expires.saturating_sub(now))
}

#[cfg(test)]
mod tests {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use proptest::prelude::*;

    use super::*;

    const CODE: Grant<'_> =
        Grant::Code { code: "enc%20oded%26+", redirect_uri: b"http://app.test/callback", verifier: b"v-_" };

    #[test]
    fn forms_are_as_envoy_writes_them() {
        assert_eq!(
            form(&CODE, ClientAuth::Body, "me:1 x", b"hush&="),
            "grant_type=authorization_code&code=enc%20oded%26+&client_id=me%3A1 x&client_secret=hush%26%3D\
             &redirect_uri=http%3A%2F%2Fapp.test%2Fcallback&code_verifier=v-_"
        );
        assert_eq!(
            form(&CODE, ClientAuth::Certificate, "me", b"hush"),
            "grant_type=authorization_code&code=enc%20oded%26+&client_id=me\
             &redirect_uri=http%3A%2F%2Fapp.test%2Fcallback&code_verifier=v-_"
        );
        let refresh = Grant::Refresh(b"a:/=&?+~ c");
        assert_eq!(
            form(&refresh, ClientAuth::Basic, "me", b"hush"),
            "grant_type=refresh_token&refresh_token=a%3A%2F%3D%26%3F%2B%7E c"
        );
        assert_eq!(
            form(&Grant::Refresh(b"100%41\n"), ClientAuth::Body, "me", b"%"),
            "grant_type=refresh_token&refresh_token=100%2541%0A&client_id=me&client_secret=%25"
        );
    }

    #[test]
    fn answers_are_taken_as_envoy_takes_them() {
        let parse = |text: &str| Tokens::parse(text.as_bytes(), Duration::ZERO);
        let tokens = |access: &str, id: &str, refresh: &str| Tokens {
            access: access.to_owned(),
            id: id.to_owned(),
            refresh: refresh.to_owned(),
            lifetime: Duration::from_secs(100),
        };
        for seconds in ["100", "\"100\"", "1e2"] {
            let text = format!(r#"{{"access_token":"a","id_token":null,"expires_in":{seconds},"x":{{}}}}"#);
            assert_eq!(parse(&text), Ok(tokens("a", "", "")), "{seconds}");
        }
        let camel = r#"{"accessToken":"a","idToken":"i","refreshToken":"r","expiresIn":100}"#;
        assert_eq!(parse(camel), Ok(tokens("a", "i", "r")));
        assert_eq!(parse(r#"{"access_token":"","expires_in":100}"#), Ok(tokens("", "", "")));
        for text in ["", "garbage", "[]", r#"{"access_token":5,"expires_in":1}"#, r#"{"expires_in":-1}"#] {
            assert_eq!(parse(text), Err(ExchangeError::Body), "{text}");
        }
        assert_eq!(parse(r#"{"expires_in":100}"#), Err(ExchangeError::Token));
        assert_eq!(parse(r#"{"access_token":"a"}"#), Err(ExchangeError::Lifetime));
        let default = Tokens::parse(br#"{"access_token":"a"}"#, Duration::from_secs(100));
        assert_eq!(default, Ok(tokens("a", "", "")));
        let zero = Tokens::parse(br#"{"access_token":"a","expires_in":0}"#, Duration::from_secs(100));
        assert_eq!(zero, Err(ExchangeError::Lifetime), "what is said counts");
        assert!(!format!("{:?}", tokens("hush", "hush", "hush")).contains("hush"));
    }

    #[test]
    fn a_token_may_say_how_long_it_is_good() {
        let token = |payload: &str| {
            let part = |text: &str| URL_SAFE_NO_PAD.encode(text);
            format!("{}.{}.{}", part(r#"{"alg":"RS256"}"#), part(payload), part("s"))
        };
        assert_eq!(lifetime_of(&token(r#"{"exp":1100}"#), 1000), Some(100));
        assert_eq!(lifetime_of(&token(r#"{"exp":900}"#), 1000), Some(0));
        assert_eq!(lifetime_of(&token("{}"), 1000), None);
        assert_eq!(lifetime_of("opaque", 1000), None);
    }

    proptest! {
        #[test]
        fn no_answer_breaks_it(answer: Vec<u8>) {
            let _ = Tokens::parse(&answer, Duration::ZERO);
            let _ = lifetime_of(&String::from_utf8_lossy(&answer), 0);
        }

        #[test]
        fn nothing_can_add_a_field(value: Vec<u8>) {
            let text = form(&Grant::Refresh(&value), ClientAuth::Body, "c", &value);
            prop_assert_eq!(text.matches('&').count(), 3);
            prop_assert_eq!(text.matches('=').count(), 4);
        }
    }
}
