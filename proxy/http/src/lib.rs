//! The HTTP connection manager: from a downstream connection to requests, and from responses back to it.
//!
//! One way for every request: [`hcm`] takes the connection, `codec` serves HTTP/1 and HTTP/2 on it, `headers`
//! applies the header policy, [`routing`] finds the route, [`router`] gets the response, [`stream`] seals the
//! stream's facts exactly once.

pub mod body;
mod codec;
pub mod fetch;
mod filter;
pub mod hcm;
mod headers;
pub mod jwks;
mod local_reply;
pub mod oauth2;
pub mod on_demand;
mod reply_mapper;
pub mod router;
pub mod routing;
pub mod secrets;
mod service;
pub mod stats;
pub mod stream;
mod upgrade;

pub use filter::FilterError;
pub use hcm::review::{Change, review};
pub use hcm::{HcmError, HcmShared, HcmWorker};
