//! What tests of translation share: worlds from YAML, what a sidecar gets of them, and whether Envoy takes it.

use std::path::PathBuf;
use std::sync::Arc;

use outrider_proto::prost::Message;
use outrider_proto::{Descriptors, pb};
use outrider_tests::oracle;
use serde_json::{Value, json};

use super::{Context, Resources, Type, translate};
use crate::model::{documents, read_value};
use crate::world::{Proxy, Role, World};

/// A Service `shop/web` with the ports http (80), grpc (9000) and db (5432) and an endpoint at each, which is the sidecar of [`sidecar`].
pub(crate) const WEB: &str = "
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  clusterIP: 10.96.0.1
  ports:
  - {name: http, port: 80, targetPort: 8080, appProtocol: http}
  - {name: grpc, port: 9000, appProtocol: grpc}
  - {name: db, port: 5432, appProtocol: tcp}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: shop, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports:
- {name: http, port: 8080}
- {name: grpc, port: 9000}
- {name: db, port: 5432}
endpoints:
- addresses: [10.0.0.1]
";

/// A world of these manifests, which must be without fault.
#[track_caller]
pub(crate) fn context(yaml: &str) -> Context {
    let objects = documents("test.yaml", yaml).unwrap().into_iter().map(|value| {
        read_value("test.yaml", value, "shop").unwrap_or_else(|problems| panic!("{problems:#?}")).unwrap()
    });
    Context::of(Arc::new(World::of(objects)))
}

/// The sidecar of the pod `shop/web-0`.
pub(crate) fn sidecar() -> Proxy {
    Proxy {
        id: "sidecar~10.0.0.1~web-0.shop~shop.svc.cluster.local".into(),
        role: Role::Sidecar,
        address: "10.0.0.1".parse().unwrap(),
        pod: "web-0".into(),
        namespace: "shop".into(),
        domain: "shop.svc.cluster.local".into(),
        labels: [("app".to_owned(), "web".to_owned())].into(),
        gateway: None,
        http_port: 15080,
        tproxy: false,
        explicit: None,
        locality: ["".into(), "".into(), "".into()],
        grpc: false,
        client: "envoy/1.40.0".into(),
    }
}

/// What the sidecar gets; it must be the same each time.
#[track_caller]
pub(crate) fn resources(context: &Context) -> Resources {
    let first = translate(context, &sidecar());
    for _ in 0..4 {
        assert!(first == translate(context, &sidecar()), "the same world gave other bytes");
    }
    first
}

/// One resource, decoded.
#[track_caller]
pub(crate) fn message<M: Message + Default>(resources: &Resources, kind: Type, name: &str) -> M {
    let found = resources.of(kind).get(name).unwrap_or_else(|| {
        let names: Vec<_> = resources.of(kind).iter().map(|it| it.name.to_string()).collect();
        panic!("no {name}, only {names:?}")
    });
    M::decode(found.body.clone()).unwrap()
}

/// All resources of a kind as JSON, by their names.
fn all_json(descriptors: &Descriptors, resources: &Resources, kind: Type) -> Vec<Value> {
    let descriptor = descriptors.message(kind.message()).unwrap();
    let json = |it: &Arc<super::Resource>| {
        let message =
            outrider_proto::prost_reflect::DynamicMessage::decode(descriptor.clone(), it.body.clone())
                .unwrap();
        outrider_proto::to_json(descriptors, &message)
    };
    resources.of(kind).iter().map(json).collect()
}

/// Asks the real Envoy whether it takes all of it, as a bootstrap that has in it what would come by xDS. Without an Envoy nothing is
/// asked, and the test says so.
#[track_caller]
pub(crate) fn envoy_takes(resources: &Resources) {
    let Some(envoy) = envoy() else {
        eprintln!("no envoy here (set OUTRIDER_ORACLE): not asked");
        return;
    };
    let descriptors = Descriptors::load();
    let mut listeners = all_json(&descriptors, resources, Type::Listener);
    let tables = all_json(&descriptors, resources, Type::Route);
    // Tables are put where they are named, so that they are read.
    for listener in &mut listeners {
        inline_tables(listener, &tables);
    }
    let config = json!({
        "node": {"id": "test", "cluster": "test"},
        "static_resources": {
            "listeners": listeners,
            "clusters": all_json(&descriptors, resources, Type::Cluster),
            "secrets": all_json(&descriptors, resources, Type::Secret),
        },
        "dynamic_resources": {
            "ads_config": {"api_type": "GRPC", "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}]},
        },
    });
    let mut config = config;
    // What a bootstrap has: the control plane, and the agent with the proxy's identity.
    for name in ["xds", super::mtls::SDS] {
        let cluster = json!({
            "name": name, "type": "STATIC", "connect_timeout": "1s",
            "typed_extension_protocol_options": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {}}}},
            "load_assignment": {"cluster_name": name, "endpoints": []},
        });
        config["static_resources"]["clusters"].as_array_mut().unwrap().insert(0, cluster);
    }
    let file = std::env::temp_dir().join(format!(
        "outrider-control-{}-{:?}.json",
        std::process::id(),
        std::thread::current().id()
    ));
    std::fs::write(&file, serde_json::to_vec_pretty(&config).unwrap()).unwrap();
    let output = std::process::Command::new(envoy)
        .args(["--mode", "validate", "--use-dynamic-base-id", "-l", "warning", "-c"])
        .arg(&file)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "Envoy refuses {}:\n{said}", file.display());
    std::fs::remove_file(&file).unwrap();
}

