//! Rules on strings and bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use regex::Regex;

use crate::pb::validate::{BytesRules, KnownRegex, StringRules, bytes_rules, string_rules};

/// Checks a string.
pub(super) fn string(text: &str, rules: &StringRules, pattern: Option<&Regex>) -> Result<(), String> {
    if text.is_empty() && rules.ignore_empty() {
        return Ok(());
    }
    if let Some(wanted) = &rules.r#const
        && text != wanted
    {
        return Err(format!("value must equal {wanted:?}"));
    }
    length(text.chars().count(), rules.len, rules.min_len, rules.max_len, "characters")?;
    length(text.len(), rules.len_bytes, rules.min_bytes, rules.max_bytes, "bytes")?;
    if let Some(pattern) = pattern
        && !pattern.is_match(text)
    {
        return Err(format!("value does not match regex pattern {:?}", pattern.as_str()));
    }
    if let Some(prefix) = &rules.prefix
        && !text.starts_with(prefix.as_str())
    {
        return Err(format!("value does not have prefix {prefix:?}"));
    }
    if let Some(suffix) = &rules.suffix
        && !text.ends_with(suffix.as_str())
    {
        return Err(format!("value does not have suffix {suffix:?}"));
    }
    if let Some(part) = &rules.contains
        && !text.contains(part.as_str())
    {
        return Err(format!("value does not contain substring {part:?}"));
    }
    if let Some(part) = &rules.not_contains
        && text.contains(part.as_str())
    {
        return Err(format!("value contains substring {part:?}"));
    }
    if !rules.r#in.is_empty() && !rules.r#in.iter().any(|it| it == text) {
        return Err(format!("value must be in list [{}]", rules.r#in.join(", ")));
    }
    if rules.not_in.iter().any(|it| it == text) {
        return Err(format!("value must not be in list [{}]", rules.not_in.join(", ")));
    }
    match &rules.well_known {
        Some(format) => well_known(text, format, rules.strict.unwrap_or(true)),
        None => Ok(()),
    }
}

/// Checks bytes.
pub(super) fn bytes(value: &[u8], rules: &BytesRules, pattern: Option<&Regex>) -> Result<(), String> {
    if value.is_empty() && rules.ignore_empty() {
        return Ok(());
    }
    if let Some(wanted) = &rules.r#const
        && value != wanted
    {
        return Err(format!("value must equal {}", wanted.escape_ascii()));
    }
    length(value.len(), rules.len, rules.min_len, rules.max_len, "bytes")?;
    if let Some(pattern) = pattern
        && !std::str::from_utf8(value).is_ok_and(|text| pattern.is_match(text))
    {
        return Err(format!("value does not match regex pattern {:?}", pattern.as_str()));
    }
    if let Some(prefix) = &rules.prefix
        && !value.starts_with(prefix)
    {
        return Err(format!("value does not have prefix {}", prefix.escape_ascii()));
    }
    if let Some(suffix) = &rules.suffix
        && !value.ends_with(suffix)
    {
        return Err(format!("value does not have suffix {}", suffix.escape_ascii()));
    }
    if let Some(part) = &rules.contains
        && !part.is_empty()
        && !value.windows(part.len()).any(|window| window == part)
    {
        return Err(format!("value does not contain {}", part.escape_ascii()));
    }
    if !rules.r#in.is_empty() && !rules.r#in.iter().any(|it| it == value) {
        return Err("value must be in list".to_owned());
    }
    if rules.not_in.iter().any(|it| it == value) {
        return Err("value must not be in list".to_owned());
    }
    let fits = match rules.well_known {
        Some(bytes_rules::WellKnown::Ip(true)) => matches!(value.len(), 4 | 16),
        Some(bytes_rules::WellKnown::Ipv4(true)) => value.len() == 4,
        Some(bytes_rules::WellKnown::Ipv6(true)) => value.len() == 16,
        _ => true,
    };
    if fits { Ok(()) } else { Err("value must be a valid IP address".to_owned()) }
}

fn length(
    len: usize,
    exact: Option<u64>,
    min: Option<u64>,
    max: Option<u64>,
    unit: &str,
) -> Result<(), String> {
    let len = len as u64;
    match (exact, min, max) {
        (Some(exact), _, _) if len != exact => Err(format!("value length must be {exact} {unit}")),
        (_, Some(min), _) if len < min => Err(format!("value length must be at least {min} {unit}")),
        (_, _, Some(max)) if len > max => Err(format!("value length must be at most {max} {unit}")),
        _ => Ok(()),
    }
}

