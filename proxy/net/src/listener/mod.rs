//! Listeners: from a bound socket to a network filter.

mod accepted;
mod admitted;
mod chains;
mod connection;
mod error;
mod filters;
pub mod fuzz;
mod inherited;
mod limits;
mod shared;
mod silent;
mod sockets;
mod worker;

pub use admitted::{Narrowed, NarrowedEntry, NarrowedSlot};
pub use error::{BindError, ListenerError};
pub use inherited::{Inherited, Lent};
pub use limits::GlobalConnections;
pub use shared::{ListenerShared, TlsSlot};
pub use sockets::{Sockets, WorkerSockets};
pub use worker::{WorkerListener, WorkerListeners};
