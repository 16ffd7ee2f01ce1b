//! What a proxy's stats say about its upstreams: counters, read from `/stats` as text, and rates over the last seconds. Pure.
//!
//! The text form is that of Envoy's admin interface, which Outrider's has, too:
//! <https://www.envoyproxy.io/docs/envoy/latest/operations/admin#get--stats>

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

/// What is asked for: the stats that are read here, of the clusters that this control plane names.
pub(super) const QUERY: &str = concat!(
    "/stats?histogram_buckets=cumulative&filter=%5Ecluster%5C.(outbound%7Cexternal%7Cinbound)%5C%7C.*%5C.",
    "(upstream_rq_(completed%7C4xx%7C5xx%7Ctime)%7Cupstream_cx_(total%7Cconnect_fail)%7Cssl%5C.handshake)%24",
);

/// Of how many clusters of one proxy the counters are kept.
const CLUSTERS: usize = 1000;
/// How many buckets a histogram may have.
const BUCKETS: usize = 64;
/// Over how long rates are: a moment of quiet shows, one request does not flicker.
const SPAN: Duration = Duration::from_secs(10);

/// The counters of one cluster since its proxy started.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Counters {
    completed: u64,
    client_errors: u64,
    server_errors: u64,
    connections: u64,
    connect_failures: u64,
    handshakes: u64,
    /// Upper bound in milliseconds, and how many requests took no longer.
    times: Vec<(f64, u64)>,
}

/// The counters of a proxy's clusters at one moment.
pub(super) type Sample = BTreeMap<String, Counters>;

/// Whether connections were encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Tls {
    /// None was made.
    #[default]
    Unknown,
    /// None was.
    Clear,
    /// Some were.
    Mixed,
    /// All were.
    All,
}

/// What goes on at a cluster, or at several.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Rate {
    /// Requests that ended, each second.
    pub(super) requests: f64,
    /// Of these, with a status of 4xx.
    pub(super) client_errors: f64,
    /// Of these, with a status of 5xx, or with none.
    pub(super) server_errors: f64,
    /// New connections, each second.
    pub(super) connections: f64,
    /// Requests since the proxy started.
    pub(super) total: u64,
    established: u64,
    handshakes: u64,
    /// As in [`Counters`], over the window.
    times: Vec<(f64, u64)>,
}

/// The samples of the last seconds.
#[derive(Debug, Default)]
pub(super) struct Window(VecDeque<(Instant, Sample)>);

impl Rate {
    /// Takes what goes on elsewhere in.
    pub(super) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.client_errors += other.client_errors;
        self.server_errors += other.server_errors;
        self.connections += other.connections;
        self.total = self.total.saturating_add(other.total);
        self.established = self.established.saturating_add(other.established);
        self.handshakes = self.handshakes.saturating_add(other.handshakes);
        if self.times.is_empty() {
            self.times.clone_from(&other.times);
        } else if same_bounds(&self.times, &other.times) {
            for (own, more) in self.times.iter_mut().zip(&other.times) {
                own.1 = own.1.saturating_add(more.1);
            }
        }
    }

    /// How long requests of the window took in milliseconds, at a quantile between 0 and 1. `None`: there were none.
    pub(super) fn quantile(&self, quantile: f64) -> Option<f64> {
        let all = self.times.last().map(|(_, count)| *count).filter(|count| *count > 0)?;
        let (all, count) = (all as f64, |it: u64| it as f64);
        let wanted = all * quantile;
        let (mut bound, mut below) = (0.0, 0.0);
        for (upper, at) in &self.times {
            let at = count(*at);
            if at >= wanted && at > below {
                // Between two bounds nobody knows; a straight line, as Prometheus has it.
                return Some(bound + (upper - bound) * ((wanted - below) / (at - below)).clamp(0.0, 1.0));
            }
            (bound, below) = (*upper, at);
        }
        Some(bound)
    }

    /// Whether connections were encrypted, since the proxy started.
    pub(super) fn tls(&self) -> Tls {
        match (self.established, self.handshakes) {
            (0, 0) => Tls::Unknown,
            (_, 0) => Tls::Clear,
            (made, encrypted) if encrypted >= made => Tls::All,
            _ => Tls::Mixed,
        }
    }
}