/// Checks the formats that have names.
fn well_known(text: &str, format: &string_rules::WellKnown, strict: bool) -> Result<(), String> {
    use string_rules::WellKnown;
    let (fits, what) = match *format {
        WellKnown::Email(true) => (is_email(text), "value must be a valid email address"),
        WellKnown::Hostname(true) => (is_hostname(text), "value must be a valid hostname"),
        WellKnown::Ip(true) => (text.parse::<IpAddr>().is_ok(), "value must be a valid IP address"),
        WellKnown::Ipv4(true) => (text.parse::<Ipv4Addr>().is_ok(), "value must be a valid IPv4 address"),
        WellKnown::Ipv6(true) => (text.parse::<Ipv6Addr>().is_ok(), "value must be a valid IPv6 address"),
        WellKnown::Uri(true) => (is_uri(text), "value must be a valid absolute URI"),
        WellKnown::UriRef(true) => (is_uri_reference(text), "value must be a valid URI"),
        WellKnown::Address(true) => (
            is_hostname(text) || text.parse::<IpAddr>().is_ok(),
            "value must be a valid hostname, or ip address",
        ),
        WellKnown::Uuid(true) => (is_uuid(text), "value must be a valid UUID"),
        WellKnown::WellKnownRegex(number) => match KnownRegex::try_from(number) {
            Ok(KnownRegex::HttpHeaderName) if strict => {
                (is_header_name(text), "value must be a valid HTTP header name")
            }
            Ok(KnownRegex::HttpHeaderValue) if strict => {
                (is_header_value(text), "value must be a valid HTTP header value")
            }
            Ok(KnownRegex::HttpHeaderName | KnownRegex::HttpHeaderValue) => {
                (!text.contains(['\0', '\r', '\n']), "value must not contain NUL, CR or LF")
            }
            _ => (true, ""),
        },
        _ => (true, ""),
    };
    if fits { Ok(()) } else { Err(what.to_owned()) }
}

/// RFC 7230 token, with the colon before the names of pseudo headers.
fn is_header_name(text: &str) -> bool {
    let name = text.strip_prefix(':').unwrap_or(text);
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_|~`".contains(&b))
}

/// RFC 7230 field value: no control characters but the tab.
fn is_header_value(text: &str) -> bool {
    text.bytes().all(|b| b == b'\t' || (b >= 0x20 && b != 0x7f))
}

/// RFC 1034 with the relaxation of RFC 1123.
fn is_hostname(text: &str) -> bool {
    let name = text.strip_suffix('.').unwrap_or(text);
    !name.is_empty()
        && name.len() <= 253
        && name.split('.').all(|label| {
            (1..=63).contains(&label.len())
                && !label.starts_with('-')
                && !label.ends_with('-')
                && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-')
        })
}

fn is_email(text: &str) -> bool {
    text.len() <= 254
        && text.rsplit_once('@').is_some_and(|(local, host)| {
            !local.is_empty()
                && local.len() <= 64
                && !local.contains(char::is_whitespace)
                && is_hostname(host)
        })
}

/// An absolute URI: a scheme (RFC 3986, 3.1), then a reference.
fn is_uri(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, _)| {
        scheme.starts_with(|c: char| c.is_ascii_alphabetic())
            && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+-.".contains(&b))
    }) && is_uri_reference(text)
}

/// A URI reference, judged by its characters and percent escapes.
fn is_uri_reference(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.iter().enumerate().all(|(at, &byte)| match byte {
        b'%' => (1..=2).all(|next| bytes.get(at + next).is_some_and(u8::is_ascii_hexdigit)),
        _ => byte.is_ascii_alphanumeric() || b"-._~:/?#[]@!$&'()*+,;=".contains(&byte),
    })
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_hexdigit(),
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats() {
        assert!(
            is_header_name(":path")
                && is_header_name("x-a_b")
                && !is_header_name(":")
                && !is_header_name("a b")
        );
        assert!(is_header_value("a\tb é") && !is_header_value("a\nb") && !is_header_value("\x7f"));
        assert!(
            is_hostname("a-b.example.com.")
                && !is_hostname("-a.com")
                && !is_hostname("a..b")
                && !is_hostname("")
        );
        assert!(is_email("a@b.c") && !is_email("a@") && !is_email("@b") && !is_email("a b@c"));
        assert!(is_uri("https://a/b?c#d") && !is_uri("/b") && !is_uri("1a:b") && !is_uri("a:b c"));
        assert!(is_uri_reference("/b%20c") && !is_uri_reference("/b%2") && !is_uri_reference("é"));
        assert!(is_uuid("123e4567-e89b-12d3-a456-426614174000") && !is_uuid("123e4567"));
    }

    #[test]
    fn strings() {
        let says = |text: &str, rules: StringRules| string(text, &rules, None).err().unwrap_or_default();
        let rules = StringRules { min_len: Some(2), max_bytes: Some(4), ..StringRules::default() };
        assert_eq!(says("é", rules.clone()), "value length must be at least 2 characters");
        assert_eq!(says("ééé", rules.clone()), "value length must be at most 4 bytes");
        assert_eq!(says("éé", rules.clone()), "");
        assert_eq!(says("", StringRules { ignore_empty: Some(true), ..rules }), "");
        let rules = StringRules {
            prefix: Some("/".into()),
            not_contains: Some("..".into()),
            ..StringRules::default()
        };
        assert_eq!(says("a", rules.clone()), "value does not have prefix \"/\"");
        assert_eq!(says("/..", rules), "value contains substring \"..\"");
        let loose = StringRules {
            well_known: Some(string_rules::WellKnown::WellKnownRegex(1)),
            strict: Some(false),
            ..StringRules::default()
        };
        assert_eq!(says("a b", loose.clone()), "");
        assert_eq!(says("a\nb", loose.clone()), "value must not contain NUL, CR or LF");
        assert_eq!(
            says("a b", StringRules { strict: None, ..loose }),
            "value must be a valid HTTP header name"
        );
    }
}
