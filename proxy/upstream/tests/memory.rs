//! What clusters that nobody uses cost: a mesh's sidecar has thousands.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod common;

use std::sync::Arc;

use outrider_config::model::Discovery;
use outrider_core::stats::Registry;
use outrider_upstream::ClusterManager;

fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap();
    statm.split(' ').nth(1).unwrap().parse::<usize>().unwrap() * 4096
}

#[test]
fn a_cold_cluster_costs_little() {
    const CLUSTERS: usize = 5000;
    let name = |n: usize| format!("outbound|80||service-{n}.namespace.svc.cluster.local");
    let config = |n: usize| {
        let address = std::net::SocketAddr::from(([10, 0, (n >> 8) as u8, n as u8], 80));
        Arc::new(common::config(&name(n), Discovery::Static(common::endpoints(&[address]))))
    };
    let configs: Vec<_> = (0..CLUSTERS).map(config).collect();
    let manager = ClusterManager::new(Registry::new());
    let before = resident();
    for config in &configs {
        manager.add(config.clone()).unwrap();
    }
    let each = resident().saturating_sub(before) / CLUSTERS;
    println!("{each} bytes for each cluster");
    assert!(each < 3000, "{each} bytes for each cluster");
}