impl Window {
    /// Takes a sample; what is too old goes, and so does what was before a restart of the proxy.
    pub(super) fn push(&mut self, now: Instant, sample: Sample) {
        let restarted = self.0.back().is_some_and(|(_, last)| fell(last, &sample));
        if restarted {
            self.0.clear();
        }
        // The newest of those that are older than the window is its begin.
        while self.0.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= SPAN) {
            self.0.pop_front();
        }
        self.0.push_back((now, sample));
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// What goes on, by cluster. All rates are zero until there are two samples.
    pub(super) fn rates(&self) -> BTreeMap<&str, Rate> {
        let Some((until, newest)) = self.0.back() else { return BTreeMap::new() };
        let oldest = self.0.front().filter(|_| self.0.len() > 1);
        let nothing = Counters::default();
        let rate = |(name, now): (&String, &Counters)| {
            let Some((from, before)) = oldest else { return since(now, now, 1.0) };
            let seconds = until.duration_since(*from).as_secs_f64().max(0.001);
            // What was not there before began within the window.
            since(before.get(name).unwrap_or(&nothing), now, seconds)
        };
        newest.iter().map(|it| (it.0.as_str(), rate(it))).collect()
    }
}

/// The rate between two moments.
fn since(before: &Counters, now: &Counters, seconds: f64) -> Rate {
    let each = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    let times = if same_bounds(&before.times, &now.times) {
        let both = now.times.iter().zip(&before.times);
        both.map(|(now, before)| (now.0, now.1.saturating_sub(before.1))).collect()
    } else {
        now.times.clone()
    };
    Rate {
        requests: each(now.completed, before.completed),
        client_errors: each(now.client_errors, before.client_errors),
        server_errors: each(now.server_errors, before.server_errors),
        connections: each(now.connections, before.connections),
        total: now.completed,
        established: now.connections.saturating_sub(now.connect_failures),
        handshakes: now.handshakes,
        times,
    }
}

fn same_bounds(one: &[(f64, u64)], other: &[(f64, u64)]) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| one.0.total_cmp(&other.0).is_eq())
}

/// Whether a counter became smaller: the proxy is another one.
fn fell(before: &Sample, now: &Sample) -> bool {
    now.iter().any(|(name, now)| {
        before.get(name).is_some_and(|it| now.completed < it.completed || now.connections < it.connections)
    })
}

/// Reads `/stats` as text. Lines that are none of what is asked for are passed over.
pub(super) fn read(text: &str) -> Sample {
    let mut out = Sample::new();
    for line in text.lines() {
        // Names may have colons, values have none.
        let Some((name, value)) = line.rsplit_once(": ") else { continue };
        let Some((cluster, stat)) = name.strip_prefix("cluster.").and_then(split) else { continue };
        if !out.contains_key(cluster) && out.len() >= CLUSTERS {
            continue;
        }
        let counters = out.entry(cluster.to_owned()).or_default();
        if stat == "upstream_rq_time" {
            counters.times = buckets(value);
            continue;
        }
        let Ok(value) = value.trim().parse() else { continue };
        match stat {
            "upstream_rq_completed" => counters.completed = value,
            "upstream_rq_4xx" => counters.client_errors = value,
            "upstream_rq_5xx" => counters.server_errors = value,
            "upstream_cx_total" => counters.connections = value,
            "upstream_cx_connect_fail" => counters.connect_failures = value,
            "ssl.handshake" => counters.handshakes = value,
            _ => {}
        }
    }
    // The same again, by where requests came from: `cluster.NAME.external.upstream_rq_5xx`.
    let again = |name: &str, all: &Sample| {
        let whole = [".external", ".internal"].into_iter().find_map(|end| name.strip_suffix(end));
        whole.is_some_and(|whole| all.contains_key(whole))
    };
    let double: Vec<String> = out.keys().filter(|name| again(name, &out)).cloned().collect();
    for name in double {
        out.remove(&name);
    }
    out
}

