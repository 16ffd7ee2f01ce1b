use proptest::prelude::*;

use super::*;

fn ip(text: &str) -> Address {
    Address::Ip(text.parse().expect("an address"))
}

fn cidr(text: &str) -> Cidr {
    let (address, len) = text.split_once('/').expect("a prefix");
    Cidr { address: address.parse().expect("an address"), len: len.parse().expect("a length") }
}

fn tree(matches: &[FilterChainMatch]) -> ChainTree {
    let mut tree = ChainTree::default();
    for (i, one) in matches.iter().enumerate() {
        tree.insert(one, i).expect("no duplicates");
    }
    tree
}

#[test]
fn a_later_criterion_that_fails_is_not_gone_back_on() {
    let matches = [
        FilterChainMatch {
            destination_port: Some(80),
            transport_protocol: "tls".into(),
            ..Default::default()
        },
        FilterChainMatch::default(),
    ];
    let tree = tree(&matches);
    let (local, remote) = (ip("10.0.0.1:80"), ip("10.0.0.2:999"));
    let mut input = MatchInput {
        local: &local,
        remote: &remote,
        direct_remote: &remote,
        server_name: "",
        transport: "raw_buffer",
        protocols: &[],
    };
    // Port 80 has a chain, for TLS: plain bytes get the default, not the chain that asks for nothing.
    assert_eq!(tree.find(&input), None);
    input.transport = "tls";
    assert_eq!(tree.find(&input), Some(0));
    let elsewhere = ip("10.0.0.1:81");
    input.local = &elsewhere;
    assert_eq!(tree.find(&input), Some(1));
}

#[test]
fn server_names_match_exactly_then_by_the_longest_suffix_then_any() {
    let named = |name: &str| FilterChainMatch { server_names: vec![name.into()], ..Default::default() };
    let tree =
        tree(&[named("a.example.com"), named("*.example.com"), named("*.com"), FilterChainMatch::default()]);
    let (local, remote) = (ip("10.0.0.1:80"), ip("10.0.0.2:999"));
    let find = |server_name: &str| {
        tree.find(&MatchInput {
            local: &local,
            remote: &remote,
            direct_remote: &remote,
            server_name,
            transport: "tls",
            protocols: &[],
        })
    };
    assert_eq!(find("a.example.com"), Some(0));
    assert_eq!(find("b.example.com"), Some(1));
    assert_eq!(find("x.b.example.com"), Some(1));
    assert_eq!(find("example.com"), Some(2));
    assert_eq!(find("com"), Some(3));
    assert_eq!(find(""), Some(3));
}

#[test]
fn two_chains_with_the_same_match_are_refused_and_one_that_repeats_itself_is_not() {
    let mut tree = ChainTree::default();
    let twice = FilterChainMatch { source_ports: vec![1, 1], ..Default::default() };
    assert_eq!(tree.insert(&twice, 0), Ok(()));
    assert_eq!(tree.insert(&FilterChainMatch { source_ports: vec![2, 1], ..Default::default() }, 1), Err(0));
}

/// The documented algorithm, literally: at each step, of the keys that the chains in play have and that
/// fit, keep the chains with the most specific one.
fn naive(matches: &[FilterChainMatch], input: &MatchInput<'_>) -> Option<usize> {
    // For each chain the specificity of its best fitting key; `None` when none fits.
    type Step<'a> = &'a dyn Fn(&FilterChainMatch) -> Option<i64>;
    let prefix = |ranges: &[Cidr], address: &Address| -> Option<i64> {
        if ranges.is_empty() {
            return Some(-1);
        }
        let ip = address.ip()?.ip();
        let fits = |c: &&Cidr| c.address.is_ipv4() == ip.is_ipv4() && masked(ip, c.len) == c.address;
        ranges.iter().filter(fits).map(|c| i64::from(c.len)).max()
    };
    let port = |ports: &[u16], address: &Address| -> Option<i64> {
        if ports.is_empty() {
            return Some(0);
        }
        ports.contains(&address.ip()?.port()).then_some(1)
    };
    let name = |m: &FilterChainMatch| -> Option<i64> {
        if m.server_names.is_empty() {
            return Some(-1);
        }
        let sni = input.server_name;
        let fit = |pattern: &Arc<str>| match pattern.strip_prefix('*') {
            Some(suffix) => {
                (sni.len() > suffix.len() && sni.ends_with(suffix)).then_some(suffix.len() as i64)
            }
            None => (**pattern == *sni).then_some(1000),
        };
        m.server_names.iter().filter_map(fit).max()
    };
    let protocol = |m: &FilterChainMatch| -> Option<i64> {
        if m.application_protocols.is_empty() {
            return Some(-1000);
        }
        let rank = |offered: &Arc<str>| m.application_protocols.contains(offered);
        input.protocols.iter().position(rank).map(|i| -(i as i64))
    };
    let local = is_same_ip_or_loopback(input.local, input.remote);
    let steps: [Step<'_>; 9] = [
        &|m| port(m.destination_port.as_slice(), input.local),
        &|m| prefix(&m.prefix_ranges, input.local),
        &name,
        &|m| match &*m.transport_protocol {
            "" => Some(0),
            other => (other == input.transport).then_some(1),
        },
        &protocol,
        &|m| prefix(&m.direct_source_prefix_ranges, input.direct_remote),
        &|m| match m.source_type {
            SourceType::Any => Some(0),
            SourceType::SameIpOrLoopback => local.then_some(1),
            SourceType::External => (!local).then_some(1),
        },
        &|m| prefix(&m.source_prefix_ranges, input.remote),
        &|m| port(&m.source_ports, input.remote),
    ];
    let mut chains: Vec<usize> = (0..matches.len()).collect();
    for step in steps {
        let best = chains.iter().filter_map(|i| step(&matches[*i])).max()?;
        chains.retain(|i| step(&matches[*i]) == Some(best));
    }
    chains.first().copied()
}

