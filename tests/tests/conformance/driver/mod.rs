//! The driver: a case is run against the oracle and against Outrider, and what was observed is compared.

pub(crate) mod case;
pub(crate) mod known;
pub(crate) mod masks;
pub(crate) mod normal;
pub(crate) mod report;
pub(crate) mod request;
pub(crate) mod run;
pub(crate) mod talk;
pub(crate) mod world;

pub(crate) use self::{
    case::{Case, Group, case},
    request::{Req, Tls, connect, get, post, req},
    talk::{Talk, raw, talk},
};
