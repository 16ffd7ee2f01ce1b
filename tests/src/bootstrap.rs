//! Bootstraps, written tersely.
//!
//! A builder gathers listeners and clusters as YAML with places to fill: `@{name}` is the port of the listener or
//! upstream of that name (leased or known only when a proxy is about to start), `@{certs}` and `@{dir}` directories.

use std::{collections::BTreeMap, fmt::Write as _};

/// The access log line that conformance compares, for every HTTP listener that has none of its own. It begins
/// with the client's address, by which a test finds its own lines.
pub const LOG_LINE: &str = "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% \
     %REQ(:METHOD)% %REQ(:PATH)% %PROTOCOL% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% \
     in=%BYTES_RECEIVED% out=%BYTES_SENT% cluster=%UPSTREAM_CLUSTER% host=%UPSTREAM_HOST% route=%ROUTE_NAME% \
     failure=%UPSTREAM_TRANSPORT_FAILURE_REASON% end=%CONNECTION_TERMINATION_DETAILS%";

/// A bootstrap in the making.
#[derive(Clone, Debug, Default)]
pub struct Bootstrap {
    listeners: String,
    clusters: String,
    secrets: String,
    top: String,
    names: Vec<String>,
}

impl Bootstrap {
    /// An empty one: admin only.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Names of the listeners, each of which needs a port.
    #[must_use]
    pub fn listeners(&self) -> &[String] {
        &self.names
    }

    /// Adds a listener; `body` is all but its name and address.
    #[must_use]
    pub fn listener(mut self, name: &str, body: &str) -> Self {
        let _ = write!(
            self.listeners,
            "  - name: {name}\n    address: {{ socket_address: {{ address: 127.0.0.1, port_value: @{{{name}}} }} }}\n{}",
            indent(4, body)
        );
        self.names.push(name.to_owned());
        self
    }

    /// Adds a listener as an item of the list, its address included.
    #[must_use]
    pub fn raw_listener(mut self, item: &str) -> Self {
        self.listeners.push_str(&indent(2, item));
        self
    }

    /// Adds an HTTP listener; `hcm` is the connection manager's configuration, of which the stat prefix (the
    /// listener's name), the router filter and the access log may be left out.
    #[must_use]
    pub fn http(self, name: &str, hcm: &str) -> Self {
        self.listener(name, &format!("filter_chains:\n- filters:\n{}", indent(2, &hcm_filter(name, hcm))))
    }

    /// Adds a TCP listener; `proxy` is the `tcp_proxy`'s configuration without its stat prefix.
    #[must_use]
    pub fn tcp(self, name: &str, proxy: &str) -> Self {
        self.listener(name, &format!("filter_chains:\n- filters:\n{}", indent(2, &tcp_filter(name, proxy))))
    }

    /// Adds a cluster; `body` is all but its name.
    #[must_use]
    pub fn cluster(mut self, name: &str, body: &str) -> Self {
        let _ = write!(self.clusters, "  - name: {name}\n{}", indent(4, body));
        self
    }

    /// Adds a STATIC cluster over some upstreams, with anything else in `more`.
    #[must_use]
    pub fn hosts(self, name: &str, upstreams: &[&str], more: &str) -> Self {
        let mut body = format!(
            "connect_timeout: 2s\ntype: STATIC\nload_assignment:\n  cluster_name: {name}\n  endpoints:\n  - lb_endpoints:{}\n",
            if upstreams.is_empty() { " []" } else { "" }
        );
        for upstream in upstreams {
            let _ = writeln!(
                body,
                "    - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: @{{{upstream}}} }} }} }}"
            );
        }
        self.cluster(name, &format!("{body}{more}"))
    }

    /// Adds a static secret; `body` is all but its name.
    #[must_use]
    pub fn secret(mut self, name: &str, body: &str) -> Self {
        let _ = write!(self.secrets, "  - name: {name}\n{}", indent(4, body));
        self
    }

    /// Adds something at the top level.
    #[must_use]
    pub fn top(mut self, yaml: &str) -> Self {
        self.top.push_str(yaml);
        self.top.push('\n');
        self
    }

    /// The YAML with every place filled; `places` must hold `admin`.
    #[must_use]
    pub fn render(&self, places: &BTreeMap<String, String>) -> String {
        let mut text = format!(
            "node: {{ id: test-node, cluster: test-cluster }}\n\
             admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: @{{admin}} }} }} }}\n\
             {}static_resources:\n",
            self.top
        );
        if !self.listeners.is_empty() {
            let _ = write!(text, "  listeners:\n{}", self.listeners);
        }
        if !self.clusters.is_empty() {
            let _ = write!(text, "  clusters:\n{}", self.clusters);
        }
        if !self.secrets.is_empty() {
            let _ = write!(text, "  secrets:\n{}", self.secrets);
        }
        fill(&text, places)
    }
}

/// A connection manager as an item of a `filters` list.
#[must_use]
pub fn hcm_filter(name: &str, hcm: &str) -> String {
    let mut body = String::new();
    if !hcm.contains("stat_prefix:") {
        let _ = writeln!(body, "stat_prefix: {name}");
    }
    body.push_str(hcm.trim_start_matches('\n'));
    if !body.ends_with('\n') {
        body.push('\n');
    }
    if !hcm.contains("http_filters:") {
        body.push_str(
            "http_filters:\n- name: envoy.filters.http.router\n  typed_config: \
             { \"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router }\n",
        );
    }
    if !hcm.contains("access_log:") {
        body.push_str(&access_log(LOG_LINE));
    }
    format!(
        "- name: envoy.filters.network.http_connection_manager\n  typed_config:\n    \
         \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager\n{}",
        indent(4, &body)
    )
}

/// A `tcp_proxy` as an item of a `filters` list.
#[must_use]
pub fn tcp_filter(name: &str, proxy: &str) -> String {
    let mut body = format!("stat_prefix: {name}\n{}", proxy.trim_start_matches('\n'));
    if !body.ends_with('\n') {
        body.push('\n');
    }
    if !proxy.contains("access_log:") {
        body.push_str(&access_log(
            "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS% TCP %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% in=%BYTES_RECEIVED% \
             out=%BYTES_SENT% cluster=%UPSTREAM_CLUSTER% host=%UPSTREAM_HOST% sni=%REQUESTED_SERVER_NAME% \
             failure=%UPSTREAM_TRANSPORT_FAILURE_REASON% end=%CONNECTION_TERMINATION_DETAILS%",
        ));
    }
    format!(
        "- name: envoy.filters.network.tcp_proxy\n  typed_config:\n    \
         \"@type\": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy\n{}",
        indent(4, &body)
    )
}

/// An access log to the world's `access.log` with one text format.
#[must_use]
pub fn access_log(format: &str) -> String {
    format!(
        "access_log:\n- name: envoy.access_loggers.file\n  typed_config:\n    \
         \"@type\": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog\n    \
         path: @{{dir}}/access.log\n    log_format: {{ text_format_source: {{ inline_string: {} }} }}\n",
        serde_json::Value::String(format!("{format}\n"))
    )
}

/// Shifts a block of text to the right.
#[must_use]
pub fn indent(columns: usize, text: &str) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for line in text.lines().filter(|line| !line.trim().is_empty()) {
        let _ = writeln!(out, "{:columns$}{line}", "");
    }
    out
}

/// Fills the places.
#[must_use]
pub fn fill(text: &str, places: &BTreeMap<String, String>) -> String {
    let mut text = text.to_owned();
    for (name, value) in places {
        text = text.replace(&format!("@{{{name}}}"), value);
    }
    text
}
