//! Micro benchmarks of single steps of the request path. `cargo bench -p outrider-benches [FILTER]`.

#![expect(clippy::expect_used, reason = "fixtures that are wrong end the benchmark")]

mod headers;
mod lb;
mod logs;
mod rbac;
mod routes;
mod stats;

use criterion::{criterion_group, criterion_main};

criterion_group!(
    micro,
    headers::benchmarks,
    lb::benchmarks,
    logs::benchmarks,
    rbac::benchmarks,
    routes::benchmarks,
    stats::benchmarks
);
criterion_main!(micro);
