//! Hosts found by DNS and by the client's own destination.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::net::SocketAddr;
use std::time::Duration;

use common::{Bench, Speaks, Upstream, config, on_worker};
use outrider_config::model::{
    self, Discovery, DnsFamily, DnsSettings, EndpointHealth, Endpoints, LocalityEndpoints, OriginalDst,
};
use outrider_core::stream::Address;
use outrider_upstream::{AcquireContext, PickContext, PickError};

fn dns(resolvers: Vec<model::SocketAddress>) -> DnsSettings {
    DnsSettings {
        refresh_rate: Duration::from_millis(50),
        failure_refresh: None,
        respect_ttl: false,
        jitter: Duration::ZERO,
        family: DnsFamily::V4Only,
        resolvers,
        no_default_search_domain: true,
        use_tcp: false,
    }
}

fn named(host: &str, port: u16) -> Endpoints {
    let endpoint = model::Endpoint {
        address: model::SocketAddress::Name { host: host.into(), port },
        hostname: "".into(),
        weight: 1,
        health: EndpointHealth::Healthy,
        metadata: None,
        check: None,
    };
    let locality = LocalityEndpoints { endpoints: vec![endpoint], ..Default::default() };
    Endpoints { localities: vec![locality], policy: Default::default() }
}

/// A name server that answers every A question with these addresses, and then with the next ones.
async fn name_server(answers: Vec<Vec<[u8; 4]>>) -> model::SocketAddress {
    let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::task::spawn_local(async move {
        let mut buffer = [0; 1500];
        let mut answers = answers.into_iter().peekable();
        loop {
            let (n, from) = socket.recv_from(&mut buffer).await.unwrap();
            let addresses = if answers.len() > 1 { answers.next() } else { answers.peek().cloned() };
            let reply = reply(&buffer[..n], &addresses.unwrap_or_default());
            socket.send_to(&reply, from).await.unwrap();
        }
    });
    model::SocketAddress::Ip(address)
}

fn reply(question: &[u8], addresses: &[[u8; 4]]) -> Vec<u8> {
    // The question's name ends with a zero byte; type and class follow.
    let end = 12 + question[12..].iter().position(|b| *b == 0).unwrap() + 5;
    let mut reply = question[..end].to_vec();
    reply[2..4].copy_from_slice(&[0x81, 0x80]);
    reply[6..12].copy_from_slice(&[0, addresses.len() as u8, 0, 0, 0, 0]);
    for address in addresses {
        reply.extend_from_slice(&[0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 60, 0, 4]);
        reply.extend_from_slice(address);
    }
    reply
}

fn discover(bench: &Bench) {
    let manager = bench.manager.clone();
    tokio::task::spawn_local(async move { manager.run_discovery().await });
}

fn addresses(bench: &Bench) -> Vec<String> {
    bench.cluster().shared.hosts.load().iter().map(|host| host.address.to_string()).collect()
}

#[test]
fn strict_dns_has_a_host_for_every_address_and_follows_the_answers() {
    on_worker(async {
        let server = name_server(vec![
            vec![[127, 0, 0, 1]],
            vec![[127, 0, 0, 1], [127, 0, 0, 2]],
            vec![[127, 0, 0, 2]],
        ])
        .await;
        let endpoints = named("a.example", 81);
        let bench = Bench::new(config("c", Discovery::StrictDns { endpoints, dns: dns(vec![server]) }));
        assert_eq!(bench.cluster().pick(&PickContext::default()).unwrap_err(), PickError::NoHealthyHost);
        assert_eq!(bench.stat("upstream_cx_none_healthy"), 1);
        assert_eq!(bench.registry.value("cluster_manager.warming_clusters"), Some(1));
        discover(&bench);
        bench.manager.wait_warm().await;
        assert_eq!(bench.registry.value("cluster_manager.warming_clusters"), Some(0));
        assert_eq!(addresses(&bench), ["127.0.0.1:81"]);
        let first = bench.cluster().pick(&PickContext::default()).unwrap();
        assert_eq!(&*first.hostname, "a.example");
        bench.until_stat("membership_total", 2).await;
        let hosts = bench.cluster().shared.hosts.load_full();
        assert!(hosts.iter().any(|host| host.id == first.id), "the host that stayed is the same");
        bench.until_stat("membership_total", 1).await;
        assert_eq!(addresses(&bench), ["127.0.0.2:81"]);
        bench.until_stat("update_no_rebuild", 1).await;
        assert_eq!(bench.stat("membership_change"), 3);
        assert_eq!(bench.stat("update_failure"), 0);
    });
}

