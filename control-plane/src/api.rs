//! REST under `/v1`: turns requests into domain values, asks the store, and answers. The only room that knows JSON requests.
//! Refuses to hold SQL, and to compile snapshots.

pub mod access;
pub mod access_tokens;
pub mod analytics;
pub mod audit;
pub mod auth;
pub mod billing;
pub mod catalog;
pub mod endpoints;
pub mod etag;
pub mod extract;
pub mod fleet;
pub mod headers;
pub mod health;
pub mod idempotency;
pub mod keys;
pub mod layers;
pub mod live;
pub mod members;
pub mod metering;
pub mod nodes;
pub mod openapi;
pub mod organizations;
pub mod page;
pub mod plans;
pub mod problem;
pub mod product_caps;
pub mod product_hosts;
pub mod products;
pub mod releases;
pub mod sessions;
pub mod source;
pub mod state;
pub mod subscriptions;
pub mod usage_access;
pub mod users;
pub mod write;

#[cfg(test)]
pub(crate) mod fixture;
#[cfg(test)]
mod secrecy_tests;
#[cfg(test)]
mod tenancy_tests;
