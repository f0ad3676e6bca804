//! Reading a column that has a closed set of texts. A text outside of the set is a row that our checks made impossible.

use tokio_postgres::Row;

use super::StoreError;

/// The column's text as a domain type. Errors: [`StoreError::BadRow`] with the column's name.
pub(super) fn closed_text<T>(row: &Row, column: &str, parse: fn(&str) -> Option<T>) -> Result<T, StoreError> {
    let text: &str = row.try_get(column)?;
    parse(text).ok_or_else(|| StoreError::BadRow(format!("{column} is '{text}'")))
}
