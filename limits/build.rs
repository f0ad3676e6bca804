//! Tells the compiler that `--cfg loom` is a word of ours. Refuses to do anything else.

#![allow(clippy::print_stdout)] // The way a build script speaks.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rustc-check-cfg=cfg(loom)");
}
