//! The authority from outside: requests, chains, files, rotations, and both services with real clients.

mod chains;
mod harness;
mod joining;
mod requests;
mod rotation;
mod service;
mod tokens;
