//! TLSRoutes and TCPRoutes, one by one.

use gateway_api::apis::{experimental::tcproutes::TcpRouteSpec, standard::tlsroutes::TlsRouteSpec};

use super::backends::{Referrer, Refusal};
use super::http::Compiled;
use super::ir::Target;
use super::refs::BackendRef;

/// The backends of a TCPRoute.
pub(super) fn compile_tcp(referrer: &Referrer<'_>, spec: &TcpRouteSpec) -> Compiled<Vec<(Target, u32)>> {
    let rules = spec
        .rules
        .iter()
        .map(|rule| rule.backend_refs.iter().map(|it| BackendRef::from((referrer.namespace, it))).collect());
    compile(referrer, rules.collect())
}

/// The backends of a TLSRoute.
pub(super) fn compile_tls(referrer: &Referrer<'_>, spec: &TlsRouteSpec) -> Compiled<Vec<(Target, u32)>> {
    let rules = spec
        .rules
        .iter()
        .map(|rule| rule.backend_refs.iter().map(|it| BackendRef::from((referrer.namespace, it))).collect());
    compile(referrer, rules.collect())
}

/// A connection has nothing that a second rule could match: the first rule counts, others are told.
fn compile(referrer: &Referrer<'_>, rules: Vec<Vec<BackendRef<'_>>>) -> Compiled<Vec<(Target, u32)>> {
    let mut out: Compiled<Vec<(Target, u32)>> = Compiled::default();
    for (index, backends) in rules.into_iter().enumerate() {
        if index > 0 {
            let why = format!("spec.rules[{index}]: there can be one rule only; make another route of it");
            out.drop_rule(index, Refusal::new("UnsupportedValue", why));
            continue;
        }
        for (at, backend) in backends.iter().enumerate() {
            let target = referrer
                .resolve(backend, &format!("spec.rules[{index}].backendRefs[{at}]"))
                .unwrap_or_else(|refusal| {
                    out.unresolved.push(refusal);
                    Target::Invalid
                });
            out.rules.push((target, backend.weight));
        }
    }
    out
}
