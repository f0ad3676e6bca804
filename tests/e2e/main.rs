//! End-to-end tests: the real program, real Postgres, real Redis, real sockets. Each test has a world of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::panic)] // A test crate.
#![allow(unreachable_pub)] // Nobody reaches into a test crate.

#[allow(dead_code)] // The fleet's tests use it too, each their part of it.
mod harness;

mod answers;
mod billing;
mod caps;
mod changes;
mod disk;
mod fast_101;
mod faults;
mod feed;
mod freshness;
mod happy_path;
mod metering;
mod protocols;
mod revocation;
mod stack;
mod tenancy;
