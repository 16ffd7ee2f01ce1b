//! The API over a real connection on the loopback, on a store in memory.

mod harness;
mod reading;
mod security;
mod watching;
mod writing;
