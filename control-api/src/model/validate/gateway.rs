//! GatewayClasses, Gateways, ReferenceGrants and BackendTLSPolicies.

use std::collections::BTreeSet;

use super::forms;
use super::node::{Node, Report, Rule, judge, unique};
use super::routes::{GROUP, KIND, NAME, NAMESPACE, PORT, SECTION};

/// A GatewayClass.
pub(super) fn class(report: &mut Report, root: &Node<'_>) {
    judge(
        report,
        root,
        &[
            ("spec.controllerName", Rule::Form(1, 253, forms::domain_path)),
            ("spec.description", Rule::Text(0, 64)),
            ("spec.parametersRef.group", GROUP),
            ("spec.parametersRef.kind", KIND),
            ("spec.parametersRef.name", NAME),
            ("spec.parametersRef.namespace", NAMESPACE),
        ],
    );
}

const GATEWAY: &[(&str, Rule)] = &[
    ("spec.gatewayClassName", NAME),
    ("spec.addresses", Rule::Count(0, 16)),
    ("spec.addresses[].type", Rule::Text(1, 253)),
    ("spec.addresses[].value", Rule::Text(0, 253)),
    ("spec.infrastructure.labels", Rule::Count(0, 8)),
    ("spec.infrastructure.annotations", Rule::Count(0, 8)),
    ("spec.infrastructure.parametersRef.group", GROUP),
    ("spec.infrastructure.parametersRef.kind", KIND),
    ("spec.infrastructure.parametersRef.name", NAME),
    ("spec.listeners", Rule::Count(1, 64)),
    ("spec.listeners[].name", SECTION),
    ("spec.listeners[].hostname", Rule::Form(1, 253, forms::hostname)),
    ("spec.listeners[].port", PORT),
    ("spec.listeners[].protocol", Rule::Form(1, 255, forms::protocol)),
    ("spec.listeners[].allowedRoutes.kinds", Rule::Count(0, 8)),
    ("spec.listeners[].allowedRoutes.kinds[].group", GROUP),
    ("spec.listeners[].allowedRoutes.kinds[].kind", KIND),
    ("spec.listeners[].tls.certificateRefs", Rule::Count(0, 64)),
    ("spec.listeners[].tls.certificateRefs[].group", GROUP),
    ("spec.listeners[].tls.certificateRefs[].kind", KIND),
    ("spec.listeners[].tls.certificateRefs[].name", NAME),
    ("spec.listeners[].tls.certificateRefs[].namespace", NAMESPACE),
    ("spec.listeners[].tls.options", Rule::Count(0, 16)),
    ("spec.tls.backend.clientCertificateRef.group", GROUP),
    ("spec.tls.backend.clientCertificateRef.kind", KIND),
    ("spec.tls.backend.clientCertificateRef.name", NAME),
    ("spec.tls.backend.clientCertificateRef.namespace", NAMESPACE),
    ("spec.tls.frontend.perPort", Rule::Count(0, 64)),
    ("spec.tls.frontend.perPort[].port", PORT),
];

const AUTHORITIES: &[(&str, Rule)] = &[
    ("caCertificateRefs", Rule::Count(1, 8)),
    ("caCertificateRefs[].group", GROUP),
    ("caCertificateRefs[].kind", KIND),
    ("caCertificateRefs[].name", NAME),
    ("caCertificateRefs[].namespace", NAMESPACE),
];

