//! ReferenceGrants: who may refer to what in another namespace.

use gateway_api::apis::standard::referencegrants::ReferenceGrant;

use crate::world::World;

/// One end of a reference.
#[derive(Clone, Copy, Debug)]
pub(super) struct End<'a> {
    /// The API group; empty for the core.
    pub(super) group: &'a str,
    /// The kind.
    pub(super) kind: &'a str,
    /// The namespace.
    pub(super) namespace: &'a str,
}

/// Whether `from` may refer to `name` of the kind of `to`. Within a namespace always, else when a grant next to the target
/// says so. <https://gateway-api.sigs.k8s.io/api-types/referencegrant/>
pub(super) fn permitted(world: &World, from: End<'_>, to: End<'_>, name: &str) -> bool {
    from.namespace == to.namespace
        || world.all_in::<ReferenceGrant>(to.namespace).any(|grant| {
            let spec = &grant.spec;
            spec.from
                .iter()
                .any(|it| it.group == from.group && it.kind == from.kind && it.namespace == from.namespace)
                && spec.to.iter().any(|it| {
                    it.group == to.group
                        && it.kind == to.kind
                        && it.name.as_deref().is_none_or(|named| named.is_empty() || named == name)
                })
        })
}
