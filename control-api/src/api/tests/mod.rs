//! The API over a real connection on the loopback, on a store in memory.

pub(crate) mod harness;
mod kubernetes;
mod reading;
mod security;
mod watching;
mod writing;
