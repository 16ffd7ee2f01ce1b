//! Bad configurations: each is refused with a message that names the field and the line, and exit code 1.

use std::{
    fs,
    path::PathBuf,
    process::{Command, Output},
};

use anyhow::Result;
use outrider_tests::binary;

/// A whole bootstrap; the marked line is the one at fault.
struct Bad {
    name: &'static str,
    /// The YAML. The line at fault, where there is one, ends in `# here`.
    yaml: &'static str,
    /// What the message must contain, besides the number of that line.
    says: &'static [&'static str],
}

const BAD: [Bad; 14] = [
    Bad {
        name: "unknown top-level field",
        yaml: "static_resources: {}\nno_such_field: 1 # here\n",
        says: &["no_such_field"],
    },
    Bad {
        name: "unknown nested field",
        yaml: "static_resources:\n  clusters:\n  - name: a\n    type: STATIC\n    conect_timeout: 1s # here\n",
        says: &["static_resources.clusters[0].conect_timeout"],
    },
    Bad {
        name: "bad duration",
        yaml: "static_resources:\n  clusters:\n  - name: a\n    type: STATIC\n    connect_timeout: soon # here\n",
        says: &["static_resources.clusters[0].connect_timeout"],
    },
    Bad {
        name: "bad enum",
        yaml: "static_resources:\n  clusters:\n  - name: a\n    type: SOMETIMES # here\n",
        says: &["static_resources.clusters[0].type", "SOMETIMES"],
    },
    Bad {
        name: "rule broken: empty name",
        yaml: "static_resources:\n  clusters:\n  - name: \"\" # here\n    type: STATIC\n",
        says: &["static_resources.clusters[0].name"],
    },
    Bad {
        name: "port out of range",
        yaml: "static_resources:\n  listeners:\n  - name: l\n    address: { socket_address: { address: 127.0.0.1, port_value: 70000 } } # here\n",
        says: &["static_resources.listeners[0].address.socket_address.port_value"],
    },
    Bad {
        name: "unknown type",
        yaml: "static_resources:\n  listeners:\n  - name: l\n    address: { socket_address: { address: 127.0.0.1, port_value: 1 } }\n    filter_chains:\n    - filters:\n      - name: x\n        typed_config: { \"@type\": type.googleapis.com/no.such.Type } # here\n",
        says: &["static_resources.listeners[0].filter_chains[0].filters[0].typed_config", "no.such.Type"],
    },
    Bad {
        name: "dangling cluster",
        yaml: "static_resources:\n  listeners:\n  - name: l\n    address: { socket_address: { address: 127.0.0.1, port_value: 1 } }\n    filter_chains:\n    - filters:\n      - name: envoy.filters.network.http_connection_manager\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          stat_prefix: x\n          http_filters:\n          - name: envoy.filters.http.router\n            typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }\n          route_config:\n            virtual_hosts:\n            - name: v\n              domains: [\"*\"]\n              routes:\n              - match: { prefix: / }\n                route: { cluster: nowhere } # here\n",
        says: &[
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0].route",
            "nowhere",
        ],
    },
    Bad {
        name: "bad regex",
        yaml: "static_resources:\n  listeners:\n  - name: l\n    address: { socket_address: { address: 127.0.0.1, port_value: 1 } }\n    filter_chains:\n    - filters:\n      - name: envoy.filters.network.http_connection_manager\n        typed_config:\n          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n          stat_prefix: x\n          http_filters:\n          - name: envoy.filters.http.router\n            typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }\n          route_config:\n            virtual_hosts:\n            - name: v\n              domains: [\"*\"]\n              routes:\n              - match: { safe_regex: { regex: \"a(b\" } } # here\n                direct_response: { status: 200 }\n",
        says: &[
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0].routes[0].match.safe_regex",
        ],
    },
    Bad {
        name: "unreadable certificate",
        yaml: "static_resources:\n  clusters:\n  - name: a\n    type: STATIC\n    transport_socket:\n      name: envoy.transport_sockets.tls\n      typed_config:\n        \"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext\n        common_tls_context:\n          validation_context:\n            trusted_ca: { filename: /no/such/file.pem } # here\n",
        says: &[
            "static_resources.clusters[0].transport_socket.typed_config.common_tls_context.validation_context.trusted_ca",
            "/no/such/file.pem",
        ],
    },
    Bad {
        name: "duplicate cluster",
        yaml: "static_resources:\n  clusters:\n  - { name: twin, type: STATIC }\n  - { name: twin, type: STATIC } # here\n",
        says: &["static_resources.clusters[1]", "twin"],
    },
    Bad {
        name: "duplicate listener",
        yaml: "static_resources:\n  listeners:\n  - { name: twin, address: { socket_address: { address: 127.0.0.1, port_value: 1 } }, filter_chains: [ { filters: [] } ] }\n  - { name: twin, address: { socket_address: { address: 127.0.0.1, port_value: 2 } }, filter_chains: [ { filters: [] } ] } # here\n",
        says: &["static_resources.listeners[1]", "twin"],
    },
    Bad { name: "not YAML", yaml: "static_resources:\n  clusters: [ { name: a # here\n", says: &[] },
    Bad {
        name: "list for a message",
        yaml: "static_resources:\n  clusters:\n  - name: a\n    type: STATIC\n    load_assignment: [] # here\n",
        says: &["static_resources.clusters[0].load_assignment"],
    },
];

fn outrider(args: &[&str]) -> Result<Output> {
    Ok(Command::new(binary::outrider()?).args(args).output()?)
}

