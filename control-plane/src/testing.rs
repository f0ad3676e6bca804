//! The tests' house: one private Postgres per test process, one database per test cloned from a migrated template, and a
//! router driven in process. Reads as sentences: `App::start().await`, `app.user("ann").await`, `ann.post(…).await`.

mod app;
mod cluster;
mod locks;
mod rows;

pub(crate) use app::{Answer, App, Client, PASSWORD};
pub(crate) use cluster::{empty_database, migrated_database};
pub(crate) use locks::{hold_pair, until_blocked};
pub(crate) use rows::{calm_zone, run_sql, since_last_month, use_api};
