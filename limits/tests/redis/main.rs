//! The library of limits in real deployments of Redis: a cluster, a failover, and what it costs. Every server is a child of the
//! test that started it. Whether the functions do what the model does is tested in the crate itself.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, clippy::print_stdout)] // A test crate.

mod cluster;
mod cost;
mod failover;
mod node;
#[allow(dead_code)] // The gateway's tests use the rest.
mod rig;
