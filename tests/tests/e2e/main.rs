//! End to end, without an oracle: what the command line, the operating system and the clock do to the proxy.

mod admin;
mod bad_certificates;
mod config;
mod drain;
mod ecds;
mod eds;
mod files;
mod generations;
mod injected;
mod keys;
mod limits;
mod load_reports;
mod narrowing;
mod oauth2;
mod on_demand;
mod outage;
mod policies;
mod runtime;
mod sockets;
mod spire;
mod srds;
mod start;
mod state;
mod subscriptions;
mod vhds;
mod xds;
