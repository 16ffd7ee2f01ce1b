//! The driver: a case is run against the oracle and against Outrider, and what was observed is compared.

pub mod case;
pub mod known;
pub mod normal;
pub mod report;
pub mod request;
pub mod run;
pub mod talk;
pub mod world;

pub use self::{
    case::{Case, Group, case},
    request::{Req, Tls, connect, get, post, req},
    talk::{Talk, raw, talk},
};