#[test]
fn logical_dns_keeps_its_host_and_connections_when_the_address_changes() {
    on_worker(async {
        let upstream = Upstream::start(Speaks::Http1).await;
        let server = name_server(vec![vec![[127, 0, 0, 1]], vec![[127, 0, 0, 9], [127, 0, 0, 1]]]).await;
        let endpoints = named("a.example", upstream.address.port());
        let bench = Bench::new(config("c", Discovery::LogicalDns { endpoints, dns: dns(vec![server]) }));
        discover(&bench);
        bench.manager.wait_warm().await;
        assert_eq!(bench.get("/").await.unwrap(), "1");
        let before = bench.cluster().pick(&PickContext::default()).unwrap().id;
        common::until("the address changed", || addresses(&bench)[0].starts_with("127.0.0.9")).await;
        let after = bench.cluster().pick(&PickContext::default()).unwrap().id;
        assert_eq!(after, before);
        assert_eq!(bench.get("/").await.unwrap(), "1");
        assert_eq!(bench.stat("upstream_cx_total"), 1);
        assert_eq!(bench.stat("membership_change"), 1);
    });
}

#[test]
fn a_failure_keeps_the_earlier_answer_and_warms_all_the_same() {
    on_worker(async {
        // Nobody answers there.
        let silent = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = silent.local_addr().unwrap();
        drop(silent);
        let resolvers = vec![model::SocketAddress::Ip(address)];
        let endpoints = named("a.example", 81);
        let bench = Bench::new(config("c", Discovery::StrictDns { endpoints, dns: dns(resolvers) }));
        discover(&bench);
        bench.manager.wait_warm().await;
        assert!(bench.stat("update_failure") >= 1);
        assert_eq!(bench.stat("update_success"), 0);
    });
}

#[test]
fn an_address_in_a_dns_cluster_needs_no_dns() {
    on_worker(async {
        let endpoints = common::endpoints(&["127.0.0.1:81".parse().unwrap()]);
        let bench = Bench::new(config("c", Discovery::StrictDns { endpoints, dns: dns(Vec::new()) }));
        bench.manager.wait_warm().await;
        let host = bench.cluster().pick(&PickContext::default()).unwrap();
        assert_eq!(&*host.hostname, "127.0.0.1");
        assert_eq!(bench.stat("update_attempt"), 0);
    });
}

#[test]
fn original_dst_goes_where_the_client_meant_to_and_forgets() {
    on_worker(async {
        let upstream = Upstream::start(Speaks::Http1).await;
        let settings = OriginalDst {
            http_header: None,
            port_override: None,
            cleanup_interval: Duration::from_millis(50),
        };
        let mut config = config("c", Discovery::OriginalDst(settings));
        config.lb = model::LbPolicy::ClusterProvided;
        let bench = Bench::new(config);
        let cluster = bench.cluster();
        assert_eq!(cluster.pick(&PickContext::default()).unwrap_err(), PickError::NoOriginalDst);
        let to = |address: SocketAddr| PickContext { original_dst: Some(address), ..Default::default() };
        let host = cluster.pick(&to(upstream.address)).unwrap();
        assert_eq!(host.address, Address::Ip(upstream.address));
        assert_eq!(cluster.pick(&to(upstream.address)).unwrap().id, host.id);
        let lease = cluster.acquire(&host, &AcquireContext::default()).await.unwrap();
        assert_eq!(lease.remote().unwrap(), &Address::Ip(upstream.address));
        assert_eq!(bench.stat("membership_total"), 1);
        discover(&bench);
        drop(lease);
        bench.until_stat("membership_total", 0).await;
        bench.until_stat("upstream_cx_active", 0).await;
    });
}
