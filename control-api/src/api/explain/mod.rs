//! What a request would meet at a proxy.

use crate::pb;
use crate::translate::{Context, Resources};
use crate::world::Proxy;

/// A request that is asked about.
#[derive(Clone, Debug)]
pub struct Asked {}

impl Asked {
    /// Reads what a client sent.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn read(request: &pb::ExplainRequest) -> Result<Self, String> {
        let _ = request;
        Ok(Self {})
    }
}

/// What happens to it.
pub fn explain(
    context: &Context,
    proxy: &Proxy,
    resources: &Resources,
    asked: &Asked,
) -> pb::ExplainResponse {
    let _ = (context, proxy, resources, asked);
    pb::ExplainResponse::default()
}
