//! `envoy.filters.http.ext_authz`: a service says whether a request may pass.
//!
//! The question is made of the request's head, and of its body where that is asked for ([`attributes`]); the answer of either
//! kind of service becomes one [`Answer`], which is then carried out ([`apply`]). Without an answer requests are refused.

mod answer;
mod apply;
mod ask;
mod attributes;

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Instant;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, StatusCode};
use outrider_config::model::{AuthzBody, AuthzRoute, AuthzService, ExtAuthz as Settings, RouteFilterConfig};
use outrider_core::metadata::is_read;
use outrider_core::reply::details;
use outrider_core::stats::Scope;
use outrider_core::stream::FilterObject;
use outrider_core::{LocalReply, MetadataValue, ResponseFlags, rng};
use outrider_upstream::stats::ResponseKind;
use outrider_upstream::{ClusterSlot, WorkerCluster};

use self::answer::{Answer, PLAIN, Said, TYPED};
use super::named::Named;
use super::{RequestCx, ResponseCx, State, Step, Verdict};
use crate::router::find_cluster;

pub(crate) use self::answer::Change;

/// The namespace of what the service says of a request.
static NAMESPACE: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("envoy.filters.http.ext_authz"));
/// How long the service took, in milliseconds.
static DURATION: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from("ext_authz_duration"));

const FAILURE_MODE_ALLOWED: HeaderName = HeaderName::from_static("x-envoy-auth-failure-mode-allowed");
const TRUE: HeaderValue = HeaderValue::from_static("true");
const TOO_LARGE: Bytes = Bytes::from_static(b"Payload Too Large");

outrider_core::stat_struct! {
    /// `http.<stat_prefix>.ext_authz.<stat_prefix of the filter>.`
    struct AuthzStats {
        counters {
            ok, denied, error, disabled, failure_mode_allowed, invalid, ignored_dynamic_metadata,
            request_header_limits_reached, shadow_denied, shadow_error,
        }
        gauges { }
        histograms { }
    }
}

outrider_core::stat_struct! {
    /// `cluster.<name>.ext_authz.<stat_prefix of the filter>.`, for the cluster of the request's route.
    struct ClusterAuthzStats {
        counters { ok, denied, error, invalid, failure_mode_allowed }
        gauges { }
        histograms { }
    }
}

/// The filter.
#[derive(Debug)]
pub(crate) struct ExtAuthz {
    settings: Arc<Settings>,
    stats: AuthzStats,
    /// By cluster.
    cluster_stats: Named<ClusterAuthzStats>,
    /// The places of the clusters that are asked, by name: found once.
    slots: Named<OnceLock<Arc<ClusterSlot>>>,
    /// Where the decision is kept in shadow mode.
    shadow_name: Arc<str>,
}

/// What the levels say of a request.
struct Plan {
    /// The most specific one.
    route: Option<Arc<AuthzRoute>>,
    /// `context_extensions` of all.
    extensions: HashMap<String, String>,
}

impl Plan {
    fn of(levels: &[RouteFilterConfig]) -> Self {
        let mut plan = Self { route: None, extensions: HashMap::new() };
        for level in levels {
            let RouteFilterConfig::ExtAuthz(route) = level else { continue };
            let extensions = route.extensions.iter();
            plan.extensions.extend(extensions.map(|(name, value)| (name.to_string(), value.to_string())));
            plan.route = Some(route.clone());
        }
        plan
    }

    fn is_disabled(&self) -> bool {
        self.route.as_ref().is_some_and(|route| route.disabled)
    }

    /// Who is asked.
    fn service<'a>(&'a self, settings: &'a Settings) -> &'a AuthzService {
        self.route.as_ref().and_then(|route| route.service.as_ref()).unwrap_or(&settings.service)
    }

    /// How the body is sent with the question, if it is.
    fn body(&self, settings: &Settings) -> Option<AuthzBody> {
        match &self.route {
            Some(route) if route.without_body => None,
            Some(route) => route.body.or(settings.body),
            None => settings.body,
        }
    }
}

/// The cluster of a request's route.
struct Counted {
    cluster: Rc<WorkerCluster>,
    stats: Arc<ClusterAuthzStats>,
}

/// A body that is sent with the question.
struct Sent {
    /// As much of it as may be sent.
    bytes: Vec<u8>,
    /// There was more.
    partial: bool,
}

impl Sent {
    fn of(data: &[Bytes], most: usize) -> Self {
        let mut bytes = data.concat();
        let partial = bytes.len() > most;
        bytes.truncate(most);
        Self { bytes, partial }
    }
}

impl ExtAuthz {
    /// The filter named `name`. `scope` is the connection manager's.
    pub(super) fn new(name: &str, settings: Arc<Settings>, scope: &Scope) -> Self {
        Self {
            stats: AuthzStats::new(scope.child(&prefix(&settings))),
            cluster_stats: Named::default(),
            slots: Named::default(),
            shadow_name: Arc::from(format!("{name}.shadow")),
            settings,
        }
    }

