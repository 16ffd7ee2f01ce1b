//! Whole translations, as files: `world.yaml` (what operators wrote), `node.yaml` (who asks), `expected.yaml` (what it is sent).
//! `UPDATE_GOLDEN=1` writes the third anew. What is expected is then put through the real Envoy and through `outrider check`,
//! as a bootstrap, where they are there.
//!
//! `@CERT@`, `@KEY@` and `@CA@` in a world stand for a certificate that is made for each run.

#[cfg(test)]
mod bootstrap;
#[cfg(test)]
mod cases;
#[cfg(test)]
mod judge;
