//! What a pod's annotations say about its sidecar. One that is not understood is refused: what was meant would not be done.

use serde_json::{Map, Value};

use crate::names::{CAPTURED, INJECT, STATUS};
use crate::settings::{LogLevel, Settings};

/// Before all of our names.
const FRONT: &str = "outrider.dev/";

/// The annotations that change the sidecar, and what they may say.
const KNOWN: [(&str, &str); 17] = [
    ("inject", "enabled or disabled"),
    ("proxy-cpu", "the CPUs that the sidecar asks for, as in 100m"),
    ("proxy-memory", "the memory that the sidecar asks for, as in 64Mi"),
    ("proxy-cpu-limit", "the most CPUs of the sidecar, as in 2; `none`: no limit"),
    ("proxy-memory-limit", "the most memory of the sidecar, as in 256Mi; `none`: no limit"),
    ("interception", "init, cni or none"),
    ("capture-mode", "redirect"),
    ("capture-include-inbound-ports", "ports, as in 80,8080-8090, or *"),
    ("capture-exclude-inbound-ports", "ports, as in 80,8080-8090"),
    ("capture-include-outbound-ports", "ports, as in 80,8080-8090"),
    ("capture-exclude-outbound-ports", "ports, as in 80,8080-8090"),
    ("capture-include-outbound-cidrs", "networks, as in 10.0.0.0/8,fd00::/8, or *"),
    ("capture-exclude-outbound-cidrs", "networks, as in 10.0.0.0/8,fd00::/8"),
    ("concurrency", "the sidecar's worker threads, 0 (one for each CPU) to 1024"),
    ("log-level", "trace, debug, info, warning, error, critical or off"),
    ("native-sidecar", "true or false"),
    ("hold-application", "true or false"),
];

/// Those that are about something else.
const OTHERS: [&str; 7] =
    ["status", "depends-on", "export-to", "service-accounts", "origin", "source", "gateway-controller"];

/// What a pod says about getting a sidecar at all.
pub(crate) fn wanted(
    labels: Option<&Map<String, Value>>,
    annotations: Option<&Map<String, Value>>,
) -> Result<bool, String> {
    let mut wanted = true;
    for map in [labels, annotations].into_iter().flatten() {
        match map.get(INJECT) {
            None => {}
            Some(Value::String(text)) if text == "enabled" || text == "true" => {}
            // Whoever does not want it is the one to be heard.
            Some(Value::String(text)) if text == "disabled" || text == "false" => wanted = false,
            Some(other) => {
                return Err(format!("{other} is not understood; want \"enabled\" or \"disabled\""));
            }
        }
    }
    Ok(wanted)
}

/// The settings with what the annotations change.
///
/// # Errors
/// Each annotation that is wrong, with what is wanted.
pub(crate) fn apply(
    settings: &Settings,
    annotations: &Map<String, Value>,
) -> Result<Settings, Vec<(String, String)>> {
    let mut out = settings.clone();
    let mut problems = Vec::new();
    for (name, value) in annotations {
        let Some(short) = name.strip_prefix(FRONT) else { continue };
        if name == INJECT || name == STATUS || name == CAPTURED || OTHERS.contains(&short) {
            continue;
        }
        let done = match value.as_str() {
            None => Err(format!("{value} is no text; put it in quotes, as all annotations are texts")),
            Some(text) => set(&mut out, short, text.trim()),
        };
        if let Err(reason) = done {
            problems.push((name.clone(), reason));
        }
    }
    if let Err((field, reason)) = out.resources.check() {
        let name = match field {
            "cpu" => "proxy-cpu",
            "cpuLimit" => "proxy-cpu-limit",
            "memory" => "proxy-memory",
            _ => "proxy-memory-limit",
        };
        let reason = reason.replace("cpuLimit", "outrider.dev/proxy-cpu-limit");
        let reason = reason.replace("memoryLimit", "outrider.dev/proxy-memory-limit");
        problems.push((format!("{FRONT}{name}"), reason));
    }
    if problems.is_empty() { Ok(out) } else { Err(problems) }
}

