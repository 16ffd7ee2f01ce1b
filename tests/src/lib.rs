//! The test harness: everything a suite needs to treat a proxy as a black box.
//!
//! * [`ports`] leases TCP ports that no other test, thread or process gets.
//! * [`ca`] makes certificates: good, expired, of another authority, revoked.
//! * [`upstream`] are servers that do as a [`reply::Reply`] says and record what they saw.
//! * [`client`] speaks HTTP/1 by raw bytes, HTTP/2 by frames, TLS with every knob.
//! * [`proxy`] starts Outrider or Envoy on a bootstrap and watches it; [`bootstrap`] writes one tersely.
//! * [`crowd`] are clients that ask all the time and count what they lose; [`churn`] is a configuration that changes all
//!   the time.
//! * [`control`] starts `outrider-control` on a folder of manifests, which it writes.
//! * [`identity`] are proxies with an identity agent.
//! * [`spire`] is an agent that hands out identities on a unix socket.
//! * [`browser`] is a real one that looks at pages.
//! * [`etcd`] is a real one; [`relay`] is a wire that can be cut.
//! * [`oracle`] installs the real Envoy, [`binary`] builds Outrider.
//!
//! Nothing here sleeps for luck: [`wait::until`] is the one place that polls, with a deadline.

pub mod binary;
pub mod bootstrap;
pub mod browser;
pub mod ca;
pub mod churn;
pub mod client;
pub mod control;
pub mod control_plane;
pub mod crowd;
pub mod etcd;
pub mod h1;
pub mod identity;
pub mod io;
pub mod jwt;
pub mod load_reports;
pub mod oracle;
pub mod ports;
pub mod proxy;
pub mod raw_plane;
pub mod record;
pub mod relay;
pub mod reply;
pub mod spire;
pub mod upstream;
pub mod wait;
pub mod wire;

/// Says that something is left out, past the test runner, which shows nothing of what tests print that pass.
pub fn left_out(what: impl std::fmt::Display) {
    use std::io::Write as _;
    // Nobody is left to tell when this fails.
    let _ = writeln!(std::io::stderr(), "LEFT OUT: {what}");
}

/// Locks a mutex of the harness; a poisoned one still holds usable recordings.
pub(crate) fn lock<T>(mutex: &std::sync::Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
