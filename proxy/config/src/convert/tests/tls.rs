use std::sync::Arc;

use super::{bad, good, indent};
use crate::model::{Bootstrap, DownstreamTls, SanKind, TlsVersion};

const CHAIN: &str = "static_resources.listeners[0].filter_chains[0].transport_socket.typed_config";

/// A bootstrap whose listener has the TLS context `context`, with `secrets`.
fn listener(context: &str, secrets: &str) -> String {
    format!(
        r#"
static_resources:
  secrets:
{}
  listeners:
  - name: l
    address: {{socket_address: {{address: 127.0.0.1, port_value: 10000}}}}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: t
          cluster: later
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
{}
"#,
        indent(if secrets.is_empty() { "[]" } else { secrets }, 4),
        indent(context, 10)
    )
}

fn tls(model: &Bootstrap) -> DownstreamTls {
    model.listeners[0].filter_chains[0].tls.as_deref().expect("TLS").clone()
}

const CERT: &str =
    "tls_certificates: [{certificate_chain: {filename: c.pem}, private_key: {filename: k.pem}}]";

#[test]
fn certificates_versions_and_suites() {
    let context = format!(
        r#"
common_tls_context:
  {CERT}
  alpn_protocols: [h2, http/1.1]
  tls_params:
    tls_minimum_protocol_version: TLSv1_0
    cipher_suites: ["[ECDHE-RSA-AES128-GCM-SHA256|ECDHE-RSA-CHACHA20-POLY1305]", AES128-SHA]
    ecdh_curves: [X25519, prime256v1, P-521]
"#
    );
    let (model, ledger) = good(&listener(&context, ""));
    let tls = tls(&model);
    assert_eq!(tls.common.alpn, ["h2", "http/1.1"]);
    assert_eq!((tls.common.min_version, tls.common.max_version), (TlsVersion::V12, TlsVersion::V13));
    assert_eq!(tls.common.cipher_suites, ["ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-CHACHA20-POLY1305"]);
    assert_eq!(tls.common.curves, ["X25519", "P-256"]);
    assert!(tls.common.validation.is_none() && !tls.require_client_certificate);
    let field = format!("{CHAIN}.common_tls_context.tls_certificates[0].private_key");
    assert_eq!(&*tls.common.certificates[0].here().expect("static").key.field, field);
    let params = format!("{CHAIN}.common_tls_context.tls_params");
    let inert: Vec<&str> = ledger.inert.iter().map(|(path, _)| path.as_str()).collect();
    assert_eq!(
        inert,
        [
            format!("{params}.tls_minimum_protocol_version"),
            format!("{params}.cipher_suites[1]"),
            format!("{params}.ecdh_curves[2]")
        ]
    );
}

#[test]
fn what_would_only_look_like_verification_is_refused() {
    let path = format!("{CHAIN}.common_tls_context");
    let none = bad(&listener("common_tls_context: {}", ""));
    assert_eq!(none, [format!("{path}.tls_certificates: a server needs a certificate")]);
    let names = "validation_context: {match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: a}}]}";
    let names = bad(&listener(&format!("common_tls_context:\n  {CERT}\n  {names}"), ""));
    assert_eq!(
        names,
        [format!(
            "{path}.validation_context.match_typed_subject_alt_names: it needs trusted_ca: without roots anyone can make such a certificate"
        )]
    );
    let suites = bad(&listener(
        &format!("common_tls_context:\n  {CERT}\n  tls_params: {{cipher_suites: [AES128-SHA]}}"),
        "",
    ));
    assert!(
        suites[0].starts_with(&format!("{path}.tls_params.cipher_suites: rustls has none")),
        "{suites:?}"
    );
}

#[test]
fn static_secrets_are_found_by_name_and_merged() {
    let secrets = r#"
- name: cert
  tls_certificate: {certificate_chain: {inline_string: C}, private_key: {inline_string: K}}
- name: roots
  validation_context: {trusted_ca: {filename: ca.pem}, match_typed_subject_alt_names: [{san_type: URI, matcher: {prefix: "spiffe://a/"}}]}
"#;
    let context = r#"
require_client_certificate: true
common_tls_context:
  tls_certificate_sds_secret_configs: [{name: cert}]
  combined_validation_context:
    default_validation_context: {match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: b}}]}
    validation_context_sds_secret_config: {name: roots}
