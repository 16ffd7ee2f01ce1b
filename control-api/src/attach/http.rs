//! HTTPRoutes, one by one: their rules with references resolved.

use std::sync::Arc;
use std::time::Duration;

use gateway_api::apis::standard::httproutes as api;
use serde::Serialize;

use super::backends::{Referrer, Refusal};
use super::filter;
use super::ir::{Backend, Filter, HttpMatch, HttpRule, PathMatch, Target, TextMatch};
use super::refs::BackendRef;
use super::text;

/// What came of the rules of a route.
#[derive(Clone, Debug, Default)]
pub(super) struct Compiled<R> {
    /// Those that are in force.
    pub(super) rules: R,
    /// References that lead nowhere, or that nobody granted.
    pub(super) unresolved: Vec<Refusal>,
    /// Rules that are left out: their places and why.
    pub(super) dropped: Vec<(usize, Refusal)>,
}

impl<R> Compiled<R> {
    /// Remembers that a rule is left out.
    pub(super) fn drop_rule(&mut self, index: usize, refusal: Refusal) {
        self.dropped.push((index, refusal));
    }
}

/// The rules of an HTTPRoute.
pub(super) fn compile(referrer: &Referrer<'_>, spec: &api::HttpRouteSpec) -> Compiled<Vec<HttpRule>> {
    let mut out: Compiled<Vec<HttpRule>> = Compiled::default();
    let all = [api::HttpRouteRules::default()];
    // Without rules there is one that matches everything, by the default of the API.
    for (index, rule) in spec.rules.as_deref().unwrap_or(&all).iter().enumerate() {
        let mut unresolved = Vec::new();
        match compile_rule(referrer, rule, index, &mut unresolved) {
            Ok(rule) => out.rules.push(rule),
            Err(refusal) => out.drop_rule(index, refusal),
        }
        out.unresolved.extend(unresolved);
    }
    out
}

fn compile_rule(
    referrer: &Referrer<'_>,
    rule: &api::HttpRouteRules,
    index: usize,
    unresolved: &mut Vec<Refusal>,
) -> Result<HttpRule, Refusal> {
    let field = format!("spec.rules[{index}]");
    let matches = rule
        .matches
        .as_deref()
        .unwrap_or_default()
        .iter()
        .enumerate()
        .map(|(at, it)| compile_match(it, &format!("{field}.matches[{at}]")))
        .collect::<Result<Vec<_>, _>>()?;
    let matches = if matches.is_empty() { vec![HttpMatch::default()] } else { matches };
    // Prefixes are replaced where there is one match, and that of a prefix.
    let prefix = matches.len() == 1 && matches.iter().all(|it| matches!(it.path, PathMatch::Prefix(_)));
    let timeouts = rule.timeouts.as_ref();
    let timeout = |text: Option<&String>, name: &str| {
        text.map(|text| {
            text::duration(text)
                .map_err(|why| Refusal::new("UnsupportedValue", format!("{field}.timeouts.{name}: {why}")))
        })
        .transpose()
    };
    let request_timeout = timeout(timeouts.and_then(|it| it.request.as_ref()), "request")?;
    let backend_timeout = timeout(timeouts.and_then(|it| it.backend_request.as_ref()), "backendRequest")?;
    let backends: Vec<_> = rule
        .backend_refs
        .iter()
        .flatten()
        .map(|it| (BackendRef::from((referrer.namespace, it)), it.filters.as_deref()))
        .collect();
    finish(
        referrer,
        Parts { index, field, name: rule.name.as_deref(), matches, prefix, request_timeout, backend_timeout },
        rule.filters.as_deref(),
        &backends,
        unresolved,
    )
}

/// What a rule is made of before its filters and backends are read.
pub(super) struct Parts<'r> {
    pub(super) index: usize,
    pub(super) field: String,
    pub(super) name: Option<&'r str>,
    pub(super) matches: Vec<HttpMatch>,
    pub(super) prefix: bool,
    pub(super) request_timeout: Option<Duration>,
    pub(super) backend_timeout: Option<Duration>,
}

