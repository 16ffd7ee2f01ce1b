use prost::Message as _;

use super::*;
use crate::{
    any,
    pb::{
        envoy::{
            config::{
                bootstrap::v3::Bootstrap,
                cluster::v3::{Cluster, cluster},
            },
            extensions::upstreams::http::v3::HttpProtocolOptions,
        },
        google::protobuf::value,
    },
};

const BOOTSTRAP: &str = "envoy.config.bootstrap.v3.Bootstrap";
const PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

fn load(text: &str) -> Result<Loaded, Problems> {
    parse(&Descriptors::load(), text, "t.yaml", BOOTSTRAP, ParseOptions::default())
}

fn bootstrap(text: &str) -> Bootstrap {
    load(text).unwrap_or_else(|problems| panic!("{problems}\n{text}")).typed().unwrap()
}

/// A bootstrap with one cluster that has these fields.
fn with(fields: &str) -> String {
    format!("static_resources: {{clusters: [{{name: a, {fields}}}]}}")
}

fn cluster(fields: &str) -> Cluster {
    bootstrap(&with(fields)).static_resources.unwrap().clusters.remove(0)
}

fn errors(text: &str) -> String {
    load(text).expect_err(text).to_string()
}

#[test]
fn reads_a_bootstrap_in_either_spelling() {
    let text = "
node: {id: one, cluster: c}
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
    let lines = load(text).unwrap().lines;
    assert_eq!(lines.line("static_resources.clusters[0].connect_timeout"), Some(6));
    assert_eq!(lines.line("static_resources.clusters[0].load_assignment.endpoints[0]"), Some(13));
}

/// Each of these is accepted by Envoy 1.40 (`--mode validate`).
#[test]
fn takes_what_envoy_takes() {
    let limit = |text: &str| {
        let cluster = cluster(&format!("per_connection_buffer_limit_bytes: {text}"));
        cluster.per_connection_buffer_limit_bytes.unwrap().value
    };
    for (text, value) in [
        ("0x10", 16),
        ("010", 8),
        ("10.0", 10),
        ("1e3", 1000),
        ("\"1024\"", 1024),
        ("+5", 5),
        ("\"0x10\"", 16),
        ("08", 8),
    ] {
        assert_eq!(limit(text), value, "{text}");
    }
    for (text, flag) in
        [("yes", true), ("ON", true), ("y", true), ("TrUe", true), ("\"true\"", true), ("no", false)]
    {
        assert_eq!(
            bootstrap(&format!("enable_dispatcher_stats: {text}")).enable_dispatcher_stats,
            flag,
            "{text}"
        );
    }
    for (text, id) in
        [("1.5", "1.5"), ("99999999999", "99999999999"), ("null", ""), ("\"5\"", "5"), ("~", "")]
    {
        assert_eq!(bootstrap(&format!("node: {{id: {text}}}")).node.unwrap().id, id, "{text}");
    }
    for text in ["round_robin", "ROUND_ROBIN", "0", "\"0\"", "Round_Robin"] {
        assert_eq!(cluster(&format!("lb_policy: {text}")).lb_policy, 0, "{text}");
    }
    assert_eq!(cluster("lb_policy: 99").lb_policy, 99, "an open enum; the rules refuse it later");
    assert_eq!(cluster("connect_timeout: {seconds: 3}").connect_timeout.unwrap().seconds, 3);
    for (text, bound) in
        [("5.", 5.0), (".5", 0.5), ("1e2", 100.0), ("\"+5\"", 5.0), ("Infinity", f64::INFINITY)]
    {
        let text = format!("stats_config: {{histogram_bucket_settings: [{{buckets: [{text}]}}]}}");
        assert_eq!(
            bootstrap(&text).stats_config.unwrap().histogram_bucket_settings[0].buckets,
            [bound],
            "{text}"
        );
    }
    let one = bootstrap("static_resources: {clusters: {name: a}}");
    assert_eq!(one.static_resources.unwrap().clusters.len(), 1, "one value for a list of one");
    let null = bootstrap("static_resources: {clusters: [null]}");
    assert_eq!(null.static_resources.unwrap().clusters, [Cluster::default()]);
    assert_eq!(bootstrap("node: {id: a}\n---\nnode: {id: b}\n").node.unwrap().id, "a", "the first document");
    assert_eq!(bootstrap("{}"), Bootstrap::default());
    let secret =
        "static_resources: {secrets: [{name: a, generic_secret: {secret: {inline_bytes: \"_-8\"}}}]}";
    assert!(format!("{:?}", bootstrap(secret)).contains("[255, 239]"), "URL-safe base64 without padding");
    let empty_any = cluster("metadata: {typed_filter_metadata: {a: {}}}");
    assert_eq!(empty_any.metadata.unwrap().typed_filter_metadata["a"].type_url, "");
}

