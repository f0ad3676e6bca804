//! What can go wrong in the store, as its callers need to tell it apart. Refuses to decide what a client reads: the API does.

use deadpool_postgres::PoolError;
use tokio_postgres::error::{DbError, Severity, SqlState};

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Postgres does not answer, or not in time; it may come back.
    #[error("Postgres is unavailable: {0}")]
    Unavailable(String),
    /// Postgres was lost while it committed, or did not answer in time: the work may be done or not.
    #[error("whether the transaction was committed is not known: {0}")]
    OutcomeUnknown(String),
    /// A unique constraint: the thing exists already.
    #[error("{constraint} refused a duplicate")]
    Conflict { constraint: String },
    /// A foreign key: something else refers to the row, or the row refers to nothing.
    #[error("{constraint} on {table} holds the row")]
    Referenced { constraint: String, table: String },
    /// A trigger or check of ours refused a change that the state of the row does not allow.
    #[error("{constraint} refused the change: {message}")]
    Refused { constraint: String, message: String },
    /// The text or number cannot be stored at all, such as a NUL character or an unknown time zone.
    #[error("Postgres cannot store the value: {0}")]
    BadValue(String),
    /// Serialization failure or deadlock: `run_tx` tries again, nobody else sees this.
    #[error("Postgres asks to try again")]
    Retry,
    /// A statement touched another number of rows than it must.
    #[error("{statement} touched {found} rows")]
    RowCount { statement: &'static str, found: u64 },
    /// A row that our own checks should have made impossible.
    #[error("a stored row cannot be read: {0}")]
    BadRow(String),
    #[error("{0}")]
    Settings(String),
    #[error("the database refused a statement: {0}")]
    Statement(tokio_postgres::Error),
}

impl StoreError {
    pub fn unavailable(reason: impl Into<String>) -> StoreError {
        StoreError::Unavailable(reason.into())
    }

    /// For a statement that must touch one row. Errors: `RowCount`.
    pub(super) fn expect_one(statement: &'static str, found: u64) -> Result<(), StoreError> {
        if found == 1 { Ok(()) } else { Err(StoreError::RowCount { statement, found }) }
    }

    /// The constraint's name, where one refused.
    pub fn constraint(&self) -> Option<&str> {
        match self {
            StoreError::Conflict { constraint }
            | StoreError::Referenced { constraint, .. }
            | StoreError::Refused { constraint, .. } => Some(constraint),
            _ => None,
        }
    }

    pub fn is_conflict_on(&self, name: &str) -> bool {
        matches!(self, StoreError::Conflict { constraint } if constraint == name)
    }

    /// For an error of COMMIT. What Postgres refuses while it lives is refused; after that it may have committed and could
    /// not say so any more.
    pub(super) fn of_commit(error: tokio_postgres::Error) -> StoreError {
        let told = error.as_db_error().is_some_and(|error| error.parsed_severity() == Some(Severity::Error));
        if told { StoreError::from(error) } else { StoreError::OutcomeUnknown(error.to_string()) }
    }

    fn of_database(error: &DbError) -> Option<StoreError> {
        let constraint = || error.constraint().unwrap_or("an unnamed constraint").to_owned();
        let code = error.code();
        Some(match code.code() {
            "40001" | "40P01" => StoreError::Retry,
            "23505" | "23P01" => StoreError::Conflict { constraint: constraint() },
            "23503" => StoreError::Referenced {
                constraint: constraint(),
                table: error.table().unwrap_or("an unnamed table").to_owned(),
            },
            "23000" | "23514" | "23502" => {
                StoreError::Refused { constraint: constraint(), message: error.message().to_owned() }
            }
            // Shutting down, crashed, starting, too many connections, cancelled by a timeout, a lock that did not come, out of
            // disk or memory.
            "57P01" | "57P02" | "57P03" | "57P05" | "57014" | "55P03" | "53000" | "53100" | "53200" | "53300"
            | "25006" => StoreError::Unavailable(error.message().to_owned()),
            text if text.starts_with("08") => StoreError::Unavailable(error.message().to_owned()),
            text if text.starts_with("22") => StoreError::BadValue(error.message().to_owned()),
            _ => return None,
        })
    }
}

impl From<tokio_postgres::Error> for StoreError {
    fn from(error: tokio_postgres::Error) -> StoreError {
        if let Some(known) = error.as_db_error().and_then(StoreError::of_database) {
            return known;
        }
        let is_io = std::error::Error::source(&error).is_some_and(|source| source.is::<std::io::Error>());
        let is_missing = error.code() == Some(&SqlState::INVALID_CATALOG_NAME);
        if error.is_closed() || is_io || is_missing || error.as_db_error().is_none() && is_connecting(&error) {
            return StoreError::Unavailable(error.to_string());
        }
        StoreError::Statement(error)
    }
}

/// The driver has no public kind for these; a statement of ours never has such a text.
fn is_connecting(error: &tokio_postgres::Error) -> bool {
    let text = error.to_string();
    ["connect", "communicating", "timeout", "authentication"].iter().any(|word| text.contains(word))
}

impl From<PoolError> for StoreError {
    fn from(error: PoolError) -> StoreError {
        match error {
            PoolError::Backend(error) => match StoreError::from(error) {
                // Whatever keeps a connection from being made, the store is not there.
                StoreError::Statement(error) => StoreError::Unavailable(error.to_string()),
                other => other,
            },
            PoolError::Timeout(_) => StoreError::unavailable("no connection became free in time"),
            other => StoreError::Unavailable(other.to_string()),
        }
    }
}