/// Reads filters and backends; the same for HTTPRoutes and GRPCRoutes.
pub(super) fn finish<F: Serialize, G: Serialize>(
    referrer: &Referrer<'_>,
    parts: Parts<'_>,
    filters: Option<&[F]>,
    backends: &[(BackendRef<'_>, Option<&[G]>)],
    unresolved: &mut Vec<Refusal>,
) -> Result<HttpRule, Refusal> {
    let field = &parts.field;
    let filters = filter::read(referrer, filters, &format!("{field}.filters"), parts.prefix);
    if let Some(refusal) = filters.impossible {
        return Err(refusal);
    }
    unresolved.extend(filters.unresolved);
    let redirects = filters.list.iter().any(|it| matches!(it, Filter::Redirect { .. }));
    if redirects && !backends.is_empty() {
        return Err(Refusal::new(
            "IncompatibleFilters",
            format!("{field}.backendRefs: a rule with RequestRedirect has no backends; remove one of them"),
        ));
    }
    let mut rule = HttpRule {
        index: parts.index,
        name: parts.name.map(Arc::from),
        matches: parts.matches,
        filters: filters.list,
        backends: Vec::with_capacity(backends.len()),
        request_timeout: parts.request_timeout,
        backend_timeout: parts.backend_timeout,
    };
    if filters.fails {
        // Nothing of it may be done without the filter that is not known: no backend and no redirect is 500.
        rule.filters.clear();
        return Ok(rule);
    }
    for (at, (backend, filters)) in backends.iter().enumerate() {
        let field = format!("{field}.backendRefs[{at}]");
        let mut target = referrer.resolve(backend, &field).unwrap_or_else(|refusal| {
            unresolved.push(refusal);
            Target::Invalid
        });
        let filters = filter::read(referrer, *filters, &format!("{field}.filters"), parts.prefix);
        if let Some(refusal) = filters.impossible {
            return Err(refusal);
        }
        unresolved.extend(filters.unresolved);
        if filters.fails {
            target = Target::Invalid;
        }
        rule.backends.push(Backend { target, weight: backend.weight, filters: filters.list });
    }
    shares(&rule, field)?;
    Ok(rule)
}

/// What a proxy can do for one of several backends is to change headers and the host: all else it decides before it draws one.
fn shares(rule: &HttpRule, field: &str) -> Result<(), Refusal> {
    let live = |it: &&Backend| it.weight > 0 && it.target != Target::Invalid;
    if rule.backends.iter().filter(live).count() < 2 {
        return Ok(());
    }
    for (at, backend) in rule.backends.iter().enumerate().filter(|(_, it)| live(it)) {
        let name = backend.filters.iter().find_map(|filter| match filter {
            Filter::Mirror { .. } => Some("RequestMirror"),
            Filter::Redirect { .. } => Some("RequestRedirect"),
            Filter::Cors(_) => Some("CORS"),
            Filter::Rewrite { path: Some(_), .. } => Some("URLRewrite with a path"),
            Filter::Rewrite { .. } | Filter::RequestHeaders(_) | Filter::ResponseHeaders(_) => None,
        });
        if let Some(name) = name {
            return Err(Refusal::new(
                "UnsupportedValue",
                format!(
                    "{field}.backendRefs[{at}].filters: {name} cannot be done for one of several backends; put it at the rule, or give the backend a rule of its own"
                ),
            ));
        }
    }
    Ok(())
}

fn compile_match(it: &api::HttpRouteRulesMatches, field: &str) -> Result<HttpMatch, Refusal> {
    use api::{HttpRouteRulesMatchesHeadersType as Header, HttpRouteRulesMatchesQueryParamsType as Query};
    let mut out = HttpMatch { path: path(it.path.as_ref(), field)?, ..HttpMatch::default() };
    for (at, header) in it.headers.iter().flatten().enumerate() {
        let regex = header.r#type == Some(Header::RegularExpression);
        let name = header.name.to_ascii_lowercase();
        let value = text::matching(&header.value, regex, &format!("{field}.headers[{at}].value"))?;
        if !out.headers.iter().any(|(seen, _)| **seen == *name) {
            out.headers.push((name.into(), value));
        }
    }
    for (at, query) in it.query_params.iter().flatten().enumerate() {
        let regex = query.r#type == Some(Query::RegularExpression);
        let value = text::matching(&query.value, regex, &format!("{field}.queryParams[{at}].value"))?;
        if !out.query.iter().any(|(seen, _)| **seen == *query.name) {
            out.query.push((query.name.as_str().into(), value));
        }
    }
    out.method =
        it.method.as_ref().and_then(|method| Some(Arc::from(serde_json::to_value(method).ok()?.as_str()?)));
    Ok(out)
}

fn path(it: Option<&api::HttpRouteRulesMatchesPath>, field: &str) -> Result<PathMatch, Refusal> {
    use api::HttpRouteRulesMatchesPathType as Type;
    let Some(it) = it else { return Ok(PathMatch::default()) };
    let value = it.value.as_deref().unwrap_or("/");
    match it.r#type {
        Some(Type::Exact) => Ok(PathMatch::Exact(value.into())),
        Some(Type::RegularExpression) => match text::matching(value, true, &format!("{field}.path.value"))? {
            TextMatch::Exact(text) | TextMatch::Regex(text) => Ok(PathMatch::Regex(text)),
        },
        Some(Type::PathPrefix) | None => {
            let bare = value.trim_end_matches('/');
            Ok(PathMatch::Prefix(if bare.is_empty() { "/".into() } else { bare.into() }))
        }
    }
}
