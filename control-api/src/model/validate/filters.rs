//! Filters of HTTPRoutes and GRPCRoutes, at rules and at backends.

use super::forms;
use super::node::{Node, Report, Rule, judge, unique};
use super::routes::{GROUP, KIND, NAME, NAMESPACE, PORT, backend_port};

/// Each type of filter and the field that it has.
const FIELDS: [(&str, &str); 7] = [
    ("RequestHeaderModifier", "requestHeaderModifier"),
    ("ResponseHeaderModifier", "responseHeaderModifier"),
    ("RequestMirror", "requestMirror"),
    ("RequestRedirect", "requestRedirect"),
    ("URLRewrite", "urlRewrite"),
    ("CORS", "cors"),
    ("ExtensionRef", "extensionRef"),
];

const HEADER: Rule = Rule::Form(1, 256, forms::header);
const PATH: Rule = Rule::Form(0, 1024, forms::replacement);

/// The values of one filter.
const RULES: &[(&str, Rule)] = &[
    ("extensionRef.group", GROUP),
    ("extensionRef.kind", KIND),
    ("extensionRef.name", NAME),
    ("requestMirror.backendRef.group", GROUP),
    ("requestMirror.backendRef.kind", KIND),
    ("requestMirror.backendRef.name", NAME),
    ("requestMirror.backendRef.namespace", NAMESPACE),
    ("requestMirror.backendRef.port", PORT),
    ("requestMirror.percent", Rule::Range(0, 100)),
    ("requestMirror.fraction.numerator", Rule::Range(0, i32::MAX as i64)),
    ("requestMirror.fraction.denominator", Rule::Range(1, i32::MAX as i64)),
    ("requestRedirect.hostname", Rule::Form(1, 253, forms::precise_hostname)),
    ("requestRedirect.port", PORT),
    ("requestRedirect.path.replaceFullPath", PATH),
    ("requestRedirect.path.replacePrefixMatch", PATH),
    ("urlRewrite.hostname", Rule::Form(1, 253, forms::precise_hostname)),
    ("urlRewrite.path.replaceFullPath", PATH),
    ("urlRewrite.path.replacePrefixMatch", PATH),
    ("cors.allowOrigins", Rule::Count(0, 64)),
    ("cors.allowOrigins[]", Rule::Form(1, 253, forms::origin)),
    ("cors.allowMethods", Rule::Count(0, 9)),
    ("cors.allowMethods[]", Rule::Form(1, 16, method)),
    ("cors.allowHeaders", Rule::Count(0, 64)),
    ("cors.allowHeaders[]", HEADER),
    ("cors.exposeHeaders", Rule::Count(0, 64)),
    ("cors.exposeHeaders[]", HEADER),
    ("cors.maxAge", Rule::Range(1, i32::MAX as i64)),
];

fn method(text: &str) -> Result<(), String> {
    let known = ["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH", "*"];
    if known.contains(&text) { Ok(()) } else { Err(format!("{text:?} is none of {}", known.join(", "))) }
}

/// Header names are the same in any case.
pub(super) fn header_names(report: &mut Report, headers: &[Node<'_>]) {
    unique(
        report,
        headers,
        "name",
        |it| Some(it.text("name")?.to_ascii_lowercase()),
        "the name, whatever its case,",
    );
}

/// The filters of a rule and of its backends.
pub(super) fn of_rule(report: &mut Report, rule: &Node<'_>) {
    let one_prefix = one_prefix(rule);
    list(report, rule, one_prefix);
    for backend in rule.items("backendRefs") {
        list(report, &backend, one_prefix);
    }
    let redirect = rule.items("filters").iter().any(|it| it.has("requestRedirect"));
    if redirect && !rule.items("backendRefs").is_empty() {
        let why = "a rule with a filter RequestRedirect has no backends; remove one of them";
        report.say(rule.at("backendRefs"), why);
    }
}

/// Whether a rule has one match, and that of a path prefix, as replaced prefixes need it.
fn one_prefix(rule: &Node<'_>) -> bool {
    match rule.items("matches").as_slice() {
        // By default a rule matches the prefix `/`.
        [] => true,
        [it] => it.get("path").is_none_or(|path| path.text("type").unwrap_or("PathPrefix") == "PathPrefix"),
        _ => false,
    }
}

fn list(report: &mut Report, place: &Node<'_>, one_prefix: bool) {
    let filters = place.items("filters");
    if filters.len() > 16 {
        report.say(place.at("filters"), format!("has {} entries; there can be 16 at most", filters.len()));
    }
    let types: Vec<_> = filters.iter().filter_map(|it| it.text("type")).collect();
    if types.contains(&"RequestRedirect") && types.contains(&"URLRewrite") {
        report.say(
            place.at("filters"),
            "RequestRedirect and URLRewrite cannot stand together; remove one of them",
        );
    }
    let single = |it: &Node<'_>| {
        it.text("type").filter(|kind| !matches!(*kind, "RequestMirror" | "ExtensionRef")).map(str::to_owned)
    };
    unique(report, &filters, "type", single, "the type can stand there once, and");
    for filter in &filters {
        one(report, filter, one_prefix);
    }
}

