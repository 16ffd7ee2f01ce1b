//! From the figures of all runs to the table, the JSON and the plots.

use std::fmt::Write;
use std::fs;

use serde_json::{Value, json};

use crate::proxies::Kind;
use crate::scenario::{Metrics, Scenario};
use crate::svg::{Panel, sheet};
use crate::tools::Tools;

/// What one scenario on one proxy in one round gave: figures, or why there are none.
#[derive(Debug)]
pub(crate) struct Run {
    /// The work.
    pub(crate) scenario: Scenario,
    /// The proxy.
    pub(crate) proxy: Kind,
    /// The round, from 0.
    pub(crate) round: usize,
    /// The figures.
    pub(crate) metrics: Result<Metrics, String>,
}

/// All runs, and what is known about the machine.
#[derive(Debug)]
pub(crate) struct Report {
    /// The runs, in the order in which they were made.
    pub(crate) runs: Vec<Run>,
    head: Value,
}

/// What Outrider is to reach: a ratio to a peer, or an absolute figure when there is no peer.
struct Goal {
    scenario: Scenario,
    peer: Option<Kind>,
    at_most: f64,
}

const GOALS: [Goal; 14] = [
    Goal { scenario: Scenario::H1, peer: Some(Kind::Haproxy), at_most: 1.0 },
    Goal { scenario: Scenario::H2, peer: Some(Kind::Haproxy), at_most: 1.0 },
    Goal { scenario: Scenario::H2ToH2, peer: Some(Kind::Haproxy), at_most: 1.0 },
    Goal { scenario: Scenario::Mesh, peer: Some(Kind::Haproxy), at_most: 1.0 },
    Goal { scenario: Scenario::TcpSmall, peer: Some(Kind::Envoy), at_most: 0.9 },
    Goal { scenario: Scenario::TcpBulk, peer: Some(Kind::Envoy), at_most: 0.6 },
    Goal { scenario: Scenario::TlsHandshake, peer: Some(Kind::Envoy), at_most: 1.0 },
    Goal { scenario: Scenario::TlsHandshake, peer: Some(Kind::Haproxy), at_most: 1.0 },
    Goal { scenario: Scenario::RbacIds, peer: None, at_most: 2.0 },
    Goal { scenario: Scenario::RbacPaths, peer: None, at_most: 2.0 },
    Goal { scenario: Scenario::RbacHeaders, peer: None, at_most: 2.0 },
    Goal { scenario: Scenario::Jwt, peer: Some(Kind::Envoy), at_most: 1.0 },
    Goal { scenario: Scenario::IdleRss, peer: None, at_most: 12.0 },
    Goal { scenario: Scenario::IdleConns, peer: None, at_most: 8.0 },
];

impl Report {
    /// An empty report with a head that says on what and how it was measured.
    pub(crate) fn new(tools: &Tools, rounds: usize, seconds: u64) -> Self {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or("unknown");
        let versions: serde_json::Map<String, Value> =
            tools.proxies.iter().map(|p| (p.kind.name().to_owned(), json!(p.version))).collect();
        let head = json!({
            "cpu": model.trim_start_matches(['\t', ':', ' ']),
            "kernel": read("/proc/sys/kernel/osrelease").trim(),
            "load_average_at_start": read("/proc/loadavg").trim(),
            "proxy_cpu": tools.proxy_cpu,
            "load_cpus": tools.load_cpus,
            "versions": versions,
            "rounds": rounds,
            "seconds_per_load": seconds,
        });
        Self { runs: Vec::new(), head }
    }

    /// The median over rounds of one figure.
    fn median(&self, scenario: Scenario, proxy: Kind, key: &str) -> Option<f64> {
        median(self.of(scenario, proxy).filter_map(|(_, metrics)| metrics.get(key).copied()))
    }

    /// The median over rounds of the ratio of a scenario's figure to a peer's in the same round.
    fn ratio(&self, scenario: Scenario, proxy: Kind, peer: Kind) -> Option<f64> {
        let key = scenario.figure().key;
        median(self.of(scenario, proxy).filter_map(|(round, metrics)| {
            let (_, other) = self.of(scenario, peer).find(|(r, _)| *r == round)?;
            Some(metrics.get(key)? / other.get(key)?)
        }))
    }