fn some_of<T: Clone + std::fmt::Debug + 'static>(all: Vec<T>) -> impl Strategy<Value = Vec<T>> {
    prop_oneof![2 => Just(Vec::new()), 3 => proptest::sample::subsequence(all, 1..=2)]
}

fn prefixes() -> Vec<Cidr> {
    ["10.0.0.0/8", "10.1.0.0/16", "10.1.2.3/32", "0.0.0.0/0", "fd00::/8", "127.0.0.1/32"].map(cidr).to_vec()
}

fn arcs(all: &[&str]) -> Vec<Arc<str>> {
    all.iter().map(|one| Arc::from(*one)).collect()
}

fn chain() -> impl Strategy<Value = FilterChainMatch> {
    (
        proptest::option::of(prop_oneof![Just(80_u16), Just(443)]),
        some_of(prefixes()),
        some_of(arcs(&["a.b.com", "*.b.com", "*.com", "b.com"])),
        prop_oneof![Just("tls"), Just("raw_buffer"), Just("")],
        some_of(arcs(&["h2", "http/1.1", "istio"])),
        some_of(prefixes()),
        prop_oneof![Just(SourceType::Any), Just(SourceType::SameIpOrLoopback), Just(SourceType::External)],
        some_of(prefixes()),
        some_of(vec![7_u16, 8]),
    )
        .prop_map(
            |(port, destination, names, transport, protocols, direct, source_type, source, ports)| {
                FilterChainMatch {
                    destination_port: port,
                    prefix_ranges: destination,
                    server_names: names,
                    transport_protocol: transport.into(),
                    application_protocols: protocols,
                    direct_source_prefix_ranges: direct,
                    source_type,
                    source_prefix_ranges: source,
                    source_ports: ports,
                }
            },
        )
}

fn address() -> impl Strategy<Value = Address> {
    let hosts = ["10.1.2.3", "10.1.9.9", "10.2.0.1", "192.168.0.1", "127.0.0.1", "[fd00::1]", "[::1]"];
    let ports = ["80", "443", "7", "8", "9"];
    let ips = (proptest::sample::select(hosts.to_vec()), proptest::sample::select(ports.to_vec()));
    prop_oneof![9 => ips.prop_map(|(host, port)| ip(&format!("{host}:{port}"))), 1 => Just(Address::Pipe("".into()))]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn the_tree_agrees_with_the_documented_algorithm(
        wanted in proptest::collection::vec(chain(), 1..8),
        local in address(),
        remote in address(),
        direct in address(),
        server_name in proptest::sample::select(vec!["", "a.b.com", "x.b.com", "b.com", "x.y.com", "org"]),
        transport in proptest::sample::select(vec!["tls", "raw_buffer"]),
        protocols in proptest::sample::subsequence(arcs(&["http/1.1", "h2", "other", "istio"]), 0..=3),
    ) {
        let mut tree = ChainTree::default();
        let mut accepted = Vec::new();
        for one in wanted {
            // What the tree refuses is no configuration; start over without it.
            let mut next = ChainTree::default();
            accepted.push(one);
            if accepted.iter().enumerate().all(|(i, one)| next.insert(one, i).is_ok()) {
                tree = next;
            } else {
                accepted.pop();
            }
        }
        let input = MatchInput {
            local: &local,
            remote: &remote,
            direct_remote: &direct,
            server_name,
            transport,
            protocols: &protocols,
        };
        prop_assert_eq!(tree.find(&input), naive(&accepted, &input));
    }
}
