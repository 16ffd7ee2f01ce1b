//! What taking resources in costs: `cargo run --release -p outrider-config --example resources [clusters]` prints the time
//! and the resident memory of as many clusters of a mesh, with their endpoints (5,000 if not said).

use std::fmt::Write as _;
use std::time::Instant;
use std::{fs, hint};

use outrider_config::convert::{Options, ResourceKind, ResourceReader};
use outrider_proto::load::{self, ParseOptions};
use outrider_proto::prost::Message as _;
use outrider_proto::{Descriptors, any};

const CLUSTER: &str = r#"
name: NAME
type: EDS
eds_cluster_config: {eds_config: {ads: {}, initial_fetch_timeout: 0s, resource_api_version: V3}, service_name: NAME}
connect_timeout: 10s
lb_policy: LEAST_REQUEST
circuit_breakers: {thresholds: [{max_connections: 4294967295, max_pending_requests: 4294967295, max_requests: 4294967295, max_retries: 4294967295, track_remaining: true}]}
typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    explicit_http_config: {http2_protocol_options: {max_concurrent_streams: 1073741824}}
metadata: {filter_metadata: {istio: {services: [{host: a, name: a, namespace: b}]}}}
transport_socket_matches:
- name: tlsMode-istio
  match: {tlsMode: istio}
  transport_socket:
    name: envoy.transport_sockets.tls
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
      sni: NAME
      common_tls_context:
        alpn_protocols: [istio-peer-exchange, istio, h2]
        tls_certificate_sds_secret_configs: [{name: default, sds_config: {ads: {}}}]
        combined_validation_context:
          default_validation_context: {match_subject_alt_names: [{exact: "spiffe://cluster.local/ns/b/sa/a"}]}
          validation_context_sds_secret_config: {name: ROOTCA, sds_config: {ads: {}}}
- name: tlsMode-disabled
  match: {}
  transport_socket: {name: raw, typed_config: {"@type": type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer}}
"#;

const ENDPOINTS: &str = r#"
cluster_name: NAME
endpoints:
- locality: {region: r, zone: z}
  load_balancing_weight: 2
  lb_endpoints:
  - endpoint: {address: {socket_address: {address: 10.0.0.1, port_value: 8080}}}
    load_balancing_weight: 1
    metadata: {filter_metadata: {envoy.transport_socket_match: {tlsMode: istio}, istio: {workload: "a;b;a;latest;c"}}}
  - endpoint: {address: {socket_address: {address: 10.0.0.2, port_value: 8080}}}
    load_balancing_weight: 1
    metadata: {filter_metadata: {envoy.transport_socket_match: {tlsMode: istio}, istio: {workload: "a;b;a;latest;c"}}}
"#;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let count: usize = std::env::args().nth(1).map_or(Ok(5000), |arg| arg.parse())?;
    let mut report = String::new();
    let mut inputs = Vec::new();
    {
        let descs = Descriptors::load();
        for (kind, yaml) in [(ResourceKind::Cluster, CLUSTER), (ResourceKind::Endpoints, ENDPOINTS)] {
            let name = any::type_name(kind.type_url());
            let encode = |at: usize| -> Result<Vec<u8>, Box<dyn std::error::Error>> {
                // One length for all, so that one parse serves as the pattern of all.
                let own = yaml.replace("NAME", &format!("outbound|80||service-{at:05}.b.svc"));
                Ok(load::parse(&descs, &own, "", name, ParseOptions::default())?.message.encode_to_vec())
            };
            let pattern = encode(0)?;
            let all: Vec<Vec<u8>> = (0..count).map(|at| rename(&pattern, at)).collect();
            inputs.push((kind, all));
        }
    }
    let options = Options { ads: true, ..Options::default() };
    let mut reader = ResourceReader::default();
    let mut kept = Vec::new();
    writeln!(report, "start: {} kB resident", resident())?;
    for (kind, all) in &inputs {
        for round in ["first", "again"] {
            let begun = Instant::now();
            let mut taken = Vec::with_capacity(all.len());
            for bytes in all {
                match reader.read(*kind, "", bytes, &options) {
                    (Ok(resource), _) => taken.push(resource),
                    (Err(problems), _) => return Err(format!("{problems:?}").into()),
                }
            }
            let (took, held) = (begun.elapsed(), resident());
            reader.release();
            let each = took.as_secs_f64() * 1e6 / all.len().max(1) as f64;
            writeln!(
                report,
                "{count} of {kind:?}, {round}: {:.1} ms, {each:.1} us each; {held} kB, {} kB when released",
                took.as_secs_f64() * 1e3,
                resident()
            )?;
            kept.push(taken);
        }
    }
    hint::black_box(&kept);
    use std::io::Write as _;
    std::io::stdout().lock().write_all(report.as_bytes())?;
    Ok(())
}

/// The resource with another number in its name.
fn rename(pattern: &[u8], at: usize) -> Vec<u8> {
    let (from, to) = (b"service-00000", format!("service-{at:05}"));
    let mut bytes = pattern.to_vec();
    let mut start = 0;
    while let Some(found) = bytes[start..].windows(from.len()).position(|window| window == from) {
        bytes[start + found..start + found + from.len()].copy_from_slice(to.as_bytes());
        start += found + from.len();
    }
    bytes
}

/// The resident memory of this process in kB.
fn resident() -> i64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    line.and_then(|rest| rest.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}
