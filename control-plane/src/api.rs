//! REST under `/v1`: turns requests into domain values, asks the store, and answers. The only room that knows JSON requests.
//! Refuses to hold SQL, and to compile snapshots.

pub mod access_tokens;
pub mod audit;
pub mod auth;
pub mod etag;
pub mod extract;
pub mod health;
pub mod idempotency;
pub mod layers;
pub mod members;
pub mod openapi;
pub mod organizations;
pub mod page;
pub mod problem;
pub mod sessions;
pub mod source;
pub mod state;
pub mod users;
pub mod write;
