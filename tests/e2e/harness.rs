//! What the tests stand on: a world of real servers, an upstream that can misbehave, clients that read as sentences.

mod ports;
mod postgres;
mod publisher;
mod role;
mod upstream;
mod wait;
mod world;

pub use publisher::Catalog;
pub use wait::eventually;
pub use world::{World, choose_tls_provider};
