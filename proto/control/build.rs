//! Compiles our own `.proto` files, without `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../outrider");
    println!("cargo:rerun-if-changed=etcd");
    println!("cargo:rerun-if-changed=istio");
    let set = protox::compile(["outrider/control/v1/control.proto"], [".."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("control.bin"), set.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(set)?;
    // Apart, as reflection shows the first alone.
    let etcd = protox::compile(["etcd.proto"], ["etcd"])?;
    tonic_prost_build::configure().build_server(false).bytes(".").compile_fds(etcd)?;
    let identity = protox::compile(["outrider/identity/v1/identity.proto"], [".."])?;
    tonic_prost_build::configure().compile_fds(identity)?;
    let istio = protox::compile(["citadel.proto"], ["istio"])?;
    tonic_prost_build::configure().compile_fds(istio)?;
    Ok(())
}
