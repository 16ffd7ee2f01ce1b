//! Reports of load (LRS).

use std::time::Duration;

use anyhow::{Context, Result};
use outrider_proto::pb::envoy::config::endpoint::v3::ClusterStats;
use outrider_proto::pb::envoy::service::load_stats::v3::LoadStatsRequest;
use outrider_tests::{
    bootstrap::Bootstrap,
    load_reports::{LoadReports, wanted},
    reply::Reply,
};

use crate::start::{ALL, Stage};

const EVERY: Duration = Duration::from_millis(150);

fn bootstrap() -> Bootstrap {
    Bootstrap::new()
        .top(
            "cluster_manager: { load_stats_config: { api_type: GRPC, transport_api_version: V3, grpc_services: [ \
             { envoy_grpc: { cluster_name: reports } } ] } }",
        )
        .http("main", ALL)
        .cluster(
            "up",
            "connect_timeout: 2s\ntype: STATIC\n\
             circuit_breakers: { thresholds: [ { max_requests: 1 } ] }\n\
             load_assignment: { cluster_name: up, endpoints: [ { \
             locality: { region: north, zone: one }, lb_endpoints: [ { endpoint: { address: { \
             socket_address: { address: 127.0.0.1, port_value: @{up} } } } } ] } ] }",
        )
        .hosts(
            "reports",
            &["reports"],
            "typed_extension_protocol_options:\n  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:\n    \
             \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions\n    \
             explicit_http_config: { http2_protocol_options: {} }",
        )
}

async fn stage(server: &LoadReports) -> Result<Stage> {
    Stage::with(&bootstrap(), &[("reports", &server.address.port().to_string())], &[]).await
}

/// What a report says of a cluster.
fn of<'a>(report: &'a LoadStatsRequest, name: &str) -> Option<&'a ClusterStats> {
    report.cluster_stats.iter().find(|cluster| cluster.cluster_name == name)
}

/// Requests that it tells of, with what became of them.
fn counts(report: &LoadStatsRequest) -> Option<(u64, u64, u64)> {
    let [locality] = of(report, "up")?.upstream_locality_stats.as_slice() else { return None };
    let successful = locality.total_successful_requests;
    Some((locality.total_issued_requests, successful, locality.total_error_requests))
}

#[tokio::test]
async fn a_report_tells_what_happened_since_the_one_before() -> Result<()> {
    let mut server = LoadReports::start(wanted(&["up", "absent"], EVERY, true)).await?;
    let stage = stage(&server).await?;
    let hello = server.report("the first message", |_| true).await?;
    let node = hello.node.context("it says who it is")?;
    assert_eq!(node.id, "test-node");
    assert!(node.client_features.iter().any(|f| f == "envoy.lrs.supports_send_all_clusters"), "{node:?}");
    // Quiet at first: what is wanted is told of, without localities.
    let quiet = server.report("a quiet report", |report| of(report, "up").is_some()).await?;
    assert_eq!(of(&quiet, "up").map(|up| up.upstream_locality_stats.len()), Some(0));
    assert_eq!(quiet.cluster_stats.len(), 1, "nobody knows the other: {quiet:?}");
    let replies = [Reply::text("ok"), Reply::status(404), Reply::status(503), Reply::text("ok")];
    stage.script.set(&replies, &[]);
    for _ in 0..4 {
        stage.get("/x").await?;
    }
    // They may be spread over two reports.
    let (mut sum, mut endpoints) = ((0, 0, 0), 0);
    while sum.0 < 4 {
        let report = server.report("the load", |report| counts(report).is_some()).await?;
        let (issued, successful, errors) = counts(&report).context("counts")?;
        sum = (sum.0 + issued, sum.1 + successful, sum.2 + errors);
        let up = of(&report, "up").context("the cluster")?;
        let interval = up.load_report_interval.context("how long it is about")?;
        assert!(interval.seconds == 0 && interval.nanos >= 100_000_000, "{interval:?}");
        let locality = &up.upstream_locality_stats[0];
        assert_eq!(locality.locality.as_ref().map(|l| (&*l.region, &*l.zone)), Some(("north", "one")));
        endpoints +=
            locality.upstream_endpoint_stats.iter().map(|one| one.total_issued_requests).sum::<u64>();
    }
    assert_eq!(sum, (4, 3, 1), "a 404 is the client's, a 503 the endpoint's");
    assert_eq!(endpoints, 4, "each endpoint is told of");
    // And not again.
    let quiet = server.report("the next report", |report| of(report, "up").is_some()).await?;
    assert_eq!(counts(&quiet), None);
    Ok(())
}

#[tokio::test]
async fn requests_under_way_and_requests_dropped_are_told() -> Result<()> {
    let mut server = LoadReports::start(wanted(&["up"], EVERY, false)).await?;
    let stage = stage(&server).await?;
    stage.script.set(&[Reply::text("late").after(2000)], &[]);
    let slow = stage.get("/slow");
    let told = async {
        let in_progress = |report: &LoadStatsRequest| {
            let up = of(report, "up")?.upstream_locality_stats.first()?.total_requests_in_progress;
            (up == 1).then_some(())
        };
        let report = server.report("a request under way", |report| in_progress(report).is_some()).await?;
        assert!(
            of(&report, "up")
                .is_some_and(|up| up.upstream_locality_stats[0].upstream_endpoint_stats.is_empty())
        );
        // The circuit breaker lets no second one through.
        assert_eq!(stage.get("/dropped").await?.status, 503);
        let dropped =
            |report: &LoadStatsRequest| of(report, "up").is_some_and(|up| up.total_dropped_requests == 1);
        server.report("the dropped request", dropped).await
    };
    let (slow, told) = tokio::join!(slow, told);
    assert_eq!(slow?.status, 200);
    told.map(drop)
}

#[tokio::test]
async fn all_clusters_are_told_of_and_a_lost_stream_is_made_anew() -> Result<()> {
    let mut server = LoadReports::start(wanted(&[], EVERY, false)).await?;
    let stage = stage(&server).await?;
    let all = |report: &LoadStatsRequest| of(report, "up").is_some() && of(report, "reports").is_some();
    server.report("a report of all clusters", all).await?;
    server.want(wanted(&["reports"], EVERY, false));
    server.report("one cluster alone", |report| !all(report) && of(report, "reports").is_some()).await?;
    server.cut();
    server.report("the next stream", |report| report.node.is_some()).await?;
    server.report("a report on it", |report| of(report, "reports").is_some()).await?;
    assert!(stage.proxy.stat("load_reporter.responses").await? >= Some(3));
    assert!(stage.proxy.stat("load_reporter.errors").await? >= Some(1));
    Ok(())
}
