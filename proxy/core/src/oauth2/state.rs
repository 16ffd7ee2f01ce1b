//! The state that a login takes along to the authorization server and back: where the user wanted to go, and what shows that it was us
//! who sent them (RFC 6749, 10.12).

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

/// As long the name of a login may be, in bytes; ours have 16.
const LONGEST_FLOW: usize = 64;

/// What the state says. None of it is to be believed before its token was compared with the cookie's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    /// What the user asked for.
    pub url: String,
    /// The token against forged requests.
    pub csrf: String,
    /// Which login it is of; empty when it does not say, or what can be no part of a cookie's name.
    pub flow: String,
}

/// A state that is none. The text is what was decoded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StateError {
    /// Not JSON.
    #[error("State query param is not a valid JSON: {0}")]
    Json(String),
    /// Something is missing.
    #[error("State query param does not contain url or CSRF token: {0}")]
    Fields(String),
}

impl State {
    /// As it stands in a query.
    pub fn encode(&self) -> String {
        let text = |text: &str| Value::from(text).to_string();
        let (url, csrf, flow) = (text(&self.url), text(&self.csrf), text(&self.flow));
        URL_SAFE_NO_PAD.encode(format!("{{\"url\":{url},\"csrf_token\":{csrf},\"flow_id\":{flow}}}"))
    }

    /// What stands in a query. The name of a login goes into names of cookies: it is nothing but letters, digits, `-` and `_`
    /// (Envoy takes whatever it is).
    ///
    /// # Errors
    /// It is no state.
    pub fn parse(text: &[u8]) -> Result<Self, StateError> {
        let decoded = URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
        let shown = || String::from_utf8_lossy(&decoded).into_owned();
        let Ok(Value::Object(fields)) = serde_json::from_slice(&decoded) else {
            return Err(StateError::Json(shown()));
        };
        let (Some(url), Some(csrf)) = (fields.get("url"), fields.get("csrf_token")) else {
            return Err(StateError::Fields(shown()));
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let flow = fields.get("flow_id").map(text).unwrap_or_default();
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        let flow = if flow.len() <= LONGEST_FLOW && flow.bytes().all(is_name) { flow } else { String::new() };
        Ok(Self { url: text(url), csrf: text(csrf), flow })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parse(json: &str) -> Result<State, StateError> {
        State::parse(URL_SAFE_NO_PAD.encode(json).as_bytes())
    }

    #[test]
    fn a_state_is_as_envoy_writes_it() {
        let state = State {
            url: "http://app.test:8080/x?y=z&q=%20".into(),
            csrf: "b42b65e6ceabff53.PPjHThWrbi8ivIiUzN1kQmF2ugVZjaMsiev1Jc4j07M=".into(),
            flow: "b42b65e6ceabff53".into(),
        };
        let text = "eyJ1cmwiOiJodHRwOi8vYXBwLnRlc3Q6ODA4MC94P3k9eiZxPSUyMCIsImNzcmZfdG9rZW4iOiJiNDJiNjVlNmNlYWJmZjUzLlBQakhUaFdyYmk4aXZJaVV6TjFrUW1GMnVnVlpqYU1zaWV2MUpjNGowN009IiwiZmxvd19pZCI6ImI0MmI2NWU2Y2VhYmZmNTMifQ";
        assert_eq!(state.encode(), text);
        assert_eq!(State::parse(text.as_bytes()), Ok(state));
    }

    #[test]
    fn what_is_missing_or_odd_is_told() {
        assert_eq!(State::parse(b"%%%"), Err(StateError::Json(String::new())));
        assert_eq!(parse("[1]"), Err(StateError::Json("[1]".into())));
        assert!(matches!(parse("{\"url\":\"a\"}"), Err(StateError::Fields(_))));
        let odd = parse("{\"url\":1,\"csrf_token\":2,\"flow_id\":\"f;x=\\r\\ny\"}").expect("a state");
        assert_eq!(odd, State { url: String::new(), csrf: String::new(), flow: String::new() });
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_again(url: String, csrf: String, flow: u64) {
            let state = State { url, csrf, flow: format!("{flow:016x}") };
            prop_assert_eq!(State::parse(state.encode().as_bytes()), Ok(state));
        }

        #[test]
        fn no_state_breaks_it(text: Vec<u8>) {
            let _ = State::parse(&text);
            let _ = State::parse(URL_SAFE_NO_PAD.encode(&text).as_bytes());
        }
    }
}
