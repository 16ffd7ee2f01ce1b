//! `path_config_source`: files in the place of a control plane. The same is asked of the oracle where there is one.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use outrider_tests::{
    bootstrap::Bootstrap,
    control_plane::{TYPE, endpoints, rds_listener, routes},
    oracle,
    ports::Lease,
    proxy::{Kind, Proxy},
    wait,
};
use serde_json::{Value, json};

use crate::{
    start::places,
    xds::{get, upstream},
};

/// The proxies that a test is for.
fn kinds() -> Vec<Kind> {
    if oracle::envoy().is_ok() { vec![Kind::Outrider, Kind::Envoy] } else { vec![Kind::Outrider] }
}

/// A directory with a file for each kind of resource.
struct Files {
    dir: PathBuf,
    watched: Option<PathBuf>,
}

impl Files {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A `ConfigSource` of the file `name`.
    fn source(&self, name: &str) -> Value {
        let mut source = json!({ "path": self.path(name) });
        if let Some(watched) = &self.watched {
            source["watched_directory"] = json!({ "path": watched });
        }
        json!({ "path_config_source": source, "resource_api_version": "V3" })
    }

    fn cluster(&self) -> Value {
        json!({
            "@type": format!("{TYPE}config.cluster.v3.Cluster"), "name": "one", "type": "EDS",
            "connect_timeout": "1s", "eds_cluster_config": { "eds_config": self.source("eds.yaml") },
        })
    }

    fn listener(&self, port: u16) -> Value {
        let source = self.source("rds.yaml");
        let rds = json!({ "rds": { "route_config_name": "table", "config_source": source } });
        rds_listener("in", port, "table", &rds)
    }

    fn bootstrap(&self) -> Bootstrap {
        Bootstrap::new().top(&format!(
            "dynamic_resources:\n  cds_config: {}\n  lds_config: {}",
            self.source("cds.yaml"),
            self.source("lds.json")
        ))
    }
}

fn response(version: &str, resources: &[Value]) -> String {
    json!({ "version_info": version, "resources": resources }).to_string()
}

/// Puts `text` in the place of the file, by a move.
fn replace(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    Ok(fs::rename(new, file)?)
}

async fn answers(port: u16, wanted: &str) -> Result<()> {
    wait::until(&format!("the answer {wanted:?}"), wait::LIMIT, async || {
        Ok(get(port).await.ok().filter(|answer| answer == wanted).map(drop))
    })
    .await
}

async fn start(kind: Kind, bootstrap: &Bootstrap, places: &BTreeMap<String, String>) -> Result<Proxy> {
    Proxy::start(kind, &bootstrap.render(places), places["admin"].parse()?, &[]).await
}

#[tokio::test]
async fn files_that_are_replaced_take_effect_and_bad_ones_do_not() -> Result<()> {
    for kind in kinds() {
        replaced(kind).await.with_context(|| format!("{kind:?}"))?;
    }
    Ok(())
}

