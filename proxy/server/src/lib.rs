//! The composition root: from a command line to a serving process.

pub mod check;
pub mod demo;
pub mod logging;
pub mod options;
pub mod serve;
pub mod version;
