//! An xDS v3 client in two layers.
//!
//! - [`core`]: the protocol as a state machine without I/O: subscriptions, versions, nonces, the state of each resource.
//! - [`spawn`]: a task that keeps a gRPC stream to a control plane open and feeds the state machine. The connection
//!   under it comes from a [`Connector`], so that it goes through our own clusters or straight to a target.
//!
//! The consumer holds a [`Handle`], says what it wants, takes [`Event`]s and gives a verdict on each update: resource
//! by resource, so that one that is refused never keeps another from taking effect.
//!
//! [`lrs`] tells a control plane how much went to which endpoints.
//!
//! What a control plane can make grow is bounded: one message by [`config::MAX_MESSAGE_BYTES`] (or what the
//! configuration says), what waits by a queue of a few events and by HTTP/2's flow control. What it legitimately
//! declares (resources, by name and version) is kept.

pub mod config;
pub mod core;
pub mod lrs;
pub mod transport;

mod backoff;
mod event;
mod file;
pub mod fuzz;
mod grpc;
mod handle;
mod kind;
mod limit;
mod moves;
mod stream;

pub use backoff::Schedule;
pub use config::{Backoff, Http2Options, RateLimit, Service, StreamConfig};
pub use core::{ErrorState, KindView, ResourceView, Status};
pub use event::{Event, Refusal, Resource, Token, Update};
pub use file::{FileConfig, spawn_file};
pub use handle::{Handle, spawn};
pub use kind::Kind;
pub use moves::Moves;
pub use transport::{ConnectError, Connecting, Connection, Connector, Io};