fn one(report: &mut Report, filter: &Node<'_>, one_prefix: bool) {
    let kind = filter.text("type").unwrap_or_default();
    for (name, field) in FIELDS {
        match (name == kind, filter.has(field)) {
            (true, false) => report.say(filter.at(field), format!("missing; type {kind} needs it")),
            (false, true) => {
                report.say(filter.at(field), format!("does not belong to type {kind}; remove it"))
            }
            _ => {}
        }
    }
    judge(report, filter, RULES);
    for modifier in ["requestHeaderModifier", "responseHeaderModifier"] {
        if let Some(it) = filter.get(modifier) {
            modified(report, &it);
        }
    }
    if let Some(mirror) = filter.get("requestMirror") {
        mirrored(report, &mirror);
    }
    if let Some(code) = filter.number("requestRedirect.statusCode")
        && !matches!(code, 301 | 302 | 303 | 307 | 308)
    {
        let why = format!("{code} is none of 301, 302, 303, 307, 308");
        report.say(filter.at("requestRedirect.statusCode"), why);
    }
    for path in ["requestRedirect.path", "urlRewrite.path"] {
        if let Some(path) = filter.get(path) {
            replaced(report, &path, one_prefix);
        }
    }
    for list in ["allowOrigins", "allowMethods", "allowHeaders"] {
        let items = filter.items(&format!("cors.{list}"));
        if items.len() > 1 && items.iter().any(|it| it.value == "*") {
            report.say(filter.at(&format!("cors.{list}")), "* stands for all; remove it or the others");
        }
    }
}

fn modified(report: &mut Report, it: &Node<'_>) {
    let value = Rule::Form(1, 4096, forms::header_value);
    for list in ["set", "add", "remove"] {
        judge(report, it, &[(list, Rule::Count(0, 16))]);
    }
    let rules =
        [("set[].name", HEADER), ("set[].value", value), ("add[].name", HEADER), ("add[].value", value)];
    judge(report, it, &rules);
    judge(report, it, &[("remove[]", HEADER)]);
    header_names(report, &it.items("set"));
    header_names(report, &it.items("add"));
    let name = |it: &Node<'_>| it.value.as_str().map(str::to_ascii_lowercase);
    unique(report, &it.items("remove"), "", name, "the name, whatever its case,");
    // Proxies refuse to change it this way, and with it all else that they are told.
    let changed = it.items("set").into_iter().chain(it.items("add")).filter_map(|it| it.get("name"));
    for name in changed.chain(it.items("remove")) {
        if name.value.as_str().is_some_and(|name| name.eq_ignore_ascii_case("host")) {
            report.say(name.path, "the host is not changed as a header; use a filter URLRewrite");
        }
    }
}

fn mirrored(report: &mut Report, mirror: &Node<'_>) {
    if let Some(backend) = mirror.get("backendRef") {
        backend_port(report, &backend);
    }
    if mirror.has("percent") && mirror.has("fraction") {
        report.say(mirror.at("fraction"), "cannot stand beside percent; remove one of them");
    }
    let denominator = mirror.number("fraction.denominator").unwrap_or(100);
    if mirror.number("fraction.numerator").is_some_and(|numerator| numerator > denominator) {
        report.say(mirror.at("fraction.numerator"), "is greater than the denominator");
    }
}

fn replaced(report: &mut Report, path: &Node<'_>, one_prefix: bool) {
    let kind = path.text("type").unwrap_or_default();
    for (name, field) in
        [("ReplaceFullPath", "replaceFullPath"), ("ReplacePrefixMatch", "replacePrefixMatch")]
    {
        match (name == kind, path.has(field)) {
            (true, false) => report.say(path.at(field), format!("missing; type {kind} needs it")),
            (false, true) => report.say(path.at(field), format!("does not belong to type {kind}; remove it")),
            _ => {}
        }
    }
    if kind == "ReplacePrefixMatch" && !one_prefix {
        report.say(&path.path, "ReplacePrefixMatch needs one match of the rule, and that by PathPrefix");
    }
}
