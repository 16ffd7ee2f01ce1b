//! Certificates that nobody should believe get nothing through, on either side, and the reason is counted and logged.

use std::{fs, time::Duration};

use anyhow::{Result, ensure};
use outrider_tests::{
    binary,
    bootstrap::{Bootstrap, hcm_filter, indent},
    ca::{BAD, Papers},
    client::{Conn, TlsOptions},
    ports::Lease,
    proxy::{Kind, Proxy},
    record::Diary,
    reply::Script,
    upstream::{Speaks, Upstream},
};

use crate::start::{ALL, Stage, places};

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
const NAMES: &str = "trusted_ca: { filename: \"@{certs}/ca.pem\" }\nmatch_typed_subject_alt_names: [ { san_type: URI, matcher: { prefix: \"spiffe://test/\" } } ]\n";

/// A chain of `main` that shows a leaf and verifies clients by a validation context.
fn verifying(leaf: &str, validation: &str) -> Bootstrap {
    let context = format!(
        "\"@type\": {TLS}.DownstreamTlsContext\nrequire_client_certificate: true\ncommon_tls_context:\n  tls_certificates: [ {{ certificate_chain: {{ filename: \"@{{certs}}/{leaf}.pem\" }}, private_key: {{ filename: \"@{{certs}}/{leaf}.key\" }} }} ]\n  validation_context:\n{}",
        indent(4, validation)
    );
    let listener = format!(
        "stat_prefix: main\nfilter_chains:\n- transport_socket:\n    name: tls\n    typed_config:\n{}  filters:\n{}",
        indent(6, &context),
        indent(2, &hcm_filter("main", ALL))
    );
    Bootstrap::new().listener("main", &listener).hosts("up", &["up"], "")
}

/// A proxy that verifies its clients.
async fn stage(papers: &Papers, validation: &str) -> Result<Stage> {
    let certs = papers.dir.display().to_string();
    Stage::with(&verifying("server", validation), &[("certs", &certs)], &[]).await
}

fn papers() -> Result<Papers> {
    Papers::new(&binary::scratch("bad-certificates")?)
}

/// What a client gets that shows this leaf, or none: an answer, or nothing.
async fn ask(stage: &Stage, papers: &Papers, leaf: Option<&str>, old: bool) -> Result<u16> {
    let mut options = TlsOptions::new(papers, "server.test")?;
    if let Some(leaf) = leaf {
        options = options.cert(papers, leaf)?;
    }
    if old {
        options = options.only_tls12();
    }
    let mut conn = Conn::with_prefix(stage.port("main"), b"", Some(&options)).await?;
    conn.send("GET / HTTP/1.1\r\nhost: test\r\n\r\n").await?;
    Ok(conn.response("GET").await?.status)
}

/// It was refused, for this reason and no other, and nothing went through.
async fn refused(stage: &Stage, papers: &Papers, leaf: Option<&str>, reason: &str) -> Result<()> {
    let stat = format!("listener.main.outrider.peer_refused.{reason}");
    let before = stage.proxy.stat(&stat).await?.unwrap_or(0);
    let requests = stage.diary.len();
    // In TLS 1.3 the client has finished before it is judged, in TLS 1.2 it has not.
    for old in [false, true] {
        let answer = ask(stage, papers, leaf, old).await;
        ensure!(answer.is_err(), "{leaf:?} got {answer:?}");
    }
    stage.proxy.wait_stat(&stat, |count| count == before + 2).await?;
    ensure!(stage.diary.len() == requests, "{leaf:?} got a request through");
    Ok(())
}

#[tokio::test]
async fn clients_with_certificates_that_nobody_should_believe_get_nothing_through() -> Result<()> {
    let papers = papers()?;
    let stage = stage(&papers, NAMES).await?;
    ensure!(ask(&stage, &papers, Some("bad-none"), false).await? == 200);
    for (leaf, reason) in BAD {
        refused(&stage, &papers, Some(leaf), reason).await?;
    }
    refused(&stage, &papers, None, "no_certificate").await?;
    let stats = stage.proxy.admin("/stats?filter=peer_refused").await?.text();
    let refused: u64 = stats.lines().filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum();
    ensure!(refused == 2 * (BAD.len() as u64 + 1), "{stats}");
    ensure!(ask(&stage, &papers, Some("bad-none"), false).await? == 200);
    Ok(())
}

