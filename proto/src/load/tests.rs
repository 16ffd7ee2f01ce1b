use super::*;
use crate::pb::envoy::config::{
    bootstrap::v3::Bootstrap,
    cluster::v3::{Cluster, cluster},
};

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";

fn descs() -> Descriptors {
    Descriptors::load()
}

fn load(text: &str) -> Result<Loaded, Problems> {
    parse(&descs(), text, "test.yaml", BOOTSTRAP, ParseOptions::default())
}

fn bootstrap(text: &str) -> Bootstrap {
    load(text).unwrap_or_else(|problems| panic!("{problems}\n{text}")).typed().unwrap()
}

fn clusters(fields: &str) -> Vec<Cluster> {
    let text = format!("static_resources: {{clusters: [{{name: a, {fields}}}]}}");
    bootstrap(&text).static_resources.unwrap().clusters
}

fn errors(text: &str) -> String {
    load(text).expect_err(text).to_string()
}

#[test]
fn reads_a_bootstrap_in_either_spelling() {
    let text = "
node: {id: n, cluster: c}
staticResources:
  clusters:
  - name: backend
    connectTimeout: 0.25s
    type: STRICT_DNS
    lb_policy: least_request
    per_connection_buffer_limit_bytes: 32768
    load_assignment:
      cluster_name: backend
      endpoints:
      - lb_endpoints:
        - endpoint:
            address: {socket_address: {address: localhost, port_value: 80}}
          load_balancing_weight: 3
";
    let bootstrap = bootstrap(text);
    let cluster = &bootstrap.static_resources.as_ref().unwrap().clusters[0];
    assert_eq!(cluster.connect_timeout.as_ref().unwrap().nanos, 250_000_000);
    assert_eq!(cluster.lb_policy, cluster::LbPolicy::LeastRequest as i32);
    assert_eq!(cluster.per_connection_buffer_limit_bytes.as_ref().unwrap().value, 32768);
    assert_eq!(cluster.load_assignment.as_ref().unwrap().endpoints.len(), 1);
    let loaded = load(text).unwrap();
    assert_eq!(loaded.lines.line("static_resources.clusters[0].connect_timeout"), Some(6));
    assert_eq!(loaded.lines.line("static_resources.clusters[0].load_assignment.endpoints[0]"), Some(13));
}
