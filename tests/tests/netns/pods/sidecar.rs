//! Sidecars as a user of their own, with all that a pod needs in their bootstrap.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, ensure};
use outrider_tests::bootstrap::{hcm_filter, indent, tcp_filter};
use outrider_tests::client::{Conn, Response};
use outrider_tests::proxy::Proxy;
use outrider_tests::{binary, wait};

use super::app::{FIRST, GRPC, HTTP, WAY};
use super::net::{Family, Mode, Pod, Way};

/// The admin interface's port, which capture leaves alone.
const ADMIN: u16 = 15090;
/// The user and the group by which capture knows the sidecar.
const USER: &str = "1337";
/// A transparent socket needs the first; a bootstrap below root's home the other.
const CAPABILITIES: &str = "-all,+net_admin,+dac_read_search";

/// One of them.
pub(crate) struct Sidecar {
    pub(crate) proxy: Proxy,
    admin: SocketAddr,
}

impl Sidecar {
    /// Starts one, and waits until it is ready. `shop`: where the service `shop` is.
    pub(crate) async fn start(pod: &Pod, way: Way, name: &str, shop: &[SocketAddr]) -> Result<Self> {
        let admin = pod.at(Family::V4, ADMIN);
        let dir = binary::scratch("sidecar")?;
        let file = dir.join("bootstrap.yaml");
        std::fs::write(&file, bootstrap(way, name, admin, shop))?;
        let (outrider, file) = (binary::outrider()?, file.to_string_lossy().into_owned());
        let privileges = [
            "setpriv".to_owned(),
            format!("--reuid={USER}"),
            format!("--regid={USER}"),
            "--clear-groups".to_owned(),
            format!("--inh-caps={CAPABILITIES}"),
            format!("--ambient-caps={CAPABILITIES}"),
            "--".to_owned(),
        ];
        let outrider = outrider.to_string_lossy();
        let command = [&*outrider, "-c", &file, "--concurrency", "1", "--disable-hot-restart"];
        let more = ["--outlive-application", "--drain-time-s", "60"];
        let args: Vec<String> = pod
            .enter()
            .into_iter()
            .chain(privileges)
            .chain(command.iter().chain(&more).map(|&it| it.to_owned()))
            .collect();
        let proxy = Proxy::command("nsenter".as_ref(), &args, ADMIN, dir)?;
        let sidecar = Self { proxy, admin };
        wait::until("a sidecar", wait::LIMIT, async || {
            Ok(sidecar.ask("/ready").await.is_ok_and(|it| it.status == 200).then_some(()))
        })
        .await
        .with_context(|| sidecar.proxy.last_words(20))?;
        Ok(sidecar)
    }

    async fn ask(&self, path: &str) -> Result<Response> {
        let mut conn = Conn::at(self.admin, None).await?;
        conn.send(format!("GET {path} HTTP/1.1\r\nhost: admin\r\nconnection: close\r\n\r\n")).await?;
        conn.response("GET").await
    }

    /// A counter; 0 for one that does not exist (yet).
    pub(crate) async fn stat(&self, name: &str) -> Result<u64> {
        let answer = self.ask("/stats").await?;
        ensure!(answer.status == 200, "{answer:?}");
        let text = answer.text();
        let value = text.lines().filter_map(|line| line.split_once(": ")).find(|(key, _)| *key == name);
        Ok(value.and_then(|(_, value)| value.parse().ok()).unwrap_or(0))
    }
}

const DETECTION: &str = "listener_filters_timeout: 0.200s
continue_on_listener_filters_timeout: true
";
const DESTINATION: &str = "- name: dst
  typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst }
";
const SOURCE: &str = "- name: src
  typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.listener.original_src.v3.OriginalSrc, mark: 1337 }
