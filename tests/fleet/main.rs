//! A fleet of real gateways, one real Redis, and every fault that a fleet meets: what clients were let do, by their own clocks,
//! is held to the bound of `limits/README.md` with the terms of the faults that happened.
//!
//!     cargo test -p apihub --test fleet -- --nocapture                       # three gateways, about a minute
//!     FLEET_GATEWAYS=10 FLEET_SECONDS=30 cargo test -p apihub --test fleet -- --nocapture
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // A test crate.
#![allow(clippy::print_stdout)] // The figures are the result.
#![allow(unreachable_pub)] // Nobody reaches into a test crate.

#[path = "../e2e"]
mod e2e {
    #[allow(dead_code)] // The end-to-end tests use it too, each their part of it.
    pub mod harness;
}
use e2e::harness;

mod exact;
mod faults;
mod load;
mod scene;
mod sentinel;
mod verdict;
