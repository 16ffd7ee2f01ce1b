//! Compiles our own `.proto` files, without `protoc`.

use std::{env, error::Error, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=../outrider");
    let set = protox::compile(["outrider/control/v1/control.proto"], [".."])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("control.bin"), set.encode_to_vec())?;
    tonic_prost_build::configure().compile_fds(set)?;
    Ok(())
}
