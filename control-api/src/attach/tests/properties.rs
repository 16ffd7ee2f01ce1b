//! Whatever there is, it is judged, and the order in which it came does not matter.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::attach::Attachments;
use crate::model::{Object, unjudged};
use crate::world::World;

const NAMESPACES: [&str; 2] = ["a", "b"];

fn name() -> impl Strategy<Value = &'static str> {
    prop_oneof![Just("x"), Just("y"), Just("z")]
}

fn namespace() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&NAMESPACES[..])
}

fn host() -> impl Strategy<Value = &'static str> {
    proptest::sample::select(&["a.example.com", "*.example.com", "*.com", "B.example.com", "", "*."][..])
}

/// A reference that may lead somewhere.
fn reference() -> impl Strategy<Value = Value> {
    let kind = proptest::sample::select(
        &[
            ("", "Service"),
            ("gateway.networking.k8s.io", "Gateway"),
            ("outrider.dev", "ExternalService"),
            ("x", "Y"),
        ][..],
    );
    let port = proptest::option::of(proptest::sample::select(&[80, 81, 0, -1, 70_000][..]));
    let section = proptest::option::of(name());
    (kind, name(), namespace(), port, section).prop_map(|((group, kind), name, namespace, port, section)| {
        json!({"group": group, "kind": kind, "name": name, "namespace": namespace, "port": port, "sectionName": section})
    })
}

fn backend() -> impl Strategy<Value = Value> {
    (reference(), proptest::option::of(-1..3)).prop_map(|(mut reference, weight)| {
        let map = reference.as_object_mut().unwrap();
        map.remove("sectionName");
        map.insert("weight".to_owned(), weight.into());
        reference
    })
}

fn filter() -> impl Strategy<Value = Value> {
    const TYPES: [&str; 6] =
        ["RequestMirror", "RequestRedirect", "URLRewrite", "CORS", "ExtensionRef", "RequestHeaderModifier"];
    (proptest::sample::select(&TYPES[..]), backend(), -5..200, host()).prop_map(|(kind, mut backend, number, text)| {
        backend.as_object_mut().unwrap().remove("weight");
        json!({
            "type": kind,
            "requestMirror": {"backendRef": backend, "fraction": {"numerator": number, "denominator": number / 2}},
            "requestRedirect": {"statusCode": 302, "port": number, "path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": text}},
            "requestHeaderModifier": {"set": [{"name": text, "value": text}]},
        })
    })
}

fn rule() -> impl Strategy<Value = Value> {
    let path = proptest::sample::select(&["/", "/a/", "(", "/x("][..]);
    let kind = proptest::sample::select(&["Exact", "PathPrefix", "RegularExpression"][..]);
    let lists = (proptest::collection::vec(backend(), 0..3), proptest::collection::vec(filter(), 0..3));
    (path, kind, lists).prop_map(|(path, kind, (backends, filters))| {
        json!({"matches": [{"path": {"type": kind, "value": path}}], "backendRefs": backends, "filters": filters})
    })
}

fn spec() -> impl Strategy<Value = (&'static str, &'static str, Value)> {
    let route = (
        proptest::collection::vec(reference(), 0..4),
        proptest::collection::vec(host(), 0..3),
        proptest::collection::vec(rule(), 0..3),
    );
    let http = route.prop_map(|(parents, hosts, rules)| {
        let spec = json!({"parentRefs": parents, "hostnames": hosts, "rules": rules});
        ("gateway.networking.k8s.io/v1", "HTTPRoute", spec)
    });
    let tcp = (proptest::collection::vec(reference(), 0..4), proptest::collection::vec(backend(), 0..3))
        .prop_map(|(parents, backends)| {
            let spec = json!({"parentRefs": parents, "rules": [{"backendRefs": backends}]});
            ("gateway.networking.k8s.io/v1alpha2", "TCPRoute", spec)
        });
    let listener =
        (name(), 78..83, proptest::sample::select(&["HTTP", "HTTPS", "TLS", "TCP", "UDP"][..]), host());
    let gateway = proptest::collection::vec(listener, 0..4).prop_map(|listeners| {
        let listeners: Vec<_> = listeners
            .into_iter()
            .map(|(name, port, protocol, host)| {
                json!({"name": name, "port": port, "protocol": protocol, "hostname": host, "allowedRoutes": {"namespaces": {"from": "All"}}})
            })
            .collect();
        ("gateway.networking.k8s.io/v1", "Gateway", json!({"gatewayClassName": "x", "listeners": listeners}))
    });
    let class = Just((
        "gateway.networking.k8s.io/v1",
        "GatewayClass",
        json!({"controllerName": "outrider.dev/gateway-controller"}),
    ));
    let service =
        Just(("v1", "Service", json!({"ports": [{"name": "x", "port": 80}, {"name": "y", "port": 81}]})));
    let policy = (name(), proptest::option::of(name()), host()).prop_map(|(target, section, host)| {
        let spec = json!({
            "targetRefs": [{"group": "", "kind": "Service", "name": target, "sectionName": section}],
            "validation": {"hostname": host, "caCertificateRefs": [{"group": "", "kind": "ConfigMap", "name": target}]},
        });
        ("gateway.networking.k8s.io/v1", "BackendTLSPolicy", spec)
    });
    prop_oneof![3 => http, 1 => tcp, 2 => gateway, 1 => class, 2 => service, 1 => policy]
}

fn object() -> impl Strategy<Value = Object> {
    (name(), namespace(), 0_i64..3, spec()).prop_map(|(name, namespace, day, (version, kind, spec))| {
        let value = json!({
            "apiVersion": version, "kind": kind, "spec": spec,
            "metadata": {"name": name, "namespace": namespace, "creationTimestamp": format!("2026-01-0{}T00:00:00Z", day + 1)},
        });
        unjudged("test", value, "a").expect("readable").expect("known")
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_world_is_judged_the_same_in_any_order(objects in proptest::collection::vec(object(), 0..24), seed in any::<u64>()) {
        // Of two with one key the last one counts, so that keys are made unique before they are mixed.
        let unique: std::collections::BTreeMap<_, _> = objects.into_iter().map(|it| (it.key.clone(), it)).collect();
        let straight: Vec<_> = unique.into_values().collect();
        let mut mixed = straight.clone();
        mixed.sort_by_key(|it| {
            use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
            BuildHasherDefault::<DefaultHasher>::default().hash_one((seed, &it.key))
        });
        let (one, other) = (World::of(straight), World::of(mixed));
        let first = Attachments::of(&one);
        prop_assert_eq!(format!("{first:?}"), format!("{:?}", Attachments::of(&other)));
        prop_assert_eq!(format!("{:?}", first.statuses), format!("{:?}", Attachments::after(&one, 0, Some(&first)).statuses), "what did not change keeps its time");
    }
}
