//! The composition root: from a command line to a serving process.
//!
//! One way: [`bootstrap`] reads and judges the configuration, [`control`] builds from it what all workers share,
//! `worker` runs it on each worker, [`lifecycle`] begins it and `ending` ends it; [`upgrade`] passes it on to another process.

pub mod admin;
mod application;
pub mod bootstrap;
pub mod check;
pub mod control;
pub mod demo;
pub mod dynamic;
mod ending;
mod expiry;
mod keep;
pub mod lifecycle;
pub mod listeners;
pub mod logging;
pub mod options;
pub mod runtime;
pub mod serve;
pub mod upgrade;
pub mod version;
pub mod wait;
mod worker;
