//! A small mesh whose configuration changes all the time: what a control plane serves, step after step.
//!
//! Clients are those of [`crate::crowd`]: `/` is shared by the clusters `web` and `other`, `/ws` is upgraded and goes to
//! `sockets`, gRPC goes to `calls`. A second listener does the same over mutual TLS, its secrets by SDS. Each step changes
//! one resource. Endpoints that leave go on serving, as those of a
//! deployment that drains.

use anyhow::Result;
use serde_json::{Value, json};

use crate::{
    ca::Papers,
    control_plane::{TYPE, ads, eds_cluster, endpoints, listener, rds_listener},
    record::Diary,
    reply::{Reply, Script},
    upstream::{Speaks, Upstream},
};

/// The upstreams of each cluster that endpoints come from.
const HOSTS: usize = 3;

/// The clusters with endpoints.
const CLUSTERS: [&str; 4] = ["web", "other", "sockets", "calls"];

/// Kinds of change, in the order in which they take turns.
const KINDS: usize = 12;

/// The servers behind the clusters.
#[derive(Debug)]
pub struct Backends {
    all: Vec<(&'static str, Vec<Upstream>)>,
}

impl Backends {
    /// Starts them.
    ///
    /// # Errors
    /// No port can be bound.
    pub async fn start() -> Result<Self> {
        let mut all = Vec::new();
        for cluster in CLUSTERS {
            let mut hosts = Vec::new();
            for ordinal in 0..HOSTS {
                let script = Script::default();
                match cluster {
                    "sockets" => script.set(&[Reply::switch("websocket")], &[]),
                    "calls" => {
                        let echo = Reply::echo().header("content-type", "application/grpc");
                        script.set(&[echo.trailer("grpc-status", "0")], &[]);
                    }
                    _ => {}
                }
                let name = format!("{cluster}-{ordinal}");
                let diary = Diary::closed();
                hosts.push(Upstream::start(&name, Speaks::Http, None, &diary, &script).await?);
            }
            all.push((cluster, hosts));
        }
        Ok(Self { all })
    }

    fn ports(&self, cluster: &str, chosen: impl Fn(usize) -> bool) -> Vec<u16> {
        let hosts = self.all.iter().filter(|(name, _)| *name == cluster).flat_map(|(_, hosts)| hosts);
        let chosen = hosts.enumerate().filter(|(ordinal, _)| chosen(*ordinal));
        chosen.map(|(_, host)| host.address().port()).collect()
    }
}

/// The configuration, and where it stands.
#[derive(Debug)]
pub struct World<'a> {
    backends: &'a Backends,
    ports: Ports,
    log: String,
    /// Certificate and key of the server, the authority of the clients, and one of nobody's.
    pems: [String; 4],
    step: usize,
    /// The step that last changed each resource; it is in the resource, so that each step is a change.
    weights: usize,
    routes: usize,
    hosts: [usize; CLUSTERS.len()],
    settings: [usize; CLUSTERS.len()],
    format: usize,
    manager: usize,
    chains: usize,
    extra: usize,
    certificate: usize,
    authorities: usize,
}

/// Where the listeners are.
#[derive(Clone, Copy, Debug)]
pub struct Ports {
    /// The one without TLS.
    pub plain: u16,
    /// The one with TLS, for the leaf `client` of the papers.
    pub secure: u16,
}

impl<'a> World<'a> {
    /// The first configuration; the listeners' access log is the file `log`.
    ///
    /// # Errors
    /// The papers are not whole.
    pub fn new(backends: &'a Backends, ports: Ports, log: &str, papers: &Papers) -> Result<Self> {
        let pem = |file: &str| papers.pem(file);
        Ok(Self {
            backends,
            ports,
            log: log.to_owned(),
            pems: [pem("server.pem")?, pem("server.key")?, pem("ca.pem")?, pem("other-ca.pem")?],
            certificate: 0,
            authorities: KINDS,
            step: 0,
            weights: 0,
            routes: 0,
            // The first step of each differs from these.
            hosts: [5; CLUSTERS.len()],
            settings: [0; CLUSTERS.len()],
            format: 0,
            manager: 0,
            chains: KINDS,
            extra: KINDS,
        })
    }

