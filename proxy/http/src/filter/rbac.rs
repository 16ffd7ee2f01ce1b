//! `envoy.filters.http.rbac`: who may do what.

use std::sync::{Arc, LazyLock};

use http::StatusCode;
use outrider_config::model::{FilterName, Rbac as Settings, RouteFilterConfig};
use outrider_core::LocalReply;
use outrider_core::matcher::HeadView;
use outrider_core::metadata::Metadata;
use outrider_core::rbac::{
    Decision, EnforcedStats, Engine, Facts, HTTP_NAMESPACE, ShadowStats, nearest_is_read,
};
use outrider_core::stats::Scope;
use outrider_core::stream::StreamInfo;

use super::named::Named;
use super::review::REFUSED;
use super::{RequestCx, Step};
use crate::routing::Selected;
use crate::stream::Stream;

/// The namespace of what the filter says of a request.
static NAMESPACE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(HTTP_NAMESPACE));

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
        let Some(settings) = self.settings(name, route) else { return Step::GO_ON };
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
        note_nearest(engine, &mut info, head, route);
        Step::reply(LocalReply::new(StatusCode::FORBIDDEN, decision.details()).body(REFUSED))
    }

    /// What decides on `route`; `None` where the route says that nothing does.
    fn settings<'a>(&'a self, name: &FilterName, route: Option<&'a Selected>) -> Option<&'a Settings> {
        match route.and_then(|route| route.filter(name)).and_then(|found| found.levels.last()) {
            Some(RouteFilterConfig::Rbac(None)) => None,
            Some(RouteFilterConfig::Rbac(Some(settings))) => Some(&**settings),
            _ => Some(&*self.settings),
        }
    }

    /// Whether the head of a request, or its route, has a say in what the filter itself decides.
    pub(super) fn reads_head(&self) -> bool {
        self.settings.enforced.as_ref().is_some_and(Engine::reads_head)
    }

    /// Decides as [`request`](Self::request) does of a request that runs; the details of a refusal. It is not counted, as it
    /// may have been before, and nothing is noted of what may stay.
    pub(super) fn refuses(
        &self,
        name: &FilterName,
        stream: &Stream,
        head: HeadView<'_>,
        route: Option<&Selected>,
    ) -> Option<String> {
        let settings = self.settings(name, route)?;
        let engine = settings.enforced.as_ref()?;
        let route = route.and_then(|route| route.config()?.metadata.as_deref());
        let mut info = stream.info.borrow_mut();
        let decision = engine.decide(&Facts { conn: &info.conn, stream: &info, head, route });
        if decision.allowed {
            return None;
        }
        let names = self.settings.enforced_names.unless(&settings.enforced_names);
        decision.note(&mut info, &NAMESPACE, names);
        decision.note_log(&mut info);
        note_nearest(engine, &mut info, head, route);
        Some(decision.details())
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

/// Notes for those who read it what a request that `engine` refused lacked.
fn note_nearest(engine: &Engine, info: &mut StreamInfo, head: HeadView<'_>, route: Option<&Metadata>) {
    if nearest_is_read()
        && let Some(nearest) = engine.nearest(&Facts { conn: &info.conn, stream: info, head, route })
    {
        nearest.note(info, &NAMESPACE);
    }
}
