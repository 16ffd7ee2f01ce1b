//! Certificates that nobody should believe: whom Envoy refuses, we refuse, in either direction.

use outrider_tests::{
    bootstrap::{hcm_filter, indent},
    ca::BAD,
    upstream::Speaks,
};

use crate::driver::{Group, Tls, case, case::Case, get};

const TLS: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3";
const CERT: &str = "tls_certificates: [ { certificate_chain: { filename: \"@{certs}/server.pem\" }, private_key: { filename: \"@{certs}/server.key\" } } ]\n";
const NAMES: &str =
    "match_typed_subject_alt_names: [ { san_type: URI, matcher: { prefix: \"spiffe://test/\" } } ]";
const ROUTES: &str = "route_config: { virtual_hosts: [ { name: all, domains: [\"*\"], routes: [ { match: { prefix: / }, direct_response: { status: 200, body: { inline_string: let in } } } ] } ] }";

/// A validation context that believes `ca.pem`, with more.
fn believing(more: &str) -> String {
    format!(
        "validation_context: {{ trusted_ca: {{ filename: \"@{{certs}}/ca.pem\" }}{}{more} }}\n",
        if more.is_empty() { "" } else { ", " }
    )
}

/// One of the SPIFFE validator, with two trust domains, and more.
fn spiffe(more: &str) -> String {
    let domain = |name: &str, ca: &str| {
        format!("{{ name: {name}, trust_bundle: {{ filename: \"@{{certs}}/{ca}.pem\" }} }}")
    };
    format!(
        "validation_context:\n  custom_validator_config:\n    name: envoy.tls.cert_validator.spiffe\n    typed_config:\n      \"@type\": {TLS}.SPIFFECertValidatorConfig\n      trust_domains: [ {}, {} ]\n{}",
        domain("test", "ca"),
        domain("elsewhere", "other-ca"),
        indent(2, more)
    )
}

fn listener(group: Group, name: &str, validation: &str, require: bool) -> Group {
    let chain = format!(
        "stat_prefix: {name}\nfilter_chains:\n- transport_socket:\n    name: envoy.transport_sockets.tls\n    typed_config:\n      \"@type\": {TLS}.DownstreamTlsContext\n      require_client_certificate: {require}\n      common_tls_context:\n{}  filters:\n{}",
        indent(8, &format!("{CERT}{validation}")),
        indent(2, &hcm_filter(name, ROUTES))
    );
    group.with(|b| b.listener(name, &chain))
}

/// What both proxies are asked with: RSA keys of 1024 bits are Envoy's to believe, and nobody's whose library is rustls.
fn shown() -> impl Iterator<Item = &'static str> {
    BAD.iter().map(|(file, _)| *file).filter(|file| *file != "bad-weak").chain(["bad-none"])
}

fn tries(listener: &str, cert: &'static str) -> Case {
    let stats = ["fail_*", "connection_error"].map(|stat| format!("listener.{listener}.ssl.{stat}"));
    let stats: Vec<&str> = stats.iter().map(String::as_str).collect();
    case(&format!("{cert} to {listener}"), get("/").to(listener).tls(Tls::to("server.test").cert(cert)))
        .stats(&stats)
}

/// Clients.
pub(crate) fn clients() -> Group {
    let mut group = Group::new("bad-clients");
    let uri = format!("{NAMES}\n");
    let other =
        "match_typed_subject_alt_names: [ { san_type: URI, matcher: { exact: \"spiffe://test/other\" } } ]\n";
    for (name, validation, require) in [
        ("strict", believing(NAMES), true),
        ("chain", believing(""), true),
        ("names", believing(NAMES), false),
        ("listed", believing("crl: { filename: \"@{certs}/crl.pem\" }"), true),
        ("spiffe", spiffe(""), false),
        ("spiffeuri", spiffe(&uri), true),
        ("spiffeother", spiffe(other), true),
    ] {
        group = listener(group, name, &validation, require);
    }
    let mut cases: Vec<Case> = Vec::new();
    for cert in shown() {
        cases.push(tries("strict", cert));
        cases.push(tries("chain", cert));
        cases.push(tries("spiffe", cert));
    }
    for cert in ["client", "revoked", "stranger"] {
        cases.push(tries("listed", cert));
        cases.push(tries("spiffeuri", cert));
        cases.push(tries("spiffeother", cert));
    }
    // Who asks for a name or a SPIFFE id asks for a certificate.
    for name in ["strict", "chain", "names", "listed", "spiffe", "spiffeuri"] {
        let stat = format!("listener.{name}.ssl.fail_*");
        let without = get("/").to(name).tls(Tls::to("server.test"));
        cases.push(case(&format!("none to {name}"), without).stats(&[&stat]));
    }
    group.cases(cases)
}

/// Upstreams.
pub(crate) fn servers() -> Group {
    let routes: String = shown()
        .map(|name| format!("  - {{ match: {{ path: /{name} }}, route: {{ cluster: {name} }} }}\n"))
        .collect();
    let mut group = Group::new("bad-servers")
        .routes(&format!("virtual_hosts:\n- name: all\n  domains: [\"*\"]\n  routes:\n{routes}"));
    let socket = format!(
        "transport_socket:\n  name: envoy.transport_sockets.tls\n  typed_config:\n    \"@type\": {TLS}.UpstreamTlsContext\n    sni: upstream.test\n    common_tls_context:\n{}",
        indent(6, &believing(NAMES))
    );
    for name in shown() {
        let host = format!("up-{name}");
        group = group
            .upstream(&host, Some(Speaks::Http), Some((name, &[], false)))
            .with(|b| b.hosts(name, &[&host], &socket));
    }
    let cases = shown().map(|name| {
        let stats = ["handshake", "fail_verify_san", "fail_verify_error"];
        let stats = stats.map(|stat| format!("cluster.{name}.ssl.{stat}"));
        let stats: Vec<&str> = stats.iter().map(String::as_str).collect();
        case(name, get(&format!("/{name}"))).stats(&stats).ignore("text body")
    });
    group.cases(cases.collect::<Vec<_>>())
}