    pub(super) fn request<'a>(&'a self, mut cx: RequestCx<'a>) -> Step<'a> {
        // What goes nowhere needs nobody's word.
        if cx.route().is_none() {
            return Step::GO_ON;
        }
        let plan = Plan::of(cx.levels());
        if plan.is_disabled() {
            return Step::GO_ON;
        }
        if !self.is_enabled(&cx) {
            self.stats.disabled().inc();
            if self.settings.deny_at_disable.as_ref().is_some_and(|flag| flag.get()) {
                return Step::reply(self.refusal(self.settings.status_on_error, "ext_authz_error"));
            }
            return Step::GO_ON;
        }
        // A tunnel's bytes are no body: it would never end.
        let has_body =
            !cx.is_end_stream() && cx.stream.upgrade.borrow().is_none() && cx.parts.method != Method::CONNECT;
        let body = plan.body(&self.settings).filter(|_| has_body);
        Step::wait(cx, move |cx| self.check(cx, plan, body))
    }

    fn is_enabled(&self, cx: &RequestCx<'_>) -> bool {
        let share = self.settings.enabled.as_ref();
        share.is_none_or(|share| rng::with(|rng| share.draw(rng)))
            && self.settings.enabled_metadata.as_ref().is_none_or(|matcher| {
                let info = cx.stream.info.borrow();
                matcher.matches(info.dynamic.as_deref())
            })
    }

    /// Asks, and does as it is told.
    async fn check(&self, mut cx: RequestCx<'_>, plan: Plan, body: Option<AuthzBody>) -> Verdict {
        let sent = match body {
            None => None,
            Some(AuthzBody { most, partial, .. }) => {
                let enough = |length: usize| if partial { length >= most } else { length > most };
                let Ok(data) = cx.read_ahead(enough).await else { return Verdict::Reply(gone()) };
                let sent = Sent::of(&data, most);
                if sent.partial && !partial {
                    return Verdict::Reply(too_large(&cx));
                }
                Some(sent)
            }
        };
        let begin = Instant::now();
        let answer = self.ask(&mut cx, plan, sent).await;
        self.conclude(&mut cx, answer, begin)
    }

    fn conclude(&self, cx: &mut RequestCx<'_>, mut answer: Answer, begin: Instant) -> Verdict {
        let settings = &*self.settings;
        // The cluster that counts is the one before anything is changed.
        let counted = self.of_cluster(cx);
        let counted = counted.as_ref();
        if answer.odd_actions && settings.validate_mutations {
            return self.invalid(counted);
        }
        if !answer.metadata.is_empty() {
            if !settings.ingest_metadata {
                self.stats.ignored_dynamic_metadata().inc();
            } else if is_read() {
                if answer.said == Said::Ok {
                    #[expect(clippy::cast_precision_loss, reason = "no call takes so long")]
                    let millis = begin.elapsed().as_millis() as f64;
                    answer.metadata.insert(DURATION.clone(), MetadataValue::Number(millis));
                }
                cx.stream.info.borrow_mut().add_metadata(&NAMESPACE, &answer.metadata);
            }
        }
        match answer.said {
            Said::Ok => self.allow(cx, counted, answer),
            Said::Denied => self.deny(cx, counted, answer),
            Said::Error => self.fail(cx, counted, answer),
        }
    }

    fn allow(&self, cx: &mut RequestCx<'_>, counted: Option<&Counted>, answer: Answer) -> Verdict {
        let settings = &*self.settings;
        if settings.clear_route_cache && answer.changes_route() {
            cx.clear_route();
        }
        if apply::request(settings, cx.stream, cx.parts, &answer).is_err() {
            return self.invalid(counted);
        }
        if !answer.response.iter().all(Change::is_valid) {
            return self.invalid(counted);
        }
        if answer.changes_request() && apply::is_too_large(&cx.stream.hcm.shared.config, cx.parts) {
            self.stats.request_header_limits_reached().inc();
            return self.invalid(counted);
        }
        if settings.shadow {
            self.note(cx, "OK", StatusCode::OK, &[]);
        }
        if !answer.response.is_empty() {
            cx.keep(State::ExtAuthz(answer.response.into()));
        }
        if let Some(counted) = counted {
            counted.stats.ok().inc();
        }
        self.stats.ok().inc();
        Verdict::GoOn
    }

