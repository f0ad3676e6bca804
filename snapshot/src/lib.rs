//! The contract between the planes: what a key looks like, what a record says, how a path is matched, which upstream
//! addresses are allowed, what a usage event holds. Owned by neither plane; knows no database, no proxy, no clock.

pub mod features;
pub mod guard;
pub mod key;
pub mod path;
pub mod pattern;
pub mod record;
pub mod routes;
pub mod target;
pub mod token;
pub mod usage;
pub mod wire;
