//! The data plane: decides every request from one immutable snapshot and proxies what was admitted. It has no database, and
//! the request path never waits for the network beside its own upstream.

pub mod server;
pub mod settings;

pub mod proxy;

pub mod decide;
pub mod filters;
pub mod live;
pub mod rejection;

pub mod header_texts;
mod held;
mod id_hash;
mod lock;

pub mod bulkhead;
pub mod limiter;
pub mod upstream;
pub mod usage;

pub mod admin;
pub mod clock;
pub mod feed;
pub mod metrics;