fn file(name: &str, text: &str) -> Result<PathBuf> {
    let path = binary::scratch(name)?.join("bootstrap.yaml");
    fs::write(&path, text)?;
    Ok(path)
}

#[test]
fn each_bad_configuration_is_refused_with_its_path_and_line() {
    let mut wrong = Vec::new();
    for bad in &BAD {
        let path = file(bad.name, bad.yaml).expect("a file");
        let output = outrider(&["-c", &path.to_string_lossy(), "--mode", "validate"]).expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let line = bad.yaml.lines().position(|l| l.ends_with("# here")).map_or(0, |at| at + 1);
        let mut missing: Vec<String> =
            bad.says.iter().filter(|part| !said.contains(**part)).map(|p| (*p).to_owned()).collect();
        if line > 0 && !said.contains(&format!("line {line}")) && !said.contains(&format!(":{line}")) {
            missing.push(format!("line {line}"));
        }
        if output.status.code() != Some(1) {
            missing.push(format!("exit code 1, not {}", output.status));
        }
        if !missing.is_empty() {
            wrong.push(format!("{}: lacks {missing:?} in:\n{said}", bad.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn serving_refuses_what_validating_refuses() {
    let bad = &BAD[1];
    let path = file("serve", bad.yaml).expect("a file");
    let output = outrider(&["-c", &path.to_string_lossy()]).expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(bad.says[0]), "{said}");
}

#[test]
fn unknown_static_fields_may_be_allowed() {
    let path = file("allow", BAD[0].yaml).expect("a file");
    let args = ["-c", &path.to_string_lossy(), "--mode", "validate", "--allow-unknown-static-fields"];
    let output = outrider(&args).expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn a_missing_file_is_named() {
    let output = outrider(&["-c", "/no/such/bootstrap.yaml"]).expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("/no/such/bootstrap.yaml"));
}

#[test]
fn text_on_the_command_line_is_merged_over_the_file() {
    let path =
        file("merge", "static_resources:\n  clusters:\n  - { name: a, type: STATIC }\n").expect("a file");
    let args = [
        "-c",
        &path.to_string_lossy(),
        "--mode",
        "validate",
        "--config-yaml",
        "node: { id: me, nonsense: 1 }",
    ];
    let output = outrider(&args).expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("node.nonsense"));
    let args = ["-c", &path.to_string_lossy(), "--mode", "validate", "--config-yaml", "node: { id: me }"];
    assert!(outrider(&args).expect("it runs").status.success());
}

#[test]
fn init_only_ends_with_success() {
    let path =
        file("init", "static_resources: { clusters: [ { name: a, type: STATIC } ] }\n").expect("a file");
    let output = outrider(&["-c", &path.to_string_lossy(), "--mode", "init_only"]).expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn flags_of_envoy_that_mean_nothing_here_are_accepted() {
    let path = file("flags", "static_resources: {}\n").expect("a file");
    let args = [
        "-c",
        &path.to_string_lossy(),
        "--mode",
        "validate",
        "--base-id",
        "7",
        "--restart-epoch",
        "0",
        "--disable-hot-restart",
        "--parent-shutdown-time-s",
        "5",
        "--drain-time-s",
        "5",
        "--drain-strategy",
        "immediate",
        "--local-address-ip-version",
        "v4",
        "--file-flush-interval-msec",
        "1000",
        "--skip-deprecated-logs",
        "--component-log-level",
        "misc:error",
        "--service-cluster",
        "c",
        "--service-node",
        "n",
        "--service-zone",
        "z",
        "--concurrency",
        "2",
        "-l",
        "warning",
        "--log-format",
        "%Y-%m-%d %v",
    ];
    let output = outrider(&args).expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[test]
fn the_version_is_told() {
    let output = outrider(&["--version"]).expect("it runs");
    assert!(output.status.success());
    assert!(String::from_utf8_lossy(&output.stdout).contains("version"));
}

#[test]
fn the_ledger_tells_of_every_field_and_fails_on_a_refused_one() {
    let good = "static_resources: { clusters: [ { name: a, type: STATIC, connect_timeout: 1s } ] }\n";
    let path = file("ledger", good).expect("a file");
    let output = outrider(&["check", &path.to_string_lossy()]).expect("it runs");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("static_resources.clusters[0].connect_timeout"), "{said}");
    for (name, text, part) in [
        ("unknown", BAD[1].yaml, BAD[1].says[0]),
        ("regex", BAD[8].yaml, BAD[8].says[0]),
        (
            "unsupported",
            "static_resources:\n  clusters:\n  - name: a\n    type: STATIC\n    lb_policy: CLUSTER_PROVIDED\n    maglev_lb_config: { table_size: 7 }\n",
            "static_resources.clusters[0]",
        ),
    ] {
        let path = file(name, text).expect("a file");
        let output = outrider(&["check", &path.to_string_lossy()]).expect("it runs");
        let said =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{name}: {said}");
        assert!(said.contains(part), "{name}: {said}");
    }
}

#[test]
fn a_port_in_use_ends_the_start() {
    let taken = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let yaml = format!(
        "static_resources:\n  listeners:\n  - name: l\n    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}\n    filter_chains: [ {{ filters: [ {{ name: t, typed_config: {{ \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: a }} }} ] }} ]\n  clusters: [ {{ name: a, type: STATIC }} ]\n"
    );
    let path = file("taken", &yaml).expect("a file");
    let output = outrider(&["-c", &path.to_string_lossy()]).expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains(&port.to_string()), "{said}");
}
