//! Secrets of SDS whose certificates are in files: a file that is replaced by a move takes effect. The same is asked of the
//! oracle where there is one.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use outrider_tests::{
    bootstrap::{Bootstrap, hcm_filter, indent},
    ca::{Authority, Leaf, Papers, Wish},
    client::{Conn, TlsOptions},
    oracle,
    ports::Lease,
    proxy::{Kind, Proxy},
    wait,
};
use serde_json::json;

use crate::start::{ALL, places};

fn kinds() -> Vec<Kind> {
    if oracle::envoy().is_ok() { vec![Kind::Outrider, Kind::Envoy] } else { vec![Kind::Outrider] }
}

fn replace(file: &Path, text: &str) -> Result<()> {
    let new = file.with_extension("new");
    fs::write(&new, text)?;
    Ok(fs::rename(new, file)?)
}

/// Puts a leaf in place: the key first, so that for a moment the two do not match.
fn put(dir: &Path, leaf: &Leaf) -> Result<()> {
    replace(&dir.join("own.key"), &leaf.key)?;
    replace(&dir.join("own.pem"), &leaf.cert)
}

async fn shown(port: u16, papers: &Papers) -> Result<Vec<String>> {
    let options = TlsOptions::new(papers, "server.test")?.blind().cert(papers, "client")?;
    let mut conn = Conn::with_prefix(port, b"", Some(&options)).await?;
    conn.send("GET /direct HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    conn.response("GET").await?;
    Ok(conn.tls.map(|facts| facts.server).unwrap_or_default())
}

#[tokio::test]
async fn certificates_and_roots_in_files_that_are_replaced_take_effect() -> Result<()> {
    for kind in kinds() {
        for watched in [false, true] {
            replaced(kind, watched).await.with_context(|| format!("{kind:?} {watched}"))?;
        }
    }
    Ok(())
}

async fn replaced(kind: Kind, watched: bool) -> Result<()> {
    let sds = |name: &str| {
        format!(
            "{{ name: {name}, sds_config: {{ resource_api_version: V3, path_config_source: {{ path: \"@{{dir}}/{name}.yaml\" }} }} }}"
        )
    };
    let context = format!(
        "\"@type\": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext\nrequire_client_certificate: true\ncommon_tls_context:\n  tls_certificate_sds_secret_configs: [ {} ]\n  validation_context_sds_secret_config: {}\n",
        sds("own"),
        sds("roots")
    );
    let listener = format!(
        "stat_prefix: main\nfilter_chains:\n- transport_socket:\n    name: envoy.transport_sockets.tls\n    typed_config:\n{}  filters:\n{}",
        indent(6, &context),
        indent(2, &hcm_filter("main", ALL))
    );
    let bootstrap = Bootstrap::new().listener("main", &listener).hosts("up", &["up"], "");
    let (mut places, _leases) = places(&bootstrap)?;
    let up = Lease::new()?;
    places.insert("up".to_owned(), up.port().to_string());
    let (dir, port) = (PathBuf::from(&places["dir"]), places["main"].parse()?);
    let papers = Papers::new(&dir.join("papers"))?;
    let authority = Authority::new("Own")?;
    let leaf = |dns: &str| authority.leaf(Wish { name: dns, dns: &[dns], ..Wish::default() });
    put(&dir, &leaf("first.test")?)?;
    // Nobody's client gets in yet.
    replace(&dir.join("ca.pem"), &papers.pem("other-ca.pem")?)?;
    let file = |name: &str| json!({ "filename": dir.join(name) });
    let own = json!({ "certificate_chain": file("own.pem"), "private_key": file("own.key") });
    let roots = json!({ "trusted_ca": file("ca.pem") });
    for (name, field, mut body) in [("own", "tls_certificate", own), ("roots", "validation_context", roots)] {
        if watched {
            body["watched_directory"] = json!({ "path": dir });
        }
        let secret = json!({
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret", "name": name, field: body,
        });
        fs::write(dir.join(format!("{name}.yaml")), json!({ "resources": [secret] }).to_string())?;
    }
    let _proxy = Proxy::start(kind, &bootstrap.render(&places), places["admin"].parse()?, &[]).await?;
    assert!(shown(port, &papers).await.is_err(), "a client of another authority");

    replace(&dir.join("ca.pem"), &papers.pem("ca.pem")?)?;
    let shows = async |dns: &str| {
        let wanted = format!("DNS:{dns}");
        let what = format!("the certificate {wanted}");
        wait::until(&what, wait::LIMIT, async || {
            Ok(shown(port, &papers).await.ok().filter(|names| names.contains(&wanted)).map(drop))
        })
        .await
    };
    shows("first.test").await?;
    put(&dir, &leaf("second.test")?)?;
    shows("second.test").await
}
