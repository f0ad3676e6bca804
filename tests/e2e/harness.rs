//! What the tests stand on: a world of real servers, an upstream that can misbehave, clients that read as sentences.

pub mod breaking_disk;
pub mod fault_proxy;
mod operator;
mod ports;
mod postgres;
mod publisher;
mod role;
mod upstream;
mod wait;
mod world;

// Each test crate uses its part of these.
#[allow(unused_imports)]
pub use publisher::{Catalog, Publisher};
#[allow(unused_imports)]
pub use wait::{eventually, eventually_within};
#[allow(unused_imports)]
pub use world::{USAGE_STREAM, World, ask_redis, choose_tls_provider};
