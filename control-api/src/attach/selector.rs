//! Label selectors over namespaces.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::Namespace;

use crate::world::World;

/// The label that every namespace has in Kubernetes.
const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Whether a selector selects a namespace. Where there is no such object it has the label of its name alone.
pub(super) fn selects<'s>(
    world: &World,
    namespace: &str,
    labels: Option<&BTreeMap<String, String>>,
    mut expressions: impl Iterator<Item = (&'s str, &'s str, &'s [String])>,
) -> bool {
    let object = world.get::<Namespace>("", namespace);
    let value = |key: &str| {
        let own = object.and_then(|it| it.object.label(key));
        own.or_else(|| (key == NAME_LABEL).then_some(namespace))
    };
    labels.into_iter().flatten().all(|(key, wanted)| value(key) == Some(wanted))
        && expressions.all(|(key, operator, values)| {
            let listed = || value(key).is_some_and(|found| values.iter().any(|it| it == found));
            match operator {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => value(key).is_some(),
                "DoesNotExist" => value(key).is_none(),
                _ => false,
            }
        })
}
