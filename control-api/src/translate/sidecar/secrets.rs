//! Routes for everybody that lead to an ExternalService with secrets: who it is not exported to does not get them. The owner wrote the route,
//! but a client that is given a credential can do with it what it likes.

use std::sync::Arc;

use crate::attach::ir::{Filter, HttpRoute, Target, TcpRoute};
use crate::translate::{Context, Scope, external};

fn refused(context: &Context, scope: &Scope, target: &Target) -> bool {
    match target {
        Target::External { service, .. } => {
            !external::may_be_given(&context.world, service, &scope.namespace)
        }
        Target::Service { .. } | Target::Invalid => false,
    }
}

/// A producer's route as clients of a scope get it: what they must not have leads nowhere.
pub(super) fn http(context: &Context, scope: &Scope, route: Arc<HttpRoute>) -> Arc<HttpRoute> {
    let bad = |target: &Target| refused(context, scope, target);
    let mirrored = |filter: &Filter| matches!(filter, Filter::Mirror { target, .. } if bad(target));
    let concerned = route.rules.iter().any(|rule| {
        rule.filters.iter().any(mirrored)
            || rule.backends.iter().any(|it| bad(&it.target) || it.filters.iter().any(mirrored))
    });
    if !concerned {
        return route;
    }
    let mut route = Arc::unwrap_or_clone(route);
    for rule in &mut route.rules {
        rule.filters.retain(|it| !mirrored(it));
        for backend in &mut rule.backends {
            backend.filters.retain(|it| !mirrored(it));
            if bad(&backend.target) {
                backend.target = Target::Invalid;
            }
        }
    }
    Arc::new(route)
}

/// The same for connections.
pub(super) fn tcp(context: &Context, scope: &Scope, route: Arc<TcpRoute>) -> Arc<TcpRoute> {
    if !route.backends.iter().any(|(target, _)| refused(context, scope, target)) {
        return route;
    }
    let mut route = Arc::unwrap_or_clone(route);
    for (target, _) in &mut route.backends {
        if refused(context, scope, target) {
            *target = Target::Invalid;
        }
    }
    Arc::new(route)
}
