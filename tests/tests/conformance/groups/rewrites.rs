//! Rewrites of path and host, and weighted clusters.

use outrider_tests::reply::Reply;

use crate::driver::{Group, case, get, post};

/// Rewrites.
pub(crate) fn rewrites() -> Group {
    Group::new("rewrites")
        .upstreams(&["a"])
        .with(|b| {
            b.cluster(
                "named",
                "connect_timeout: 2s\ntype: STRICT_DNS\ndns_lookup_family: V4_ONLY\nload_assignment:\n  cluster_name: named\n  endpoints:\n  - lb_endpoints:\n    - endpoint: { address: { socket_address: { address: localhost, port_value: @{a} } } }\n",
            )
            .cluster(
                "hostnamed",
                "connect_timeout: 2s\ntype: STATIC\nload_assignment:\n  cluster_name: hostnamed\n  endpoints:\n  - lb_endpoints:\n    - endpoint: { hostname: given.name, address: { socket_address: { address: 127.0.0.1, port_value: @{a} } } }\n",
            )
        })
        .routes(
            r#"
virtual_hosts:
- name: all
  domains: ["*"]
  routes:
  - { match: { prefix: /pre/ }, route: { cluster: a, prefix_rewrite: / } }
  - { match: { prefix: /api }, route: { cluster: a, prefix_rewrite: /v2 } }
  - { match: { path: /exact }, route: { cluster: a, prefix_rewrite: /other } }
  - { match: { path_separated_prefix: /sep }, route: { cluster: a, prefix_rewrite: /s2 } }
  - { match: { safe_regex: { regex: "/rx/.*" } }, route: { cluster: a, prefix_rewrite: /whole } }
  - match: { prefix: /regex }
    route: { cluster: a, regex_rewrite: { pattern: { regex: "/regex/([^/]+)/([^/?]+)" }, substitution: "/\\2-\\1\\\\" } }
  - match: { prefix: /global }
    route: { cluster: a, regex_rewrite: { pattern: { regex: "a" }, substitution: "b" } }
  - { match: { prefix: /hlit }, route: { cluster: a, host_rewrite_literal: literal.host } }
  - { match: { prefix: /happ }, route: { cluster: a, host_rewrite_literal: literal.host, append_x_forwarded_host: true } }
  - { match: { prefix: /hhead }, route: { cluster: a, host_rewrite_header: x-new-host } }
  - match: { prefix: /hpath }
    route: { cluster: a, host_rewrite_path_regex: { pattern: { regex: "^/hpath/([^/?]+).*" }, substitution: "\\1.test" } }
  - { match: { prefix: /hauto }, route: { cluster: named, auto_host_rewrite: true } }
  - { match: { prefix: /hauta }, route: { cluster: named, auto_host_rewrite: true, append_x_forwarded_host: true } }
  - { match: { prefix: /hgiven }, route: { cluster: hostnamed, auto_host_rewrite: true } }
  - { match: { prefix: /hstatic }, route: { cluster: a, auto_host_rewrite: true } }
  - match: { prefix: /both }
    route: { cluster: a, prefix_rewrite: /x, host_rewrite_literal: two }
    request_headers_to_add: [ { header: { key: x-path, value: "%REQ(:path)% %REQ(x-envoy-original-path)%" } } ]
  - { match: { prefix: / }, route: { cluster: a } }
"#,
        )
        .cases([
            case("prefix to slash", get("/pre/a/b?c=d")),
            case("prefix to slash, all", get("/pre/")),
            case("prefix", get("/api/x?y")),
            case("prefix cuts words", get("/apix")),
            case("exact", get("/exact?q=1")),
            case("separated", get("/sep/x?q")),
            case("separated itself", get("/sep?q")),
            case("regex match replaces all", get("/rx/abc?q")),
            case("regex groups", get("/regex/one/two?three")),
            case("regex without a match", get("/regex/one")),
            case("regex is global", get("/global/aaa?a=a")),
            case("host literal", get("/hlit")),
            case("host literal, forwarded", get("/happ")),
            case("host literal, appended", get("/happ").h("x-forwarded-host", "before")),
            case("host from header", get("/hhead").h("x-new-host", "from.header")),
            case("host from missing header", get("/hhead")),
            case("host from path", get("/hpath/abc/d?q=1")),
            case("host from path, no match", get("/hpath")),
            case("host of DNS name", get("/hauto")),
            case("host of DNS name, forwarded", get("/hauta")),
            case("host of endpoint's hostname", get("/hgiven")),
            case("host of static address", get("/hstatic")),
            case("path and host and headers", get("/both/1")),
            case("original path from outside", get("/plain").h("x-envoy-original-path", "/forged")),
            case("original host from outside", get("/plain").h("x-envoy-original-host", "forged")),
            case("over h2", get("/api/x?y").h2()),
        ])
}

/// Weighted clusters.
pub(crate) fn weighted() -> Group {
    Group::new("weighted")
        .upstreams(&["a", "b"])
        .routes(
            r#"
virtual_hosts:
- name: all
  domains: ["*"]
  request_headers_to_add: [ { header: { key: x-level, value: vhost } } ]
  response_headers_to_add: [ { header: { key: x-level, value: vhost } } ]
  routes:
  - match: { prefix: /one }
    request_headers_to_add: [ { header: { key: x-level, value: route } } ]
    response_headers_to_add: [ { header: { key: x-level, value: route } } ]
    route:
      weighted_clusters:
        clusters:
        - name: a
          weight: 100
          request_headers_to_add: [ { header: { key: x-level, value: cluster } }, { header: { key: x-a, value: a } } ]
          request_headers_to_remove: [ x-drop ]
          response_headers_to_add: [ { header: { key: x-level, value: cluster } } ]
          response_headers_to_remove: [ x-secret ]
          host_rewrite_literal: weighted.host
        - { name: b, weight: 0 }
  - { match: { prefix: /gone }, route: { weighted_clusters: { clusters: [ { name: b, weight: 7 } ] } } }
  - { match: { prefix: /header }, route: { cluster_header: x-cluster } }
  - match: { prefix: /many }
    route: { weighted_clusters: { clusters: [ { name: a, weight: 1 }, { name: b, weight: 1 } ] } }
"#,
        )
        .cases([
            case("header operations", get("/one").h("x-drop", "1").h("x-level", "client"))
                .reply(Reply::text("ok").header("x-secret", "s").header("x-level", "up")),
            case("single", get("/gone")),
            case("cluster by header", get("/header").h("x-cluster", "b")),
            case("cluster by header, unknown", get("/header").h("x-cluster", "nope")),
            case("cluster by header, missing", get("/header")),
            case("either", post("/many", "x")).reply(Reply::text("same")).blur().ignore("log "),
        ])
}