#[test]
fn structures_of_free_form_keep_envoys_types() {
    let text = "node: {metadata: {a: null, b: [1, 2.5, yes, \"x\"], 1: 3000000000, c: {d: 0x10}}}";
    let fields = bootstrap(text).node.unwrap().metadata.unwrap().fields;
    let kind = |name: &str| fields[name].kind.clone().unwrap();
    assert_eq!(kind("a"), value::Kind::NullValue(0));
    assert_eq!(
        kind("1"),
        value::Kind::StringValue("3000000000".into()),
        "beyond 32 bits Envoy makes a string"
    );
    let value::Kind::ListValue(list) = kind("b") else { panic!("no list") };
    let items: Vec<_> = list.values.into_iter().map(|value| value.kind.unwrap()).collect();
    assert_eq!(items[0], value::Kind::NumberValue(1.0));
    assert_eq!(items[1], value::Kind::StringValue("2.5".into()), "YAML decimals become strings in Envoy");
    assert_eq!(items[2], value::Kind::BoolValue(true));
    assert_eq!(items[3], value::Kind::StringValue("x".into()));
    let value::Kind::StructValue(inner) = kind("c") else { panic!("no structure") };
    assert_eq!(inner.fields["d"].kind, Some(value::Kind::NumberValue(16.0)));

    let json = "{\"node\": {\"metadata\": {\"a\": 2.5}}}";
    let loaded = parse(&Descriptors::load(), json, "t.json", BOOTSTRAP, ParseOptions::default()).unwrap();
    let fields = loaded.typed::<Bootstrap>().unwrap().node.unwrap().metadata.unwrap().fields;
    assert_eq!(fields["a"].kind, Some(value::Kind::NumberValue(2.5)), "JSON has numbers");
}

#[test]
fn json_is_read_leniently_as_envoy_does() {
    for text in [
        "{\"node\": {\"id\": \"a\",}}",
        "{'node': {'id': 'a'}}",
        "{\"node\": {\"id\": \"a\"}}",
        "\u{feff}{node: {id: a}}",
    ] {
        let loaded = parse(&Descriptors::load(), text, "t.json", BOOTSTRAP, ParseOptions::default()).unwrap();
        assert_eq!(loaded.typed::<Bootstrap>().unwrap().node.unwrap().id, "a", "{text}");
    }
    let broken = parse(&Descriptors::load(), "{\"node\":\n [}", "t.json", BOOTSTRAP, ParseOptions::default());
    assert_eq!(broken.unwrap_err().to_string(), "t.json:2: expected a value");
}

#[test]
fn an_any_is_its_message() {
    let options = "explicit_http_config: {http2_protocol_options: {max_concurrent_streams: 7}}";
    let plain = format!("{{\"@type\": type.googleapis.com/{PROTOCOL_OPTIONS}, {options}}}");
    let typed = |package: &str| {
        format!(
            "{{\"@type\": type.googleapis.com/{package}.TypedStruct, \
             type_url: type.googleapis.com/{PROTOCOL_OPTIONS}, value: {{{options}}}}}"
        )
    };
    let mut decoded = Vec::new();
    for any in [plain, typed("xds.type.v3"), typed("udpa.type.v1")] {
        let cluster = cluster(&format!("typed_extension_protocol_options: {{a: {any}}}"));
        let any = &cluster.typed_extension_protocol_options["a"];
        decoded.push(any::unpack::<HttpProtocolOptions>(any).unwrap());
    }
    assert!(decoded.iter().all(|it| *it == decoded[0] && it.upstream_protocol_options.is_some()));
}

