//! Outrider's control plane: resources in Kubernetes shape, turned into xDS for every proxy.
//!
//! The rooms, one way: [`model`] (what a resource is) -> [`store`], [`source`] (where it comes from) -> [`world`] (all that is
//! known) -> [`attach`] (which route belongs where, status conditions) -> [`translate`] (a pure function from the world and a
//! proxy to xDS resources) -> [`engine`] (keeps the translation current) -> [`ads`] (serves it) -> [`api`] (what operators see). [`ca`] beside them says who a workload is, [`status`] shows all
//! of it in a browser.

pub mod ads;
pub mod api;
pub mod attach;
pub mod ca;
pub mod ctl;
pub mod engine;
pub mod model;
mod restart;
pub mod server;
pub mod source;
pub mod status;
pub mod store;
pub mod translate;
pub mod world;

/// The control plane's own APIs, from `proto/outrider`.
pub use outrider_control_proto as pb;
