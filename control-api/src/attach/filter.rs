//! Filters of routes. The generated types have one for rules and one for backends, of HTTPRoutes and of GRPCRoutes: all are
//! read into one here, by way of JSON.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::backends::{Referrer, Refusal};
use super::ir::{Cors, Filter, HeaderChange, PathChange};
use super::refs::MirrorRef;

/// A filter as it is written.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Written {
    r#type: String,
    request_header_modifier: Option<Modifier>,
    response_header_modifier: Option<Modifier>,
    request_mirror: Option<Mirror>,
    request_redirect: Option<Redirect>,
    url_rewrite: Option<Rewrite>,
    cors: Option<WrittenCors>,
    extension_ref: Option<Extension>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Modifier {
    set: Vec<Header>,
    add: Vec<Header>,
    remove: Vec<String>,
}

#[derive(Debug, Deserialize)]
struct Header {
    name: String,
    value: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Mirror {
    backend_ref: MirrorRef,
    percent: Option<i32>,
    fraction: Option<Fraction>,
}

#[derive(Debug, Deserialize)]
struct Fraction {
    numerator: i32,
    denominator: Option<i32>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Redirect {
    scheme: Option<String>,
    hostname: Option<String>,
    path: Option<Path>,
    port: Option<i32>,
    status_code: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct Rewrite {
    hostname: Option<String>,
    path: Option<Path>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Path {
    r#type: String,
    replace_full_path: Option<String>,
    replace_prefix_match: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct WrittenCors {
    allow_origins: Vec<String>,
    allow_credentials: bool,
    allow_methods: Vec<String>,
    allow_headers: Vec<String>,
    expose_headers: Vec<String>,
    max_age: Option<i64>,
}

#[derive(Debug, Deserialize)]
struct Extension {
    group: String,
    kind: String,
    name: String,
}

/// What came of the filters of one rule or backend.
#[derive(Debug, Default)]
pub(super) struct Filters {
    /// Those that are in force.
    pub(super) list: Vec<Filter>,
    /// References that lead nowhere. A mirror's is told and changes nothing for the request itself.
    pub(super) unresolved: Vec<Refusal>,
    /// A filter that nobody knows: it must not be skipped, so requests are to fail.
    pub(super) fails: bool,
    /// What makes the whole rule impossible.
    pub(super) impossible: Option<Refusal>,
}

/// How long a browser may keep the answer of a preflight when nobody says: five seconds, by the Gateway API.
const CORS_MAX_AGE: i64 = 5;

/// Reads filters. `field` is where they stand; `prefix`: whether all matches of the rule are of path prefixes, which a
/// replaced prefix needs.
pub(super) fn read<T: Serialize>(
    referrer: &Referrer<'_>,
    written: Option<&[T]>,
    field: &str,
    prefix: bool,
) -> Filters {
    let mut out = Filters::default();
    let mut seen = Vec::new();
    for (index, filter) in written.unwrap_or_default().iter().enumerate() {
        let field = format!("{field}[{index}]");
        let read = serde_json::to_value(filter).and_then(serde_json::from_value::<Written>);
        let outcome = match &read {
            Ok(filter) => one(referrer, filter, &field, prefix, &mut out),
            Err(error) => Err(Refusal::new("UnsupportedValue", format!("{field}: {error}"))),
        };
        if let Err(refusal) = outcome {
            out.impossible.get_or_insert(refusal);
        }
        if let Ok(filter) = read {
            seen.push(filter.r#type);
        }
    }
    if let Some(refusal) = incompatible(&seen, field) {
        out.impossible.get_or_insert(refusal);
    }
    out
}

/// Filters that cannot stand together: <https://gateway-api.sigs.k8s.io/reference/spec/#httprouterule>.
fn incompatible(types: &[String], field: &str) -> Option<Refusal> {
    let count = |kind: &str| types.iter().filter(|it| *it == kind).count();
    if count("RequestRedirect") > 0 && count("URLRewrite") > 0 {
        return Some(Refusal::new(
            "IncompatibleFilters",
            format!("{field}: RequestRedirect and URLRewrite cannot stand together; take one of them"),
        ));
    }
    let once = ["RequestHeaderModifier", "ResponseHeaderModifier", "RequestRedirect", "URLRewrite", "CORS"];
    let twice = once.into_iter().find(|kind| count(kind) > 1)?;
    Some(Refusal::new(
        "IncompatibleFilters",
        format!("{field}: {twice} stands there twice; join them into one"),
    ))
}

fn one(
    referrer: &Referrer<'_>,
    filter: &Written,
    field: &str,
    prefix: bool,
    out: &mut Filters,
) -> Result<(), Refusal> {
    let missing = |name: &str| {
        Refusal::new("UnsupportedValue", format!("{field}.{name}: missing for type {}", filter.r#type))
    };
    let read = match filter.r#type.as_str() {
        "RequestHeaderModifier" => Filter::RequestHeaders(headers(
            filter.request_header_modifier.as_ref().ok_or_else(|| missing("requestHeaderModifier"))?,
            field,
        )?),
        "ResponseHeaderModifier" => Filter::ResponseHeaders(headers(
            filter.response_header_modifier.as_ref().ok_or_else(|| missing("responseHeaderModifier"))?,
            field,
        )?),
        "RequestMirror" => {
            let it = filter.request_mirror.as_ref().ok_or_else(|| missing("requestMirror"))?;
            mirror(referrer, it, field, out)?
        }
        "RequestRedirect" => {
            let it = filter.request_redirect.as_ref().ok_or_else(|| missing("requestRedirect"))?;
            redirect(it, field, prefix)?
        }
        "URLRewrite" => {
            let it = filter.url_rewrite.as_ref().ok_or_else(|| missing("urlRewrite"))?;
            let path = path(it.path.as_ref(), &format!("{field}.urlRewrite.path"), prefix)?;
            Filter::Rewrite { hostname: it.hostname.as_deref().map(Arc::from), path }
        }
        "CORS" => Filter::Cors(Box::new(cors(filter.cors.as_ref().ok_or_else(|| missing("cors"))?))),
        "ExtensionRef" => {
            let it = filter.extension_ref.as_ref().ok_or_else(|| missing("extensionRef"))?;
            out.fails = true;
            out.unresolved.push(Refusal::new(
                "InvalidKind",
                format!(
                    "{field}.extensionRef: {} {:?} of group {:?} is no filter that is known here; requests of this rule get 500",
                    it.kind, it.name, it.group
                ),
            ));
            return Ok(());
        }
        other => {
            return Err(Refusal::new("UnsupportedValue", format!("{field}.type: {other:?} is not known")));
        }
    };
    out.list.push(read);
    Ok(())
}

fn headers(it: &Modifier, field: &str) -> Result<HeaderChange, Refusal> {
    // Proxies refuse to change it this way, and with it all else that they are told.
    let named = it.set.iter().chain(&it.add).map(|header| &header.name).chain(&it.remove);
    if let Some(name) =
        named.into_iter().find(|name| name.eq_ignore_ascii_case("host") || name.starts_with(':'))
    {
        let why = format!("{field}: the header {name:?} cannot be changed; use a filter URLRewrite");
        return Err(Refusal::new("UnsupportedValue", why));
    }
    let pairs = |list: &[Header]| {
        let mut seen = std::collections::BTreeSet::new();
        // Of equal names the first one counts, by the Gateway API.
        list.iter()
            .map(|header| (header.name.to_ascii_lowercase(), &header.value))
            .filter(|(name, _)| seen.insert(name.clone()))
            .map(|(name, value)| (name.into(), value.as_str().into()))
            .collect()
    };
    Ok(HeaderChange {
        set: pairs(&it.set),
        add: pairs(&it.add),
        remove: it.remove.iter().map(|name| name.to_ascii_lowercase().into()).collect(),
    })
}

fn mirror(referrer: &Referrer<'_>, it: &Mirror, field: &str, out: &mut Filters) -> Result<Filter, Refusal> {
    let whole = 1_000_000_u64;
    let share = |numerator: i32, denominator: i32| {
        let (part, of) = (u64::try_from(numerator).ok()?, u64::try_from(denominator).ok()?);
        u32::try_from(part.checked_mul(whole)?.checked_div(of)?).ok().filter(|_| part <= of)
    };
    let per_million = match (it.percent, &it.fraction) {
        (Some(_), Some(_)) => None,
        (Some(percent), None) => share(percent, 100),
        (None, Some(fraction)) => share(fraction.numerator, fraction.denominator.unwrap_or(100)),
        (None, None) => share(1, 1),
    };
    let Some(per_million) = per_million else {
        return Err(Refusal::new(
            "UnsupportedValue",
            format!("{field}.requestMirror: percent or fraction: want one of them, between nothing and all"),
        ));
    };
    let backend = it.backend_ref.seen_from(referrer.namespace);
    let target =
        referrer.resolve(&backend, &format!("{field}.requestMirror.backendRef")).unwrap_or_else(|refusal| {
            out.unresolved.push(refusal);
            super::ir::Target::Invalid
        });
    Ok(Filter::Mirror { target, per_million })
}

fn redirect(it: &Redirect, field: &str, prefix: bool) -> Result<Filter, Refusal> {
    let field = format!("{field}.requestRedirect");
    let refuse =
        |name: &str, what: String| Err(Refusal::new("UnsupportedValue", format!("{field}.{name}: {what}")));
    let status = match it.status_code {
        None => 302,
        Some(code @ (301 | 302 | 303 | 307 | 308)) => u16::try_from(code).unwrap_or(302),
        Some(code) => return refuse("statusCode", format!("{code} is none of 301, 302, 303, 307, 308")),
    };
    let scheme = match it.scheme.as_deref() {
        None => None,
        Some(scheme @ ("http" | "https")) => Some(scheme.into()),
        Some(scheme) => return refuse("scheme", format!("{scheme:?} is neither http nor https")),
    };
    let port = match it.port.map(u16::try_from) {
        None => None,
        Some(Ok(port)) if port > 0 => Some(port),
        Some(_) => return refuse("port", "want a number from 1 to 65535".to_owned()),
    };
    Ok(Filter::Redirect {
        scheme,
        hostname: it.hostname.as_deref().map(Arc::from),
        path: path(it.path.as_ref(), &format!("{field}.path"), prefix)?,
        port,
        status,
    })
}

fn path(it: Option<&Path>, field: &str, prefix: bool) -> Result<Option<PathChange>, Refusal> {
    let Some(it) = it else { return Ok(None) };
    match (it.r#type.as_str(), &it.replace_full_path, &it.replace_prefix_match) {
        ("ReplaceFullPath", Some(path), None) => Ok(Some(PathChange::Full(path.as_str().into()))),
        ("ReplacePrefixMatch", None, Some(path)) if prefix => {
            Ok(Some(PathChange::Prefix(path.as_str().into())))
        }
        ("ReplacePrefixMatch", None, Some(_)) => Err(Refusal::new(
            "UnsupportedValue",
            format!("{field}.replacePrefixMatch: needs one match of the rule, and that by PathPrefix"),
        )),
        (kind, ..) => {
            Err(Refusal::new("UnsupportedValue", format!("{field}: what type {kind} asks for is not there")))
        }
    }
}

fn cors(it: &WrittenCors) -> Cors {
    let list = |list: &[String]| list.iter().map(|it| it.as_str().into()).collect();
    Cors {
        allow_origins: list(&it.allow_origins),
        allow_credentials: it.allow_credentials,
        allow_methods: list(&it.allow_methods),
        allow_headers: list(&it.allow_headers),
        expose_headers: list(&it.expose_headers),
        max_age: Some(Duration::from_secs(it.max_age.unwrap_or(CORS_MAX_AGE).try_into().unwrap_or_default())),
    }
}
