//! Envoy's v3 API for Outrider: all that knows protobuf, and the one crate that names `envoy-types`.
//!
//! - [`pb`]: the generated types, re-exported.
//! - [`Descriptors`]: what the types look like, decoded on demand and droppable.
//! - [`load`]: YAML or JSON text to a message, with the line of every field and all problems at once.
//! - [`validate`]: the rules that the API itself puts on its fields.
//! - [`walk`], [`unknown`]: which fields are set; which were set and are not known.
//! - [`Inspector`]: the two last for messages that come over the wire, at little cost where nothing is wrong.
//! - [`json`], [`mod@redact`], [`secrets`], [`encode`]: messages to JSON, secrets out of messages or found, bytes that compare.
//! - [`own`]: extensions that Envoy does not have; [`xds`]: messages that its package lacks.
//! - [`any`], [`Path`], [`IsSet`]: small tools for converters.
//!
//! ```
//! use outrider_proto::{Descriptors, load, pb::envoy::config::bootstrap::v3::Bootstrap, validate};
//!
//! let descs = Descriptors::load();
//! let text = "static_resources: {clusters: [{name: a, connect_timeout: 0.5s}]}";
//! let name = "envoy.config.bootstrap.v3.Bootstrap";
//! let loaded = load::parse(&descs, text, "envoy.yaml", name, load::ParseOptions::default())?;
//! assert!(validate::check(&loaded.message, &loaded.lines).is_empty());
//! let bootstrap: Bootstrap = loaded.typed()?;
//! assert_eq!(bootstrap.static_resources.unwrap().clusters[0].name, "a");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

pub use envoy_types::pb;
pub use prost;
pub use prost_reflect;

pub mod any;
pub mod descriptors;
pub mod encode;
pub mod inspect;
pub mod is_set;
pub mod json;
pub mod load;
pub mod own;
pub mod path;
pub mod problem;
pub mod redact;
pub mod secrets;
pub mod suggest;
pub mod unknown;
pub mod validate;
pub mod walk;
pub mod xds;

pub use descriptors::Descriptors;
pub use inspect::{Inspected, Inspector};
pub use is_set::IsSet;
pub use json::to_json;
pub use path::Path;
pub use problem::{Problem, Problems};
pub use redact::redact;
pub use secrets::holds_secrets;