    fn of(&self, scenario: Scenario, proxy: Kind) -> impl Iterator<Item = (usize, &Metrics)> {
        self.runs
            .iter()
            .filter(move |run| run.scenario == scenario && run.proxy == proxy)
            .filter_map(|run| Some((run.round, run.metrics.as_ref().ok()?)))
    }

    /// Scenarios and proxies that were run, in the order of the table.
    fn rows(&self) -> impl Iterator<Item = (Scenario, Kind)> {
        let ran = |scenario, proxy| self.runs.iter().any(|r| r.scenario == scenario && r.proxy == proxy);
        Scenario::ALL
            .into_iter()
            .flat_map(|scenario| Kind::ALL.into_iter().map(move |proxy| (scenario, proxy)))
            .filter(move |&(scenario, proxy)| ran(scenario, proxy))
    }

    /// The table: medians over rounds.
    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        let _ = writeln!(
            out,
            "{:<24} {:<9} {:>10} {:<16} {:>8} {:>8} {:>12} {:>9} {:>9} {:>8}",
            "scenario",
            "proxy",
            "figure",
            "unit",
            "/envoy",
            "/haproxy",
            "throughput",
            "p50 us",
            "p99 us",
            "RSS MB"
        );
        let mut last = None;
        for (scenario, proxy) in self.rows() {
            if last.is_some_and(|last| last != scenario) {
                out.push('\n');
            }
            last = Some(scenario);
            let get = |key| self.median(scenario, proxy, key);
            let throughput = match (get("requests_per_s"), get("gb_per_s")) {
                (Some(rps), _) => format!("{rps:.0}/s"),
                (None, Some(gb)) => format!("{gb:.2} GB/s"),
                (None, None) => "-".to_owned(),
            };
            let _ = write!(
                out,
                "{:<24} {:<9} {:>10} {:<16} {:>8} {:>8} {:>12} {:>9} {:>9} {:>8}",
                scenario.title(),
                proxy,
                number(get(scenario.figure().key), 2),
                scenario.figure().unit,
                number(self.ratio(scenario, proxy, Kind::Envoy), 2),
                number(self.ratio(scenario, proxy, Kind::Haproxy), 2),
                throughput,
                number(get("p50_us"), 0),
                number(get("p99_us"), 0),
                number(get("rss_mb"), 1),
            );
            if let Some(fresh) = get("fresh_kb_per_conn") {
                let _ = write!(out, "  {fresh:.1} kB at once");
            }
            if let Some(cpu) = get("start_cpu_ms") {
                let _ = write!(out, "  {cpu:.0} ms CPU");
            }
            if let Some(without) = get("cpu_us_without") {
                let _ = write!(out, "  {} instead of {without:.2}", number(get("cpu_us_per_request"), 2));
            }
            if let Some(handshakes) = get("handshakes_per_cpu_s") {
                let _ = write!(out, "  {handshakes:.0} handshakes per CPU s");
            }
            let failures: Vec<&str> = self
                .runs
                .iter()
                .filter(|run| run.scenario == scenario && run.proxy == proxy)
                .filter_map(|run| run.metrics.as_ref().err().map(String::as_str))
                .collect();
            if let Some(first) = failures.first() {
                let line = first.lines().next().unwrap_or_default();
                let _ = write!(out, "  FAILED in {} rounds: {line}", failures.len());
            }
            out.push('\n');
        }
        out
    }

    /// What Outrider is to reach, and whether it does; empty when it did not run.
    pub(crate) fn goals(&self) -> String {
        let mut out = String::new();
        for goal in &GOALS {
            if !self.rows().any(|row| row == (goal.scenario, Kind::Outrider)) {
                continue;
            }
            let (value, what) = match goal.peer {
                Some(peer) => (self.ratio(goal.scenario, Kind::Outrider, peer), format!("of {peer}'s CPU")),
                None => {
                    let figure = goal.scenario.figure();
                    (self.median(goal.scenario, Kind::Outrider, figure.key), figure.unit.to_owned())
                }
            };
            let verdict = match value {
                Some(value) if value <= goal.at_most => "reached",
                Some(_) => "MISSED",
                None => "not measured",
            };
            let _ = writeln!(
                out,
                "goal {:<24} {:>6} {what}, at most {}: {verdict}",
                goal.scenario.title(),
                number(value, 2),
                goal.at_most
            );
        }
        out
    }

    /// Everything, for programs: the head, the medians, the ratios and every single run.
    pub(crate) fn json(&self) -> Value {
        let medians: Vec<Value> = self
            .rows()
            .map(|(scenario, proxy)| {
                let mut keys: Vec<&str> =
                    self.of(scenario, proxy).flat_map(|(_, m)| m.keys().copied()).collect();
                keys.sort_unstable();
                keys.dedup();
                let figures: serde_json::Map<String, Value> = keys
                    .into_iter()
                    .map(|key| (key.to_owned(), json!(self.median(scenario, proxy, key))))
                    .collect();
                json!({
                    "scenario": scenario.name(),
                    "proxy": proxy.name(),
                    "figure": scenario.figure().key,
                    "to_envoy": self.ratio(scenario, proxy, Kind::Envoy),
                    "to_haproxy": self.ratio(scenario, proxy, Kind::Haproxy),
                    "medians": figures,
                })
            })
            .collect();
        let runs: Vec<Value> = self
            .runs
            .iter()
            .map(|run| {
                let (metrics, error) = match &run.metrics {
                    Ok(metrics) => (json!(metrics), Value::Null),
                    Err(error) => (Value::Null, json!(error)),
                };
                json!({"scenario": run.scenario.name(), "proxy": run.proxy.name(), "round": run.round + 1,
                       "metrics": metrics, "error": error})
            })
            .collect();
        json!({"head": self.head, "results": medians, "runs": runs})
    }

    /// The plots: file name and content.
    pub(crate) fn plots(&self) -> Vec<(&'static str, String)> {
        use Scenario::{
            Clusters, Grpc, H1, H2, H2ToH2, IdleConns, IdleRss, Jwt, JwtCache, Mesh, RbacHeaders, RbacIds,
            RbacPaths, TcpBulk, TcpSmall, TlsHandshake, TlsHandshakeRsa,
        };
        let requests = [H1, H2, H2ToH2, Grpc, Mesh, TcpSmall];
        let filters = [RbacIds, RbacPaths, RbacHeaders, Jwt, JwtCache];
        let with = |scenarios: &[Scenario], key: &'static str, unit: &'static str| -> Vec<Panel> {
            scenarios.iter().filter_map(|&s| self.panel(s, key, unit)).collect()
        };
        let mut cpu = with(&requests, "cpu_us_per_request", "us per request");
        cpu.extend(with(&[TcpBulk], "cpu_ms_per_gb", "ms per GB"));
        let handshakes = with(&[TlsHandshake, TlsHandshakeRsa], "handshakes_per_cpu_s", "per CPU second");
        let mut memory = with(&[IdleRss], "rss_mb", "MB resident");
        memory.extend(with(&[IdleConns], "kb_per_conn", "kB per connection"));
        memory.extend(with(&[H1, Clusters], "rss_mb", "MB resident"));
        let mut throughput = with(&requests, "requests_per_s", "requests per second");
        throughput.extend(with(&[TcpBulk], "gb_per_s", "GB per second"));
        let mut start = with(&[Clusters], "ready_ms", "ms to the first answer");
        start.extend(with(&[Clusters], "start_cpu_ms", "ms CPU"));
        [
            ("cpu.svg", "CPU time of the proxy (less is better)", cpu),
            ("handshakes.svg", "Mutual TLS 1.3 handshakes (more is better)", handshakes),
            (
                "filters.svg",
                "CPU time that a filter adds (less is better)",
                with(&filters, "cpu_us_added", "us per request"),
            ),
            ("memory.svg", "Memory (less is better)", memory),
            ("throughput.svg", "Throughput of one worker (more is better)", throughput),
            ("p50.svg", "Median latency at full load (less is better)", with(&requests, "p50_us", "us")),
            (
                "p99.svg",
                "99th percentile of latency at full load (less is better)",
                with(&requests, "p99_us", "us"),
            ),
            ("start.svg", "Start with 5,000 clusters (less is better)", start),
        ]
        .into_iter()
        .filter(|(_, _, panels)| !panels.is_empty())
        .map(|(file, title, panels)| (file, sheet(title, &panels)))
        .collect()
    }

    fn panel(&self, scenario: Scenario, key: &'static str, unit: &'static str) -> Option<Panel> {
        let bars: Vec<(String, f64)> = Kind::ALL
            .into_iter()
            .filter_map(|proxy| Some((proxy.name().to_owned(), self.median(scenario, proxy, key)?)))
            .collect();
        (!bars.is_empty()).then(|| Panel { title: scenario.title().to_owned(), unit: unit.to_owned(), bars })
    }
}

