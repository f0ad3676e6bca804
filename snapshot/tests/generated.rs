//! The committed wire code is what the proto file says. Run with `APIHUB_REGENERATE=1` to write it anew; needs no protoc.
#![allow(clippy::expect_used)] // A test crate: a failed expectation is the failed test.

use std::path::{Path, PathBuf};

const FILE: &str = "apihub.v1.rs";

fn generate(into: &Path) {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    let files = protox::compile(["apihub.proto"], [root.join("proto")]).expect("the proto file compiles");
    tonic_prost_build::configure()
        .bytes(".apihub.v1.Chunk.records")
        .out_dir(into)
        .compile_fds(files)
        .expect("the code is generated");
}

#[test]
fn the_committed_wire_code_is_generated_from_the_proto_file() {
    let committed = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/wire");
    if std::env::var_os("APIHUB_REGENERATE").is_some() {
        generate(&committed);
    }
    let fresh = tempfile::tempdir().expect("a temporary folder");
    generate(fresh.path());
    let want = std::fs::read_to_string(fresh.path().join(FILE)).expect("generated");
    let have = std::fs::read_to_string(committed.join(FILE)).expect("committed");
    assert!(want == have, "snapshot/src/wire/{FILE} is stale: APIHUB_REGENERATE=1 cargo test -p apihub-snapshot");
}
