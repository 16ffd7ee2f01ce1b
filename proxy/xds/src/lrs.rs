//! LRS: reports of load to a control plane (`envoy.service.load_stats.v3`).
//!
//! The server says which clusters it wants to hear of, and how often; a report says what has happened since the one before.

use std::pin::pin;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use outrider_core::rng;
use outrider_core::stats::Scope;
use outrider_proto::pb::envoy::config::core::v3::Node;
use outrider_proto::pb::envoy::config::endpoint::v3::ClusterStats;
use outrider_proto::pb::envoy::service::load_stats::v3::{LoadStatsRequest, LoadStatsResponse};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::backoff::Schedule;
use crate::config::{Backoff, Service};
use crate::grpc::{Link, Responses, StreamError, chain, frame};
use crate::transport::Connector;

const METHOD: &str = "/envoy.service.load_stats.v3.LoadReportingService/StreamLoadStats";

/// That we know what `send_all_clusters` means.
const SENDS_ALL: &str = "envoy.lrs.supports_send_all_clusters";

/// A server that asks for more reports than these gets these.
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);

/// A server that asks for fewer reports than these gets these. It may say any number of seconds, and time has an end.
const LONGEST_INTERVAL: Duration = Duration::from_hours(24);

/// The longest list of clusters that is taken, bytes.
const MAX_MESSAGE: usize = 16 * 1024 * 1024;

outrider_core::stat_struct! {
    /// `load_reporter.`
    struct LoadStats {
        counters { requests, responses, errors, retries }
        gauges {}
        histograms {}
    }
}

/// What the server wants to hear of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wanted {
    /// These clusters; without meaning when `all`.
    pub clusters: Vec<String>,
    /// All clusters.
    pub all: bool,
    /// Of each endpoint, too.
    pub endpoints: bool,
}

/// Where reports come from.
pub trait LoadSource {
    /// The server `wanted` this. Of a cluster that was not wanted before, what happened until now does not count.
    fn wanted(&self, wanted: &Wanted);

    /// What happened since the last report.
    fn report(&self) -> Vec<ClusterStats>;
}

/// Reports to the first of `services` that answers, for ever. `scope` is that of the stats (`load_reporter.`). To be run on
/// this thread's local runtime.
pub async fn report_load(
    services: Vec<Service>,
    backoff: Backoff,
    node: Node,
    connector: Rc<dyn Connector>,
    source: Rc<dyn LoadSource>,
    scope: Scope,
) {
    let mut node = node;
    if !node.client_features.iter().any(|feature| feature == SENDS_ALL) {
        node.client_features.push(SENDS_ALL.to_owned());
    }
    let stats = LoadStats::new(scope);
    let mut schedule = Schedule::new(backoff, services.len());
    loop {
        let index = schedule.service();
        let Some(service) = services.get(index) else { return };
        let error = match Link::open(&*connector, service, index).await {
            Ok(mut link) => {
                let (requests, responses) = link.stream(service, METHOD, MAX_MESSAGE);
                let reports = Reports { node: &node, source: &*source, stats: &stats };
                chain(&reports.run(requests, responses, || schedule.answered()).await)
            }
            Err(error) => error.to_string(),
        };
        stats.errors().inc();
        stats.retries().inc();
        let wait = schedule.ended(&RngOfThread);
        tracing::info!(service = service.label, error, ?wait, "no stream of load reports");
        tokio::time::sleep(wait).await;
    }
}

/// The reports of one stream.
struct Reports<'a> {
    node: &'a Node,
    source: &'a dyn LoadSource,
    stats: &'a LoadStats,
}

impl Reports<'_> {
    async fn run(
        &self,
        requests: mpsc::Sender<Bytes>,
        responses: impl Future<Output = Result<Responses, StreamError>>,
        mut answered: impl FnMut(),
    ) -> StreamError {
        let mut responses = pin!(responses);
        let mut reading: Option<Responses> = None;
        // Who we are; what is wanted comes as the answer.
        if let Some(hello) =
            frame(&LoadStatsRequest { node: Some(self.node.clone()), cluster_stats: Vec::new() })
        {
            let _ = requests.send(hello).await;
        }
        let mut interval = None;
        let mut due: Option<Instant> = None;
        loop {
            tokio::select! {
                opened = &mut responses, if reading.is_none() => match opened {
                    Ok(opened) => reading = Some(opened),
                    Err(error) => return error,
                },
                response = next(reading.as_mut()), if reading.is_some() => match response {
                    Ok(response) => {
                        answered();
                        let period = self.take(response);
                        interval = Some(period);
                        due = Some(Instant::now() + period);
                    }
                    Err(error) => return error,
                },
                () = until(due), if due.is_some() => {
                    // A server that does not read gets the next report, which says what this one would have said, too.
                    if let Ok(permit) = requests.try_reserve()
                        && let Some(report) = frame(&LoadStatsRequest { node: None, cluster_stats: self.source.report() })
                    {
                        permit.send(report);
                        self.stats.responses().inc();
                    }
                    due = interval.map(|interval| Instant::now() + interval);
                }
            }
        }
    }

    /// Takes what the server wants; returns how often.
    fn take(&self, response: LoadStatsResponse) -> Duration {
        let LoadStatsResponse {
            clusters,
            send_all_clusters,
            load_reporting_interval,
            report_endpoint_granularity,
        } = response;
        self.stats.requests().inc();
        let interval = load_reporting_interval.unwrap_or_default();
        let seconds = u64::try_from(interval.seconds).unwrap_or(0);
        let interval = Duration::new(seconds, u32::try_from(interval.nanos).unwrap_or(0).min(999_999_999));
        tracing::debug!(clusters = clusters.len(), send_all_clusters, ?interval, "load reports are wanted");
        self.source.wanted(&Wanted {
            clusters,
            all: send_all_clusters,
            endpoints: report_endpoint_granularity,
        });
        interval.clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL)
    }
}

async fn next(reading: Option<&mut Responses>) -> Result<LoadStatsResponse, StreamError> {
    match reading {
        Some(reading) => reading.next().await,
        None => std::future::pending().await,
    }
}

async fn until(due: Option<Instant>) {
    match due {
        Some(due) => tokio::time::sleep_until(due).await,
        None => std::future::pending().await,
    }
}

/// The thread's own generator.
struct RngOfThread;

impl rng::Rng for RngOfThread {
    fn next_u64(&self) -> u64 {
        rng::with(rng::Rng::next_u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrider_core::stats::Registry;
    use outrider_proto::pb::google::protobuf;

    struct Nothing;

    impl LoadSource for Nothing {
        fn wanted(&self, _: &Wanted) {}

        fn report(&self) -> Vec<ClusterStats> {
            Vec::new()
        }
    }

    #[test]
    fn any_interval_is_one_that_a_clock_can_add() {
        let stats = LoadStats::new(Registry::new().scope("load_reporter."));
        let reports = Reports { node: &Node::default(), source: &Nothing, stats: &stats };
        let taken = |seconds, nanos| {
            let load_reporting_interval = Some(protobuf::Duration { seconds, nanos });
            reports.take(LoadStatsResponse { load_reporting_interval, ..LoadStatsResponse::default() })
        };
        assert_eq!(taken(i64::MAX, i32::MAX), LONGEST_INTERVAL);
        assert_eq!(taken(i64::MIN, i32::MIN), SHORTEST_INTERVAL);
        assert_eq!(taken(7, 500_000_000), Duration::from_millis(7500));
        assert!(Instant::now().checked_add(taken(i64::MAX, 0)).is_some());
    }
}
