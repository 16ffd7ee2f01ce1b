//! What is logged.

use outrider_proto::pb::envoy::config::accesslog::v3::AccessLog;

use super::telemetry::access_logs;
use crate::model::{Key, Kind};
use crate::translate::testing::{WEB, conditions, context, envoy_takes, resources, sidecar};

fn policy(namespace: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: outrider.dev/v1\nkind: Telemetry\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec: {spec}\n"
    )
}

fn texts(logs: &[AccessLog]) -> String {
    logs.iter()
        .map(|log| match &log.config_type {
            Some(outrider_proto::pb::envoy::config::accesslog::v3::access_log::ConfigType::TypedConfig(
                any,
            )) => {
                format!("{} {}", log.name, String::from_utf8_lossy(&any.value))
            }
            other => format!("{other:?}"),
        })
        .collect()
}

#[test]
fn every_form_of_a_log_is_taken_by_envoy() {
    for spec in [
        "{accessLog: {}}",
        "{accessLog: {text: '%START_TIME% %REQ(:METHOD)% %RESPONSE_CODE%'}}",
        "{accessLog: {json: {time: '%START_TIME%', path: '%REQ(:PATH)%', code: '%RESPONSE_CODE%', flags: '%RESPONSE_FLAGS%'}, path: /dev/null}}",
        "{accessLog: {filter: {minStatus: 400}}}",
        "{accessLog: {filter: {minStatus: 400, minDuration: 1s500ms}, path: /dev/null}}",
        "{accessLog: {off: true}}",
    ] {
        let all = resources(&context(&format!("{WEB}{}", policy("shop", "a", spec))));
        envoy_takes(&all);
    }
}

#[test]
fn a_workload_goes_before_its_namespace_and_that_before_the_mesh() {
    let mesh = policy("outrider-system", "mesh", "{accessLog: {text: of-the-mesh}}");
    let space = policy("shop", "space", "{accessLog: {text: of-the-namespace}}");
    let load = policy("shop", "workload", "{selector: {matchLabels: {app: web}}, accessLog: {off: true}}");
    let labels = sidecar().labels;
    let logs = |yaml: &str, namespace: &str| {
        texts(&access_logs(&context(&format!("{WEB}{yaml}")), namespace, Some(&labels)))
    };
    assert_eq!(logs("", "shop"), "");
    assert!(logs(&mesh, "shop").contains("of-the-mesh\n"));
    assert!(logs(&format!("{mesh}{space}"), "shop").contains("of-the-namespace\n"));
    assert!(logs(&format!("{mesh}{space}"), "other").contains("of-the-mesh\n"));
    assert_eq!(logs(&format!("{mesh}{space}{load}"), "shop"), "");
    // What a workload calls is logged as its namespace says.
    let outbound = access_logs(&context(&format!("{WEB}{mesh}{space}{load}")), "shop", None);
    assert!(texts(&outbound).contains("of-the-namespace\n"));
}

#[test]
fn of_two_for_the_same_the_older_one_counts() {
    let old = policy("shop", "b", "{accessLog: {text: old}}")
        .replace("namespace: shop}", "namespace: shop, creationTimestamp: '2026-01-01T00:00:00Z'}");
    let new = policy("shop", "a", "{accessLog: {text: new}}")
        .replace("namespace: shop}", "namespace: shop, creationTimestamp: '2026-01-02T00:00:00Z'}");
    let world = context(&format!("{WEB}{old}{new}"));
    assert!(texts(&access_logs(&world, "shop", None)).contains("old\n"));
    let said = conditions(&world.policies.statuses[&Key::new(Kind::Telemetry, "shop", "a")]);
    assert!(said[0].starts_with("Accepted=False Conflicted"), "{said:?}");
}
