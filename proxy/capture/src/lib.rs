//! Traffic capture: what makes the connections of a pod pass its proxy.
//!
//! `outrider capture apply` sets up the network namespace that it runs in: connections that processes there open are redirected to
//! `--outbound-port` (15001), those that come from outside to `--inbound-port` (15006). Names, ports and what is left alone are Istio's, so
//! that its control plane's `virtualOutbound` and `virtualInbound` listeners find what they expect.
//!
//! - [`options`]: what is asked for, read and judged, all problems in one go.
//! - [`plan`]: from options to rules, pure; [`rule`] is the vocabulary. [`simulate`] is a small model of the kernel that tells what becomes
//!   of a packet under a plan.
//! - [`nft`] and [`iptables`]: the rules as text. `outrider capture print` shows it.
//! - [`system`]: puts a plan into the namespace (`nft -f -`, `iptables-restore`, `ip`), and takes it away; [`in_force`] looks what is
//!   there.
//! - [`verify`]: connects, and sees whether it arrives.
//! - [`cni`]: the same as a chained CNI plugin, so that pods need no privileges.
//!
//! # What is captured
//! TCP alone, and DNS over UDP if `--dns-port` says so. Outbound, in this order: what the proxy opens itself (by user or group) goes its
//! way, but for connections to the pod's own address, which come in like any other (an application that asks for its own service); then
//! excluded interfaces and ports, excluded users and groups, what stays within the pod, excluded networks. Inbound: excluded interfaces, the
//! proxy's own ports, excluded ports. The proxy's connections from 127.0.0.6 (`::6`), by which it speaks to the application, are let by.
//!
//! Under TPROXY inbound connections keep their addresses, and the proxy's connections with mark 1337 (`original_src`) may show the
//! client's to the application: what it answers is brought back to the proxy by a mark and routing table 133. Connections from before stay
//! as they are. If the proxy does not listen they are dropped, not let by.
//!
//! # What bypasses
//! Rules that let something by because an option says so count the first packets of connections; `outrider capture verify --counters` shows
//! them. Not counted is what is never looked at: other protocols than TCP, and other pods' traffic on the node.
//!
//! # What is left behind
//! All is in tables (nftables) or chains (iptables) of our own, apart from the routing rules and table of TPROXY and the address `::6` on
//! `lo`; `remove` takes all of it away, by whatever tool it was set. No sysctl is changed. iptables on nftables keeps the kernel's own
//! chains, empty, once it has been used.

pub mod cli;
pub mod cni;
pub mod in_force;
pub mod iptables;
mod judge;
mod netns;
pub mod nft;
pub mod options;
pub mod plan;
pub mod rule;
pub mod simulate;
pub mod system;
mod tool;
pub mod verify;

pub use crate::tool::Error;