/// A Gateway.
pub(super) fn gateway(report: &mut Report, root: &Node<'_>) {
    judge(report, root, GATEWAY);
    let listeners = root.items("spec.listeners");
    let name = |it: &Node<'_>| it.text("name").map(str::to_owned);
    unique(report, &listeners, "name", name, "the name");
    let place = |it: &Node<'_>| {
        let text = |name: &str| it.text(name).map(str::to_owned);
        Some((it.number("port")?, text("protocol")?, text("hostname")))
    };
    unique(report, &listeners, "", place, "the combination of port, protocol and hostname");
    for listener in &listeners {
        listener_tls(report, listener);
        if let Some(namespaces) = listener.get("allowedRoutes.namespaces") {
            selector(report, &namespaces);
        }
    }
    if let Some(namespaces) = root.get("spec.allowedListeners.namespaces") {
        selector(report, &namespaces);
    }
    addresses(report, root);
    for (map, value) in [
        ("spec.infrastructure.labels", forms::label_value as fn(&str) -> Result<(), String>),
        ("spec.infrastructure.annotations", |_| Ok(())),
    ] {
        for (key, entry) in root.entries(map) {
            let judged = forms::qualified(key).and(value(entry.value.as_str().unwrap_or_default()));
            if let Err(why) = judged {
                report.say(entry.path, why);
            }
        }
    }
    let per_port = root.items("spec.tls.frontend.perPort");
    unique(report, &per_port, "port", |it| it.number("port"), "the port");
    let default = root.get("spec.tls.frontend.default.validation");
    for validation in default.into_iter().chain(per_port.iter().filter_map(|it| it.get("tls.validation"))) {
        judge(report, &validation, AUTHORITIES);
    }
}

fn listener_tls(report: &mut Report, listener: &Node<'_>) {
    let protocol = listener.text("protocol").unwrap_or_default();
    let tls = listener.get("tls");
    let mode = tls.as_ref().and_then(|tls| tls.text("mode"));
    match (protocol, &tls) {
        ("HTTP" | "TCP" | "UDP", Some(tls)) => {
            let why = format!("does not belong to protocol {protocol}; remove it, or use HTTPS or TLS");
            report.say(&tls.path, why);
        }
        ("HTTPS", Some(tls)) if mode == Some("Passthrough") => {
            report.say(tls.at("mode"), "protocol HTTPS ends TLS; use Terminate, or protocol TLS");
        }
        ("TLS", _) if mode.is_none() => {
            report.say(listener.at("tls.mode"), "missing; protocol TLS needs Terminate or Passthrough");
        }
        _ => {}
    }
    if let Some(tls) = &tls
        && mode.unwrap_or("Terminate") == "Terminate"
        && matches!(protocol, "HTTPS" | "TLS")
        && tls.items("certificateRefs").is_empty()
        && tls.entries("options").is_empty()
    {
        let why = "missing; where TLS ends a Secret with the certificate is named";
        report.say(tls.at("certificateRefs"), why);
    }
    if matches!(protocol, "TCP" | "UDP") && listener.text("hostname").is_some_and(|name| !name.is_empty()) {
        report.say(listener.at("hostname"), format!("protocol {protocol} has no host names; remove it"));
    }
}

