//! Rebuilds this crate when a migration is added or edited: the files are embedded by a macro, which Cargo cannot see into.
//! Refuses to do anything else.

fn main() {
    println!("cargo::rerun-if-changed=../migrations");
}