";
const INSPECTOR: &str = "- name: http
  typed_config: { \"@type\": type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector }
";
const OPTIONS: &str = "typed_extension_protocol_options:
  envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
    \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
    use_downstream_protocol_config: { http2_protocol_options: {} }
";
/// What fails before the application had it is tried elsewhere.
const RETRIES: &str = "retry_policy: { retry_on: \"connect-failure,refused-stream,reset,retriable-status-codes\", \
                       retriable_status_codes: [503], num_retries: 3, host_selection_retry_max_attempts: 5, \
                       retry_back_off: { base_interval: 0.001s }, retry_host_predicate: [ { name: previous, typed_config: { \
                       \"@type\": type.googleapis.com/envoy.extensions.retry.host.previous_hosts.v3.PreviousHostsPredicate } } ] }";

/// A listener as an item of the list.
fn listener(name: &str, address: &str, port: u16, more: &str, chains: &str) -> String {
    let at = format!("address: {{ socket_address: {{ address: \"{address}\", port_value: {port} }} }}");
    format!("- name: {name}\n  stat_prefix: {name}\n  {at}\n{}{}", indent(2, more), indent(2, chains))
}

/// A chain as an item of the list.
fn chain(wanted: &str, filter: &str) -> String {
    format!("- filter_chain_match: {{ {wanted} }}\n  filters:\n{}", indent(2, filter))
}

fn default(filter: &str) -> String {
    format!("default_filter_chain:\n  filters:\n{}", indent(2, filter))
}

fn tcp(name: &str, cluster: &str) -> String {
    tcp_filter(name, &format!("cluster: {cluster}\naccess_log: []\n"))
}

/// A connection manager that adds itself to the way of a request.
fn http(name: &str, way: &str, hosts: &str) -> String {
    let add = format!(
        "request_headers_to_add: [ {{ header: {{ key: {WAY}, value: {way} }}, append_action: APPEND_IF_EXISTS_OR_ADD }} ]"
    );
    let routes = format!("access_log: []\nroute_config:\n  {add}\n  virtual_hosts:\n{}", indent(2, hosts));
    hcm_filter(name, &routes)
}

fn host(name: &str, domain: &str, cluster: &str, more: &str) -> String {
    let comma = if more.is_empty() { "" } else { ", " };
    format!(
        "- name: {name}\n  domains: [ \"{domain}\" ]\n  routes: [ {{ match: {{ prefix: / }}, route: {{ cluster: {cluster}{comma}{more} }} }} ]\n"
    )
}

const IS_HTTP: &str = "application_protocols: [ http/1.0, http/1.1, h2c ]";

fn listeners(way: Way, name: &str) -> String {
    let any = if way.family == Family::V6 { "::" } else { "0.0.0.0" };
    let out = || {
        let hosts = host("shop", "shop", "shop", RETRIES) + &host("all", "*", "passthrough", "");
        http("outbound", &format!("{name}-out"), &hosts)
    };
    let hole = |port: u16| chain(&format!("destination_port: {port}"), &tcp("nowhere", "nowhere"));
    let mut all = listener(
        "outbound",
        any,
        15001,
        "traffic_direction: OUTBOUND\nuse_original_dst: true",
        &format!("filter_chains:\n{}{}", hole(15001), default(&tcp("passthrough", "passthrough"))),
    );
    let behind = "traffic_direction: OUTBOUND\nbind_to_port: false\n";
    for (name, port) in [("http", HTTP), ("grpc", GRPC)] {
        all += &listener(name, any, port, behind, &format!("filter_chains:\n{}", chain("", &out())));
    }
    let tells = format!("{behind}{DETECTION}listener_filters:\n{INSPECTOR}");
    let chains =
        format!("filter_chains:\n{}{}", chain(IS_HTTP, &out()), default(&tcp("first", "passthrough")));
    all += &listener("first", any, FIRST, &tells, &chains);

    let source = if way.mode == Mode::Tproxy { SOURCE } else { "" };
    let transparent = way.mode == Mode::Tproxy;
    let more = format!(
        "traffic_direction: INBOUND\ntransparent: {transparent}\n{DETECTION}listener_filters:\n{DESTINATION}{source}{INSPECTOR}"
    );
    let manager = http("inbound", &format!("{name}-in"), &host("all", "*", "inbound", ""));
    let chains = format!(
        "filter_chains:\n{}{}{}",
        hole(15006),
        chain(IS_HTTP, &manager),
        default(&tcp("inbound", "inbound"))
    );
    all + &listener("inbound", any, 15006, &more, &chains)
}

fn clusters(way: Way, shop: &[SocketAddr]) -> String {
    let original = |name: &str, more: &str| {
        format!(
            "- name: {name}\n  connect_timeout: 1s\n  type: ORIGINAL_DST\n  lb_policy: CLUSTER_PROVIDED\n{}{}",
            indent(2, OPTIONS),
            indent(2, more)
        )
    };
    let fixed = |name: &str, hosts: &[SocketAddr]| {
        let hosts: Vec<_> = hosts
            .iter()
            .map(|it| {
                format!(
                    "{{ endpoint: {{ address: {{ socket_address: {{ address: \"{}\", port_value: {} }} }} }} }}",
                    it.ip(),
                    it.port()
                )
            })
            .collect();
        format!(
            "- name: {name}\n  connect_timeout: 1s\n  type: STATIC\n  circuit_breakers: {{ thresholds: [ {{ max_retries: 100 }} ] }}\n  \
             load_assignment: {{ cluster_name: {name}, endpoints: [ {{ lb_endpoints: [ {} ] }} ] }}\n",
            hosts.join(", ")
        )
    };
    let source = if way.family == Family::V6 { "::6" } else { "127.0.0.6" };
    let bind =
        format!("upstream_bind_config: {{ source_address: {{ address: \"{source}\", port_value: 0 }} }}");
    let inbound = if way.mode == Mode::Tproxy { "" } else { bind.as_str() };
    original("passthrough", "")
        + &original("inbound", inbound)
        + &fixed("shop", shop)
        + &fixed("nowhere", &[])
}

fn bootstrap(way: Way, name: &str, admin: SocketAddr, shop: &[SocketAddr]) -> String {
    format!(
        "node: {{ id: {name}, cluster: pods }}\n\
         admin: {{ address: {{ socket_address: {{ address: {}, port_value: {} }} }} }}\n\
         static_resources:\n  listeners:\n{}  clusters:\n{}",
        admin.ip(),
        admin.port(),
        indent(2, &listeners(way, name)),
        indent(2, &clusters(way, shop))
    )
}