#[test]
fn a_well_known_type_in_an_any_stands_under_value() {
    let any = |body: &str| with(&format!("metadata: {{typed_filter_metadata: {{a: {{{body}}}}}}}"));
    let text = any("\"@type\": type.googleapis.com/google.protobuf.Duration, value: 1s");
    let cluster = bootstrap(&text).static_resources.unwrap().clusters.remove(0);
    assert_eq!(cluster.metadata.unwrap().typed_filter_metadata["a"].value, [8, 1]);
    assert!(
        errors(&any("\"@type\": type.googleapis.com/google.protobuf.Duration, seconds: 1"))
            .contains("under 'value'")
    );
}

#[test]
fn a_typed_struct_over_the_wire_is_resolved() {
    let descs = Descriptors::load();
    let outer = |target: &str| {
        let text = "{\"@type\": type.googleapis.com/xds.type.v3.TypedStruct, type_url: \"x.io/envoy.Unknown\", \
                    value: {explicit_http_config: {http_protocol_options: {}}}}";
        let loaded = parse(&descs, text, "t", "google.protobuf.Any", ParseOptions::default()).unwrap();
        let mut any: Any = loaded.typed().unwrap();
        let mut inner: any::TypedStruct = any::unpack_as(&any, "xds.type.v3.TypedStruct").unwrap();
        inner.type_url = format!("type.googleapis.com/{target}");
        any.value = inner.encode_to_vec();
        any
    };
    let resolved = resolve_typed_struct(&descs, &outer(PROTOCOL_OPTIONS)).unwrap();
    assert!(any::unpack::<HttpProtocolOptions>(&resolved).unwrap().upstream_protocol_options.is_some());
    let stranger = outer("envoy.Unknown");
    assert_eq!(resolve_typed_struct(&descs, &stranger).unwrap(), stranger);
    let misfit = resolve_typed_struct(&descs, &outer("envoy.config.cluster.v3.Cluster")).unwrap_err();
    assert!(misfit.to_string().starts_with("explicit_http_config: unknown field"), "{misfit}");
}

#[test]
fn errors_teach() {
    for (text, wanted) in [
        ("nodee: {}", "t.yaml:1: nodee: unknown field; did you mean 'node'?"),
        (
            "admin:\n  address: {pipe: {path: /x, mod: 0}}",
            "t.yaml:2: admin.address.pipe.mod: unknown field; did you mean 'mode'?",
        ),
        (
            "node: {locality: {country: x}}",
            "t.yaml:1: node.locality.country: unknown field; envoy.config.core.v3.Locality has region, zone, sub_zone",
        ),
        (
            "layered_runtime: {layers: [{name: a, admin_layer: {x: 1}}]}",
            "t.yaml:1: layered_runtime.layers[0].admin_layer.x: unknown field; \
             envoy.config.bootstrap.v3.RuntimeLayer.AdminLayer has no fields",
        ),
        (
            "x: &a 1\nnode:\n  <<: *a",
            "t.yaml:1: x: unknown field; envoy.config.bootstrap.v3.Bootstrap has none of that name\n\
             t.yaml:3: node.<<: YAML merge keys are not part of Envoy's configuration language; \
             envoy.config.core.v3.Node has no field '<<'",
        ),
        ("node: {id: 5}", "t.yaml:1: node.id: expected a string, got the number 5; put it in quotes"),
        (
            "node: {id: yes}",
            "t.yaml:1: node.id: expected a string, and YAML reads a bare yes as a boolean; put it in quotes",
        ),
        ("node: []", "t.yaml:1: node: expected a mapping (envoy.config.core.v3.Node), got a list"),
        (
            "enable_dispatcher_stats: 1",
            "t.yaml:1: enable_dispatcher_stats: expected true or false, got the number 1",
        ),
        ("node:\n  id: a\n  id: b", "t.yaml:3: node.id: the field is given twice, first on line 2"),
        (
            "enable_dispatcher_stats: true\nenableDispatcherStats: true",
            "t.yaml:2: enable_dispatcher_stats: the field is given twice, first on line 1",
        ),
        (
            "node: {user_agent_version: x, user_agent_build_version: {}}",
            "t.yaml:1: node.user_agent_build_version: only one of 'user_agent_version_type' may be set, and \
             'user_agent_version' already is",
        ),
        ("- a", "t.yaml:1: expected a mapping (envoy.config.bootstrap.v3.Bootstrap), got a list"),
        ("", "t.yaml: the text is empty"),
    ] {
        assert_eq!(errors(text), wanted, "{text}");
    }
}