#[tokio::test]
async fn a_refusal_is_logged_with_who_it_was_and_why() -> Result<()> {
    let papers = papers()?;
    for (leaf, reason, words) in [
        ("bad-expired", "expired", "certificate has expired"),
        ("bad-common-name", "no_san", "a common name is none"),
        ("bad-weak", "weak_key", "RSA needs 2048 bits"),
    ] {
        let stage = stage(&papers, NAMES).await?;
        refused(&stage, &papers, Some(leaf), reason).await?;
        let line = stage.proxy.wait_log(words).await?;
        ensure!(line.contains("warn") && line.contains("client.test") && line.contains(reason), "{line}");
    }
    Ok(())
}

#[tokio::test]
async fn without_a_wrong_or_a_revoked_certificate_nothing_gets_through() -> Result<()> {
    let papers = papers()?;
    let validation =
        "trusted_ca: { filename: \"@{certs}/ca.pem\" }\ncrl: { filename: \"@{certs}/crl.pem\" }\n";
    let stage = stage(&papers, validation).await?;
    ensure!(ask(&stage, &papers, Some("client"), false).await? == 200);
    refused(&stage, &papers, None, "no_certificate").await?;
    refused(&stage, &papers, Some("stranger"), "unknown_issuer").await?;
    refused(&stage, &papers, Some("revoked"), "revoked").await?;
    ensure!(ask(&stage, &papers, Some("client"), false).await? == 200);
    Ok(())
}

#[tokio::test]
async fn who_asks_for_a_name_asks_for_a_certificate() -> Result<()> {
    let papers = papers()?;
    let certs = papers.dir.display().to_string();
    let yaml = verifying("server", NAMES);
    let (mut places, _leases) = places(&yaml)?;
    let lease = Lease::new()?;
    places.extend([("certs".to_owned(), certs), ("up".to_owned(), lease.port().to_string())]);
    let yaml =
        yaml.render(&places).replace("require_client_certificate: true", "require_client_certificate: false");
    let _proxy = Proxy::outrider(&yaml, places["admin"].parse()?).await?;
    let options = TlsOptions::new(&papers, "server.test")?;
    let answer = async {
        let mut conn = Conn::with_prefix(places["main"].parse()?, b"", Some(&options)).await?;
        conn.send("GET /direct HTTP/1.1\r\nhost: test\r\n\r\n").await?;
        conn.response("GET").await
    };
    let answer: Result<_> = answer.await;
    ensure!(answer.is_err(), "{answer:?}");
    Ok(())
}

#[tokio::test]
async fn a_spiffe_id_is_believed_by_the_roots_of_its_trust_domain_alone() -> Result<()> {
    let papers = papers()?;
    let domain = |name: &str, ca: &str| {
        format!("{{ name: {name}, trust_bundle: {{ filename: \"@{{certs}}/{ca}.pem\" }} }}")
    };
    let config = |domains: &str| {
        format!(
            "custom_validator_config:\n  name: envoy.tls.cert_validator.spiffe\n  typed_config: {{ \"@type\": {TLS}.SPIFFECertValidatorConfig, trust_domains: [ {domains} ] }}\n"
        )
    };
    let both = format!("{}, {}", domain("test", "ca"), domain("elsewhere", "other-ca"));
    let stage = stage(&papers, &config(&both)).await?;
    ensure!(ask(&stage, &papers, Some("client"), false).await? == 200);
    // Its roots are believed, but not for this domain.
    refused(&stage, &papers, Some("bad-domain"), "unknown_issuer").await?;
    refused(&stage, &papers, Some("stranger"), "unknown_issuer").await?;
    refused(&stage, &papers, Some("bad-common-name"), "no_san").await?;
    refused(&stage, &papers, Some("server"), "spiffe_id").await?;
    refused(&stage, &papers, None, "no_certificate").await?;
    let stage = self::stage(&papers, &config(&domain("elsewhere", "ca"))).await?;
    refused(&stage, &papers, Some("client"), "trust_domain").await?;
    ensure!(ask(&stage, &papers, Some("bad-domain"), false).await? == 200);
    Ok(())
}

