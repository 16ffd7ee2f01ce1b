//! Fuzzing: all that is read from control planes and from peers, with inputs that nobody would send by intent.
//!
//! It is a crate of the workspace that stable Rust builds with everything else, so that every change compiles its targets
//! and runs them. libFuzzer would need a second, instrumented build of Envoy's API (minutes, each time) and a C++
//! compiler; what it gives, guidance, comes from the outcomes here: which fields are refused for which reason, what is
//! inert, what was read. An input with an outcome that no other had is kept and changed further. The targets are plain
//! functions of bytes ([`targets::Target::run`]): to put them under another engine is a line each.
//!
//! The test `fuzz` runs all of them: `OUTRIDER_FUZZ_SECONDS` (default 1) for each type of resource that a control plane
//! sends, a sixth of that for the others. What makes a target panic, overflow its stack or take longer than
//! [`run::SLOW`] is written to a file and named. An input that did so once stays in `regressions/` and is run each time.

mod expression;
pub mod mutate;
pub mod rng;
pub mod run;
pub mod seeds;
pub mod targets;