async fn replaced(kind: Kind) -> Result<()> {
    let ((_a, a), (_b, b)) = (upstream("a").await?, upstream("b").await?);
    let lease = Lease::new()?;
    let port = lease.port();
    let (mut places, _leases) = places(&Bootstrap::new())?;
    let files = Files { dir: PathBuf::from(&places["dir"]), watched: None };
    places.insert("main".into(), port.to_string());
    replace(&files.path("cds.yaml"), &response("1", &[files.cluster()]))?;
    replace(&files.path("lds.json"), &response("1", &[files.listener(port)]))?;
    replace(&files.path("rds.yaml"), &response("1", &[routes("table", "one")]))?;
    replace(&files.path("eds.yaml"), &response("1", &[endpoints("one", &[a])]))?;
    let proxy = start(kind, &files.bootstrap(), &places).await?;
    answers(port, "200 a").await?;
    // YAML as people write it.
    let text = format!(
        "# moved here\nversion_info: two\nresources:\n- \"@type\": {TYPE}config.endpoint.v3.ClusterLoadAssignment\n  \
         cluster_name: one\n  endpoints:\n  - lb_endpoints:\n    - endpoint: {{ address: {{ socket_address: \
         {{ address: 127.0.0.1, port_value: {b} }} }} }}\n"
    );
    replace(&files.path("eds.yaml"), &text)?;
    answers(port, "200 b").await?;

    // A file that is none, a resource that is bad, and a resource of another kind: all stays.
    replace(&files.path("cds.yaml"), "version_info: [")?;
    proxy.wait_stat("cluster_manager.cds.update_failure", |count| count > 0).await?;
    let mut bad = files.cluster();
    bad["lb_policy"] = "CLUSTER_PROVIDED".into();
    replace(&files.path("cds.yaml"), &response("bad", &[bad]))?;
    proxy.wait_stat("cluster_manager.cds.update_rejected", |count| count > 0).await?;
    replace(&files.path("lds.json"), &response("bad", &[routes("table", "one")]))?;
    proxy.wait_stat("listener_manager.lds.update_rejected", |count| count > 0).await?;
    ensure!(get(port).await? == "200 b", "all stays");
    if kind == Kind::Outrider {
        let dump = proxy.admin("/config_dump").await?.text();
        assert!(dump.contains("\"error_state\""), "the refused version is shown: {dump}");
    }

    // Nobody reads a file that is written in place: the move of another announces nothing of it.
    fs::write(files.path("eds.yaml"), response("3", &[endpoints("one", &[a])]))?;
    let gone = json!({
        "@type": format!("{TYPE}config.route.v3.RouteConfiguration"), "name": "table",
        "virtual_hosts": [{ "name": "all", "domains": ["*"], "routes": [
            { "match": { "prefix": "/" }, "route": { "cluster": "one", "timeout": "0s" },
              "response_headers_to_add": [{ "header": { "key": "x-table", "value": "2" } }] },
        ] }],
    });
    replace(&files.path("rds.yaml"), &response("2", &[gone]))?;
    wait::until("the new table", wait::LIMIT, async || {
        let mut conn = outrider_tests::client::Conn::plain(port).await?;
        conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
        let reply = conn.response("GET").await?;
        ensure!(reply.status == 200 && reply.text() == "b", "{}", reply.text());
        Ok(reply.header("x-table").map(drop))
    })
    .await?;

    // What a list leaves out goes, and comes again.
    replace(&files.path("lds.json"), &response("4", &[]))?;
    wait::until("the port to close", wait::LIMIT, async || Ok(get(port).await.is_err().then_some(())))
        .await?;
    replace(&files.path("lds.json"), &response("5", &[files.listener(port)]))?;
    answers(port, "200 b").await
}

#[tokio::test]
async fn a_watched_directory_whose_link_flips_is_read_anew() -> Result<()> {
    for kind in kinds() {
        flipped(kind).await.with_context(|| format!("{kind:?}"))?;
    }
    Ok(())
}

/// As Kubernetes updates a volume: `..data` is a link to a directory, and each file one through it.
async fn flipped(kind: Kind) -> Result<()> {
    let ((_a, a), (_b, b)) = (upstream("a").await?, upstream("b").await?);
    let lease = Lease::new()?;
    let port = lease.port();
    let (places, _leases) = places(&Bootstrap::new())?;
    let dir = PathBuf::from(&places["dir"]).join("volume");
    let files = Files { dir: dir.clone(), watched: Some(dir.clone()) };
    let fill = |name: &str, to: u16| -> Result<()> {
        let data = dir.join(name);
        fs::create_dir_all(&data)?;
        fs::write(data.join("cds.yaml"), response(name, &[files.cluster()]))?;
        fs::write(data.join("lds.json"), response(name, &[files.listener(port)]))?;
        fs::write(data.join("rds.yaml"), response(name, &[routes("table", "one")]))?;
        fs::write(data.join("eds.yaml"), response(name, &[endpoints("one", &[to])]))?;
        let link = dir.join("..new");
        symlink(name, &link)?;
        Ok(fs::rename(link, dir.join("..data"))?)
    };
    fill("first", a)?;
    for name in ["cds.yaml", "lds.json", "rds.yaml", "eds.yaml"] {
        symlink(Path::new("..data").join(name), dir.join(name))?;
    }
    let _proxy = start(kind, &files.bootstrap(), &places).await?;
    answers(port, "200 a").await?;
    fill("second", b)?;
    answers(port, "200 b").await
}

#[tokio::test]
async fn a_file_that_is_not_there_is_refused_at_the_start() -> Result<()> {
    for kind in kinds() {
        let (places, _leases) = places(&Bootstrap::new())?;
        let files = Files { dir: PathBuf::from(&places["dir"]), watched: None };
        replace(&files.path("lds.json"), &response("1", &[]))?;
        let error = start(kind, &files.bootstrap(), &places).await.err().context("it must not start")?;
        let text = format!("{error:#}");
        ensure!(text.contains("cds.yaml") && text.contains("exist"), "{kind:?}: {text}");
    }
    Ok(())
}
