//! What the two protocols say, and how it is written.

use std::collections::HashMap;

use outrider_proto::pb::envoy::config::core::v3::Node;
use outrider_proto::pb::envoy::service::discovery::v3 as xds;
use outrider_proto::prost::Message;

use super::pieces::{Framed, Pieces, field};
use crate::ads::session::Due;
use crate::ads::wish::Wish;
use crate::translate::Resource;

/// What both kinds of requests say.
#[derive(Debug)]
pub(in super::super) struct Said {
    pub(in super::super) node: Option<Node>,
    pub(in super::super) type_url: String,
    pub(in super::super) nonce: String,
    pub(in super::super) refused: Option<String>,
    pub(in super::super) wish: Wish,
}

/// One of the two protocols.
pub(in super::super) trait Protocol: Send + 'static {
    /// Whether it tells what changed rather than all there is.
    const DELTA: bool;
    /// A request.
    type In: Message + Default + 'static;
    /// What a request says.
    fn read(request: Self::In) -> Said;
    /// A response.
    fn write(due: &Due, instance: &str) -> Framed;
}

/// State of the world.
pub(in super::super) struct Whole;
/// Delta.
pub(in super::super) struct Delta;

impl Protocol for Whole {
    const DELTA: bool = false;
    type In = xds::DiscoveryRequest;

    fn read(request: Self::In) -> Said {
        Said {
            node: request.node,
            type_url: request.type_url,
            nonce: request.response_nonce,
            refused: request.error_detail.map(|it| it.message),
            wish: Wish::Whole { names: request.resource_names },
        }
    }

    fn write(due: &Due, instance: &str) -> Framed {
        let url = due.kind.url();
        let mut out = Pieces::default();
        out.text(whole::VERSION, &due.version);
        for resource in &due.resources {
            out.begin(whole::RESOURCES, any(&url, resource));
            put(&mut out, &url, resource);
        }
        out.text(whole::TYPE_URL, &url);
        out.text(whole::NONCE, &due.nonce);
        sender(&mut out, whole::CONTROL_PLANE, instance);
        out.framed()
    }
}

impl Protocol for Delta {
    const DELTA: bool = true;
    type In = xds::DeltaDiscoveryRequest;

    fn read(request: Self::In) -> Said {
        Said {
            node: request.node,
            type_url: request.type_url,
            nonce: request.response_nonce,
            refused: request.error_detail.map(|it| it.message),
            wish: Wish::Change {
                subscribe: request.resource_names_subscribe,
                unsubscribe: request.resource_names_unsubscribe,
                known: request.initial_resource_versions.into_iter().collect::<HashMap<_, _>>(),
            },
        }
    }

    fn write(due: &Due, instance: &str) -> Framed {
        let url = due.kind.url();
        let mut out = Pieces::default();
        out.text(delta::VERSION, &due.version);
        for resource in &due.resources {
            let (version, packed) = (resource.version_text(), any(&url, resource));
            let texts = field(delta::resource::NAME, resource.name.len())
                + field(delta::resource::VERSION, version.len());
            out.begin(delta::RESOURCES, texts + field(delta::resource::RESOURCE, packed));
            out.always(delta::resource::NAME, &resource.name);
            out.always(delta::resource::VERSION, &version);
            out.begin(delta::resource::RESOURCE, packed);
            put(&mut out, &url, resource);
        }
        out.text(delta::TYPE_URL, &url);
        out.text(delta::NONCE, &due.nonce);
        for name in &due.removed {
            out.always(delta::REMOVED, name);
        }
        sender(&mut out, delta::CONTROL_PLANE, instance);
        out.framed()
    }
}

/// Field numbers of `envoy.service.discovery.v3.DiscoveryResponse`.
mod whole {
    pub(super) const VERSION: u32 = 1;
    pub(super) const RESOURCES: u32 = 2;
    pub(super) const TYPE_URL: u32 = 4;
    pub(super) const NONCE: u32 = 5;
    pub(super) const CONTROL_PLANE: u32 = 6;
}

/// Field numbers of `envoy.service.discovery.v3.DeltaDiscoveryResponse`.
mod delta {
    pub(super) const VERSION: u32 = 1;
    pub(super) const RESOURCES: u32 = 2;
    pub(super) const TYPE_URL: u32 = 4;
    pub(super) const NONCE: u32 = 5;
    pub(super) const REMOVED: u32 = 6;
    pub(super) const CONTROL_PLANE: u32 = 7;

    /// Of `envoy.service.discovery.v3.Resource`.
    pub(super) mod resource {
        pub(in super::super) const VERSION: u32 = 1;
        pub(in super::super) const RESOURCE: u32 = 2;
        pub(in super::super) const NAME: u32 = 3;
    }
}

/// Field numbers of `google.protobuf.Any`.
mod packed {
    pub(super) const TYPE_URL: u32 = 1;
    pub(super) const VALUE: u32 = 2;
}

/// How many bytes a resource takes as an `Any`.
fn any(url: &str, resource: &Resource) -> usize {
    field(packed::TYPE_URL, url.len()) + field(packed::VALUE, resource.body.len())
}

/// Adds a resource as an `Any`.
fn put(out: &mut Pieces, url: &str, resource: &Resource) {
    out.always(packed::TYPE_URL, url);
    out.body(packed::VALUE, &resource.body);
}

/// Adds who it is that answers: a `ControlPlane`, whose first field is its name.
fn sender(out: &mut Pieces, tag: u32, instance: &str) {
    out.begin(tag, field(1, instance.len()));
    out.always(1, instance);
}
