//! What proxies are told of services outside.

use outrider_proto::pb::envoy::config::cluster::v3::Cluster;
use outrider_proto::pb::envoy::config::core::v3::data_source::Specifier;
use outrider_proto::pb::envoy::config::listener::v3::Listener;
use outrider_proto::pb::envoy::config::route::v3 as pb;
use outrider_proto::pb::envoy::extensions::filters::http::credential_injector::v3::CredentialInjector;
use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter,
};
use outrider_proto::pb::envoy::extensions::http::injected_credentials::generic::v3::Generic;
use outrider_proto::pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use outrider_proto::prost::Message as _;
use pb::FilterConfig;

use crate::model::{Key, Kind};
use crate::translate::testing::{
    Running, Table, WEB, as_json, ask, conditions, context, envoy_takes, message, resources, sidecar,
};
use crate::translate::{Resources, Type, translate};
use crate::world::Proxy;

/// A world with Service `shop/web`, and an ExternalService `shop/pay` of this spec in flow style.
fn with(spec: &str, more: &str) -> String {
    format!(
        "{WEB}---\napiVersion: outrider.dev/v1\nkind: ExternalService\nmetadata: {{name: pay, namespace: shop}}\nspec: {spec}\n---\n{more}"
    )
}

const TOKEN: &str = "{apiVersion: v1, kind: Secret, metadata: {name: token, namespace: shop}, stringData: {token: \"s3c%ret\\n\", username: me, password: 'p:w'}}\n---\n";

fn host<'t>(table: &'t Table, domain: &str) -> &'t pb::VirtualHost {
    let domains: Vec<_> = table.virtual_hosts.iter().map(|it| &it.domains).collect();
    let found = table.virtual_hosts.iter().find(|it| it.domains.iter().any(|it| it == domain));
    found.unwrap_or_else(|| panic!("nobody has {domain}: {domains:?}"))
}

fn action(host: &pb::VirtualHost) -> &pb::route::Action {
    host.routes[0].action.as_ref().unwrap()
}

fn upstream_tls(resources: &Resources, cluster: &str) -> tls::UpstreamTlsContext {
    use outrider_proto::pb::envoy::config::core::v3::transport_socket::ConfigType;
    let cluster: Cluster = message(resources, Type::Cluster, cluster);
    let Some(ConfigType::TypedConfig(any)) = cluster.transport_socket.unwrap().config_type else { panic!() };
    tls::UpstreamTlsContext::decode(any.value.as_slice()).unwrap()
}

#[test]
fn a_host_outside_is_called_in_clear_and_the_proxy_speaks_tls() {
    let context = context(&with("{hosts: [api.pay.example], ports: [{number: 443, protocol: HTTPS}]}", ""));
    let all = resources(&context);
    envoy_takes(&all);
    let name = "external|443||pay.shop";
    let context = upstream_tls(&all, name);
    assert_eq!(context.sni, "api.pay.example");
    let common = context.common_tls_context.unwrap();
    assert_eq!(common.alpn_protocols, ["http/1.1"]);
    let Some(tls::common_tls_context::ValidationContextType::ValidationContext(validation)) =
        common.validation_context_type
    else {
        panic!("the certificate is not verified")
    };
    assert!(validation.trusted_ca.is_some(), "anybody's certificate would do");
    assert_eq!(validation.match_typed_subject_alt_names.len(), 1, "any name would do");
    // By its host at the explicit listener, with the port or without; captured, at port 80.
    let explicit: Table = message(&all, Type::Route, "http_proxy");
    let captured: Table = message(&all, Type::Route, "80");
    for found in [
        host(&explicit, "api.pay.example"),
        host(&explicit, "api.pay.example:443"),
        host(&captured, "api.pay.example"),
    ] {
        let pb::route::Action::Route(action) = action(found) else { panic!("not forwarded") };
        assert_eq!(
            action.cluster_specifier,
            Some(pb::route_action::ClusterSpecifier::Cluster(name.to_owned()))
        );
        assert_eq!(
            action.host_rewrite_specifier,
            Some(pb::route_action::HostRewriteSpecifier::HostRewriteLiteral("api.pay.example".to_owned()))
        );
    }
}

