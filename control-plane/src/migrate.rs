//! The schema's migrations, embedded in the binary and applied forward only. Refuses to run when one that was applied has
//! been edited or is missing here: then the database is not what this binary believes.

use std::time::Duration;

use refinery::error::Kind;
use refinery::{Migration, Runner};
use tokio_postgres::Client;

use crate::postgres::Link;

#[cfg(test)]
mod tests;

#[allow(clippy::unwrap_used)] // The macro's own code, over file names that were checked when it was expanded.
mod embedded {
    refinery::embed_migrations!("../migrations");
}

/// Reaching Postgres; a migration itself may take as long as it needs.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// One process migrates at a time; the others wait and then find nothing to do. Any constant would do.
const LOCK: i64 = 0x6170_6968_7562;

/// What a run did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Applied now, in order, as `V1__accounts`.
    pub applied: Vec<String>,
    /// The schema's version afterwards.
    pub version: i32,
}

#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    #[error("the database cannot be reached: {0}")]
    Unreachable(String),
    #[error(
        "migration {0} was edited after it had been applied to this database; applied migrations never change: \
         restore the file and put the change into a new one"
    )]
    Edited(String),
    #[error("the database has migration {0}, which this binary does not know; run the newer binary")]
    Unknown(String),
    #[error("a migration failed and was rolled back: {0}")]
    Failed(String),
}

/// Brings the database to this binary's schema; does nothing when it is there.
pub async fn run(database: &Link) -> Result<Report, MigrateError> {
    apply(database, &embedded::migrations::runner()).await
}

/// The version that this binary needs.
pub fn head() -> i32 {
    embedded::migrations::runner().get_migrations().iter().map(Migration::version).max().unwrap_or(0)
}

async fn apply(database: &Link, runner: &Runner) -> Result<Report, MigrateError> {
    let mut client = connect(database.clone()).await?;
    let failed = |error: tokio_postgres::Error| MigrateError::Failed(describe(&error));
    client.execute("SELECT pg_advisory_lock($1)", &[&LOCK]).await.map_err(failed)?;
    let runner = runner_with_rules(runner);
    // The lock ends with the session, which ends with this function.
    let report = runner.run_async(&mut client).await.map_err(|error| explain(&error))?;
    let version = runner
        .get_last_applied_migration_async(&mut client)
        .await
        .map_err(|error| explain(&error))?
        .map_or(0, |migration| migration.version());
    Ok(Report { applied: report.applied_migrations().iter().map(ToString::to_string).collect(), version })
}

fn runner_with_rules(runner: &Runner) -> Runner {
    Runner::new(runner.get_migrations()).set_abort_divergent(true).set_abort_missing(true)
}

async fn connect(mut database: Link) -> Result<Client, MigrateError> {
    database.config.connect_timeout(CONNECT_MAX).application_name("apihub-migrate");
    let connecting = tokio::time::timeout(CONNECT_MAX, database.connect()).await;
    let (client, connection) = connecting
        .map_err(|_| MigrateError::Unreachable(format!("no answer within {} s", CONNECT_MAX.as_secs())))?
        .map_err(|error| MigrateError::Unreachable(describe(&error)))?;
    // Ends when the client is dropped; what it would say comes back from the client's calls too.
    tokio::spawn(connection);
    Ok(client)
}

fn explain(error: &refinery::Error) -> MigrateError {
    match error.kind() {
        Kind::DivergentVersion(applied, _) => MigrateError::Edited(applied.to_string()),
        Kind::MissingVersion(applied) => MigrateError::Unknown(applied.to_string()),
        Kind::Connection(what, source) => match source.downcast_ref::<tokio_postgres::Error>() {
            Some(error) => MigrateError::Failed(describe(error)),
            None => MigrateError::Failed(what.clone()),
        },
        other => MigrateError::Failed(other.to_string()),
    }
}

/// The database's own words instead of "db error".
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(database) => format!("{} ({})", database.message(), database.code().code()),
        None => error.to_string(),
    }
}
