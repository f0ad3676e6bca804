//! The control plane: accounts, products, plans, subscriptions and keys over REST; the snapshot that the gateways serve; the
//! usage that they report. Refuses to sit on the path of a consumer's request.

pub mod api;
pub mod billing;
pub mod bootstrap;
pub mod changes;
pub mod delivery;
pub mod domain;
pub mod feed;
pub mod host_proof;
mod housekeeping;
pub mod ingest;
pub mod jobs;
pub mod live;
pub mod metering;
pub mod metrics;
pub mod migrate;
pub mod passwords;
pub mod postgres;
pub mod publish;
pub mod quota_reconcile;
pub mod quota_seed;
pub mod router;
pub mod server;
pub mod settings;
pub mod store;
pub mod throttle;
pub mod tokens;
mod watched;

#[cfg(test)]
pub(crate) mod testing;
