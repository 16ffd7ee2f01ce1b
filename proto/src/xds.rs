//! Messages of the xDS API that the package `envoy-types` lacks, as no file of Envoy's API imports them.
//!
//! Their descriptors are added to Envoy's at build time (`build/extra.rs`).

use prost::{Message, Name};

use crate::pb::xds::r#type::v3::CelExpression;

/// A matcher: an expression over all attributes that is true.
#[derive(Clone, PartialEq, Message)]
pub struct CelMatcher {
    /// The expression.
    #[prost(message, optional, tag = "1")]
    pub expr_match: Option<CelExpression>,
    /// For people.
    #[prost(string, tag = "2")]
    pub description: String,
}

impl Name for CelMatcher {
    const NAME: &'static str = "CelMatcher";
    const PACKAGE: &'static str = "xds.type.matcher.v3";
}

/// An input: all attributes of a request, for [`CelMatcher`].
#[derive(Clone, Copy, PartialEq, Message)]
pub struct HttpAttributesCelMatchInput {}

impl Name for HttpAttributesCelMatchInput {
    const NAME: &'static str = "HttpAttributesCelMatchInput";
    const PACKAGE: &'static str = "xds.type.matcher.v3";
}