#[test]
fn errors_inside_a_cluster_teach() {
    let at = "t.yaml:1: static_resources.clusters[0].";
    for (fields, wanted) in [
        (
            "lb_policy: ROUND_ROBBIN",
            "lb_policy: \"ROUND_ROBBIN\" is not one of ROUND_ROBIN, LEAST_REQUEST, RING_HASH, \
            RANDOM, MAGLEV, CLUSTER_PROVIDED, LOAD_BALANCING_POLICY_CONFIG; did you mean 'ROUND_ROBIN'?",
        ),
        (
            "lb_policy: on",
            "lb_policy: expected one of ROUND_ROBIN, LEAST_REQUEST, RING_HASH, RANDOM, MAGLEV, \
            CLUSTER_PROVIDED, LOAD_BALANCING_POLICY_CONFIG, got the boolean on; YAML reads this bare word so: put it in \
            quotes",
        ),
        ("connect_timeout: 1", "connect_timeout: expected a duration such as \"1.5s\", got the number 1"),
        (
            "connect_timeout: 1ms",
            "connect_timeout: expected a duration such as \"1.5s\", got \"1ms\": it must be a \
            decimal number of seconds",
        ),
        (
            "connect_timeout: 1m",
            "connect_timeout: expected a duration such as \"1.5s\", got \"1m\": it must end with 's'",
        ),
        (
            "per_connection_buffer_limit_bytes: -1",
            "per_connection_buffer_limit_bytes: -1 is out of range for a 32-bit \
            unsigned integer",
        ),
        (
            "per_connection_buffer_limit_bytes: 1.5",
            "per_connection_buffer_limit_bytes: expected a 32-bit unsigned \
            integer, got 1.5, which has a fraction",
        ),
        (
            "per_connection_buffer_limit_bytes: 1_000",
            "per_connection_buffer_limit_bytes: expected a 32-bit unsigned \
            integer, got \"1_000\"",
        ),
        (
            "transport_socket: {name: a, typed_config: {sni: a}}",
            "transport_socket.typed_config: '@type' is missing; it \
            says which message this is, as in '\"@type\": \
            type.googleapis.com/envoy.extensions.filters.http.router.v3.Router'",
        ),
        (
            "transport_socket: {name: a, typed_config: {\"@type\": a.com/envoy.api.v2.auth.UpstreamTlsContext}}",
            "transport_socket.typed_config: unknown '@type' envoy.api.v2.auth.UpstreamTlsContext; did you mean \
            envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext?",
        ),
        (
            "transport_socket: {name: a, typed_config: {\"@type\": a.com/b.C}}",
            "transport_socket.typed_config: unknown \
            '@type' b.C: Envoy's v3 API has no such message; check its spelling and version, or remove the extension",
        ),
    ] {
        assert_eq!(errors(&with(fields)), format!("{at}{wanted}"), "{fields}");
    }
    let tls = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    let no_host =
        errors(&with(&format!("transport_socket: {{name: a, typed_config: {{\"@type\": {tls}}}}}")));
    assert!(
        no_host.ends_with(&format!("'@type' must be a type URL with a host: type.googleapis.com/{tls}")),
        "{no_host}"
    );
}

#[test]
fn all_problems_come_at_once() {
    let text = "
node: {idd: a}
static_resources:
  clusters:
  - name: a
    connect_timeout: soon
  listeners:
  - nme: a
    filter_chains:
    - filters:
      - name: hcm
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          route_config:
            virtual_hosts:
            - {name: a, domains: ['*'], routes: [{match: {prefx: /}}]}
";
    let problems = load(text).unwrap_err().0;
    let places: Vec<_> = problems.iter().map(|it| (it.path.as_str(), it.line.unwrap())).collect();
    assert_eq!(
        places,
        [
            ("node.idd", 2),
            ("static_resources.clusters[0].connect_timeout", 6),
            ("static_resources.listeners[0].nme", 8),
            (
                "static_resources.listeners[0].filter_chains[0].filters[0].typed_config.route_config.virtual_hosts[0]\
             .routes[0].match.prefx",
                16
            ),
        ]
    );
}

