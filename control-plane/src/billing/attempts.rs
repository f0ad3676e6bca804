//! Work that is done for one after the other: what fails for one is told and counted, and the others go on; only a database that is away
//! ends it all. Knows not what the work is.

use super::account::AccountFault;
use crate::store::{Store, StoreError};

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub count: u64,
    /// Told in the log, each with whom it concerns.
    pub failed: u64,
}

/// The attempts of one run.
pub struct Attempts<'a> {
    store: &'a Store,
    failed: u64,
}

impl<'a> Attempts<'a> {
    pub fn new(store: &'a Store) -> Attempts<'a> {
        Attempts { store, failed: 0 }
    }

    pub fn failed(&self) -> u64 {
        self.failed
    }

    pub fn done(&self, count: u64) -> Done {
        Done { count, failed: self.failed }
    }

    /// What an attempt came to; nothing where it failed, which `tell` says. Errors: Postgres does not answer anybody. One that answers may
    /// still have refused this one's numbers, or have been too slow for them.
    pub async fn take<T, E: Into<AccountFault>>(
        &mut self,
        outcome: Result<T, E>,
        tell: impl FnOnce(AccountFault),
    ) -> Result<Option<T>, StoreError> {
        match outcome {
            Ok(found) => return Ok(Some(found)),
            Err(error) => tell(error.into()),
        }
        self.failed += 1;
        self.store.ping().await?;
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Metrics;
    use crate::settings::Database;
    use crate::testing::empty_database;

    fn too_slow() -> Result<(), StoreError> {
        Err(StoreError::unavailable("the transaction took too long"))
    }

    async fn store(url: String) -> Store {
        let url = settings::Secret::new(url);
        let settings = Database { url, ca_file: None, pool_size: 1, migrate_at_start: false };
        Store::new(&settings, Metrics::new().unwrap()).unwrap()
    }

    #[tokio::test]
    async fn what_is_too_slow_for_one_fails_alone_and_a_database_that_is_away_ends_the_run() {
        let there = store(empty_database().await.url).await;
        let mut attempts = Attempts::new(&there);
        for _ in 0..10 {
            assert!(attempts.take(too_slow(), |_| ()).await.unwrap().is_none());
        }
        assert_eq!(attempts.take(Ok::<_, StoreError>(7), |_| ()).await.unwrap(), Some(7));
        assert_eq!(attempts.done(1), Done { count: 1, failed: 10 });

        let away = store("postgres://nobody@127.0.0.1:1/nothing".to_owned()).await;
        let mut attempts = Attempts::new(&away);
        let error = attempts.take(too_slow(), |_| ()).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
}
