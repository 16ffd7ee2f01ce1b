//! The control plane with everything real around it: Envoy, Outrider and gRPC's own clients, folders, stores.

#![expect(clippy::panic, reason = "a test fails by panicking")]

mod gateway;
mod grpc;
mod identity;
mod live;
mod planes;
mod power;
mod sidecar;
mod status;
mod traffic;

use outrider_tests::proxy::Kind;
use outrider_tests::{left_out, oracle};

/// The proxies that a test runs with: Outrider, and Envoy where it can be had.
fn proxies() -> Vec<Kind> {
    let mut kinds = vec![Kind::Outrider];
    match oracle::envoy() {
        Ok(_) => kinds.push(Kind::Envoy),
        Err(error) if oracle::required() => panic!("no Envoy: {error:#}"),
        Err(error) => left_out(format_args!("Envoy as the data plane: {error:#}")),
    }
    kinds
}
