//! Forms of names.

/// Whether a text is a DNS label: lower case letters, digits and dashes inside.
fn is_label(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(inside) && !text.starts_with('-') && !text.ends_with('-')
}

/// Whether a text is labels with dots between.
pub(super) fn is_subdomain(text: &str) -> bool {
    text.split('.').all(is_label)
}

fn ok(good: bool, text: &str, want: &str) -> Result<(), String> {
    if good { Ok(()) } else { Err(format!("{text:?}: want {want}")) }
}

/// A DNS label, by RFC 1123.
pub(super) fn label(text: &str) -> Result<(), String> {
    let good = is_label(text) && text.len() <= 63;
    ok(good, text, "up to 63 lower case letters, digits and dashes, a letter or digit at both ends")
}

/// A DNS label that begins with a letter, by RFC 1035.
pub(super) fn service_name(text: &str) -> Result<(), String> {
    let good = is_label(text) && text.len() <= 63 && text.starts_with(|it: char| it.is_ascii_lowercase());
    ok(good, text, "up to 63 lower case letters, digits and dashes, a letter first, no dash last")
}

/// Labels with dots between, by RFC 1123.
pub(super) fn subdomain(text: &str) -> Result<(), String> {
    ok(
        is_subdomain(text),
        text,
        "lower case letters, digits, dashes and dots, a letter or digit at both ends of each part",
    )
}

/// An API group; empty for the core.
pub(super) fn group(text: &str) -> Result<(), String> {
    ok(
        text.is_empty() || is_subdomain(text),
        text,
        "an API group as in gateway.networking.k8s.io, or nothing",
    )
}

/// A kind.
pub(super) fn kind(text: &str) -> Result<(), String> {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
    let good = text.bytes().all(inside)
        && text.starts_with(|it: char| it.is_ascii_alphabetic())
        && !text.ends_with('-');
    ok(good, text, "a kind as in HTTPRoute")
}

/// A host name, perhaps with `*.` in front; no IP address.
pub(super) fn hostname(text: &str) -> Result<(), String> {
    let bare = text.strip_prefix("*.").unwrap_or(text);
    let good = is_subdomain(bare) && bare.parse::<std::net::IpAddr>().is_err();
    ok(
        good,
        text,
        "a host name in lower case as in www.example.com or *.example.com, no IP address and no port",
    )
}

/// A host name without a wildcard.
pub(super) fn precise_hostname(text: &str) -> Result<(), String> {
    let good = is_subdomain(text) && text.parse::<std::net::IpAddr>().is_err();
    ok(good, text, "a host name in lower case as in www.example.com, no wildcard, no IP address and no port")
}

/// The name of an HTTP header.
pub(super) fn header(text: &str) -> Result<(), String> {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    ok(text.bytes().all(inside), text, "a header's name: letters, digits and !#$%&'*+-.^_`|~")
}

/// The value of an HTTP header.
pub(super) fn header_value(text: &str) -> Result<(), String> {
    let bad = |it: char| it.is_control() && it != '\t';
    if text.contains(bad) {
        Err("has control characters, which no header can have".to_owned())
    } else {
        Ok(())
    }
}

/// A path that is matched exactly or by prefix.
pub(super) fn path(text: &str) -> Result<(), String> {
    if !text.starts_with('/') {
        return Err(format!("{text:?} must begin with \"/\""));
    }
    if let Some(bad) = ["//", "/./", "/../", "%2f", "%2F", "#"].into_iter().find(|bad| text.contains(bad)) {
        return Err(format!("{text:?} must not contain {bad:?}"));
    }
    if let Some(bad) = ["/..", "/."].into_iter().find(|bad| text.ends_with(bad)) {
        return Err(format!("{text:?} must not end with {bad:?}"));
    }
    path_characters(text)
}

/// The characters of a path.
fn path_characters(text: &str) -> Result<(), String> {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        let good = match byte {
            b'%' => [bytes.next(), bytes.next()].iter().all(|it| it.is_some_and(|it| it.is_ascii_hexdigit())),
            _ => byte.is_ascii_alphanumeric() || b"-/._~!$&'()*+,;=:@".contains(&byte),
        };
        if !good {
            return Err(format!("{text:?} has characters that a path cannot have; write them as %XX"));
        }
    }
    Ok(())
}

