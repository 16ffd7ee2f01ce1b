//! Routes of all kinds.

use std::collections::BTreeMap;

use super::filters::{self, header_names};
use super::forms;
use super::node::{Node, Report, Rule, judge, unique};
use super::text;

/// The most matches of all rules of a route.
const MATCHES: usize = 128;
/// A port.
pub(super) const PORT: Rule = Rule::Range(1, 65_535);
/// The name of a listener, a port or a rule.
pub(super) const SECTION: Rule = Rule::Form(1, 253, forms::subdomain);
/// A namespace.
pub(super) const NAMESPACE: Rule = Rule::Form(1, 63, forms::label);
/// An API group.
pub(super) const GROUP: Rule = Rule::Form(0, 253, forms::group);
/// A kind.
pub(super) const KIND: Rule = Rule::Form(1, 63, forms::kind);
/// The name of an object.
pub(super) const NAME: Rule = Rule::Text(1, 253);
/// The value of a header.
const VALUE: Rule = Rule::Form(1, 4096, forms::header_value);

/// What all routes have.
const COMMON: &[(&str, Rule)] = &[
    ("spec.hostnames", Rule::Count(0, 16)),
    ("spec.hostnames[]", Rule::Form(1, 253, forms::hostname)),
    ("spec.parentRefs", Rule::Count(0, 32)),
    ("spec.parentRefs[].group", GROUP),
    ("spec.parentRefs[].kind", KIND),
    ("spec.parentRefs[].name", NAME),
    ("spec.parentRefs[].namespace", NAMESPACE),
    ("spec.parentRefs[].port", PORT),
    ("spec.parentRefs[].sectionName", SECTION),
    ("spec.rules[].name", SECTION),
    ("spec.rules[].backendRefs", Rule::Count(0, 16)),
    ("spec.rules[].backendRefs[].group", GROUP),
    ("spec.rules[].backendRefs[].kind", KIND),
    ("spec.rules[].backendRefs[].name", NAME),
    ("spec.rules[].backendRefs[].namespace", NAMESPACE),
    ("spec.rules[].backendRefs[].port", PORT),
    ("spec.rules[].backendRefs[].weight", Rule::Range(0, 1_000_000)),
];

/// What HTTPRoutes and GRPCRoutes have.
const HTTP: &[(&str, Rule)] = &[
    ("spec.rules[].matches", Rule::Count(0, 64)),
    ("spec.rules[].matches[].headers", Rule::Count(0, 16)),
    ("spec.rules[].matches[].headers[].name", Rule::Form(1, 256, forms::header)),
    ("spec.rules[].matches[].headers[].value", VALUE),
    ("spec.rules[].matches[].queryParams", Rule::Count(0, 16)),
    ("spec.rules[].matches[].queryParams[].name", Rule::Form(1, 256, forms::header)),
    ("spec.rules[].matches[].queryParams[].value", Rule::Text(1, 1024)),
    ("spec.rules[].matches[].path.value", Rule::Text(0, 1024)),
    ("spec.rules[].matches[].method.service", Rule::Text(0, 1024)),
    ("spec.rules[].matches[].method.method", Rule::Text(0, 1024)),
];

fn common(report: &mut Report, root: &Node<'_>) {
    judge(report, root, COMMON);
    parents(report, root);
    for rule in root.items("spec.rules") {
        for backend in rule.items("backendRefs") {
            backend_port(report, &backend);
        }
    }
    let name = |it: &Node<'_>| it.text("name").map(str::to_owned);
    unique(report, &root.items("spec.rules"), "name", name, "the name");
}

/// A Service is named with its port.
pub(super) fn backend_port(report: &mut Report, backend: &Node<'_>) {
    let of = (backend.text("group").unwrap_or_default(), backend.text("kind").unwrap_or("Service"));
    if of == ("", "Service") && !backend.has("port") {
        report.say(backend.at("port"), "missing; a Service is named with its port");
    }
}

/// References to one parent must differ in what they choose of it.
fn parents(report: &mut Report, root: &Node<'_>) {
    let refs = root.items("spec.parentRefs");
    let own = root.text("metadata.namespace").unwrap_or_default();
    let mut seen: BTreeMap<_, Vec<(String, Option<i64>)>> = BTreeMap::new();
    for it in &refs {
        let parent = (
            it.text("group").unwrap_or("gateway.networking.k8s.io"),
            it.text("kind").unwrap_or("Gateway"),
            it.text("namespace").unwrap_or(own),
            it.text("name").unwrap_or_default(),
        );
        let choice = (it.text("sectionName").unwrap_or_default().to_owned(), it.number("port"));
        let others = seen.entry(parent).or_default();
        if others.contains(&choice) {
            let why =
                "the same parent is named twice; choose another sectionName or port, or remove one of them";
            report.say(&it.path, why);
        } else if others.iter().any(|other| {
            (other.0.is_empty() && other.1.is_none()) != (choice.0.is_empty() && choice.1.is_none())
        }) {
            let why = "missing; where a parent is named more than once, each names a section or port of it";
            report.say(it.at("sectionName"), why);
        }
        others.push(choice);
    }
}

