//! What a login makes up anew each time: nonces, verifiers, signatures and encrypted tokens.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};

/// The cookies of the filter `envoy.filters.http.oauth2`.
const COOKIES: [&str; 7] =
    ["OauthNonce", "CodeVerifier", "OauthHMAC", "OauthExpires", "BearerToken", "IdToken", "RefreshToken"];
/// Values that are longer than this are made up; shorter ones are the tests' own.
const LONGEST: usize = 9;

/// `line` without what is made up.
pub(crate) fn logins(line: &str) -> String {
    if let Some((before, cookie)) = line.split_once("set-cookie: ") {
        return format!("{before}set-cookie: {}", cookie_line(cookie));
    }
    if line.contains("code_challenge=") {
        let line = value(line, "code_challenge=", |_| "<challenge>".to_owned());
        return value(&line, "state=", state);
    }
    line.to_owned()
}

fn cookie_line(cookie: &str) -> String {
    let Some((name, rest)) = cookie.split_once('=') else { return cookie.to_owned() };
    let base = name.split('.').next().unwrap_or_default();
    let Some((text, attributes)) = rest.split_once(';') else { return cookie.to_owned() };
    if !COOKIES.contains(&base) || text.len() <= LONGEST || !attributes.contains("Max-Age=") {
        return cookie.to_owned();
    }
    let flow = if name == base { "" } else { ".<flow>" };
    format!("{base}{flow}=<made up>;{attributes}")
}

/// The value behind `name`, as `shown` has it.
fn value(line: &str, name: &str, shown: impl Fn(&str) -> String) -> String {
    let Some((before, rest)) = line.split_once(name) else { return line.to_owned() };
    let end = rest.find(['&', ' ', '"']).unwrap_or(rest.len());
    let (text, after) = rest.split_at(end);
    format!("{before}{name}{}{after}", shown(text))
}

/// Of a state its URL is shown.
fn state(text: &str) -> String {
    let decoded = URL_SAFE_NO_PAD.decode(text).unwrap_or_default();
    let decoded = String::from_utf8_lossy(&decoded);
    match decoded.split_once("\",\"csrf_token\":\"") {
        Some((url, rest)) => format!("<{url}, {} bytes>", rest.len()),
        None => format!("<no state: {text}>"),
    }
}
