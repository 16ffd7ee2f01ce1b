//! Tokens for clients (RFC 6749, "Client Credentials Grant"): what is asked, and what the answer says. The modules are what the login
//! of users needs beside it ("Authorization Code Grant").

pub mod exchange;
pub mod seal;
pub mod state;

use std::time::Duration;

use serde_json::Value;

/// The pairs as `application/x-www-form-urlencoded`, with `%20` for spaces, as Envoy writes them.
pub fn form<'a>(pairs: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> String {
    let mut text = String::new();
    for (name, value) in pairs {
        if !text.is_empty() {
            text.push('&');
        }
        encode(&mut text, name.as_bytes());
        text.push('=');
        encode(&mut text, value);
    }
    text
}

fn encode(text: &mut String, bytes: &[u8]) {
    const DIGITS: [char; 16] =
        ['0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F'];
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'*') {
            text.push(char::from(*byte));
        } else {
            text.push('%');
            for digit in [byte >> 4, byte & 15] {
                text.extend(DIGITS.get(usize::from(digit)));
            }
        }
    }
}

/// A token, and how long it is good.
#[derive(Clone, PartialEq, Eq)]
pub struct Token {
    /// The token.
    pub text: String,
    /// How long it is good.
    pub lifetime: Duration,
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token").field("lifetime", &self.lifetime).finish_non_exhaustive()
    }
}

/// An answer without a token that can be used. It says nothing of what the answer holds: that may be a secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// It is no JSON.
    #[error("the answer is not a JSON object")]
    Json,
    /// It has no token.
    #[error("the answer has no access_token that is a text")]
    Token,
    /// It does not say how long the token is good.
    #[error("the answer has no expires_in that is a whole number of seconds")]
    Lifetime,
}

impl Token {
    /// The token of an answer. Seconds may be a number or a text, as Envoy takes them.
    ///
    /// # Errors
    /// There is none in it, or it does not say how long it is good.
    pub fn parse(answer: &[u8]) -> Result<Self, AnswerError> {
        let Ok(Value::Object(mut answer)) = serde_json::from_slice(answer) else {
            return Err(AnswerError::Json);
        };
        let Some(Value::String(text)) = answer.remove("access_token") else {
            return Err(AnswerError::Token);
        };
        if text.is_empty() {
            return Err(AnswerError::Token);
        }
        let seconds = answer.get("expires_in").and_then(seconds).ok_or(AnswerError::Lifetime)?;
        Ok(Self { text, lifetime: Duration::from_secs(seconds) })
    }
}

fn seconds(value: &Value) -> Option<u64> {
    match value {
        Value::Number(number) => number.as_u64().or_else(|| whole(number.as_f64()?)),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

/// A number as `1e2`, if it is whole and below 2^53.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole, and between 0 and 2^53")]
fn whole(number: f64) -> Option<u64> {
    const MOST: f64 = 9_007_199_254_740_992.0;
    ((0.0..MOST).contains(&number) && number.fract() == 0.0).then_some(number as u64)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_form_is_as_envoy_writes_it() {
        let secret = "!\"#$%&()*+,-./:;<=>?@[]^_`{|}~'\\\u{e9} ";
        let form =
            form([("grant_type", &b"client_credentials"[..]), ("au d", secret.as_bytes()), ("n", &b""[..])]);
        assert_eq!(
            form,
            "grant_type=client_credentials&au%20d=%21%22%23%24%25%26%28%29*%2B%2C-.%2F%3A%3B%3C%3D%3E%3F%40%5B%5D%5E_%60%7B%7C%7D%7E%27%5C%C3%A9%20&n="
        );
    }

    #[test]
    fn answers_are_taken_as_envoy_takes_them() {
        let parse = |text: &str| Token::parse(text.as_bytes());
        for seconds in ["100", "\"100\"", "1e2"] {
            let text = format!(r#"{{"access_token":"tok","expires_in":{seconds},"token_type":"x"}}"#);
            let token = Token { text: "tok".to_owned(), lifetime: Duration::from_secs(100) };
            assert_eq!(parse(&text), Ok(token), "{seconds}");
        }
        for seconds in ["1.5", "-5", "\"x\"", "null", "[]", "1e300"] {
            let text = format!(r#"{{"access_token":"tok","expires_in":{seconds}}}"#);
            assert_eq!(parse(&text), Err(AnswerError::Lifetime), "{seconds}");
        }
        assert_eq!(parse(r#"{"access_token":"tok"}"#), Err(AnswerError::Lifetime));
        for text in [
            r#"{"expires_in":1}"#,
            r#"{"access_token":5,"expires_in":1}"#,
            r#"{"access_token":"","expires_in":1}"#,
        ] {
            assert_eq!(parse(text), Err(AnswerError::Token), "{text}");
        }
        for text in ["nope", "", "[]", "{"] {
            assert_eq!(parse(text), Err(AnswerError::Json), "{text}");
        }
    }

    #[test]
    fn a_token_is_in_no_debug_output() {
        let token = Token { text: "hush".to_owned(), lifetime: Duration::from_secs(1) };
        assert!(!format!("{token:?}").contains("hush"));
    }

    proptest! {
        #[test]
        fn a_form_can_be_read_again(value in proptest::collection::vec(any::<u8>(), 0..64)) {
            let form = form([("n", &value[..])]);
            let mut bytes = form.strip_prefix("n=").expect("its name").bytes();
            let mut read = Vec::new();
            while let Some(byte) = bytes.next() {
                let mut digit = || char::from(bytes.next().expect("a digit")).to_digit(16).expect("a digit");
                read.push(if byte == b'%' { u8::try_from(digit() * 16 + digit()).expect("a byte") } else { byte });
            }
            prop_assert_eq!(read, value);
        }

        #[test]
        fn no_answer_panics(answer in proptest::collection::vec(any::<u8>(), 0..64)) {
            let _ = Token::parse(&answer);
        }
    }
}
