//! What is told of subscriptions: stats under Envoy's names, CSDS, `/config_dump`.

use anyhow::{Context, Result};
use bytes::{BufMut as _, Bytes, BytesMut};
use outrider_proto::pb::envoy::admin::v3::ClientResourceStatus;
use outrider_proto::pb::envoy::config::cluster::v3::Cluster;
use outrider_proto::pb::envoy::service::status::v3::client_config::GenericXdsConfig;
use outrider_proto::pb::envoy::service::status::v3::{ClientStatusRequest, ClientStatusResponse};
use outrider_proto::prost::Message as _;
use outrider_tests::{
    binary,
    ca::Papers,
    client::{
        Conn,
        http2::{H2, H2Request},
    },
    control_plane::{TYPE, ads, eds_cluster, endpoints, rds_listener, routes},
    proxy::Proxy,
    wait,
};
use serde_json::{Value, json};

use crate::xds::Mesh;

/// A bad table of the same name: two virtual hosts take all.
fn broken_routes(name: &str) -> Value {
    let mut table = routes(name, "one");
    let mut host = table["virtual_hosts"][0].clone();
    host["name"] = "again".into();
    let hosts = [table["virtual_hosts"][0].clone(), host];
    table["virtual_hosts"] = json!(hosts);
    table
}

/// Serves a mesh with a cluster whose endpoints never come, and then a table that is bad.
async fn troubled(delta: bool) -> Result<Option<Mesh>> {
    let mut late = eds_cluster("late");
    late["eds_cluster_config"]["eds_config"]["initial_fetch_timeout"] = "0.2s".into();
    let good = |port: u16| {
        let listener = rds_listener("in", port, "table", &json!({}));
        vec![eds_cluster("one"), late.clone(), endpoints("one", &[1]), listener]
    };
    let first = |port: u16| [&good(port)[..], &[routes("table", "one")]].concat();
    let Some(mut mesh) = Mesh::start(delta, first).await? else { return Ok(None) };
    mesh.plane.serve("2", &[&good(mesh.port)[..], &[broken_routes("table")]].concat()).await?;
    mesh.plane.refusal().await?;
    Ok(Some(mesh))
}

#[tokio::test]
async fn each_subscription_is_counted_under_envoys_names() -> Result<()> {
    for delta in [true, false] {
        let Some(mut mesh) = troubled(delta).await? else { return Ok(()) };
        let stats = async || anyhow::Ok(mesh.proxy.admin("/stats").await?.text());
        let text = stats().await?;
        for line in [
            "cluster.one.update_success: ",
            "cluster.one.version: ",
            "cluster.late.init_fetch_timeout: 1\n",
            "cluster.late.update_attempt: ",
            "http.in.rds.table.update_success: ",
            "http.in.rds.table.config_reload: 1\n",
            "http.in.rds.table.update_rejected: ",
            "http.in.rds.table.version_text: \"1\"\n",
            "cluster_manager.cds.version_text: \"",
            "control_plane.connected_state: 1\n",
        ] {
            assert!(text.contains(line), "delta {delta}: no {line:?} in\n{text}");
        }
        assert!(!text.contains("cluster.late.update_success"), "{text}");
        let json: Value = serde_json::from_str(&mesh.proxy.admin("/stats?format=json").await?.text())?;
        let stat = |name: &str| {
            let stats = json["stats"].as_array()?;
            Some(stats.iter().find(|stat| stat["name"] == name)?["value"].clone())
        };
        assert_eq!(stat("http.in.rds.table.version_text"), Some("1".into()));
        let prometheus = mesh.proxy.admin("/stats/prometheus").await?.text();
        assert!(prometheus.contains("envoy_cluster_update_success{"), "{prometheus}");
        assert!(!prometheus.contains("version_text"), "text has no place there: {prometheus}");
        // What nobody subscribes to any more is not told.
        let port = mesh.port;
        let listener = rds_listener("in", port, "table", &json!({}));
        let rest = [eds_cluster("one"), endpoints("one", &[1]), listener, routes("table", "one")];
        mesh.plane.serve("3", &rest).await?;
        wait::until("the cluster's subscription to go", wait::LIMIT, async || {
            let text = mesh.proxy.admin("/stats").await?.text();
            Ok((!text.contains("cluster.late.update_attempt")).then_some(()))
        })
        .await?;
        mesh.plane.stop().await?;
        mesh.proxy.wait_stat("cluster.one.update_failure", |count| count > 0).await?;
    }
    Ok(())
}

