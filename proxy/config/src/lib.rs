//! Wire message to validated model.
//!
//! Pure functions: no I/O, no runtime. Every field of every message is decided: honoured, refused by its
//! path, or recorded as inert with the reason.

pub mod convert;
pub mod model;
