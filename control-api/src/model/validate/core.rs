//! The kinds of Kubernetes itself.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::forms;
use super::node::{Node, Report, Rule, judge, unique};
use super::routes::PORT;

/// The most that a Secret or ConfigMap may hold, in bytes.
const DATA: usize = 1024 * 1024;

/// A Service.
pub(super) fn service(report: &mut Report, root: &Node<'_>) {
    let kind = root.text("spec.type").unwrap_or("ClusterIP");
    if !matches!(kind, "ClusterIP" | "NodePort" | "LoadBalancer" | "ExternalName") {
        let why = format!("{kind:?} is none of ClusterIP, NodePort, LoadBalancer, ExternalName");
        report.say("spec.type", why);
    }
    if kind == "ExternalName" {
        let name = root.text("spec.externalName").unwrap_or_default();
        if let Err(why) = forms::subdomain(name.strip_suffix('.').unwrap_or(name)) {
            report.say("spec.externalName", why);
        }
    }
    let headless = root.text("spec.clusterIP") == Some("None");
    let ports = root.items("spec.ports");
    if ports.is_empty() && !headless && kind != "ExternalName" {
        report.say("spec.ports", "missing; a Service has a port, or clusterIP: None");
    }
    judge(
        report,
        root,
        &[("spec.ports[].port", PORT), ("spec.ports[].name", Rule::Form(0, 63, forms::label))],
    );
    for port in &ports {
        if ports.len() > 1 && port.text("name").is_none_or(str::is_empty) {
            report.say(port.at("name"), "missing; where there is more than one port, each has a name");
        }
        protocol(report, port);
        target_port(report, port);
    }
    unique(
        report,
        &ports,
        "name",
        |it| it.text("name").filter(|it| !it.is_empty()).map(str::to_owned),
        "the name",
    );
    let place = |it: &Node<'_>| Some((it.number("port")?, it.text("protocol").unwrap_or("TCP").to_owned()));
    unique(report, &ports, "", place, "the combination of port and protocol");
    cluster_ips(report, root);
    for (key, value) in root.entries("spec.selector") {
        let judged = forms::qualified(key).and(forms::label_value(value.value.as_str().unwrap_or_default()));
        if let Err(why) = judged {
            report.say(value.path, why);
        }
    }
}

fn protocol(report: &mut Report, port: &Node<'_>) {
    if let Some(protocol) = port.text("protocol")
        && !matches!(protocol, "TCP" | "UDP" | "SCTP")
    {
        report.say(port.at("protocol"), format!("{protocol:?} is none of TCP, UDP, SCTP"));
    }
    // Unqualified names are those of the IANA, in capitals or not; others have a domain before them.
    if let Some(app) = port.text("appProtocol")
        && let Err(why) = forms::qualified(app)
    {
        report.say(port.at("appProtocol"), why);
    }
}

fn target_port(report: &mut Report, port: &Node<'_>) {
    let Some(target) = port.get("targetPort") else { return };
    let judged = match (target.value.as_i64(), target.value.as_str()) {
        // The API server fills in the port for it.
        (Some(0), _) | (_, Some("")) => Ok(()),
        (Some(number), _) if !(1..=65_535).contains(&number) => {
            Err(format!("{number} is out of range; use 1 to 65535, or the name of a port"))
        }
        (_, Some(name)) => forms::port_name(name),
        _ => Ok(()),
    };
    if let Err(why) = judged {
        report.say(target.path, why);
    }
}

fn cluster_ips(report: &mut Report, root: &Node<'_>) {
    let judge = |report: &mut Report, path: String, text: &str| {
        if !matches!(text, "" | "None") && text.parse::<IpAddr>().is_err() {
            report.say(path, format!("{text:?} is no IP address; write one, or None for a headless Service"));
        }
    };
    let own = root.text("spec.clusterIP").unwrap_or_default();
    judge(report, "spec.clusterIP".to_owned(), own);
    let all = root.items("spec.clusterIPs");
    for it in &all {
        judge(report, it.path.clone(), it.value.as_str().unwrap_or_default());
    }
    if let Some(first) = all.first()
        && first.value.as_str() != Some(own)
    {
        report.say(&first.path, "must be the same as spec.clusterIP");
    }
    for it in root.items("spec.externalIPs") {
        if let Some(text) = it.value.as_str()
            && text.parse::<IpAddr>().is_err()
        {
            report.say(it.path, format!("{text:?} is no IP address"));
        }
    }
}