#[test]
fn unknown_fields_can_be_collected() {
    let options = ParseOptions { unknown_fields: UnknownFields::Collect };
    let text = "node: {id: a, idd: b}\nfoo: {bar: 1}\ncluster_manager: {}\n";
    let loaded = parse(&Descriptors::load(), text, "t.yaml", BOOTSTRAP, options).unwrap();
    let unknown: Vec<_> = loaded.unknown.iter().map(|it| (it.path.as_str(), it.line)).collect();
    assert_eq!(unknown, [("node.idd", Some(1)), ("foo", Some(2))]);
    assert_eq!(loaded.typed::<Bootstrap>().unwrap().node.unwrap().id, "a");
    let strict = parse(&Descriptors::load(), "node: {id: 5}", "t.yaml", BOOTSTRAP, options);
    assert!(strict.is_err(), "a wrong value is wrong all the same");
}

#[test]
fn merging_is_protobufs() {
    let descs = Descriptors::load();
    let load =
        |text: &str, source: &str| parse(&descs, text, source, BOOTSTRAP, ParseOptions::default()).unwrap();
    let mut base =
        load("node: {id: a, cluster: c}\nstatic_resources: {clusters: [{name: x}]}\n", "file.yaml");
    let any = format!(
        "{{\"@type\": type.googleapis.com/{PROTOCOL_OPTIONS}, explicit_http_config: {{http_protocol_options: {{}}}}}}"
    );
    let over = format!(
        "node: {{id: b}}\nstatic_resources:\n  clusters:\n  - name: z\n    typed_extension_protocol_options: {{a: {any}}}\n"
    );
    base.merge_over(load(&over, "--config-yaml")).unwrap();
    let merged: Bootstrap = base.typed().unwrap();
    let node = merged.node.unwrap();
    assert_eq!((node.id.as_str(), node.cluster.as_str()), ("b", "c"));
    let names: Vec<_> = merged.static_resources.unwrap().clusters.into_iter().map(|it| it.name).collect();
    assert_eq!(names, ["x", "z"]);
    assert_eq!(base.lines.line("static_resources.clusters[1].name"), Some(4));
    let fields = crate::walk::set_fields(&base.message);
    let inside = "static_resources.clusters[1].typed_extension_protocol_options[\"a\"].explicit_http_config.http_protocol_options";
    assert!(
        fields.iter().any(|field| field == inside),
        "the merged message knows the types of both: {fields:?}"
    );
}

#[test]
fn nesting_ends_in_an_error() {
    let deep =
        |open: &str, close: &str, times: usize| format!("{}{}", open.repeat(times), close.repeat(times));
    for levels in [10, 60, 150, 190, 1000] {
        let text = format!("node: {{metadata: {}}}", deep("{a: ", "}", levels));
        let outcome = load(&text);
        match outcome {
            // What is accepted must also decode: the typed decoder has a limit of its own.
            Ok(loaded) => assert!(loaded.typed::<Bootstrap>().is_ok(), "{levels}"),
            Err(problems) => assert!(problems.to_string().contains("nested"), "{levels}: {problems}"),
        }
    }
}

#[test]
fn bytes_that_are_no_text_are_an_error() {
    let outcome =
        parse_bytes(&Descriptors::load(), b"node:\n  id: \xff", "t.yaml", BOOTSTRAP, ParseOptions::default());
    assert_eq!(outcome.unwrap_err().to_string(), "t.yaml:2: not UTF-8 text");
}

#[test]
fn an_error_does_not_show_a_secret() {
    let text = "static_resources: {secrets: [{name: a, generic_secret: {secret: {inline_string: 31337}}}]}";
    let wanted = "t.yaml:1: static_resources.secrets[0].generic_secret.secret.inline_string: the value does not fit; it is \
                  not shown, since the field is sensitive";
    assert_eq!(errors(text), wanted);
}

#[test]
fn bytes_load_too() {
    let descs = Descriptors::load();
    let bytes = bootstrap("node: {id: a}").encode_to_vec();
    assert_eq!(
        decode(&descs, &bytes, "t.pb", BOOTSTRAP).unwrap().typed::<Bootstrap>().unwrap().node.unwrap().id,
        "a"
    );
    let error = decode(&descs, b"\xff", "t.pb", BOOTSTRAP).unwrap_err().to_string();
    assert!(error.starts_with("t.pb: malformed envoy.config.bootstrap.v3.Bootstrap"), "{error}");
}