/// The filters of a listener's connection manager, by their names.
fn filters(resources: &Resources, listener: &str) -> Vec<HttpFilter> {
    use outrider_proto::pb::envoy::config::listener::v3::filter::ConfigType;
    let listener: Listener = message(resources, Type::Listener, listener);
    let filter = listener.filter_chains[0].filters.last().unwrap();
    let Some(ConfigType::TypedConfig(any)) = &filter.config_type else { panic!("no manager") };
    HttpConnectionManager::decode(any.value.as_slice()).unwrap().http_filters
}

fn injector(filter: &HttpFilter) -> Option<(CredentialInjector, Generic)> {
    use outrider_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter::ConfigType;
    let Some(ConfigType::TypedConfig(any)) = &filter.config_type else { return None };
    if !any.type_url.ends_with(".CredentialInjector") {
        return None;
    }
    let injector = CredentialInjector::decode(any.value.as_slice()).unwrap();
    let generic = injector.credential.as_ref().unwrap().typed_config.as_ref().unwrap();
    let generic = Generic::decode(generic.value.as_slice()).unwrap();
    Some((injector, generic))
}

/// What turns filters on.
type Configs = std::collections::HashMap<String, outrider_proto::pb::google::protobuf::Any>;

/// The credentials that are turned on, by header.
fn injected(resources: &Resources, listener: &str, configs: &Configs) -> Vec<(String, String)> {
    let found = filters(resources, listener).into_iter().filter_map(|filter| {
        let (injector, generic) = injector(&filter)?;
        assert!(filter.disabled, "every request would get it");
        assert!(injector.overwrite && !injector.allow_request_without_credential, "{injector:?}");
        let on = FilterConfig::decode(configs.get(&filter.name)?.value.as_slice()).unwrap();
        assert!(!on.disabled && on.config.is_some(), "{on:?}");
        let secret: tls::Secret = message(resources, Type::Secret, &generic.credential.unwrap().name);
        let Some(tls::secret::Type::GenericSecret(secret)) = secret.r#type else { panic!("{filter:?}") };
        let Some(Specifier::InlineString(value)) = secret.secret.unwrap().specifier else { panic!() };
        Some((generic.header, value))
    });
    let mut found: Vec<_> = found.collect();
    found.sort();
    found
}

/// Whether a text stands in something that is shown or logged.
fn shown(resources: &Resources, text: &str) -> bool {
    let kinds = [Type::Cluster, Type::Listener, Type::Route];
    let mut all = kinds.into_iter().flat_map(|kind| resources.of(kind).iter());
    all.any(|it| it.body.windows(text.len()).any(|part| part == text.as_bytes()))
}

#[test]
fn credentials_go_in_place_of_what_the_client_sent() {
    let spec = "{hosts: [api.pay.example], ports: [{number: 443, protocol: HTTPS}], credentials: [
        {type: Bearer, secretRef: {name: token}}, {type: Basic, header: x-basic, secretRef: {name: token}},
        {type: Header, header: X-Api-Key, secretRef: {name: token, key: token}}]}";
    let context = context(&with(spec, TOKEN));
    let all = resources(&context);
    envoy_takes(&all);
    let table: Table = message(&all, Type::Route, "http_proxy");
    let route = &host(&table, "api.pay.example").routes[0];
    // base64 of me:p:w; the line's end is gone.
    let want = [("authorization", "Bearer s3c%ret"), ("x-api-key", "s3c%ret"), ("x-basic", "Basic bWU6cDp3")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()));
    for listener in ["http_proxy", "0.0.0.0_80"] {
        assert_eq!(injected(&all, listener, &route.typed_per_filter_config), want);
    }
    assert!(!shown(&all, "s3c") && !shown(&all, "bWU6cDp3"), "a credential stands where it is shown");
    // The routes of others turn none of them on.
    let other = &host(&table, "web.shop").routes[0];
    assert!(other.typed_per_filter_config.is_empty(), "{other:?}");
}