/// An EndpointSlice.
pub(super) fn endpoint_slice(report: &mut Report, root: &Node<'_>) {
    let kind = root.text("addressType").unwrap_or_default();
    if !matches!(kind, "IPv4" | "IPv6" | "FQDN") {
        report.say("addressType", format!("{kind:?} is none of IPv4, IPv6, FQDN"));
    }
    judge(
        report,
        root,
        &[
            ("endpoints", Rule::Count(0, 1000)),
            ("endpoints[].addresses", Rule::Count(1, 100)),
            ("ports", Rule::Count(0, 100)),
            ("ports[].port", PORT),
            ("ports[].name", Rule::Form(0, 63, forms::label)),
        ],
    );
    for endpoint in root.items("endpoints") {
        let mut seen = BTreeSet::new();
        for address in endpoint.items("addresses") {
            let text = address.value.as_str().unwrap_or_default();
            if let Err(why) = endpoint_address(kind, text) {
                report.say(address.path, why);
            } else if !seen.insert(text) {
                report.say(address.path, format!("{text:?} is there twice; remove one of them"));
            }
        }
    }
    let ports = root.items("ports");
    ports.iter().for_each(|port| protocol(report, port));
    unique(report, &ports, "name", |it| Some(it.text("name").unwrap_or_default().to_owned()), "the name");
}

fn endpoint_address(kind: &str, text: &str) -> Result<(), String> {
    match kind {
        "IPv4" => text.parse::<Ipv4Addr>().map(drop).map_err(|_| format!("{text:?} is no IPv4 address"))?,
        "IPv6" => text.parse::<Ipv6Addr>().map(drop).map_err(|_| format!("{text:?} is no IPv6 address"))?,
        "FQDN" => return forms::precise_hostname(text),
        _ => return Ok(()),
    }
    match text.parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() => Err(format!("{text:?} is the address of nobody")),
        Ok(address) if address.is_multicast() => Err(format!("{text:?} is a multicast address")),
        // The API server refuses loopback and link-local addresses as well. Without a cluster they are what tests and
        // developers have, and the proxies are theirs.
        _ => Ok(()),
    }
}

/// A Secret.
pub(super) fn secret(report: &mut Report, root: &Node<'_>) {
    data(report, root, &["data", "stringData"]);
    let has =
        |key: &str| ["data", "stringData"].iter().any(|map| root.entries(map).iter().any(|it| it.0 == key));
    let wanted: &[&str] = match root.text("type").unwrap_or_default() {
        "kubernetes.io/tls" => &["tls.crt", "tls.key"],
        "kubernetes.io/basic-auth" if !has("username") && !has("password") => &["username"],
        "kubernetes.io/ssh-auth" => &["ssh-privatekey"],
        "kubernetes.io/dockerconfigjson" => &[".dockerconfigjson"],
        _ => &[],
    };
    for key in wanted.iter().filter(|key| !has(key)) {
        report.say(
            format!("data[{key:?}]"),
            format!("missing; type {} needs it", root.text("type").unwrap_or_default()),
        );
    }
}

/// A ConfigMap.
pub(super) fn config_map(report: &mut Report, root: &Node<'_>) {
    data(report, root, &["data", "binaryData"]);
    for (key, node) in root.entries("binaryData") {
        if root.entries("data").iter().any(|(other, _)| *other == key) {
            report.say(node.path, "stands in data as well; remove one of them");
        }
    }
}

fn data(report: &mut Report, root: &Node<'_>, maps: &[&str]) {
    let mut size = 0;
    for (key, node) in maps.iter().flat_map(|map| root.entries(map)) {
        size += key.len() + node.value.as_str().unwrap_or_default().len();
        if let Err(why) = forms::data_key(key) {
            report.say(node.path, why);
        }
    }
    // Base64 takes four bytes for three.
    if size > DATA / 3 * 4 {
        report.say("data", format!("takes more than {DATA} bytes"));
    }
}