/// What a path is replaced by.
pub(super) fn replacement(text: &str) -> Result<(), String> {
    let bad = |it: char| it.is_control() || it.is_whitespace() || matches!(it, '#' | '?');
    if text.contains(bad) {
        return Err(format!("{text:?} must not have blanks, control characters, ? or #"));
    }
    Ok(())
}

/// A domain, a slash and a path, as controllers are called.
pub(super) fn domain_path(text: &str) -> Result<(), String> {
    let good = text.split_once('/').is_some_and(|(domain, path)| {
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~%!$&'()*+,;=:".contains(&byte);
        is_subdomain(domain) && !path.is_empty() && path.bytes().all(inside)
    });
    ok(good, text, "a domain and a path as in example.com/controller")
}

/// A word, or a domain and a word.
pub(super) fn protocol(text: &str) -> Result<(), String> {
    let word = |text: &str, dashes: bool| {
        let inside = |byte: u8| byte.is_ascii_alphanumeric() || (dashes && byte == b'-');
        !text.is_empty() && text.bytes().all(inside) && !text.starts_with('-') && !text.ends_with('-')
    };
    let good = word(text, true)
        || text.split_once('/').is_some_and(|(domain, name)| is_subdomain(domain) && word(name, false));
    ok(good, text, "HTTP, HTTPS, TLS, TCP, or a domain and a name as in example.com/proto")
}

/// The key of a label or an annotation: a name, perhaps with a domain and a slash before it.
pub(super) fn qualified(text: &str) -> Result<(), String> {
    let (domain, name) = text.rsplit_once('/').map_or((None, text), |(domain, name)| (Some(domain), name));
    let good = domain.is_none_or(|domain| is_subdomain(domain) && domain.len() <= 253) && is_name(name);
    ok(good, text, "up to 63 letters, digits, -, _ and ., perhaps with a domain and / before them")
}

fn is_name(text: &str) -> bool {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let end = |it: char| it.is_ascii_alphanumeric();
    text.len() <= 63 && text.bytes().all(inside) && text.starts_with(end) && text.ends_with(end)
}

/// The value of a label.
pub(super) fn label_value(text: &str) -> Result<(), String> {
    let good = text.is_empty() || is_name(text);
    ok(good, text, "up to 63 letters, digits, -, _ and ., a letter or digit at both ends")
}

/// The key of a Secret's or ConfigMap's data.
pub(super) fn data_key(text: &str) -> Result<(), String> {
    let inside = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let good = text.len() <= 253 && text.bytes().all(inside) && !matches!(text, "" | "." | "..");
    ok(good, text, "up to 253 letters, digits, -, _ and .")
}

/// The name of a port: up to fifteen characters with a letter among them.
pub(super) fn port_name(text: &str) -> Result<(), String> {
    let good = is_label(text) && text.len() <= 15 && text.contains(|it: char| it.is_ascii_lowercase());
    ok(
        good && !text.contains("--"),
        text,
        "up to 15 lower case letters, digits and single dashes, with a letter among them",
    )
}

/// An absolute URI with an authority.
pub(super) fn uri(text: &str) -> Result<(), String> {
    let good = text
        .split_once("://")
        .is_some_and(|(scheme, _)| !scheme.is_empty() && !scheme.contains(['/', '?', '#', ':']));
    ok(good, text, "an absolute URI as in spiffe://cluster.local/ns/shop/sa/web")
}

/// An origin of a CORS filter.
pub(super) fn origin(text: &str) -> Result<(), String> {
    let good = text == "*"
        || text.strip_prefix("http://").or_else(|| text.strip_prefix("https://")).is_some_and(|rest| {
            let (host, port) = rest.split_once(':').map_or((rest, None), |(host, port)| (host, Some(port)));
            let part = |text: &str| {
                !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            };
            let host = host == "*" || host.strip_prefix("*.").unwrap_or(host).split('.').all(part);
            host && port.is_none_or(|port| {
                (1..=5).contains(&port.len()) && port.bytes().all(|byte| byte.is_ascii_digit())
            })
        });
    ok(good, text, "* or scheme://host[:port] with http or https, as in https://*.example.com")
}