/// A choice of namespaces: `from` and `selector`.
fn selector(report: &mut Report, namespaces: &Node<'_>) {
    let selector = namespaces.get("selector");
    if namespaces.text("from") == Some("Selector") && selector.is_none() {
        report.say(namespaces.at("selector"), "missing; from: Selector needs it");
    }
    let Some(selector) = selector else { return };
    for (key, value) in selector.entries("matchLabels") {
        let judged = forms::qualified(key).and(forms::label_value(value.value.as_str().unwrap_or_default()));
        if let Err(why) = judged {
            report.say(value.path, why);
        }
    }
    for it in selector.items("matchExpressions") {
        if let Err(why) = forms::qualified(it.text("key").unwrap_or_default()) {
            report.say(it.at("key"), why);
        }
        let values = it.items("values");
        match it.text("operator").unwrap_or_default() {
            "In" | "NotIn" if values.is_empty() => {
                report.say(it.at("values"), "missing; In and NotIn need them")
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                report.say(it.at("values"), "do not belong to Exists and DoesNotExist; remove them");
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            other => {
                report
                    .say(it.at("operator"), format!("{other:?} is none of In, NotIn, Exists, DoesNotExist"));
            }
        }
    }
}

fn addresses(report: &mut Report, root: &Node<'_>) {
    let mut seen = BTreeSet::new();
    for it in root.items("spec.addresses") {
        let kind = it.text("type").unwrap_or("IPAddress");
        let Some(value) = it.text("value").filter(|value| !value.is_empty()) else { continue };
        let judged = match kind {
            "IPAddress" if value.parse::<std::net::IpAddr>().is_err() => {
                Err(format!("{value:?} is no IP address"))
            }
            "Hostname" => forms::hostname(value),
            _ => Ok(()),
        };
        if let Err(why) = judged {
            report.say(it.at("value"), why);
        } else if !seen.insert((kind, value)) {
            report.say(it.at("value"), format!("{value:?} is there twice; remove one of them"));
        }
    }
}

/// A ReferenceGrant.
pub(super) fn grant(report: &mut Report, root: &Node<'_>) {
    judge(
        report,
        root,
        &[
            ("spec.from", Rule::Count(1, 16)),
            ("spec.from[].group", GROUP),
            ("spec.from[].kind", KIND),
            ("spec.from[].namespace", NAMESPACE),
            ("spec.to", Rule::Count(1, 16)),
            ("spec.to[].group", GROUP),
            ("spec.to[].kind", KIND),
            ("spec.to[].name", NAME),
        ],
    );
}

/// A BackendTLSPolicy.
pub(super) fn backend_tls(report: &mut Report, root: &Node<'_>) {
    judge(
        report,
        root,
        &[
            ("spec.options", Rule::Count(0, 16)),
            ("spec.targetRefs", Rule::Count(1, 16)),
            ("spec.targetRefs[].group", GROUP),
            ("spec.targetRefs[].kind", KIND),
            ("spec.targetRefs[].name", NAME),
            ("spec.targetRefs[].sectionName", SECTION),
            ("spec.validation.hostname", Rule::Form(1, 253, forms::precise_hostname)),
            ("spec.validation.caCertificateRefs", Rule::Count(0, 8)),
            ("spec.validation.caCertificateRefs[].group", GROUP),
            ("spec.validation.caCertificateRefs[].kind", KIND),
            ("spec.validation.caCertificateRefs[].name", NAME),
            ("spec.validation.subjectAltNames", Rule::Count(0, 5)),
            ("spec.validation.subjectAltNames[].hostname", Rule::Form(0, 253, forms::hostname)),
            ("spec.validation.subjectAltNames[].uri", Rule::Form(0, 253, forms::uri)),
            ("spec.validation.wellKnownCACertificates", Rule::Form(0, 253, well_known)),
        ],
    );
    let targets = root.items("spec.targetRefs");
    let target = |it: &Node<'_>| {
        let text = |name: &str| it.text(name).unwrap_or_default().to_owned();
        (text("group"), text("kind"), text("name"))
    };
    let whole = |it: &Node<'_>| it.text("sectionName").is_none_or(str::is_empty);
    let section = |it: &Node<'_>| Some((target(it), it.text("sectionName").unwrap_or_default().to_owned()));
    unique(report, &targets, "", section, "the target");
    for (at, it) in targets.iter().enumerate() {
        if targets.iter().take(at).any(|other| target(other) == target(it) && whole(other) != whole(it)) {
            let why = "missing; where a target is named more than once, each names a port of it";
            report.say(it.at("sectionName"), why);
        }
    }
    let Some(validation) = root.get("spec.validation") else { return };
    let refs = !validation.items("caCertificateRefs").is_empty();
    let well_known = validation.text("wellKnownCACertificates").is_some_and(|name| !name.is_empty());
    if refs && well_known {
        let why = "cannot stand beside caCertificateRefs; remove one of them";
        report.say(validation.at("wellKnownCACertificates"), why);
    }
    if !refs && !well_known {
        let why = "missing; name the authorities there, or write wellKnownCACertificates: System";
        report.say(validation.at("caCertificateRefs"), why);
    }
    for it in validation.items("subjectAltNames") {
        let kind = it.text("type").unwrap_or_default();
        for (name, field) in [("Hostname", "hostname"), ("URI", "uri")] {
            match (name == kind, it.text(field).is_some_and(|text| !text.is_empty())) {
                (true, false) => report.say(it.at(field), format!("missing; type {kind} needs it")),
                (false, true) => {
                    report.say(it.at(field), format!("does not belong to type {kind}; remove it"))
                }
                _ => {}
            }
        }
    }
}

/// `System`, or a name with a domain before it.
fn well_known(text: &str) -> Result<(), String> {
    let prefixed = text.contains('/') && forms::qualified(text).is_ok();
    if matches!(text, "" | "System") || prefixed {
        Ok(())
    } else {
        Err(format!("{text:?} is not known; use System"))
    }
}
