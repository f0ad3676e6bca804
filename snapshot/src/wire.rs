//! The wire types and the feed service, generated from `proto/apihub.proto` (see `tests/generated.rs`). They are not
//! domain types: everything that arrives goes through `record` before anybody uses it.

#[allow(clippy::all, clippy::pedantic, unreachable_pub, missing_docs)]
mod generated {
    include!("wire/apihub.v1.rs");
}

pub use generated::*;

/// Version of the conversation itself; raised only when an older peer could misunderstand. 2: a full snapshot ends with a seal.
pub const PROTOCOL: u32 = 2;
/// Largest message either side of the feed accepts, in bytes: a chunk or a delta of one tenant's largest release.
pub const FEED_MESSAGE_BYTES_MAX: usize = 16 * 1024 * 1024;
