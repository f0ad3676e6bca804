//! What the tests stand on: a world of real servers, an upstream that can misbehave, clients that read as sentences.

mod ports;
mod postgres;
mod publisher;
mod role;
mod upstream;
mod wait;
mod world;

pub use publisher::{Catalog, Publisher, id};
pub use role::Role;
pub use upstream::Upstream;
pub use wait::eventually;
pub use world::{Setup, World};
