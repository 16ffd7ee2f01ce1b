//! GRPCRoutes, one by one: a method is a path.

use gateway_api::apis::standard::grpcroutes as api;

use super::backends::{Referrer, Refusal};
use super::http::{Compiled, Parts, finish};
use super::ir::{HttpMatch, HttpRule, PathMatch};
use super::refs::BackendRef;
use super::text;

/// Any service or method.
const ANY: &str = "[^/]+";

/// The rules of a GRPCRoute.
pub(super) fn compile(referrer: &Referrer<'_>, spec: &api::GrpcRouteSpec) -> Compiled<Vec<HttpRule>> {
    let mut out: Compiled<Vec<HttpRule>> = Compiled::default();
    let all = [api::GrpcRouteRules::default()];
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
    rule: &api::GrpcRouteRules,
    index: usize,
    unresolved: &mut Vec<Refusal>,
) -> Result<HttpRule, Refusal> {
    let field = format!("spec.rules[{index}]");
    let written = rule.matches.as_deref().unwrap_or_default();
    let all = [api::GrpcRouteRulesMatches::default()];
    let matches = if written.is_empty() { &all } else { written }
        .iter()
        .enumerate()
        .map(|(at, it)| compile_match(it, &format!("{field}.matches[{at}]")))
        .collect::<Result<Vec<_>, _>>()?;
    let backends: Vec<_> = rule
        .backend_refs
        .iter()
        .flatten()
        .map(|it| (BackendRef::from((referrer.namespace, it)), it.filters.as_deref()))
        .collect();
    let parts = Parts {
        index,
        field,
        name: rule.name.as_deref(),
        matches,
        prefix: false,
        request_timeout: None,
        backend_timeout: None,
    };
    finish(referrer, parts, rule.filters.as_deref(), &backends, unresolved)
}

fn compile_match(it: &api::GrpcRouteRulesMatches, field: &str) -> Result<HttpMatch, Refusal> {
    use api::GrpcRouteRulesMatchesHeadersType as Header;
    let mut out = HttpMatch { path: path(it.method.as_ref(), field)?, grpc: true, ..HttpMatch::default() };
    for (at, header) in it.headers.iter().flatten().enumerate() {
        let regex = header.r#type == Some(Header::RegularExpression);
        let name = header.name.to_ascii_lowercase();
        let value = text::matching(&header.value, regex, &format!("{field}.headers[{at}].value"))?;
        if !out.headers.iter().any(|(seen, _)| **seen == *name) {
            out.headers.push((name.into(), value));
        }
    }
    Ok(out)
}

/// gRPC's paths are `/package.Service/Method`.
fn path(it: Option<&api::GrpcRouteRulesMatchesMethod>, field: &str) -> Result<PathMatch, Refusal> {
    use api::GrpcRouteRulesMatchesMethodType as Type;
    let Some(it) = it else { return Ok(PathMatch::default()) };
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let (service, method) = (given(&it.service), given(&it.method));
    if it.r#type == Some(Type::RegularExpression) {
        for (value, name) in [(&service, "service"), (&method, "method")] {
            if let Some(value) = value {
                text::matching(value, true, &format!("{field}.method.{name}"))?;
            }
        }
        let part = |value: Option<String>| value.map_or_else(|| ANY.to_owned(), |it| format!("(?:{it})"));
        return Ok(PathMatch::Regex(format!("/{}/{}", part(service), part(method)).into()));
    }
    Ok(match (service, method) {
        (Some(service), Some(method)) => PathMatch::Exact(format!("/{service}/{method}").into()),
        (Some(service), None) => PathMatch::Prefix(format!("/{service}").into()),
        (None, Some(method)) => PathMatch::Regex(format!("/{ANY}/{}", regex::escape(&method)).into()),
        (None, None) => PathMatch::default(),
    })
}