/// The middle value; the mean of the middle two when their number is even.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.filter(|value| value.is_finite()).collect();
    values.sort_by(f64::total_cmp);
    let upper = *values.get(values.len() / 2)?;
    if values.len() % 2 == 1 {
        return Some(upper);
    }
    let lower = *values.get((values.len() / 2).checked_sub(1)?)?;
    Some(f64::midpoint(lower, upper))
}

fn number(value: Option<f64>, digits: usize) -> String {
    value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(proxy: Kind, round: usize, cpu: f64) -> Run {
        let metrics = Ok(Metrics::from([("cpu_us_per_request", cpu)]));
        Run { scenario: Scenario::H1, proxy, round, metrics }
    }

    #[test]
    fn ratios_are_taken_within_a_round() {
        let mut report = Report { runs: Vec::new(), head: Value::Null };
        // A machine that is half as fast in the second round must not change the ratio.
        for (round, slow) in [(0, 1.0), (1, 2.0), (2, 1.0)] {
            report.runs.push(run(Kind::Outrider, round, 10.0 * slow));
            report.runs.push(run(Kind::Haproxy, round, 20.0 * slow));
        }
        assert_eq!(report.ratio(Scenario::H1, Kind::Outrider, Kind::Haproxy), Some(0.5));
        assert_eq!(report.ratio(Scenario::H1, Kind::Outrider, Kind::Envoy), None);
        assert!(report.goals().contains("reached"), "{}", report.goals());
    }

    #[test]
    fn a_failed_run_is_in_the_table() {
        let failed =
            Run { scenario: Scenario::H1, proxy: Kind::Envoy, round: 0, metrics: Err("no answer".into()) };
        let report = Report { runs: vec![failed], head: Value::Null };
        assert!(report.table().contains("FAILED in 1 rounds: no answer"), "{}", report.table());
    }

    #[test]
    fn what_a_filter_adds_is_the_figure() {
        let of = |proxy, added: f64| {
            let metrics = Metrics::from([
                ("cpu_us_added", added),
                ("cpu_us_per_request", 20.0 + added),
                ("cpu_us_without", 20.0),
            ]);
            Run { scenario: Scenario::Jwt, proxy, round: 0, metrics: Ok(metrics) }
        };
        let runs = vec![of(Kind::Outrider, 30.0), of(Kind::Envoy, 60.0)];
        let report = Report { runs, head: Value::Null };
        assert_eq!(report.ratio(Scenario::Jwt, Kind::Outrider, Kind::Envoy), Some(0.5));
        assert!(report.table().contains("50.00 instead of 20.00"), "{}", report.table());
        assert!(report.goals().contains("reached"), "{}", report.goals());
    }

    #[test]
    fn medians() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), Some(2.0));
        assert_eq!(median([1.0, 2.0].into_iter()), Some(1.5));
        assert_eq!(median([f64::NAN].into_iter()), None);
    }
}
