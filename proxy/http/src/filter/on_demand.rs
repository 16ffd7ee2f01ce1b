//! `envoy.filters.http.on_demand`: a request without a route, or to a cluster that is not there, waits until the control
//! plane was asked.
//!
//! Behind the wait it goes on as if it had just come: the route is looked for anew, and what is still missing is answered
//! as without the filter (404, 503 `cluster_not_found`).

use std::sync::Arc;
use std::time::Duration;

use outrider_config::model::{ClusterSpecifier, ConfigSource, OnDemand as Settings, RouteFilterConfig};

use super::{RequestCx, Step, Verdict};
use crate::hcm::serve;
use crate::on_demand::Wanted;
use crate::routing::{RoutePlace, RouteSlot};

/// The filter.
#[derive(Debug)]
pub(crate) struct OnDemand(Arc<Settings>);

/// What has been asked for already: each once.
#[derive(Debug, Default)]
struct Asked {
    table: bool,
    host: bool,
    cluster: bool,
}

impl OnDemand {
    pub(super) const fn new(config: Arc<Settings>) -> Self {
        Self(config)
    }

    pub(super) fn request<'a>(&'a self, mut cx: RequestCx<'a>) -> Step<'a> {
        let mut asked = Asked::default();
        match self.wanted(&mut cx, &mut asked) {
            None => Step::GO_ON,
            Some((wanted, timeout)) => Step::wait(cx, move |cx| self.wait(cx, wanted, timeout, asked)),
        }
    }

    async fn wait(
        &self,
        mut cx: RequestCx<'_>,
        wanted: Wanted,
        timeout: Option<Duration>,
        mut asked: Asked,
    ) -> Verdict {
        let stream = cx.stream;
        let Some(asker) = stream.hcm.shared.asker.get() else { return Verdict::GoOn };
        let mut next = Some((wanted, timeout));
        // What was found may need something else: a table its virtual host, a route its cluster.
        while let Some((wanted, timeout)) = next {
            asker.ask(wanted, timeout).await;
            cx.clear_route();
            next = self.wanted(&mut cx, &mut asked);
        }
        cx.rejudge();
        match cx.route().map(|selected| serve::check_upgrade(stream, selected)) {
            Some(Err(reply)) => Verdict::Reply(reply),
            _ => Verdict::GoOn,
        }
    }

    /// What the request lacks and was not asked for yet, and how long to wait for it.
    fn wanted(&self, cx: &mut RequestCx<'_>, asked: &mut Asked) -> Option<(Wanted, Option<Duration>)> {
        let limit = |limit: Duration| (!limit.is_zero()).then_some(limit);
        if cx.route().is_none() {
            let (slot, on_demand) = table_of(cx)?;
            let table = slot.load_full();
            if on_demand && table.is_stand_in() {
                let once = !std::mem::replace(&mut asked.table, true);
                return once.then(|| (Wanted::Routes(slot), limit(ConfigSource::INITIAL_FETCH_TIMEOUT)));
            }
            let vhds = table.config().vhds.as_ref()?;
            let host = cx.stream.view(&cx.parts.method, &cx.parts.uri, &cx.parts.headers).authority;
            let host: Box<str> = host.to_ascii_lowercase().into();
            let once = !host.is_empty() && !std::mem::replace(&mut asked.host, true);
            return once.then(|| (Wanted::VirtualHost(slot, host), limit(vhds.source.initial_fetch_timeout)));
        }
        let settings = match cx.settings() {
            Some(RouteFilterConfig::OnDemand(settings)) => settings.clone(),
            _ => self.0.clone(),
        };
        let clusters = settings.clusters.as_ref()?;
        let name = absent_cluster(cx)?;
        let once = !std::mem::replace(&mut asked.cluster, true);
        once.then(|| (Wanted::Cluster(clusters.source.clone(), name), Some(clusters.timeout)))
    }
}

/// The place of the request's route table, and whether the table is loaded on demand.
fn table_of(cx: &RequestCx<'_>) -> Option<(Arc<RouteSlot>, bool)> {
    match &cx.stream.hcm.shared.routes {
        RoutePlace::One(slot) => Some((slot.clone(), false)),
        RoutePlace::Scoped(slot) => {
            let scopes = slot.load();
            let head = cx.stream.view(&cx.parts.method, &cx.parts.uri, &cx.parts.headers);
            let scope = scopes.scopes().get(scopes.find(&head)? as usize)?;
            Some((scope.routes.clone(), scope.on_demand))
        }
    }
}

/// The name of the cluster that the request's route leads to, if there is no such cluster.
fn absent_cluster(cx: &mut RequestCx<'_>) -> Option<Box<str>> {
    let clusters = cx.stream.hcm.clusters.clone();
    let header = {
        let selected = cx.route()?;
        let forward = selected.forward()?;
        if let Some(slot) = selected.cluster() {
            return clusters.get(slot).is_none().then(|| (*slot.name).into());
        }
        match &forward.cluster {
            ClusterSpecifier::Header(name) => name.clone(),
            _ => return None,
        }
    };
    let name = cx.parts.headers.get(header)?.to_str().ok().filter(|name| !name.is_empty())?;
    clusters.by_name(name).is_none().then(|| name.into())
}
