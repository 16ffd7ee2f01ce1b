//! Which of several matches is tried first.

use std::cmp::Reverse;

use crate::attach::ir::{HttpMatch, HttpRoute, HttpRule, PathMatch};

/// The place of a match among all matches of a host: the smallest is tried first.
///
/// Regular expressions have no place in the Gateway API's rules. Envoy Gateway tries them after exact paths and before all
/// prefixes, Istio after all prefixes, where a rule for `/` hides them all. Who writes an expression means something special
/// by it, so they stand as Envoy Gateway has them, the longer one first. The expression of a GRPCRoute is another matter: it
/// names a method without a service, and the rules put characters of the service first, so it comes after every prefix that
/// names one and before `/`, which names nothing.
/// <https://gateway-api.sigs.k8s.io/reference/spec/#httprouterule>,
/// <https://gateway-api.sigs.k8s.io/reference/spec/#grpcrouterule>
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank<'r> {
    path: PathRank,
    method: Reverse<bool>,
    headers: Reverse<usize>,
    query: Reverse<usize>,
    created: i64,
    namespace: &'r str,
    name: &'r str,
    kind: crate::model::Kind,
    rule: usize,
    matched: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum PathRank {
    Exact,
    Regex(Reverse<usize>),
    Prefix(Reverse<usize>),
    Method(Reverse<usize>),
    Root,
}

impl<'r> Rank<'r> {
    pub(super) fn of(route: &'r HttpRoute, rule: &HttpRule, matched: usize, it: &HttpMatch) -> Self {
        Self {
            path: PathRank::of(it),
            method: Reverse(it.method.is_some()),
            headers: Reverse(it.headers.len()),
            query: Reverse(it.query.len()),
            created: route.created,
            namespace: &route.key.namespace,
            name: &route.key.name,
            kind: route.key.kind,
            rule: rule.index,
            matched,
        }
    }
}

impl PathRank {
    fn of(it: &HttpMatch) -> Self {
        match &it.path {
            // Two that differ never match the same request: their lengths say nothing.
            PathMatch::Exact(_) => Self::Exact,
            PathMatch::Regex(text) if it.grpc => Self::Method(Reverse(text.chars().count())),
            PathMatch::Regex(text) => Self::Regex(Reverse(text.chars().count())),
            PathMatch::Prefix(text) if &**text == "/" => Self::Root,
            PathMatch::Prefix(text) => Self::Prefix(Reverse(text.chars().count())),
        }
    }
}