/// Asks once for the status of all resources.
async fn fetch(proxy: &Proxy, method: &str, request: &ClientStatusRequest) -> Result<ClientStatusResponse> {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(u32::try_from(request.encoded_len())?);
    body.extend_from_slice(&request.encode_to_vec());
    let mut client = H2::start(Conn::plain(proxy.admin_port()).await?).await?;
    let text = str::to_owned;
    let response = client
        .request(&H2Request {
            method: text("POST"),
            scheme: text("http"),
            authority: text("admin"),
            path: format!("/envoy.service.status.v3.ClientStatusDiscoveryService/{method}"),
            headers: vec![(text("content-type"), text("application/grpc")), (text("te"), text("trailers"))],
            body: Some(vec![body.freeze()]),
            ..H2Request::default()
        })
        .await?;
    let status = response.trailers.iter().find(|(name, _)| name == "grpc-status");
    assert_eq!(status.map(|(_, value)| value.as_str()), Some("0"), "{response:?}");
    let message = response.body.get(5..).context("a message")?;
    Ok(ClientStatusResponse::decode(Bytes::copy_from_slice(message))?)
}

#[tokio::test]
async fn csds_tells_what_became_of_each_resource() -> Result<()> {
    for delta in [true, false] {
        let Some(mesh) = troubled(delta).await? else { return Ok(()) };
        for method in ["FetchClientStatus", "StreamClientStatus"] {
            let told = fetch(&mesh.proxy, method, &ClientStatusRequest::default()).await?;
            let [config] = told.config.as_slice() else { panic!("{told:?}") };
            assert_eq!(config.node.as_ref().map(|node| node.id.as_str()), Some("test-node"));
            let find = |kind: &str, name: &str| -> GenericXdsConfig {
                let mut all = config.generic_xds_configs.iter();
                let found = all.find(|one| one.type_url.ends_with(kind) && one.name == name);
                found.unwrap_or_else(|| panic!("no {kind} {name} in {config:?}")).clone()
            };
            let cluster = find(".Cluster", "one");
            assert_eq!(cluster.client_status(), ClientResourceStatus::Acked);
            assert!(cluster.last_updated.is_some() && !cluster.version_info.is_empty(), "{cluster:?}");
            let content = cluster.xds_config.context("its content")?;
            assert_eq!(content.type_url, "type.googleapis.com/envoy.config.cluster.v3.Cluster");
            assert_eq!(find(".Listener", "in").client_status(), ClientResourceStatus::Acked);
            assert_eq!(find(".ClusterLoadAssignment", "one").client_status(), ClientResourceStatus::Acked);
            let late = find(".ClusterLoadAssignment", "late");
            assert_eq!(late.client_status(), ClientResourceStatus::Timeout);
            let table = find(".RouteConfiguration", "table");
            assert_eq!(table.client_status(), ClientResourceStatus::Nacked);
            let error = table.error_state.clone().context("an error state")?;
            assert!(error.details.contains("virtual_hosts[1].domains[0]"), "{error:?}");
            assert!(error.failed_configuration.is_some() && table.xds_config.is_some());
            assert_ne!(error.version_info, table.version_info, "the refused beside the one in force");
        }
        let brief = ClientStatusRequest { exclude_resource_contents: true, ..Default::default() };
        let told = fetch(&mesh.proxy, "FetchClientStatus", &brief).await?;
        let all = told.config.iter().flat_map(|config| &config.generic_xds_configs);
        assert!(all.clone().count() >= 5 && all.clone().all(|one| one.xds_config.is_none()), "{told:?}");
        let dump: Value = serde_json::from_str(&mesh.proxy.admin("/config_dump?include_eds").await?.text())?;
        let section = |kind: &str| {
            let configs = dump["configs"].as_array().expect("sections");
            configs
                .iter()
                .find(|one| one["@type"].as_str().is_some_and(|of| of.ends_with(&format!(".{kind}"))))
                .expect("it")
                .clone()
        };
        let clusters = &section("ClustersConfigDump")["dynamic_active_clusters"];
        assert_eq!(clusters[0]["client_status"], "ACKED", "{clusters}");
        assert_eq!(section("EndpointsConfigDump")["dynamic_endpoint_configs"][0]["client_status"], "ACKED");
        assert_eq!(section("ListenersConfigDump")["dynamic_listeners"][0]["client_status"], "ACKED");
        let routes = &section("RoutesConfigDump")["dynamic_route_configs"][0];
        assert_eq!(routes["client_status"], "NACKED");
        assert!(routes["error_state"]["failed_configuration"]["virtual_hosts"].is_array(), "{routes}");
        assert!(routes["route_config"]["virtual_hosts"].is_array() && routes["last_updated"].is_string());
    }
    Ok(())
}

/// A cluster over TLS, with a certificate in the configuration itself, followed by a control plane with a token.
fn keyed(name: &str, chain: &str, key: &str) -> Value {
    let certificate =
        json!({ "certificate_chain": { "inline_string": chain }, "private_key": { "inline_string": key } });
    let mut cluster = eds_cluster(name);
    cluster["transport_socket"] = json!({ "name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
        "common_tls_context": { "tls_certificates": [certificate] },
    } });
    cluster["eds_cluster_config"]["eds_config"] = json!({
        "initial_fetch_timeout": "0.1s", "resource_api_version": "V3",
        "api_config_source": { "api_type": "GRPC", "transport_api_version": "V3", "grpc_services": [{ "google_grpc": {
            "target_uri": "127.0.0.1:1", "stat_prefix": "g",
            "channel_credentials": { "ssl_credentials": { "root_certs": { "inline_string": chain } } },
            "call_credentials": [{ "access_token": "a token to hush up" }],
        } }] },
    });
    cluster
}

