//! Routes: from a request's head to what is done with it.
//!
//! [`RouteTable`] is compiled on the control thread; [`RouteTable::route`] walks it without allocating. What it
//! selects knows the answer ([`Selected::reply`]) or the cluster, and all changes that the table asks for.

pub(crate) mod direct;
mod domain;
mod filters;
mod index;
pub(crate) mod matcher;
mod mutation;
mod redirect;
pub(crate) mod rewrite;
mod scope;
mod slot;
mod stats;
mod table;
mod weighted;

pub use direct::DirectBodyError;
pub(crate) use direct::load as load_body;
pub use domain::DuplicateDomain;
pub(crate) use domain::port_start;
pub use matcher::RequestView;
pub(crate) use matcher::in_fraction;
pub(crate) use mutation::{ContextSource, Levels, Mutations};
pub use scope::{Scope, ScopeSlot, ScopeTable};
pub use slot::{RoutePlace, RouteSlot};
pub(crate) use stats::RouteStats;
pub use table::{RouteTable, RouteTableError, Selected, SelectedAction, TableHandle, VirtualHost};

#[cfg(test)]
mod tests;
