//! Whatever the bytes say: a conversion ends, and what it gives is whole.

use outrider_proto::pb::envoy::config::bootstrap::v3::Bootstrap as Message;
use outrider_proto::prost::Message as _;
use proptest::prelude::*;

use super::super::{Options, bootstrap};
use super::{message, with_hcm};

/// A bootstrap with a bit of everything.
fn everything() -> Vec<u8> {
    let yaml = with_hcm(
        r#"
http2_protocol_options: {connection_keepalive: {interval: 1s, timeout: 2s}}
access_log:
- name: a
  filter: {or_filter: {filters: [{duration_filter: {comparison: {op: LE, value: {default_value: 1, runtime_key: k}}}}, {header_filter: {header: {name: a, string_match: {safe_regex: {regex: "a+"}}}}}]}}
  typed_config: {"@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /x, log_format: {json_format: {a: ["%PROTOCOL%", 1]}}}
route_config:
  virtual_hosts:
  - name: v
    domains: [a, "*"]
    routes:
    - {match: {prefix: /a, headers: [{name: x, range_match: {start: 1, end: 2}}]}, route: {cluster: c, regex_rewrite: {pattern: {regex: "(a)"}, substitution: '\1'}, retry_policy: {retry_on: 5xx}}}
    - {match: {path: /b}, redirect: {https_redirect: true}}
    - {match: {safe_regex: {regex: "/x.*"}}, direct_response: {status: 200, body: {inline_string: x}}}
    - {match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: c, weight: 1}]}}}
"#,
    ) + "layered_runtime: {layers: [{name: a, static_layer: {k: 5, f: {numerator: 1}}}]}\nadmin: {address: {socket_address: {address: '::1', port_value: 1}}}\n";
    message(&yaml).encode_to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn bytes_that_were_tampered_with(changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
        thread_local!(static BYTES: Vec<u8> = everything());
        let mut bytes = BYTES.with(Clone::clone);
        for (at, byte) in changes {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let Ok(message) = Message::decode(bytes.as_slice()) else { return Ok(()) };
        match bootstrap(&message, &Options::default()).0 {
            Err(problems) => prop_assert!(!problems.is_empty()),
            Ok(model) => {
                let resources = message.static_resources.unwrap_or_default();
                prop_assert_eq!(resources.listeners.len(), model.listeners.len());
                prop_assert_eq!(resources.clusters.len(), model.clusters.len());
                for (listener, model) in resources.listeners.iter().zip(&model.listeners) {
                    prop_assert_eq!(listener.filter_chains.len(), model.filter_chains.len());
                }
            }
        }
    }
}
