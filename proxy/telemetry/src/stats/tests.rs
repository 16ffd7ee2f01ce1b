use outrider_config::model::{StatsConfig, StatsTag, StatsTagValue};
use outrider_core::stat_struct;
use outrider_core::stats::Registry;

use super::*;

stat_struct! {
    struct Demo { counters { upstream_rq_total } gauges { upstream_cx_active } histograms { upstream_rq_time } }
}

fn extract(name: &str) -> (String, Vec<(String, String)>) {
    let tagged = TagExtractor::new(&StatsConfig::default(), Vec::new()).extract(name);
    (tagged.name, tagged.tags)
}

#[test]
fn default_tags_are_envoys() {
    for (name, left, tags) in [
        ("cluster.a.upstream_rq_total", "cluster.upstream_rq_total", vec![("envoy.cluster_name", "a")]),
        (
            "cluster.a.upstream_rq_503",
            "cluster.upstream_rq",
            vec![("envoy.cluster_name", "a"), ("envoy.response_code", "503")],
        ),
        (
            "http.in.downstream_rq_2xx",
            "http.downstream_rq_xx",
            vec![("envoy.http_conn_manager_prefix", "in"), ("envoy.response_code_class", "2")],
        ),
        (
            "listener.127.0.0.1_8080.http.in.downstream_rq_completed",
            "listener.http.downstream_rq_completed",
            vec![("envoy.http_conn_manager_prefix", "in"), ("envoy.listener_address", "127.0.0.1_8080")],
        ),
        (
            "listener.[__1]_80.downstream_cx_total",
            "listener.downstream_cx_total",
            vec![("envoy.listener_address", "[__1]_80")],
        ),
        (
            "listener.0.0.0.0_80.worker_0.downstream_cx_active",
            "listener.downstream_cx_active",
            vec![("envoy.listener_address", "0.0.0.0_80"), ("envoy.worker_id", "0")],
        ),
        (
            "listener.0.0.0.0_80.ssl.versions.TLSv1.3",
            "listener.ssl.versions",
            vec![("envoy.listener_address", "0.0.0.0_80"), ("envoy.ssl_version", "TLSv1.3")],
        ),
        ("tcp.t.downstream_cx_total", "tcp.downstream_cx_total", vec![("envoy.tcp_prefix", "t")]),
        ("server.uptime", "server.uptime", vec![]),
    ] {
        let tags: Vec<_> = tags.into_iter().map(|(k, v)| (k.to_owned(), v.to_owned())).collect();
        assert_eq!(extract(name), (left.to_owned(), tags), "{name}");
    }
}

#[test]
fn configured_expressions_cut_their_first_group_and_come_first() {
    let config = StatsConfig {
        tags: vec![StatsTag {
            name: "cluster_name".into(),
            value: StatsTagValue::Regex(Regex::new(r"^cluster\.((.+?(\..+?\.svc)?)\.)upstream").unwrap()),
        }],
        use_default_tags: false,
        ..StatsConfig::default()
    };
    let tagged = TagExtractor::new(&config, Vec::new()).extract("cluster.a.b.upstream_rq_total");
    assert_eq!(tagged.name, "cluster.upstream_rq_total");
    assert_eq!(tagged.tags, [("cluster_name".to_owned(), "a.b".to_owned())]);
}

#[test]
fn the_three_formats_show_the_same_stats() {
    let registry = Registry::new();
    let stats = Demo::new(registry.scope("cluster.a."));
    stats.upstream_rq_total().add(3);
    stats.upstream_cx_active().inc();
    stats.upstream_rq_time().record(7);
    let exposition = Exposition::new(registry, &StatsConfig::default(), vec![("zone".into(), "z1".into())]);
    let text = exposition.text(&Query::default());
    assert!(text.starts_with("cluster.a.upstream_cx_active: 1\ncluster.a.upstream_rq_total: 3\n"), "{text}");
    let prometheus = exposition.prometheus(&Query::default());
    assert!(prometheus.contains("# TYPE envoy_cluster_upstream_rq_total counter\nenvoy_cluster_upstream_rq_total{envoy_cluster_name=\"a\",zone=\"z1\"} 3\n"), "{prometheus}");
    assert!(
        prometheus.contains(
            "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"a\",zone=\"z1\",le=\"5\"} 0\n"
        ),
        "{prometheus}"
    );
    assert!(
        prometheus.contains(
            "envoy_cluster_upstream_rq_time_bucket{envoy_cluster_name=\"a\",zone=\"z1\",le=\"10\"} 1\n"
        ),
        "{prometheus}"
    );
    assert!(
        prometheus.contains("envoy_cluster_upstream_rq_time_sum{envoy_cluster_name=\"a\",zone=\"z1\"} 7\n"),
        "{prometheus}"
    );
    let json = exposition.json(&Query { kind: Some(Kind::Counter), ..Query::default() });
    assert_eq!(json["stats"][0]["value"], 3);
}