#[tokio::test]
async fn upstreams_with_certificates_that_nobody_should_believe_get_no_request() -> Result<()> {
    let papers = papers()?;
    let (diary, script) = (Diary::default(), Script::default());
    let certs = papers.dir.display().to_string();
    let socket = format!(
        "transport_socket:\n  name: tls\n  typed_config:\n    \"@type\": {TLS}.UpstreamTlsContext\n    sni: upstream.test\n    common_tls_context:\n      validation_context:\n{}",
        indent(8, NAMES)
    );
    let names: Vec<&str> = BAD.iter().map(|(name, _)| *name).chain(["bad-none"]).collect();
    let routes: Vec<String> = names
        .iter()
        .map(|name| format!("{{ match: {{ path: /{name} }}, route: {{ cluster: {name} }} }}"))
        .collect();
    let table = format!(
        "route_config: {{ virtual_hosts: [ {{ name: all, domains: [\"*\"], routes: [ {} ] }} ] }}",
        routes.join(", ")
    );
    let mut bootstrap = Bootstrap::new().http("main", &table);
    let (mut upstreams, mut more) = (Vec::new(), vec![("certs".to_owned(), certs)]);
    for name in &names {
        let tls = papers.server(name, &[], false)?;
        let upstream = Upstream::start(name, Speaks::Http, Some(tls), &diary, &script).await?;
        more.push((format!("up-{name}"), upstream.address().port().to_string()));
        bootstrap = bootstrap.hosts(name, &[&format!("up-{name}")], &socket);
        upstreams.push(upstream);
    }
    let more: Vec<(&str, &str)> = more.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let stage = Stage::with(&bootstrap, &more, &[]).await?;
    for (name, reason) in BAD {
        let answer = stage.get(&format!("/{name}")).await?;
        ensure!(answer.status == 503, "{name}: {answer:?}");
        let stat = format!("cluster.{name}.outrider.peer_refused.{reason}");
        stage.proxy.wait_stat(&stat, |count| count >= 1).await?;
        let line = stage.proxy.wait_log(&format!("cluster.{name}.")).await?;
        ensure!(line.contains("warn") && line.contains(reason), "{line}");
        // Why is for the log; clients are told as little as Envoy tells them.
        ensure!(
            answer.text().ends_with("reset reason: remote connection failure"),
            "{name}: {}",
            answer.text()
        );
    }
    ensure!(diary.is_empty(), "an upstream got a request");
    ensure!(stage.get("/bad-none").await?.status == 200);
    Ok(())
}

#[tokio::test]
async fn what_is_no_certificate_or_key_is_refused_with_its_file_and_what_to_do() -> Result<()> {
    let papers = papers()?;
    let (cert, key) = (papers.pem("server.pem")?, papers.pem("server.key")?);
    let write = |name: &str, cert: &str, key: &str| -> Result<()> {
        fs::write(papers.dir.join(format!("{name}.pem")), cert)?;
        Ok(fs::write(papers.dir.join(format!("{name}.key")), key)?)
    };
    write("cut", &cert[..cert.len() / 2], &key)?;
    write("empty", "", &key)?;
    write("cut-key", &cert, &key[..key.len() / 2])?;
    write("other-key", &cert, &papers.pem("alt.key")?)?;
    for (leaf, file, words) in [
        ("cut", "cut.pem", "write the file anew"),
        ("empty", "empty.pem", "no PEM certificate in it"),
        ("cut-key", "cut-key.key", "no unencrypted PEM private key in it"),
        ("other-key", "other-key.key", "does not belong to the certificate"),
    ] {
        let bootstrap = verifying(leaf, NAMES);
        let (mut places, _leases) = places(&bootstrap)?;
        let lease = Lease::new()?;
        places.insert("certs".to_owned(), papers.dir.display().to_string());
        places.insert("up".to_owned(), lease.port().to_string());
        let admin = places["admin"].parse()?;
        let mut proxy = Proxy::spawn(Kind::Outrider, &bootstrap.render(&places), admin, &[])?;
        ensure!(!proxy.exit(Duration::from_secs(30)).await?.success(), "{leaf}: it started");
        let said = proxy.output();
        ensure!(said.contains(file) && said.contains(words), "{leaf}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn an_own_certificate_that_has_ended_is_served_with_a_warning() -> Result<()> {
    let papers = papers()?;
    let certs = papers.dir.display().to_string();
    let stage = Stage::with(&verifying("expired", NAMES), &[("certs", &certs)], &[]).await?;
    let line = stage.proxy.wait_log("has ended").await?;
    ensure!(line.contains("warn") && line.contains("expired.pem"), "{line}");
    let stats = stage.proxy.admin("/stats?filter=days_until_first_cert_expiring").await?.text();
    ensure!(stats.contains("server.days_until_first_cert_expiring: 0"), "{stats}");
    Ok(())
}
