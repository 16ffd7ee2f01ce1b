//! What becomes of packets, under any options: a model of the kernel walks the rules, and what they promise is said here anew, without them.

#![expect(clippy::expect_used, reason = "what is made here is as it is written here")]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use outrider_capture::options::{Mode, Options, Range, Which};
use outrider_capture::plan::{CAPTURED_MARK, MARK, Plan, inbound_source};
use outrider_capture::rule::{Family, Proto, Why};
use outrider_capture::simulate::{Fate, Packet, Tracked, arrive, send};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};

const POD: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 9)), IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 9))];

fn list(entries: &'static [&'static str]) -> impl Strategy<Value = String> {
    subsequence(entries, 0..=entries.len()).prop_map(|it| it.join(","))
}

/// Options out of few values, so that packets meet them.
fn options() -> impl Strategy<Value = Options> {
    let ports = ["22", "80", "443", "8000-8100", "53"];
    let ports: &'static [&'static str] = Box::leak(Box::new(ports));
    let cidrs: &'static [&'static str] = &["10.1.0.0/16", "192.0.2.0/24", "2001:db8::/32", "fd00:1::/32"];
    let ids: &'static [&'static str] = &["0", "1000-1005", "1336-1338", "2000"];
    let names: &'static [&'static str] = &["eth0", "eth1", "lo"];
    let setting = prop_oneof![
        select(&["redirect", "tproxy"][..]).prop_map(|it| ("mode", it.to_owned())),
        Just(("ipv6", "off".to_owned())),
        Just(("dns-port", "15053".to_owned())),
        list(ids).prop_map(|it| ("proxy-gid", it)),
        list(cidrs).prop_map(|it| ("include-outbound-cidrs", it)),
        list(cidrs).prop_map(|it| ("exclude-outbound-cidrs", it)),
        list(ports).prop_map(|it| ("include-outbound-ports", it)),
        list(ports).prop_map(|it| ("exclude-outbound-ports", it)),
        list(ports).prop_map(|it| ("include-inbound-ports", it)),
        list(ports).prop_map(|it| ("exclude-inbound-ports", it)),
        list(names).prop_map(|it| ("include-interfaces", it)),
        list(names).prop_map(|it| ("exclude-interfaces", it)),
        list(ids).prop_map(|it| ("include-uids", it)),
        list(ids).prop_map(|it| ("exclude-uids", it)),
        list(ids).prop_map(|it| ("include-gids", it)),
        list(ids).prop_map(|it| ("exclude-gids", it)),
    ];
    let settings = prop::collection::vec(setting, 0..6);
    settings.prop_filter_map("they contradict each other", |it| Options::parse(it).ok())
}

fn address() -> impl Strategy<Value = IpAddr> {
    let addresses = [
        "10.0.0.9",
        "10.1.2.3",
        "192.0.2.1",
        "8.8.8.8",
        "127.0.0.1",
        "127.0.0.53",
        "fd00::9",
        "2001:db8::1",
        "fd00:1::1",
        "2606::1",
        "::1",
    ];
    select(addresses.to_vec()).prop_map(|it| it.parse().expect("an address"))
}

/// First packets of connections that processes in the pod open.
fn outgoing() -> impl Strategy<Value = Packet> {
    let owner = (select(vec![0, 1000, 1337, 2000, 3000]), select(vec![0, 1000, 1337, 2000, 3000]));
    let port = select(vec![22, 53, 80, 443, 8050, 9999, 15001, 15006, 15021]);
    let proto = select(vec![Proto::Tcp, Proto::Tcp, Proto::Udp]);
    (owner, port, address(), select(vec!["eth0", "eth1"]), proto, any::<bool>()).prop_map(
        |(owner, dport, destination, interface, proto, from_inbound)| {
            let family = Family::of(destination);
            let own = POD.contains(&destination);
            let local = own || destination.is_loopback();
            let mut source =
                if destination.is_loopback() { destination } else { POD[usize::from(family == Family::V6)] };
            if from_inbound && own {
                source = inbound_source(family);
            }
            let interface = if local { "lo" } else { interface }.to_owned();
            let ct = Tracked::default();
            Packet {
                proto,
                source,
                destination,
                sport: 40_000,
                dport,
                owner: Some(owner),
                interface,
                mark: 0,
                syn: true,
                ct,
            }
        },
    )
}

