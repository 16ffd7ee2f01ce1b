//! What options say together: what contradicts itself, loops, or does nothing.

use std::fmt::Display;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;

use crate::options::{Options, Problem, Range, Which};

/// All problems.
pub(crate) fn judge(options: &Options) -> Vec<Problem> {
    let mut problems = Problems(Vec::new());
    problems.ports(options);
    problems.owners(options);
    problems.outbound(options);
    problems.inbound(options);
    if !options.include_interfaces.is_empty() && !options.exclude_interfaces.is_empty() {
        problems.add(
            "exclude-interfaces",
            "with include-interfaces all others are left alone anyway: give one of the two",
        );
    }
    problems.0
}

struct Problems(Vec<Problem>);

impl Problems {
    fn add(&mut self, option: &str, what: impl Into<String>) {
        self.0.push(Problem { option: option.to_owned(), what: what.into() });
    }

    fn ports(&mut self, options: &Options) {
        let ports = [
            ("outbound-port", Some(options.outbound_port)),
            ("inbound-port", Some(options.inbound_port)),
            ("dns-port", options.dns_port),
        ];
        for (at, (name, port)) in ports.iter().enumerate() {
            let Some(port) = port else { continue };
            if let Some((other, _)) = ports.iter().take(at).find(|(_, it)| *it == Some(*port)) {
                self.add(
                    name,
                    format!("{port} is {other} already: the proxy could not tell what arrives there"),
                );
            }
        }
        if options.dns_port.is_some() && options.exclude_outbound_ports.iter().any(|it| it.contains(53)) {
            self.add(
                "exclude-outbound-ports",
                "53 is excluded, but dns-port captures it: leave one of them out",
            );
        }
    }

    fn owners(&mut self, options: &Options) {
        if options.proxy_uids.is_empty() && options.proxy_gids.is_empty() {
            self.add(
                "proxy-uid",
                "without a user or group of the proxy its own connections would come back to it for ever: give \
                 proxy-uid or proxy-gid",
            );
        }
        let kinds = [
            (
                ["include-uids", "exclude-uids", "proxy-uid"],
                [&options.include_uids, &options.exclude_uids, &options.proxy_uids],
            ),
            (
                ["include-gids", "exclude-gids", "proxy-gid"],
                [&options.include_gids, &options.exclude_gids, &options.proxy_gids],
            ),
        ];
        for ([including, excluding, proxy], [include, exclude, own]) in kinds {
            if !include.is_empty() && !exclude.is_empty() {
                self.add(
                    excluding,
                    format!("with {including} all others are left alone anyway: give one of the two"),
                );
            }
            // The proxy's own come first, so a wider range does no harm.
            let whole = |it: &&Range<u32>| {
                own.iter().any(|other| other.contains(it.first) && other.contains(it.last))
            };
            for (option, list) in [(including, include), (excluding, exclude)] {
                if let Some(it) = list.iter().find(whole) {
                    self.add(
                        option,
                        format!("{it} is the proxy ({proxy}), which is never captured: leave it out"),
                    );
                }
            }
        }
    }

    fn outbound(&mut self, options: &Options) {
        let (include, exclude) = (&options.include_outbound_ports, &options.exclude_outbound_ports);
        if let Some((it, other)) = overlap(include, exclude) {
            self.add("include-outbound-ports", format!("{it} meets {other} of exclude-outbound-ports"));
        }
        if !include.is_empty() && options.include_outbound_cidrs == Which::All {
            self.add(
                "include-outbound-ports",
                "all ports are captured as all addresses are: to capture these ports alone, give include-outbound-cidrs \
                 with nothing in it, too",
            );
        }
        let exclude = &options.exclude_outbound_cidrs;
        if let Some(net) = exclude.iter().find(|it| loopback(it)) {
            self.add("exclude-outbound-cidrs", format!("{net} is never captured anyway: leave it out"));
        }
        let Which::Only(include) = &options.include_outbound_cidrs else { return };
        if let Some(net) = include.iter().find(|it| loopback(it)) {
            self.add("include-outbound-cidrs", format!("{net} is within the pod, and never captured"));
        }
        for net in include {
            if let Some(wide) = exclude.iter().find(|it| it.contains(net)) {
                self.add(
                    "include-outbound-cidrs",
                    format!("{net} is never captured, as exclude-outbound-cidrs has {wide}"),
                );
            }
        }
        if !options.include_outbound_ports.is_empty() {
            return;
        }
        for net in exclude {
            if !include.iter().any(|it| it.contains(net) || net.contains(it)) {
                self.add(
                    "exclude-outbound-cidrs",
                    format!("{net} is in no network of include-outbound-cidrs, so it is not captured anyway"),
                );
            }
        }
    }

    fn inbound(&mut self, options: &Options) {
        let Which::Only(include) = &options.include_inbound_ports else { return };
        if !options.exclude_inbound_ports.is_empty() {
            self.add(
                "exclude-inbound-ports",
                "with include-inbound-ports all others are left alone anyway: give one of the two",
            );
        }
        if let Some((it, other)) = overlap(include, &options.proxy_ports) {
            self.add("include-inbound-ports", format!("{it} meets {other} of proxy-ports, the proxy's own"));
        }
    }
}

fn overlap<'a, T: Copy + PartialOrd + Display>(
    one: &'a [Range<T>],
    other: &'a [Range<T>],
) -> Option<(&'a Range<T>, &'a Range<T>)> {
    one.iter().find_map(|a| other.iter().find(|b| a.first <= b.last && b.first <= a.last).map(|b| (a, b)))
}

fn loopback(net: &IpNet) -> bool {
    let within = [
        IpNet::new_assert(IpAddr::V4(Ipv4Addr::new(127, 0, 0, 0)), 8),
        IpNet::from(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ];
    within.iter().any(|it| it.contains(net))
}