fn inline_tables(value: &mut Value, tables: &[Value]) {
    match value {
        Value::Object(map) => {
            if let Some(rds) = map.get("rds").cloned() {
                let name = rds.get("route_config_name").cloned();
                let table = tables
                    .iter()
                    .find(|it| it.get("name") == name.as_ref())
                    .unwrap_or_else(|| panic!("no table {name:?}"));
                map.remove("rds");
                map.insert("route_config".to_owned(), table.clone());
            }
            map.values_mut().for_each(|it| inline_tables(it, tables));
        }
        Value::Array(list) => list.iter_mut().for_each(|it| inline_tables(it, tables)),
        _ => {}
    }
}

/// The real Envoy. `None` when it cannot be had, unless it is required.
fn envoy() -> Option<PathBuf> {
    let found = oracle::envoy();
    assert!(found.is_ok() || !oracle::required(), "no Envoy: {found:?}");
    found.ok()
}

/// All conditions in a status as `type=status reason: message`.
pub(crate) fn conditions(status: &Value) -> Vec<String> {
    let lists = match status.get("ancestors").and_then(Value::as_array) {
        Some(ancestors) => ancestors.iter().filter_map(|it| it.get("conditions")).collect(),
        None => vec![status.get("conditions").unwrap()],
    };
    let text = |it: &Value, field: &str| it.get(field).and_then(Value::as_str).unwrap_or_default().to_owned();
    lists
        .into_iter()
        .flat_map(|it| it.as_array().unwrap())
        .map(|it| {
            format!(
                "{}={} {}: {}",
                text(it, "type"),
                text(it, "status"),
                text(it, "reason"),
                text(it, "message")
            )
        })
        .collect()
}

/// A route table.
pub(crate) type Table = pb::envoy::config::route::v3::RouteConfiguration;

/// A real Envoy that runs; it ends with the value.
pub(crate) struct Running {
    child: std::process::Child,
    admin: std::net::SocketAddr,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Running {
    /// Starts one with these static resources and waits until it is ready. `None`: there is no Envoy here.
    #[track_caller]
    pub(crate) fn start(resources: &Value) -> Option<Self> {
        let Some(envoy) = envoy() else {
            eprintln!("no envoy here (set OUTRIDER_ORACLE): not asked");
            return None;
        };
        let address = json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}});
        let config = json!({
            "node": {"id": "test", "cluster": "test"},
            "admin": {"address": address},
            "static_resources": resources,
        });
        let base = std::env::temp_dir().join(format!(
            "outrider-control-{}-{:?}",
            std::process::id(),
            std::thread::current().id()
        ));
        let (file, told) = (base.with_extension("json"), base.with_extension("admin"));
        std::fs::write(&file, serde_json::to_vec(&config).unwrap()).unwrap();
        let _ = std::fs::remove_file(&told);
        let child = std::process::Command::new(envoy)
            .args(["--use-dynamic-base-id", "--concurrency", "1", "-l", "error", "-c"])
            .arg(&file)
            .arg("--admin-address-path")
            .arg(&told)
            .spawn()
            .unwrap();
        let mut running = Self { child, admin: "127.0.0.1:1".parse().unwrap() };
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
        loop {
            if let Some(admin) = std::fs::read_to_string(&told).ok().and_then(|text| text.trim().parse().ok())
            {
                running.admin = admin;
                if ask(admin, "GET /ready", "").0 == 200 {
                    break;
                }
            }
            assert!(running.child.try_wait().unwrap().is_none(), "Envoy ended: see {}", file.display());
            assert!(std::time::Instant::now() < deadline, "Envoy does not become ready");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let _ = (std::fs::remove_file(&file), std::fs::remove_file(&told));
        Some(running)
    }

    /// Where a listener is.
    #[track_caller]
    pub(crate) fn listener(&self, name: &str) -> std::net::SocketAddr {
        let (_, body) = ask(self.admin, "GET /listeners", "");
        let line = body.lines().find_map(|line| line.strip_prefix(&format!("{name}::")));
        line.unwrap_or_else(|| panic!("no {name} in {body}")).parse().unwrap()
    }
}

/// Sends a request, `GET /path` and header lines, and gives the status and the body; 0 when there is no answer.
pub(crate) fn ask(address: std::net::SocketAddr, request: &str, headers: &str) -> (u16, String) {
    use std::io::{Read, Write};
    let host = if headers.to_lowercase().contains("host:") { "" } else { "Host: test\r\n" };
    let exchange = || -> std::io::Result<String> {
        let mut stream = std::net::TcpStream::connect(address)?;
        stream.set_read_timeout(Some(std::time::Duration::from_secs(30)))?;
        write!(stream, "{request} HTTP/1.1\r\n{host}{headers}Connection: close\r\n\r\n")?;
        let mut text = Vec::new();
        stream.read_to_end(&mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    };
    let text = exchange().unwrap_or_default();
    let status = text.get(9..12).and_then(|it| it.parse().ok()).unwrap_or(0);
    (status, text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default())
}

/// Resources of a kind as JSON, those whose name `wanted` says yes to.
pub(crate) fn as_json(resources: &Resources, kind: Type, wanted: impl Fn(&str) -> bool) -> Vec<Value> {
    let descriptors = Descriptors::load();
    let mut out = all_json(&descriptors, resources, kind);
    out.retain(|it| it.get("name").and_then(Value::as_str).is_some_and(&wanted));
    let tables = all_json(&descriptors, resources, Type::Route);
    out.iter_mut().for_each(|it| inline_tables(it, &tables));
    out
}
