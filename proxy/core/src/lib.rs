//! The proxy's vocabulary: what every room speaks of and none of them owns.
//!
//! Stream info, response flags, local replies, matchers, the substitution
//! formatter, stat handles and the random source. No protobuf and no I/O here.

pub mod cel;
pub mod credentials;
pub mod flags;
pub mod format;
pub mod generation;
pub mod health;
pub mod jwt;
pub mod load;
pub mod matcher;
pub mod matching;
pub mod metadata;
pub mod metadata_matcher;
pub mod oauth2;
pub mod rate_limit;
pub mod rbac;
pub mod reply;
pub mod rng;
pub mod runtime;
pub mod san;
pub mod stats;
pub mod stream;
pub mod token_bucket;

pub use flags::ResponseFlags;
pub use metadata::{Metadata, MetadataValue, StreamMetadata};
pub use reply::LocalReply;
pub use stream::{ConnInfo, StreamInfo};