#[test]
fn without_its_credential_nothing_is_sent() {
    let spec = "{hosts: [api.pay.example], ports: [{number: 443, protocol: HTTPS}], credentials: [{type: Bearer, secretRef: {name: token, key: other}}]}";
    for (more, reason) in [("", "there is no Secret shop/token"), (TOKEN, "has no entry \"other\"")] {
        let context = context(&with(spec, more));
        let all = resources(&context);
        envoy_takes(&all);
        let table: Table = message(&all, Type::Route, "http_proxy");
        let pb::route::Action::DirectResponse(response) = action(host(&table, "api.pay.example")) else {
            panic!("the request would be sent")
        };
        assert_eq!(response.status, 503);
        assert!(format!("{:?}", response.body).contains(&reason.replace('"', "\\\"")), "{response:?}");
        assert!(
            all.of(Type::Cluster).get("external|443||pay.shop").is_none(),
            "other routes could lead there"
        );
        assert!(filters(&all, "http_proxy").iter().all(|it| injector(it).is_none()), "nobody could serve it");
        let status = &context.policies.statuses[&Key::new(Kind::ExternalService, "shop", "pay")];
        let said = conditions(status);
        assert!(
            said.iter().any(|it| it.starts_with("PartiallyInvalid=True") && it.contains(reason)),
            "{said:?}"
        );
    }
}

#[test]
fn nobody_takes_the_host_of_a_service_away() {
    let spec = "{hosts: [web.shop.svc.cluster.local], resolution: Static, addresses: [192.0.2.66], ports: [{number: 80, protocol: HTTP}]}";
    let all = resources(&context(&with(spec, "")));
    for table in ["http_proxy", "80"] {
        let table: Table = message(&all, Type::Route, table);
        assert!(host(&table, "web.shop.svc.cluster.local").name.starts_with("web.shop"), "{table:?}");
    }
}

#[test]
fn tcp_and_tls_have_listeners_of_their_own() {
    let spec = "{hosts: [db.example, www.example], addresses: [db.example], ports: [
        {number: 5433, name: db, protocol: TCP, targetPort: 5432}, {number: 443, name: tls, protocol: TLS}], tls: {sni: db.example}}";
    let all = resources(&context(&with(spec, "")));
    envoy_takes(&all);
    let listener: Listener = message(&all, Type::Listener, "0.0.0.0_443");
    let names = &listener.filter_chains[0].filter_chain_match.as_ref().unwrap().server_names;
    assert_eq!(names, &["db.example", "www.example"]);
    assert!(listener.default_filter_chain.is_some(), "other servers at the port were cut off");
    let listener: Listener = message(&all, Type::Listener, "0.0.0.0_5433");
    assert_eq!(listener.filter_chains.len(), 1);
    assert_eq!(upstream_tls(&all, "external|5433||pay.shop").sni, "db.example");
    let through: Cluster = message(&all, Type::Cluster, "external|443||pay.shop");
    assert!(through.transport_socket.is_none(), "the application speaks TLS itself");
}

#[test]
fn several_hosts_are_named_by_each_request() {
    let spec = "{hosts: ['*.pay.example', pay.example], resolution: Static, addresses: [192.0.2.1, '2001:db8::1'], ports: [{number: 80, protocol: HTTP2, targetPort: 8443}], tls: {minVersion: TLSv1_3}}";
    let all = resources(&context(&with(spec, "")));
    envoy_takes(&all);
    let context = upstream_tls(&all, "external|80||pay.shop");
    assert_eq!(context.sni, "");
    let cluster: Cluster = message(&all, Type::Cluster, "external|80||pay.shop");
    let packed = cluster.typed_extension_protocol_options.values().next().unwrap();
    let options = outrider_proto::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions::decode(
        packed.value.as_slice(),
    )
    .unwrap();
    let auto = options.upstream_http_protocol_options.unwrap();
    assert!(
        auto.auto_sni && auto.auto_san_validation,
        "the certificate would not be verified against the host"
    );
    let table: Table = message(&all, Type::Route, "80");
    let rewrite = |domain: &str| match action(host(&table, domain)) {
        pb::route::Action::Route(action) => action.host_rewrite_specifier.clone(),
        _ => panic!("not forwarded"),
    };
    assert_eq!(rewrite("*.pay.example"), None);
    assert_eq!(
        rewrite("pay.example"),
        Some(pb::route_action::HostRewriteSpecifier::HostRewriteLiteral("pay.example:8443".to_owned()))
    );
}

