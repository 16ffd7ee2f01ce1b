//! `PeerPolicy`: what a workload accepts from its peers.
//!
//! A policy for the workload goes before one for its namespace, and that before one for the mesh (in `outrider-system`, without selector); in
//! each, what it says of the port goes before what it says of all. Where nobody says anything, both TLS and clear text are accepted.

use crate::model::Typed as _;
use crate::model::own::{MESH_NAMESPACE, MtlsMode, PeerPolicy, PeerPolicySpec};
use crate::translate::Context;

use super::authorization::Workload;

/// The policies of one workload, those first that go first.
#[derive(Clone, Debug)]
pub struct Accepted<'c> {
    /// Which of these is for this workload, nobody knows, as nobody says its labels.
    doubtful: Vec<&'c PeerPolicySpec>,
    certain: Vec<&'c PeerPolicySpec>,
}

impl<'c> Accepted<'c> {
    /// Those of a workload.
    pub fn of(context: &'c Context, workload: Workload<'_>) -> Self {
        let listed = |namespace: &str| {
            let listed = context.policies.peers.get(namespace).map(Vec::as_slice).unwrap_or_default();
            listed.iter().filter_map(|object| Some(&PeerPolicy::of(&object.body)?.spec))
        };
        let selects =
            |it: &&PeerPolicySpec| it.selector.as_ref().is_some_and(|it| !it.match_labels.is_empty());
        let selected = listed(workload.namespace).filter(selects);
        let (mut doubtful, mut certain) = (Vec::new(), Vec::new());
        match workload.labels {
            Some(labels) => certain.extend(
                selected.filter(|it| it.selector.as_ref().is_some_and(|it| it.matches(labels))).take(1),
            ),
            None => doubtful.extend(selected),
        }
        certain.extend(listed(workload.namespace).find(|it| !selects(it)));
        if workload.namespace != MESH_NAMESPACE {
            certain.extend(listed(MESH_NAMESPACE).find(|it| !selects(it)));
        }
        Self { doubtful, certain }
    }

    /// What is accepted at a port of the workload; `None`: at those that nobody named. Among what may be meant the strictest counts.
    pub fn at(&self, port: Option<u16>) -> MtlsMode {
        let certain = self.certain.iter().find_map(|it| said(it, port)).unwrap_or_default();
        let all = self.doubtful.iter().filter_map(|it| said(it, port)).chain([certain]);
        all.max_by_key(|mode| match mode {
            MtlsMode::Strict => 2,
            MtlsMode::Permissive => 1,
            MtlsMode::Disabled => 0,
        })
        .unwrap_or_default()
    }

    /// The ports that are named.
    pub fn ports(&self) -> impl Iterator<Item = u16> {
        self.doubtful.iter().chain(&self.certain).flat_map(|it| &it.ports).map(|it| it.number)
    }
}

/// Whether a policy anywhere has something spoken in clear alone.
pub fn any_disabled(context: &Context) -> bool {
    let specs = context.policies.peers.values().flatten().filter_map(|it| PeerPolicy::of(&it.body));
    specs
        .flat_map(|it| it.spec.mtls.iter().chain(it.spec.ports.iter().map(|it| &it.mtls)))
        .any(|it| it.mode == MtlsMode::Disabled)
}

fn said(policy: &PeerPolicySpec, port: Option<u16>) -> Option<MtlsMode> {
    let at_port = port.and_then(|port| policy.ports.iter().find(|it| it.number == port));
    at_port.map(|it| it.mtls.mode).or_else(|| policy.mtls.as_ref().map(|it| it.mode))
}