    fn deny(&self, cx: &mut RequestCx<'_>, counted: Option<&Counted>, answer: Answer) -> Verdict {
        let status = answer.status.unwrap_or(StatusCode::FORBIDDEN);
        self.stats.denied().inc();
        if let Some(counted) = counted {
            counted.stats.denied().inc();
            if self.settings.charge_cluster {
                let kind = ResponseKind { internal: Some(true), ..ResponseKind::default() };
                counted.cluster.shared.stats().count_response(status.as_u16(), kind);
            }
        }
        if !answer.local.iter().all(Change::is_valid) {
            return self.invalid(counted);
        }
        if self.settings.shadow {
            self.stats.shadow_denied().inc();
            self.note(cx, "DENIED", status, &answer.local);
            return Verdict::GoOn;
        }
        Verdict::Reply(self.answered(status, "ext_authz_denied", answer))
    }

    fn fail(&self, cx: &mut RequestCx<'_>, counted: Option<&Counted>, answer: Answer) -> Verdict {
        let settings = &*self.settings;
        if let Some(counted) = counted {
            counted.stats.error().inc();
        }
        self.stats.error().inc();
        let status = answer.status.unwrap_or(settings.status_on_error);
        if settings.shadow {
            self.stats.shadow_error().inc();
            self.note(cx, "ERROR", status, &[]);
        }
        if settings.failure_mode_allow {
            self.stats.failure_mode_allowed().inc();
            if let Some(counted) = counted {
                counted.stats.failure_mode_allowed().inc();
            }
            if settings.failure_mode_header {
                cx.parts.headers.append(FAILURE_MODE_ALLOWED, TRUE);
            }
            return Verdict::GoOn;
        }
        if settings.shadow {
            return Verdict::GoOn;
        }
        if !answer.local.iter().all(Change::is_valid) {
            return self.invalid(counted);
        }
        Verdict::Reply(self.answered(status, "ext_authz_error", answer))
    }

    /// The reply that the service wants clients to get.
    fn answered(&self, status: StatusCode, details: &'static str, answer: Answer) -> LocalReply {
        let mut reply = self.refusal(status, details);
        let headers = reply.headers.get_or_insert_default();
        for change in &answer.local {
            apply::fields(headers, change);
        }
        let mut body = answer.body;
        if let Some(most) = self.settings.max_denied_body {
            body.truncate(most);
        }
        reply.body(body)
    }

    fn refusal(&self, status: StatusCode, details: &'static str) -> LocalReply {
        LocalReply::new(status, details).flags(ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE)
    }

    /// The service's answer cannot be carried out.
    fn invalid(&self, counted: Option<&Counted>) -> Verdict {
        if let Some(counted) = counted {
            counted.stats.invalid().inc();
        }
        self.stats.invalid().inc();
        Verdict::Reply(self.refusal(StatusCode::INTERNAL_SERVER_ERROR, "ext_authz_invalid"))
    }

    /// The cluster of the route, if there is one, and what is counted for it.
    fn of_cluster(&self, cx: &mut RequestCx<'_>) -> Option<Counted> {
        let stream = cx.stream;
        let (parts, route) = cx.head_and_route();
        let route = route?;
        let cluster = find_cluster(stream, route, route.forward()?, parts)?;
        let make = || {
            let scope = cluster.shared.stats().scope().child(&prefix(&self.settings));
            ClusterAuthzStats::new(scope)
        };
        let stats = self.cluster_stats.get(&cluster.shared.config.name, make)?;
        Some(Counted { cluster, stats })
    }

    /// Keeps the decision for whoever looks at it.
    fn note(&self, cx: &RequestCx<'_>, said: &str, status: StatusCode, headers: &[Change]) {
        let decision = |names| Rc::from(answer::decision(names, said, status, headers));
        let object = FilterObject::ShadowDecision { typed: decision(TYPED), plain: decision(PLAIN) };
        cx.stream.info.borrow_mut().set_filter_state(&self.shadow_name, object);
    }
}

/// Makes the changes that the service asked for.
pub(super) fn response(cx: ResponseCx<'_>) {
    let Some(State::ExtAuthz(changes)) = cx.take() else { return };
    for change in &changes {
        apply::fields(&mut cx.parts.headers, change);
    }
}

/// What stands before the names of stats.
fn prefix(settings: &Settings) -> String {
    match &*settings.stat_prefix {
        "" => "ext_authz.".to_owned(),
        own => format!("ext_authz.{own}."),
    }
}

/// The client broke off: nobody gets this reply.
fn gone() -> LocalReply {
    LocalReply::new(StatusCode::BAD_REQUEST, details::DOWNSTREAM_REMOTE_DISCONNECT)
        .flags(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION)
}

fn too_large(cx: &RequestCx<'_>) -> LocalReply {
    cx.stream.hcm.shared.stats.downstream_rq_too_large().inc();
    LocalReply::new(StatusCode::PAYLOAD_TOO_LARGE, details::REQUEST_PAYLOAD_TOO_LARGE).body(TOO_LARGE)
}