/// A server that speaks TLS with this certificate and answers with the head of the request.
fn echo(certificate: &rcgen::CertifiedKey<rcgen::KeyPair>) -> u16 {
    use std::io::{Read as _, Write as _};
    let provider = std::sync::Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls_pki_types::PrivateKeyDer::try_from(certificate.signing_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .unwrap();
    let config = std::sync::Arc::new(config);
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let connection = rustls::ServerConnection::new(std::sync::Arc::clone(&config)).unwrap();
            let mut stream = rustls::StreamOwned::new(connection, stream.unwrap());
            let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
            while !head.ends_with(b"\r\n\r\n") {
                match stream.read(&mut buffer) {
                    Ok(read @ 1..) => head.extend_from_slice(&buffer[..read]),
                    _ => break,
                }
            }
            let answer =
                format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", head.len());
            let _ = stream.write_all(answer.as_bytes()).and_then(|()| stream.write_all(&head));
            stream.conn.send_close_notify();
            let _ = stream.flush();
        }
    });
    port
}

/// Has secrets taken from the bootstrap in place of the control plane, which is not there.
fn local_secrets(value: &mut serde_json::Value) {
    match value {
        serde_json::Value::Object(fields) => {
            fields.remove("sds_config");
            fields.values_mut().for_each(local_secrets);
        }
        serde_json::Value::Array(items) => items.iter_mut().for_each(local_secrets),
        _ => {}
    }
}

#[test]
fn a_real_proxy_calls_it_with_the_credential_alone_and_verifies_who_answers() {
    let ours = rcgen::generate_simple_self_signed(vec!["api.pay.example".to_owned()]).unwrap();
    let other = rcgen::generate_simple_self_signed(vec!["api.pay.example".to_owned()]).unwrap();
    let port = echo(&ours);
    for (trusted, want) in [(&ours, 200), (&other, 503)] {
        let spec = format!(
            "{{hosts: [api.pay.example], resolution: Static, addresses: [127.0.0.1], ports: [{{number: {port}, protocol: HTTPS}}],
            tls: {{caCertificateRefs: [{{kind: ConfigMap, name: ca}}], minVersion: TLSv1_3}}, credentials: [{{type: Bearer, secretRef: {{name: token}}}}]}}"
        );
        let pem = trusted.cert.pem().replace(['\r', '\n'], "\\n").replace("\\n\\n", "\\n");
        let ca = format!(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: ca, namespace: shop}}\ndata: {{ca.crt: \"{pem}\"}}\n"
        );
        let context = context(&with(&spec, &format!("{TOKEN}{ca}")));
        let all = translate(&context, &Proxy { http_port: 0, ..sidecar() });
        let mut config = serde_json::json!({
            "listeners": as_json(&all, Type::Listener, |name| name == "http_proxy"),
            "clusters": as_json(&all, Type::Cluster, |name| name.starts_with("external|")),
            "secrets": as_json(&all, Type::Secret, |_| true),
        });
        local_secrets(&mut config);
        let Some(envoy) = Running::start(&config) else {
            return;
        };
        let headers = "Host: api.pay.example\r\nAuthorization: mine\r\nauthorization: mine-too\r\n";
        let (status, head) = ask(envoy.listener("http_proxy"), "GET /charge", headers);
        assert_eq!(status, want, "{head}");
        if want == 200 {
            let sent: Vec<_> =
                head.lines().filter(|it| it.to_lowercase().starts_with("authorization:")).collect();
            assert_eq!(sent, ["authorization: Bearer s3c%ret"], "{head}");
            assert!(head.contains(&format!("host: api.pay.example:{port}\r\n")), "{head}");
        }
    }
}

/// A route `web` for Service `shop/web` with these backends and filters in flow style.
fn http_route(backends: &str, filters: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: shop}}\nspec: {{parentRefs: [{{group: '', kind: Service, name: web, port: 80}}], rules: [{{backendRefs: [{backends}], filters: [{filters}]}}]}}\n---\n"
    )
}

const SECRETIVE: &str = "{hosts: [api.pay.example], ports: [{number: 443, protocol: HTTPS}], credentials: [{type: Bearer, secretRef: {name: token}}]}";
const TO_PAY: &str = "{group: outrider.dev, kind: ExternalService, name: pay, port: 443, weight: 1}";
const TO_WEB: &str = "{name: web, port: 9000, weight: 3}";
const MIRROR: &str = "{type: RequestMirror, requestMirror: {backendRef: {name: web, port: 9000}}}";