    /// Changes one resource, and says what.
    pub fn step(&mut self) -> &'static str {
        self.step += 1;
        let (step, turn) = (self.step, self.step / KINDS);
        match step % KINDS {
            0 => set(&mut self.weights, step, "weights"),
            1 => set(&mut self.routes, step, "routes"),
            2 | 3 => set(&mut self.hosts[turn % CLUSTERS.len()], step, "endpoints"),
            4 | 5 => set(&mut self.settings[turn % CLUSTERS.len()], step, "a cluster replaced"),
            6 => set(&mut self.format, step, "the access log's format"),
            7 => set(&mut self.manager, step, "the connection manager"),
            8 => set(&mut self.chains, step, "a filter chain more or less"),
            9 => set(&mut self.extra, step, "a cluster more or less"),
            10 => set(&mut self.certificate, step, "the server's certificate"),
            _ => set(&mut self.authorities, step, "an authority more or less"),
        }
    }

    /// Changes everything that can be seen from outside at once.
    pub fn last_step(&mut self) {
        self.step += 1;
        let Self { step, weights, routes, format, manager, .. } = self;
        for part in [weights, routes, format, manager] {
            *part = *step;
        }
        self.hosts = [self.step; CLUSTERS.len()];
    }

    /// What this step's table, connection manager and access log say of themselves: the response header `x-table`, the
    /// header `server`, and the end of each log line.
    #[must_use]
    pub fn marks(&self) -> (String, String, String) {
        (self.routes.to_string(), format!("step-{}", self.manager), format!("step={}", self.format))
    }

    /// The names of the servers that may answer `GET /`.
    #[must_use]
    pub fn answering(&self) -> Vec<String> {
        let chosen = |cluster: usize| {
            let hosts = (0..HOSTS).filter(move |ordinal| serves(self.hosts[cluster], *ordinal));
            hosts.map(move |ordinal| format!("{}-{ordinal}", CLUSTERS[cluster]))
        };
        chosen(0).chain(chosen(1)).collect()
    }

    /// All resources.
    #[must_use]
    pub fn resources(&self) -> Vec<Value> {
        let mut all = vec![self.listener(), self.secure_listener(), self.table()];
        all.extend(self.secrets());
        for (index, cluster) in CLUSTERS.iter().enumerate() {
            all.push(self.cluster(index));
            let hosts = self.hosts[index];
            all.push(endpoints(cluster, &self.backends.ports(cluster, |ordinal| serves(hosts, ordinal))));
        }
        if self.extra % (2 * KINDS) >= KINDS {
            all.extend([eds_cluster("extra"), endpoints("extra", &[1])]);
        }
        all
    }

    fn cluster(&self, index: usize) -> Value {
        let settings = self.settings[index];
        let mut cluster = eds_cluster(CLUSTERS[index]);
        // Settings that do not change what an exchange is answered.
        cluster["connect_timeout"] = format!("{}s", 5 + settings).into();
        cluster["lb_policy"] =
            (if settings.is_multiple_of(2) { "ROUND_ROBIN" } else { "LEAST_REQUEST" }).into();
        let most = 10_000 + settings;
        cluster["circuit_breakers"] = json!({ "thresholds": [{ "max_connections": most, "max_requests": most, "max_pending_requests": most }] });
        if CLUSTERS[index] == "calls" {
            cluster["typed_extension_protocol_options"] = json!({
                "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                    "@type": format!("{TYPE}extensions.upstreams.http.v3.HttpProtocolOptions"),
                    "explicit_http_config": {
                        "http2_protocol_options": { "initial_stream_window_size": 65_536 + settings },
                    },
                },
            });
        }
        cluster
    }

    fn table(&self) -> Value {
        let weight = 1 + (self.weights * 7) % 98;
        let shares = json!([
            { "name": "web", "weight": weight }, { "name": "other", "weight": 100 - weight },
        ]);
        let mut routes = vec![
            json!({ "match": { "prefix": "/ws" }, "route": { "cluster": "sockets", "timeout": "0s" } }),
            json!({ "match": { "prefix": "/crowd.Echo/" }, "route": { "cluster": "calls", "timeout": "0s" } }),
            json!({ "match": { "prefix": "/" }, "route": { "weighted_clusters": { "clusters": shares }, "timeout": "0s" } }),
        ];
        for extra in 0..(self.routes / KINDS) % 4 {
            let path = format!("/extra/{}/{extra}", self.routes);
            routes.insert(0, json!({ "match": { "path": path }, "route": { "cluster": "other" } }));
        }
        json!({
            "@type": format!("{TYPE}config.route.v3.RouteConfiguration"), "name": "table",
            "response_headers_to_add": [{ "header": { "key": "x-table", "value": self.routes.to_string() } }],
            "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": routes }],
        })
    }

    fn listener(&self) -> Value {
        let (_, server, mark) = self.marks();
        let format = format!("%REQ(:METHOD)% %REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% {mark}\n");
        let more = json!({
            "server_name": server,
            "max_request_headers_kb": 60 + self.manager % 30,
            "upgrade_configs": [{ "upgrade_type": "websocket" }],
            "access_log": [{ "name": "file", "typed_config": {
                "@type": format!("{TYPE}extensions.access_loggers.file.v3.FileAccessLog"),
                "path": self.log, "log_format": { "text_format_source": { "inline_string": format } },
            } }],
        });
        let mut main = rds_listener("in", self.ports.plain, "table", &more);
        if self.chains % (2 * KINDS) >= KINDS {
            // For clients that there are none of.
            let mut chain = main["filter_chains"][0].clone();
            chain["name"] = "more".into();
            chain["filter_chain_match"] =
                json!({ "source_prefix_ranges": [{ "address_prefix": "127.9.9.9", "prefix_len": 32 }] });
            let chains = json!([chain, main["filter_chains"][0]]);
            main = listener("in", self.ports.plain, &chains);
        }
        main
    }

    fn secure_listener(&self) -> Value {
        let upgrades = json!({ "upgrade_configs": [{ "upgrade_type": "websocket" }] });
        let mut secure = rds_listener("secure", self.ports.secure, "table", &upgrades);
        let secret = |name: &str| json!({ "name": name, "sds_config": ads() });
        secure["filter_chains"][0]["transport_socket"] = json!({ "name": "tls", "typed_config": {
            "@type": format!("{TYPE}extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
            "require_client_certificate": true,
            "common_tls_context": {
                "tls_certificate_sds_secret_configs": [secret("certificate")],
                "validation_context_sds_secret_config": secret("authorities"),
            },
        } });
        secure
    }

    fn secrets(&self) -> [Value; 2] {
        let [certificate, key, ours, other] = &self.pems;
        let of = |name: &str| json!({ "@type": format!("{TYPE}extensions.transport_sockets.tls.v3.Secret"), "name": name });
        let inline = |text: &str| json!({ "inline_string": text });
        let (mut leaf, mut authorities) = (of("certificate"), of("authorities"));
        // Text between certificates says nothing, but makes it another resource.
        leaf["tls_certificate"] = json!({
            "certificate_chain": inline(&format!("{certificate}\nstep {}\n", self.certificate)),
            "private_key": inline(key),
        });
        let both = if self.authorities % (2 * KINDS) >= KINDS { other.as_str() } else { "" };
        authorities["validation_context"] = json!({ "trusted_ca": inline(&format!("{ours}{both}")) });
        [leaf, authorities]
    }
}

fn set(part: &mut usize, step: usize, what: &'static str) -> &'static str {
    *part = step;
    what
}

/// Which hosts a cluster has after the step that changed it: never none, and never those of the change before.
fn serves(step: usize, ordinal: usize) -> bool {
    // 1 to 6, as bits: all subsets but none and all.
    (1 + step % 6) >> ordinal & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_step_is_a_change() -> Result<()> {
        let backends = Backends::start().await?;
        let papers = Papers::new(&std::env::temp_dir().join(format!("churn-{}", std::process::id())))?;
        let mut world = World::new(&backends, Ports { plain: 1, secure: 2 }, "log", &papers)?;
        let mut before = world.resources();
        for _ in 0..400 {
            let what = world.step();
            let now = world.resources();
            assert_ne!(before, now, "step {}: {what}", world.step);
            before = now;
        }
        std::fs::remove_dir_all(&papers.dir)?;
        Ok(())
    }
}
