//! Custom resource definitions, made from the Rust types.

use gateway_api::apis::{experimental, standard};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::CustomResourceExt as _;

use crate::model::own;

/// Those of our own kinds: what `kubectl apply -f` needs before the control plane finds them.
pub fn own() -> Vec<CustomResourceDefinition> {
    own::crds()
}

/// Those of our own kinds as YAML.
///
/// # Errors
/// Never, as far as is known: every definition can be written.
pub fn yaml() -> Result<String, String> {
    Ok(own::crds_yaml()?.into_iter().map(|(_, yaml)| format!("---\n{yaml}")).collect())
}

/// Those of the Gateway API as the Rust types know them: the standard channel, and TCPRoute of the experimental one. For tests
/// and small clusters; they lack the validation rules (CEL) of the published ones, which belong to the project's releases.
pub fn gateway_api() -> Vec<CustomResourceDefinition> {
    let crds = vec![
        standard::gatewayclasses::GatewayClass::crd(),
        standard::gateways::Gateway::crd(),
        standard::httproutes::HttpRoute::crd(),
        standard::grpcroutes::GrpcRoute::crd(),
        standard::tlsroutes::TlsRoute::crd(),
        experimental::tcproutes::TcpRoute::crd(),
        standard::referencegrants::ReferenceGrant::crd(),
        standard::backendtlspolicies::BackendTlsPolicy::crd(),
    ];
    // Groups under k8s.io are guarded: https://github.com/kubernetes/enhancements/pull/1111
    let approve = |mut crd: CustomResourceDefinition| {
        let annotations = crd.metadata.annotations.get_or_insert_default();
        annotations.insert("api-approved.kubernetes.io".into(), "unapproved, made from Rust types".into());
        crd
    };
    crds.into_iter().map(approve).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Kind;

    #[test]
    fn what_is_printed_is_read_back_the_same() {
        let read = crate::model::documents("crds", &yaml().unwrap()).unwrap();
        let made: Vec<_> = own().iter().map(|crd| serde_json::to_value(crd).unwrap()).collect();
        assert_eq!(read, made);
        assert_eq!(read[0]["apiVersion"], "apiextensions.k8s.io/v1");
    }

    #[test]
    fn every_kind_of_ours_has_one_that_agrees_with_the_table() {
        let crds = own();
        let ours: Vec<_> = Kind::ALL.iter().filter(|kind| kind.group() == "outrider.dev").collect();
        assert_eq!(crds.len(), ours.len());
        for kind in ours {
            let name = format!("{}.{}", kind.plural(), kind.group());
            let crd = crds.iter().find(|crd| crd.metadata.name.as_ref() == Some(&name)).expect(&name);
            assert_eq!(crd.spec.names.kind, kind.name());
            assert_eq!(crd.spec.scope, if kind.namespaced() { "Namespaced" } else { "Cluster" });
            let version = &crd.spec.versions[0];
            assert_eq!([version.name.as_str()], kind.versions());
            let status = version.subresources.as_ref().is_some_and(|it| it.status.is_some());
            assert_eq!(status, *kind != Kind::JoinToken, "{name}: a status is written apart");
        }
    }
}