"#;
    let (model, _) = good(&listener(context, secrets));
    let tls = tls(&model);
    let resolved = Arc::new(tls).resolve(&|_| None).expect("all of it is static");
    let validation = resolved.validation().expect("a validation context").clone();
    assert_eq!(
        &*validation.trusted_ca.expect("roots").field,
        "static_resources.secrets[1].validation_context.trusted_ca"
    );
    let kinds: Vec<SanKind> = validation.san_matchers.iter().map(|matcher| matcher.kind).collect();
    assert_eq!(kinds, [SanKind::Dns, SanKind::Uri]);

    let missing =
        bad(&listener("common_tls_context: {tls_certificate_sds_secret_configs: [{name: x}]}", secrets));
    assert_eq!(
        missing,
        [format!(
            "{CHAIN}.common_tls_context.tls_certificate_sds_secret_configs[0].name: there is no certificate named \"x\" in static_resources.secrets"
        )]
    );
}

#[test]
fn private_keys_never_show_in_debug_output() {
    let context = "common_tls_context: {tls_certificates: [{certificate_chain: {inline_string: C}, private_key: {inline_string: SECRET}}]}";
    let (model, _) = good(&listener(context, ""));
    assert!(!format!("{model:?}").contains("SECRET"));
}

/// A bootstrap whose listener verifies clients by the SPIFFE validator of this configuration, with more of the context.
fn spiffe(config: &str, more: &str) -> String {
    let context = format!(
        r#"
common_tls_context:
  {CERT}
  validation_context:
    custom_validator_config:
      name: envoy.tls.cert_validator.spiffe
      typed_config: {{"@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig, {config}}}
    {more}
"#
    );
    listener(&context, "")
}

#[test]
fn spiffe_trust_domains_have_roots_of_their_own() {
    let two = "trust_domains: [{name: a.test, trust_bundle: {inline_string: A}}, {name: b.test, trust_bundle: {filename: /b}}]";
    let (model, _) = good(&spiffe(two, ""));
    let validation = tls(&model).common.validation.configured().next().expect("a validation").clone();
    let trust = validation.spiffe.as_ref().expect("trust domains");
    assert_eq!(trust.domains.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["a.test", "b.test"]);
    assert_eq!(validation.sources().count(), 2);
    let (model, _) = good(&spiffe("trust_bundles: {inline_string: '{}'}", "allow_expired_certificate: true"));
    let validation = tls(&model).common.validation.configured().next().expect("a validation").clone();
    assert!(validation.allow_expired && validation.spiffe.is_some_and(|trust| trust.bundles.is_some()));
}

#[test]
fn a_spiffe_validator_that_would_not_verify_as_it_reads_is_refused() {
    let one = "trust_domains: [{name: a.test, trust_bundle: {inline_string: A}}]";
    let says = |config: &str, more: &str, part: &str| {
        let problems = bad(&spiffe(config, more)).join("\n");
        assert!(problems.contains(part), "{problems}");
    };
    says("trust_domains: []", "", "a trust domain is needed");
    says("trust_domains: [{name: a.test}]", "", "the roots of the trust domain are needed");
    says("trust_domains: [{name: 'spiffe://a', trust_bundle: {inline_string: A}}]", "", "without spiffe://");
    let twice = "trust_domains: [{name: a, trust_bundle: {inline_string: A}}, {name: a, trust_bundle: {inline_string: A}}]";
    says(twice, "", "has a bundle already");
    let chosen = "trust_domains: [{name: a, trust_bundle: {inline_string: A}, workload_trust_domain: b}]";
    says(chosen, "", "workload_trust_domain");
    says("trust_bundles: {filename: /bundles}", "", "would have to be watched");
    says(one, "crl: {inline_string: L}", "put the list into the trust_bundle");
    says(one, "trust_chain_verification: ACCEPT_UNTRUSTED", "verifies always");
    says(one, "max_verify_depth: 2", "max_verify_depth");
    let dns = "match_typed_subject_alt_names: [{san_type: DNS, matcher: {exact: a}}]";
    says(one, dns, "looks at URIs alone");
}