fn set(out: &mut Settings, name: &str, text: &str) -> Result<(), String> {
    let wanted = KNOWN.iter().find(|(known, _)| *known == name).map(|(_, wanted)| *wanted);
    let Some(wanted) = wanted else { return Err(unknown(name)) };
    let want = || format!("{text:?} is not understood; want {wanted}");
    let rules = &mut out.rules;
    match name {
        "proxy-cpu" => out.resources.cpu = Some(text.to_owned()),
        "proxy-memory" => out.resources.memory = Some(text.to_owned()),
        "proxy-cpu-limit" => out.resources.cpu_limit = (text != "none").then(|| text.to_owned()),
        "proxy-memory-limit" => out.resources.memory_limit = (text != "none").then(|| text.to_owned()),
        "interception" => out.capture = text.parse()?,
        "capture-mode" => match text {
            "redirect" => {}
            "tproxy" => {
                return Err("tproxy needs transparent listeners, and the control plane makes none; want redirect, or leave it out"
                    .to_owned());
            }
            _ => return Err(want()),
        },
        "capture-include-inbound-ports" => rules.include_inbound_ports = list_of(text, false, true)?,
        "capture-exclude-inbound-ports" => rules.exclude_inbound_ports = list_of(text, false, false)?,
        "capture-include-outbound-ports" => rules.include_outbound_ports = list_of(text, false, false)?,
        "capture-exclude-outbound-ports" => rules.exclude_outbound_ports = list_of(text, false, false)?,
        "capture-include-outbound-cidrs" => rules.include_outbound_cidrs = list_of(text, true, true)?,
        "capture-exclude-outbound-cidrs" => rules.exclude_outbound_cidrs = list_of(text, true, false)?,
        "concurrency" => {
            out.concurrency = text.parse().ok().filter(|it| *it <= 1024).ok_or_else(want)?;
        }
        "log-level" => {
            out.log_level = match text {
                "trace" => LogLevel::Trace,
                "debug" => LogLevel::Debug,
                "info" => LogLevel::Info,
                "warning" | "warn" => LogLevel::Warning,
                "error" => LogLevel::Error,
                "critical" => LogLevel::Critical,
                "off" => LogLevel::Off,
                _ => return Err(want()),
            }
        }
        "native-sidecar" => out.native_sidecar = Some(text.parse().map_err(|_| want())?),
        "hold-application" => out.hold_application = text.parse().map_err(|_| want())?,
        // In the table and not here: as good as unknown.
        _ => return Err(unknown(name)),
    }
    Ok(())
}

fn unknown(name: &str) -> String {
    let near = KNOWN.iter().map(|(known, _)| *known).min_by_key(|known| distance(known, name));
    match near.filter(|near| distance(near, name) <= near.len() / 3) {
        Some(near) => format!("there is no such annotation; did you mean {FRONT}{near}?"),
        None => {
            let all: Vec<&str> = KNOWN.iter().map(|(known, _)| *known).collect();
            format!("there is no such annotation; behind {FRONT} may be {}", all.join(", "))
        }
    }
}

/// How many letters are to be put in, left out or changed (Levenshtein). Names are short: Kubernetes ends them at 63 letters.
fn distance(one: &str, other: &str) -> usize {
    let other: Vec<char> = other.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=other.len()).collect();
    for (line, letter) in one.chars().enumerate() {
        let mut above_left = line;
        let mut left = line + 1;
        let mut next = vec![left];
        for (above, there) in row.iter().skip(1).zip(&other) {
            let changed = above_left + usize::from(letter != *there);
            above_left = *above;
            left = changed.min(above + 1).min(left + 1);
            next.push(left);
        }
        row = next;
    }
    row.last().copied().unwrap_or_default()
}

/// A list of ports or networks, judged as capture itself does, without its spaces. `all`: it may be `*`.
pub(crate) fn list_of(text: &str, networks: bool, all: bool) -> Result<String, String> {
    let text = text.trim();
    if all && text == "*" {
        return Ok(text.to_owned());
    }
    let mut known: Vec<Part> = Vec::new();
    for element in text.split(',').map(str::trim) {
        let part = if networks { network(element)? } else { ports(element) };
        let part = part.ok_or_else(|| {
            let what = if networks {
                "network; want networks, as in 10.0.0.0/8,fd00::/8"
            } else {
                "port; want ports, as in 80,8080-8090"
            };
            format!("{element:?} is no {what}{}", if all { ", or * alone" } else { "" })
        })?;
        if let Some(other) = known.iter().find(|it| it.overlaps(&part)) {
            return Err(format!(
                "{element} and {} overlap; leave one out, or make one of them",
                other.text()
            ));
        }
        known.push(part);
    }
    Ok(known.iter().map(Part::text).collect::<Vec<_>>().join(","))
}

/// An element of a list.
enum Part {
    Ports(u16, u16),
    Network(ipnet::IpNet),
}

impl Part {
    fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Ports(first, last), Self::Ports(from, to)) => first <= to && from <= last,
            (Self::Network(one), Self::Network(other)) => one.contains(other) || other.contains(one),
            _ => false,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Ports(first, last) if first == last => first.to_string(),
            Self::Ports(first, last) => format!("{first}-{last}"),
            Self::Network(network) => network.to_string(),
        }
    }
}

fn network(text: &str) -> Result<Option<Part>, String> {
    let one = || text.parse::<std::net::IpAddr>().ok().map(ipnet::IpNet::from);
    let Some(network) = text.parse::<ipnet::IpNet>().ok().or_else(one) else { return Ok(None) };
    if network.trunc() != network {
        return Err(format!("{text} has bits behind its prefix; write {} for the network", network.trunc()));
    }
    Ok(Some(Part::Network(network)))
}

fn ports(text: &str) -> Option<Part> {
    let port = |text: &str| {
        let plain = text.bytes().all(|it| it.is_ascii_digit());
        text.parse::<u16>().ok().filter(|it| plain && *it > 0)
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (port(first.trim())?, port(last.trim())?);
    (first <= last).then_some(Part::Ports(first, last))
}
