//! What loading costs: `cargo run --release -p outrider-proto --example cost [clusters]` prints the time and the
//! resident memory of each step for a bootstrap with that many static clusters (5,000 if not said).

use std::{fmt::Write as _, fs, io::Write as _, time::Instant};

use outrider_proto::{Descriptors, load, pb::envoy::config::bootstrap::v3::Bootstrap, validate, walk};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let clusters: usize = std::env::args().nth(1).map_or(Ok(5000), |arg| arg.parse())?;
    let mut out = std::io::stdout().lock();
    let mut clock = Clock { start: Instant::now(), rss: resident() };
    let text = bootstrap(clusters)?;
    writeln!(out, "{clusters} clusters, {} kB of YAML", text.len() / 1024)?;
    writeln!(out, "{}", clock.lap("start"))?;

    let descs = Descriptors::load();
    writeln!(out, "{}", clock.lap("index"))?;
    let name = "envoy.config.bootstrap.v3.Bootstrap";
    descs.message(name).ok_or("no bootstrap")?;
    writeln!(out, "{}", clock.lap("descriptors of the bootstrap"))?;
    let mesh = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    let tls = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
    drop(descs.pool_with([name, mesh, tls]));
    writeln!(out, "{}", clock.lap("and of the HTTP connection manager and TLS"))?;

    let loaded = load::parse(&descs, &text, "bench.yaml", name, load::ParseOptions::default())?;
    writeln!(out, "{}", clock.lap("parse"))?;
    let problems = validate::check(&loaded.message, &loaded.lines);
    writeln!(out, "{} ({} problems)", clock.lap("validate"), problems.len())?;
    let fields = walk::set_fields(&loaded.message);
    writeln!(out, "{} ({} fields)", clock.lap("walk"), fields.len())?;
    let bootstrap: Bootstrap = loaded.typed()?;
    writeln!(out, "{}", clock.lap("typed"))?;
    drop((loaded, fields));
    writeln!(out, "{}", clock.lap("message dropped"))?;
    drop((descs, bootstrap));
    writeln!(out, "{}", clock.lap("all dropped"))?;

    let descs = Descriptors::load();
    let names: Vec<&str> = descs.names().collect();
    let pool = descs.pool_with(names);
    writeln!(out, "{} ({} messages)", clock.lap("every descriptor"), pool.all_messages().len())?;
    Ok(())
}

struct Clock {
    start: Instant,
    rss: i64,
}

impl Clock {
    fn lap(&mut self, what: &str) -> String {
        let (took, rss) = (self.start.elapsed(), resident());
        let line =
            format!("{what:45} {:>9.1} ms {:>+8} kB, {rss} kB", took.as_secs_f64() * 1e3, rss - self.rss);
        *self = Self { start: Instant::now(), rss: resident() };
        line
    }
}

/// The resident memory of this process in kB.
fn resident() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

fn bootstrap(clusters: usize) -> Result<String, std::fmt::Error> {
    let mut text = "static_resources:\n  clusters:\n".to_owned();
    for number in 0..clusters {
        write!(
            text,
            "  - name: cluster-{number}
    connect_timeout: 0.25s
    type: STATIC
    lb_policy: ROUND_ROBIN
    load_assignment:
      cluster_name: cluster-{number}
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 10.0.{}.{}, port_value: 8080}}}}}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{max_concurrent_streams: 100}}}}
",
            number / 250 % 250,
            number % 250 + 1
        )?;
    }
    Ok(text)
}