#[tokio::test]
async fn neither_csds_nor_the_dump_shows_a_secret() -> Result<()> {
    let papers = Papers::new(&binary::scratch("papers")?)?;
    let (chain, key) = (papers.pem("server.pem")?, papers.pem("server.key")?);
    let bad = "-----BEGIN PRIVATE KEY-----\nnot a key, and a secret\n-----END PRIVATE KEY-----\n";
    let first = |_| vec![keyed("good", &chain, &key), keyed("bad", &chain, bad)];
    let Some(mut mesh) = Mesh::start(true, first).await? else { return Ok(()) };
    assert!(!mesh.plane.refusal().await?.contains("and a secret"));
    let told = fetch(&mesh.proxy, "FetchClientStatus", &ClientStatusRequest::default()).await?;
    let find = |name: &str| {
        let mut all = told.config.iter().flat_map(|config| &config.generic_xds_configs);
        let found = all.find(|one| one.type_url.ends_with(".Cluster") && one.name == name);
        found.with_context(|| format!("no {name} in {told:?}"))
    };
    let good = find("good")?.xds_config.clone().context("what is in force")?;
    let error = find("bad")?.error_state.clone().context("an error state")?;
    let bad = error.failed_configuration.context("what was refused")?;
    let dump = mesh.proxy.admin("/config_dump").await?.text();
    let secret = key.lines().nth(1).context("a key has lines")?;
    for shown in [&String::from_utf8_lossy(&good.value), &String::from_utf8_lossy(&bad.value), &*dump] {
        for hushed in [secret, "and a secret", "a token to hush up"] {
            assert!(!shown.contains(hushed), "{hushed} is in {shown}");
        }
        assert!(shown.contains("[redacted]"), "{shown}");
    }
    // Its certificate is public; the message is whole.
    let good = Cluster::decode(&*good.value)?;
    assert!(good.name == "good" && good.transport_socket.is_some_and(|tls| !tls.name.is_empty()));
    Ok(())
}

#[tokio::test]
async fn a_secret_that_is_none_is_refused_and_the_one_in_force_stays() -> Result<()> {
    let papers = Papers::new(&binary::scratch("papers")?)?;
    let (chain, key) = (papers.pem("server.pem")?, papers.pem("server.key")?);
    let secret = |key: &str| {
        json!({
            "@type": format!("{TYPE}extensions.transport_sockets.tls.v3.Secret"), "name": "cert",
            "tls_certificate": {
                "certificate_chain": { "inline_string": chain }, "private_key": { "inline_string": key },
            },
        })
    };
    let with = |port: u16, key: &str| {
        let mut listener = rds_listener("in", port, "table", &json!({}));
        listener["filter_chains"][0]["transport_socket"] = json!({
            "name": "tls", "typed_config": {
                "@type": format!("{TYPE}extensions.transport_sockets.tls.v3.DownstreamTlsContext"),
                "common_tls_context": {
                    "tls_certificate_sds_secret_configs": [{ "name": "cert", "sds_config": ads() }],
                },
            },
        });
        vec![eds_cluster("one"), endpoints("one", &[1]), listener, routes("table", "one"), secret(key)]
    };
    let Some(mut mesh) = Mesh::start(true, |port| with(port, &key)).await? else { return Ok(()) };
    mesh.proxy.wait_stat("sds.cert.update_success", |count| count == 1).await?;
    mesh.plane.serve("2", &with(mesh.port, "no key at all")).await?;
    let text = mesh.plane.refusal().await?;
    assert!(text.contains("cert") && text.contains("private_key"), "{text}");
    assert!(!text.contains("no key at all"), "a key is never told: {text}");
    assert!(mesh.proxy.stat("sds.cert.update_rejected").await? >= Some(1));
    let dump = mesh.proxy.admin("/config_dump").await?.text();
    assert!(dump.contains("NACKED") && !dump.contains("no key at all"), "{dump}");
    Ok(())
}

#[tokio::test]
async fn the_admin_interface_speaks_http2_to_whoever_begins_with_it() -> Result<()> {
    let stage = crate::start::Stage::new(&crate::start::simple()).await?;
    let mut client = H2::start(Conn::plain(stage.proxy.admin_port()).await?).await?;
    let get = |path: &str| H2Request {
        method: "GET".into(),
        scheme: "http".into(),
        authority: "admin".into(),
        path: path.into(),
        ..H2Request::default()
    };
    assert_eq!(client.request(&get("/ready")).await?.status, 200);
    assert_eq!(client.request(&get("/quitquitquit")).await?.status, 405);
    assert_eq!(stage.proxy.admin("/ready").await?.status, 200);
    Ok(())
}