/// First packets of connections from outside.
fn incoming() -> impl Strategy<Value = Packet> {
    let port = select(vec![22, 53, 80, 443, 8050, 9999, 15001, 15006, 15021]);
    (port, any::<bool>(), select(vec!["eth0", "eth1"])).prop_map(|(dport, v6, interface)| Packet {
        proto: Proto::Tcp,
        source: if v6 { "2606::1" } else { "8.8.8.8" }.parse().expect("an address"),
        destination: POD[usize::from(v6)],
        sport: 50_000,
        dport,
        owner: None,
        interface: interface.to_owned(),
        mark: 0,
        syn: true,
        ct: Tracked::default(),
    })
}

fn has<T: Copy + PartialOrd>(ranges: &[Range<T>], value: T) -> bool {
    ranges.iter().any(|it| it.contains(value))
}

fn is_proxy(options: &Options, (uid, gid): (u32, u32)) -> bool {
    has(&options.proxy_uids, uid) || has(&options.proxy_gids, gid)
}

fn interface_fits(options: &Options, name: &str) -> bool {
    let (include, exclude) = (&options.include_interfaces, &options.exclude_interfaces);
    !exclude.iter().any(|it| it == name)
        && (include.is_empty() || name == "lo" || include.iter().any(|it| it == name))
}

fn owner_fits(options: &Options, (uid, gid): (u32, u32)) -> bool {
    let all = options.include_uids.is_empty() && options.include_gids.is_empty();
    !has(&options.exclude_uids, uid)
        && !has(&options.exclude_gids, gid)
        && (all || has(&options.include_uids, uid) || has(&options.include_gids, gid))
}

fn inbound_fits(options: &Options, port: u16) -> bool {
    let included = match &options.include_inbound_ports {
        Which::All => true,
        Which::Only(ports) => has(ports, port),
    };
    included && !has(&options.proxy_ports, port) && !has(&options.exclude_inbound_ports, port)
}

fn inbound(options: &Options) -> Fate {
    match options.mode {
        Mode::Redirect => Fate::Redirected(options.inbound_port),
        Mode::Tproxy => Fate::Tproxied(options.inbound_port),
    }
}

/// What is promised of a connection that a process opens.
fn promised(options: &Options, packet: &Packet) -> Fate {
    let owner = packet.owner.expect("somebody sends it");
    let local = packet.interface == "lo";
    let family = Family::of(packet.destination);
    if family == Family::V6 && !options.ipv6 {
        return Fate::Passes;
    }
    let proxy = is_proxy(options, owner);
    if packet.proto == Proto::Udp {
        let captured = !proxy
            && packet.dport == 53
            && interface_fits(options, &packet.interface)
            && owner_fits(options, owner);
        return match options.dns_port {
            Some(port) if captured => Fate::Redirected(port),
            _ => Fate::Passes,
        };
    }
    if !interface_fits(options, &packet.interface) || has(&options.exclude_outbound_ports, packet.dport) {
        return Fate::Passes;
    }
    if proxy {
        let again = local
            && !packet.destination.is_loopback()
            && packet.source != inbound_source(family)
            && inbound_fits(options, packet.dport);
        return if again { inbound(options) } else { Fate::Passes };
    }
    if (local && packet.source == inbound_source(family)) || !owner_fits(options, owner) {
        return Fate::Passes;
    }
    match options.dns_port {
        Some(port) if packet.dport == 53 => return Fate::Redirected(port),
        _ => {}
    }
    let included = match &options.include_outbound_cidrs {
        Which::All => true,
        Which::Only(nets) => nets.iter().any(|it| it.contains(&packet.destination)),
    } || has(&options.include_outbound_ports, packet.dport);
    let excluded = options.exclude_outbound_cidrs.iter().any(|it| it.contains(&packet.destination));
    if local || excluded || !included { Fate::Passes } else { Fate::Redirected(options.outbound_port) }
}

