//! A statement put together from fixed parts and bound values. Prepared for one use, so that its plan suits its values: a
//! chart of an hour and one of a year want different plans. Refuses any part that is not ours.

use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::super::{StoreError, Transaction};

pub(super) struct Composed {
    text: String,
    values: Vec<Box<dyn ToSql + Sync + Send>>,
}

impl Composed {
    /// `name` stands in the first line, for the log of Postgres.
    pub(super) fn named(name: &'static str) -> Composed {
        Composed { text: format!("-- analytics.{name}\n"), values: Vec::new() }
    }

    pub(super) fn push(&mut self, part: &str) {
        self.text.push_str(part);
    }

    /// The value's place, as in `$3`.
    pub(super) fn bind(&mut self, value: impl ToSql + Sync + Send + 'static) -> String {
        self.values.push(Box::new(value));
        format!("${}", self.values.len())
    }

    pub(super) async fn rows(&self, tx: &Transaction<'_>) -> Result<Vec<Row>, StoreError> {
        let values: Vec<&(dyn ToSql + Sync)> =
            self.values.iter().map(|value| &**value as &(dyn ToSql + Sync)).collect();
        tx.query_once(&self.text, &values).await
    }
}
