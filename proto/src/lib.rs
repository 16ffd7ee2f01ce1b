//! Envoy's v3 API for Outrider: typed messages, YAML/JSON mapping, field paths, descriptor rules.

pub use envoy_types::pb;
pub use prost;
pub use prost_reflect;

pub mod any;
pub mod descriptors;
pub mod is_set;
pub mod load;
pub mod path;
pub mod problem;
pub mod suggest;

pub use descriptors::Descriptors;
pub use is_set::IsSet;
pub use path::Path;
pub use problem::{Problem, Problems};
