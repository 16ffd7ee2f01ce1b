//! `envoy.filters.http.rbac`: who may do what.

use std::sync::{Arc, LazyLock};

use bytes::Bytes;
use http::StatusCode;
use outrider_config::model::{Rbac as Settings, RouteFilterConfig};
use outrider_core::LocalReply;
use outrider_core::rbac::{Decision, EnforcedStats, Facts, HTTP_NAMESPACE, ShadowStats, nearest_is_read};
use outrider_core::stats::Scope;

use super::named::Named;
use super::{RequestCx, Step};

/// The namespace of what the filter says of a request.
static NAMESPACE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(HTTP_NAMESPACE));

const BODY: Bytes = Bytes::from_static(b"RBAC: access denied");

/// The filter.
#[derive(Debug)]
pub(crate) struct Rbac {
    settings: Arc<Settings>,
    enforced: EnforcedStats,
    shadow: ShadowStats,
    /// What each policy decided, where it is counted.
    enforced_policies: Named<EnforcedStats>,
    shadow_policies: Named<ShadowStats>,
}

impl Rbac {
    /// `scope` is the connection manager's. What routes say in the filter's place is counted here too.
    pub(super) fn new(settings: Arc<Settings>, scope: &Scope) -> Self {
        let scope = scope.child("rbac.");
        Self {
            enforced: EnforcedStats::of(&scope, &settings.enforced_names),
            shadow: ShadowStats::of(&scope, &settings.shadow_names),
            enforced_policies: Named::default(),
            shadow_policies: Named::default(),
            settings,
        }
    }

    pub(super) fn request<'a>(&'a self, mut cx: RequestCx<'a>) -> Step<'a> {
        let (stream, name) = (cx.stream, cx.name);
        let (parts, route) = cx.head_and_route();
        let said = route.and_then(|route| route.filter(name)).and_then(|found| found.levels.last());
        let settings = match said {
            Some(RouteFilterConfig::Rbac(None)) => return Step::GO_ON,
            Some(RouteFilterConfig::Rbac(Some(settings))) => settings,
            _ => &self.settings,
        };
        let head = stream.view(&parts.method, &parts.uri, &parts.headers);
        let route = route.and_then(|route| route.config()?.metadata.as_deref());
        let mut info = stream.info.borrow_mut();
        if let Some(engine) = &settings.shadow {
            let decision = engine.decide(&Facts { conn: &info.conn, stream: &info, head, route });
            self.count_shadow(settings, &decision);
            let names = self.settings.shadow_names.unless(&settings.shadow_names);
            decision.note(&mut info, &NAMESPACE, names);
        }
        let Some(engine) = &settings.enforced else { return Step::GO_ON };
        let decision = engine.decide(&Facts { conn: &info.conn, stream: &info, head, route });
        self.count(settings, &decision);
        let names = self.settings.enforced_names.unless(&settings.enforced_names);
        decision.note(&mut info, &NAMESPACE, names);
        decision.note_log(&mut info);
        if decision.allowed {
            return Step::GO_ON;
        }
        if nearest_is_read()
            && let Some(nearest) = engine.nearest(&Facts { conn: &info.conn, stream: &info, head, route })
        {
            nearest.note(&mut info, &NAMESPACE);
        }
        Step::reply(LocalReply::new(StatusCode::FORBIDDEN, decision.details()).body(BODY))
    }

    fn count(&self, settings: &Settings, decision: &Decision<'_>) {
        self.enforced.count(decision);
        if let Some(policy) = decision.policy.filter(|_| settings.per_rule) {
            self.enforced_policies.any(policy, || self.enforced.policy(policy)).count(decision);
        }
    }

    fn count_shadow(&self, settings: &Settings, decision: &Decision<'_>) {
        self.shadow.count(decision);
        if let Some(policy) = decision.policy.filter(|_| settings.per_rule) {
            self.shadow_policies.any(policy, || self.shadow.policy(policy)).count(decision);
        }
    }
}