#[test]
fn a_route_to_a_service_outside_takes_its_credentials_along() {
    let find = |yaml: &str| {
        let all = resources(&context(yaml));
        envoy_takes(&all);
        assert!(!shown(&all, "s3c"));
        let table: Table = message(&all, Type::Route, "80");
        let route = host(&table, "web.shop").routes[0].clone();
        (all, route)
    };
    let bearer = [("authorization".to_owned(), "Bearer s3c%ret".to_owned())];
    // What the route itself says of the header does not count.
    let change = "{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: Authorization, value: mine}, {name: x-a, value: a}]}}";
    for filters in ["", change] {
        let (all, found) = find(&with(SECRETIVE, &format!("{TOKEN}{}", http_route(TO_PAY, filters))));
        assert_eq!(injected(&all, "0.0.0.0_80", &found.typed_per_filter_config), bearer);
        assert!(format!("{found:?}").contains("HostRewriteLiteral(\"api.pay.example\")"), "{found:?}");
        assert_eq!(found.request_headers_to_add.len(), usize::from(!filters.is_empty()), "{found:?}");
    }
    // One of two: its share alone has them.
    let (all, found) =
        find(&with(SECRETIVE, &format!("{TOKEN}{}", http_route(&format!("{TO_PAY}, {TO_WEB}"), ""))));
    assert!(found.typed_per_filter_config.is_empty(), "the other backend would get them");
    let Some(pb::route::Action::Route(action)) = found.action else { panic!("not forwarded") };
    let Some(pb::route_action::ClusterSpecifier::WeightedClusters(weighted)) = action.cluster_specifier
    else {
        panic!("no shares")
    };
    let of = |it: &pb::weighted_cluster::ClusterWeight| {
        injected(&all, "0.0.0.0_80", &it.typed_per_filter_config).len()
    };
    let shares: Vec<_> = weighted.clusters.iter().map(|it| (it.name.as_str(), of(it))).collect();
    assert_eq!(shares, [("external|443||pay.shop", 1), ("outbound|9000||web.shop.svc.cluster.local", 0)]);
    // Without the Secret nothing is sent.
    let (_, found) = find(&with(SECRETIVE, &http_route(TO_PAY, "")));
    assert!(format!("{found:?}").contains("there is no Secret shop/token"), "{found:?}");
}

#[test]
fn credentials_are_for_one_alone() {
    for backends in [TO_PAY.to_owned(), format!("{TO_PAY}, {TO_WEB}")] {
        let all = resources(&context(&with(SECRETIVE, &format!("{TOKEN}{}", http_route(&backends, MIRROR)))));
        let table: Table = message(&all, Type::Route, "80");
        let found = &host(&table, "web.shop").routes[0];
        assert!(
            matches!(&found.action, Some(pb::route::Action::DirectResponse(it)) if it.status == 503),
            "the copy would have them: {found:?}"
        );
    }
    let mirror = format!(
        "{{type: RequestMirror, requestMirror: {{backendRef: {}}}}}",
        TO_PAY.replace(", weight: 1", "")
    );
    let all = resources(&context(&with(SECRETIVE, &format!("{TOKEN}{}", http_route(TO_WEB, &mirror)))));
    let table: Table = message(&all, Type::Route, "80");
    let pb::route::Action::Route(action) = action(host(&table, "web.shop")) else { panic!("not forwarded") };
    assert!(action.request_mirror_policies.is_empty(), "the copy would come without credentials");
}

#[test]
fn ports_that_cannot_be_told_apart_are_told() {
    let spec = "{hosts: [a.example], ports: [{number: 80, name: a, protocol: TCP}, {number: 443, name: b, protocol: TCP}]}";
    let other = "apiVersion: outrider.dev/v1\nkind: ExternalService\nmetadata: {name: zoo, namespace: shop}\nspec: {hosts: [b.example], ports: [{number: 443, protocol: TCP}]}\n";
    let context = context(&with(spec, other));
    envoy_takes(&resources(&context));
    let said = |name: &str| {
        conditions(&context.policies.statuses[&Key::new(Kind::ExternalService, "shop", name)]).join("\n")
    };
    assert!(said("pay").contains("port 80 are HTTP where Service shop/web is visible"), "{}", said("pay"));
    assert!(said("zoo").contains("port 443 are those of ExternalService shop/pay"), "{}", said("zoo"));
    assert_eq!(
        context
            .attachments
            .statuses
            .get(&Key::new(Kind::ExternalService, "shop", "zoo"))
            .map(|it| conditions(it).join("\n")),
        Some(said("zoo"))
    );
}