/// The cluster and the stat in `NAME.upstream_rq_5xx`.
fn split(name: &str) -> Option<(&str, &str)> {
    if let Some(cluster) = name.strip_suffix(".ssl.handshake") {
        return Some((cluster, "ssl.handshake"));
    }
    name.rsplit_once('.')
}

/// `B0.5(0,2) B1(0,26)`: upper bounds, with counts of the last interval and of all.
fn buckets(text: &str) -> Vec<(f64, u64)> {
    let one = |word: &str| {
        let (bound, counts) = word.strip_prefix('B')?.strip_suffix(')')?.split_once('(')?;
        let (_, all) = counts.split_once(',')?;
        let bound: f64 = bound.parse().ok()?;
        Some((bound, all.parse().ok()?)).filter(|_| bound.is_finite())
    };
    text.split_whitespace().take(BUCKETS).filter_map(one).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WEB: &str = "outbound|80||web.shop.svc.cluster.local";

    fn stats(completed: u64, failed: u64, slow: u64) -> Sample {
        read(&format!(
            "cluster.{WEB}.upstream_rq_completed: {completed}\n\
             cluster.{WEB}.external.upstream_rq_completed: {completed}\n\
             cluster.{WEB}.upstream_rq_5xx: {failed}\n\
             cluster.{WEB}.upstream_cx_total: 4\n\
             cluster.{WEB}.upstream_cx_connect_fail: 1\n\
             cluster.{WEB}.ssl.handshake: 3\n\
             cluster.{WEB}.upstream_rq_time: B1(0,{}) B5(0,{}) B25(0,{completed})\n",
            completed - slow,
            completed - slow,
        ))
    }

    #[test]
    fn what_two_looks_differ_by_is_the_rate() {
        let (mut window, began) = (Window::default(), Instant::now());
        window.push(began, stats(100, 0, 100));
        assert!(window.rates().get(WEB).is_some_and(|it| it.requests == 0.0 && it.total == 100));
        window.push(began + Duration::from_secs(10), stats(300, 50, 110));
        let rates = window.rates();
        assert_eq!(rates.len(), 1, "what is counted twice is told once");
        let rate = &rates[WEB];
        assert!((rate.requests - 20.0).abs() < 1e-9);
        assert!((rate.server_errors - 5.0).abs() < 1e-9);
        assert_eq!(rate.tls(), Tls::All, "a connection that failed had no handshake");
        let (half, most) = (rate.quantile(0.5).unwrap(), rate.quantile(0.99).unwrap());
        assert!(half <= 1.0, "of the last seconds, not of all time: {half}");
        assert!((5.0..=25.0).contains(&most), "{most}");
    }

    #[test]
    fn a_proxy_that_starts_again_has_no_rate_below_zero() {
        let (mut window, began) = (Window::default(), Instant::now());
        window.push(began, stats(1000, 0, 0));
        window.push(began + Duration::from_secs(2), stats(10, 0, 0));
        assert_eq!(window.rates()[WEB].requests, 0.0);
        window.push(began + Duration::from_secs(4), stats(30, 0, 0));
        assert!((window.rates()[WEB].requests - 10.0).abs() < 1e-9);
    }

    #[test]
    fn the_window_moves_on() {
        let (mut window, began) = (Window::default(), Instant::now());
        for second in 0..100 {
            window.push(began + Duration::from_secs(second), stats(second * 7, 0, 0));
        }
        assert!(window.0.len() <= 12, "{} samples", window.0.len());
        assert!((window.rates()[WEB].requests - 7.0).abs() < 1e-9);
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "(cluster\\.)?[ -~\\n]{0,200}") {
            let sample = read(&text);
            let mut window = Window::default();
            window.push(Instant::now(), sample.clone());
            window.push(Instant::now(), sample);
            for rate in window.rates().values() {
                prop_assert!(rate.requests >= 0.0);
                prop_assert!(rate.quantile(0.99).is_none_or(f64::is_finite));
            }
        }
    }
}
