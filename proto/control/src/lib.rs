//! The gRPC API of Outrider's control plane, generated from `proto/outrider/control/v1`; the `.proto` file documents it.

tonic::include_proto!("outrider.control.v1");

/// The descriptors of the API, for reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/control.bin"));

/// What is used of etcd's API; `etcd/etcd.proto` documents it.
pub mod etcd {
    tonic::include_proto!("etcdserverpb");
}