fn plan(options: &Options) -> Plan {
    let families: &[Family] = if options.ipv6 { &[Family::V4, Family::V6] } else { &[Family::V4] };
    Plan::new(options, families)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn outbound(options in options(), packet in outgoing()) {
        let walk = send(&plan(&options), packet.clone());
        prop_assert_eq!(walk.fate, promised(&options, &packet), "{:?}", walk.why);
        // What passes because an option says so is counted as such.
        let bypassed = walk.why.iter().any(|it| matches!(it, Why::Bypass(_)));
        let captured = walk.why.iter().any(|it| matches!(it, Why::Captured(_)));
        prop_assert_eq!(captured, walk.fate != Fate::Passes, "{:?}", walk.why);
        prop_assert!(!(bypassed && captured), "{:?}", walk.why);
    }

    #[test]
    fn nothing_loops(options in options(), packet in outgoing(), gid in select(vec![0, 1000, 1337])) {
        // Whatever the proxy sends is its own, but for its own pod, where its inbound side takes it; which sends from the address of inbound
        // connections, or marked.
        let plan = plan(&options);
        let mut packet = Packet { owner: Some((1337, gid)), proto: Proto::Tcp, ..packet };
        let fate = send(&plan, packet.clone()).fate;
        prop_assert!(fate == Fate::Passes || (fate == inbound(&options) && packet.interface == "lo"));
        packet.source = inbound_source(Family::of(packet.destination));
        if packet.interface == "lo" {
            prop_assert_eq!(send(&plan, packet.clone()).fate, Fate::Passes);
        }
        if options.mode == Mode::Tproxy && POD.contains(&packet.destination) {
            packet.mark = MARK;
            packet.source = if packet.destination.is_ipv6() { "2606::1" } else { "8.8.8.8" }.parse().expect("an address");
            let walk = send(&plan, packet.clone());
            prop_assert_eq!(walk.fate, Fate::Passes);
            if plan.families().any(|it| it == Family::of(packet.destination)) {
                // And what the application answers is delivered here.
                prop_assert_eq!(walk.packet.ct.mark, MARK);
                let ct = Tracked { established: true, reply: true, ..walk.packet.ct };
                let (source, destination) = (packet.destination, packet.source);
                let answer = Packet { source, destination, owner: Some((1000, 1000)), mark: 0, syn: false, ct, ..packet };
                let walk = send(&plan, answer);
                prop_assert_eq!((walk.fate, walk.packet.mark), (Fate::Passes, MARK));
            }
        }
    }

    #[test]
    fn from_outside(options in options(), packet in incoming()) {
        let plan = plan(&options);
        let walk = arrive(&plan, packet.clone());
        let family = options.ipv6 || packet.destination.is_ipv4();
        let captured = family && interface_fits(&options, &packet.interface) && inbound_fits(&options, packet.dport);
        let wanted = if captured { inbound(&options) } else { Fate::Passes };
        prop_assert_eq!(walk.fate, wanted, "{:?}", walk.why);
        let own = has(&options.proxy_ports, packet.dport) && interface_fits(&options, &packet.interface);
        let bypassed = walk.why.iter().any(|it| matches!(it, Why::Bypass(_)));
        prop_assert_eq!(bypassed, family && !captured && !own, "{:?}", walk.why);
        // The rest of the connection goes the same way.
        let ct = Tracked { established: true, ..walk.packet.ct };
        let more = arrive(&plan, Packet { syn: false, ct, ..packet.clone() });
        if options.mode == Mode::Tproxy {
            prop_assert_eq!(more.fate, wanted);
            prop_assert_eq!(ct.mark == CAPTURED_MARK, captured);
        }
        // What was open before the rules came stays what it was, tracked or not.
        for established in [true, false] {
            let ct = Tracked { established, ..Tracked::default() };
            let old = arrive(&plan, Packet { syn: false, ct, ..packet.clone() });
            prop_assert_eq!(old.fate, Fate::Passes);
        }
        // So do answers to what the pod asked outside, and, over `lo`, to what the proxy asked its own pod.
        for (interface, mark) in [("eth0", 0), ("eth0", CAPTURED_MARK), ("lo", CAPTURED_MARK)] {
            let ct = Tracked { established: true, reply: true, mark, ..Tracked::default() };
            let answer = Packet { syn: false, ct, mark, interface: interface.to_owned(), ..packet.clone() };
            prop_assert_eq!(arrive(&plan, answer).fate, Fate::Passes);
        }
    }
}
