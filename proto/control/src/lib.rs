//! The gRPC API of Outrider's control plane, generated from `proto/outrider`; the `.proto` files document it.

tonic::include_proto!("outrider.control.v1");

/// The descriptors of the API, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/control.bin"));

/// What is used of etcd's API; `etcd/etcd.proto` documents it.
pub mod etcd {
    tonic::include_proto!("etcdserverpb");
}

/// How workloads get certificates: `proto/outrider/identity/v1/identity.proto`.
pub mod identity {
    tonic::include_proto!("outrider.identity.v1");
}

/// How Istio's agents ask for certificates; `istio/citadel.proto` documents it.
pub mod istio {
    tonic::include_proto!("istio.v1.auth");
}