/// An HTTPRoute.
pub(super) fn http(report: &mut Report, root: &Node<'_>) {
    common(report, root);
    judge(report, root, HTTP);
    judge(report, root, &[("spec.rules", Rule::Count(1, 16))]);
    matches(report, root);
    for rule in root.items("spec.rules") {
        for it in rule.items("matches") {
            if let Some(path) = it.get("path")
                && !matches!(path.text("type"), Some("RegularExpression"))
                && let Err(why) = forms::path(path.text("value").unwrap_or("/"))
            {
                report.say(path.at("value"), why);
            }
            let name = |it: &Node<'_>| it.text("name").map(str::to_owned);
            unique(report, &it.items("queryParams"), "name", name, "the name");
        }
        filters::of_rule(report, &rule);
        timeouts(report, &rule);
    }
}

/// A GRPCRoute.
pub(super) fn grpc(report: &mut Report, root: &Node<'_>) {
    common(report, root);
    judge(report, root, HTTP);
    judge(report, root, &[("spec.rules", Rule::Count(0, 16))]);
    matches(report, root);
    for rule in root.items("spec.rules") {
        for method in rule.items("matches").iter().filter_map(|it| it.get("method")) {
            grpc_method(report, &method);
        }
        filters::of_rule(report, &rule);
    }
}

fn grpc_method(report: &mut Report, method: &Node<'_>) {
    let part = |name: &str| method.text(name).filter(|text| !text.is_empty());
    if part("service").is_none() && part("method").is_none() {
        report
            .say(&method.path, "has neither service nor method; give one of them, or remove it to match all");
    }
    if method.text("type") == Some("RegularExpression") {
        return;
    }
    let word = |text: &str| {
        text.starts_with(|it: char| it.is_ascii_alphabetic() || it == '_')
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
    };
    if let Some(service) = part("service")
        && !service.strip_prefix('.').unwrap_or(service).split('.').all(word)
    {
        let why = format!("{service:?} is no gRPC service; write it as in package.v1.Service");
        report.say(method.at("service"), why);
    }
    if let Some(name) = part("method")
        && !word(name)
    {
        report.say(method.at("method"), format!("{name:?} is no gRPC method; write it as in GetUser"));
    }
}

/// A TLSRoute.
pub(super) fn tls(report: &mut Report, root: &Node<'_>) {
    common(report, root);
    judge(
        report,
        root,
        &[
            ("spec.hostnames", Rule::Count(1, 16)),
            ("spec.rules", Rule::Count(1, 1)),
            ("spec.rules[].backendRefs", Rule::Count(1, 16)),
        ],
    );
}

/// A TCPRoute.
pub(super) fn tcp(report: &mut Report, root: &Node<'_>) {
    common(report, root);
    judge(
        report,
        root,
        &[("spec.rules", Rule::Count(1, 16)), ("spec.rules[].backendRefs", Rule::Count(1, 16))],
    );
    if root.text("spec.useDefaultGateways") == Some("All") {
        let why = "there are no default gateways here; name the Gateway in spec.parentRefs";
        report.say("spec.useDefaultGateways", why);
    }
}

fn matches(report: &mut Report, root: &Node<'_>) {
    let rules = root.items("spec.rules");
    let count: usize = rules.iter().map(|rule| rule.items("matches").len()).sum();
    if count > MATCHES {
        report.say("spec.rules", format!("have {count} matches together; there can be {MATCHES} at most"));
    }
    for it in rules.iter().flat_map(|rule| rule.items("matches")) {
        header_names(report, &it.items("headers"));
    }
}

fn timeouts(report: &mut Report, rule: &Node<'_>) {
    let Some(timeouts) = rule.get("timeouts") else { return };
    let mut read = |name: &str| match text::duration(timeouts.text(name)?) {
        Ok(duration) => Some(duration),
        Err(why) => {
            report.say(timeouts.at(name), why);
            None
        }
    };
    let (request, backend) = (read("request"), read("backendRequest"));
    if let (Some(request), Some(backend)) = (request, backend)
        && !request.is_zero()
        && backend > request
    {
        report.say(
            timeouts.at("backendRequest"),
            "is longer than request, which has it in it; make it shorter",
        );
    }
}
