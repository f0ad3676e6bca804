//! How far the connected gateways are behind, as of the moment somebody looks at the metrics. Names no gateway: `/v1/nodes` says
//! which one it is.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntGauge, Registry};
use snapshot::token::Token;

use crate::publish::book::Book;

/// What each stream's gateway has acknowledged; `None`: nothing yet.
#[derive(Clone)]
pub(super) struct Lags {
    inner: Arc<Inner>,
}

struct Inner {
    book: Arc<Book>,
    acked: Mutex<(u64, HashMap<u64, Option<Token>>)>,
    behind: IntGauge,
    revisions: IntGauge,
    seconds: Gauge,
}

/// One stream; its gateway counts for as long as it lives.
pub(super) struct Lag {
    lags: Lags,
    stream: u64,
}

impl Lags {
    pub(super) fn register(registry: &Registry, book: Arc<Book>) -> Result<Lags, prometheus::Error> {
        let gauge = |name: &str, help: &str| IntGauge::new(format!("control_plane_feed_{name}"), help);
        let inner = Inner {
            book,
            acked: Mutex::default(),
            behind: gauge("behind", "Gateways connected here that do not serve the newest revision.")?,
            revisions: gauge("lag_revisions_max", "Revisions that the last of the gateways connected here lacks.")?,
            seconds: Gauge::new(
                "control_plane_feed_lag_seconds_max",
                "For how long one of the gateways connected here has not served what there is.",
            )?,
        };
        let lags = Lags { inner: Arc::new(inner) };
        registry.register(Box::new(lags.clone()))?;
        Ok(lags)
    }

    pub(super) fn enter(&self, have: Option<Token>) -> Lag {
        let mut acked = self.acked();
        acked.0 += 1;
        let stream = acked.0;
        acked.1.insert(stream, have);
        Lag { lags: self.clone(), stream }
    }

    fn acked(&self) -> MutexGuard<'_, (u64, HashMap<u64, Option<Token>>)> {
        self.inner.acked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn look(&self) {
        let Inner { book, behind, revisions, seconds, .. } = &*self.inner;
        let Some(newest) = book.newest() else { return };
        let acked: Vec<Option<Token>> = self.acked().1.values().copied().collect();
        let lacking = acked
            .iter()
            .filter(|acked| acked.is_none_or(|acked| acked.epoch != newest.epoch || acked.revision < newest.revision));
        let lacks = |acked: &&Option<Token>| match acked {
            Some(acked) if acked.epoch == newest.epoch => newest.revision.saturating_sub(acked.revision),
            // Everything.
            _ => newest.revision,
        };
        behind.set(i64::try_from(lacking.clone().count()).unwrap_or(i64::MAX));
        revisions.set(i64::try_from(lacking.clone().map(|acked| lacks(&acked)).max().unwrap_or(0)).unwrap_or(i64::MAX));
        let longest = lacking.filter_map(|acked| book.lag((*acked)?)).max().unwrap_or_default();
        seconds.set(longest.as_secs_f64());
    }
}

impl Lag {
    /// The gateway serves `token` now. Answers for how long it had lacked something, where that is known.
    pub(super) fn note(&self, token: Token) -> Option<std::time::Duration> {
        let before = self.lags.acked().1.insert(self.stream, Some(token)).flatten();
        before
            .filter(|before| before.epoch == token.epoch && before.revision < token.revision)
            .and_then(|before| self.lags.inner.book.lag(before))
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.lags.acked().1.remove(&self.stream);
    }
}

impl Collector for Lags {
    fn desc(&self) -> Vec<&Desc> {
        let Inner { behind, revisions, seconds, .. } = &*self.inner;
        [behind.desc(), revisions.desc(), seconds.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.look();
        let Inner { behind, revisions, seconds, .. } = &*self.inner;
        [behind.collect(), revisions.collect(), seconds.collect()].concat()
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;
    use crate::publish::book::{Changed, Pages};

    #[test]
    fn the_last_of_the_connected_gateways_is_told_and_one_that_left_is_not() {
        let (book, registry) = (Arc::new(Book::default()), Registry::new());
        let lags = Lags::register(&registry, book.clone()).unwrap();
        let at = |revision| Token { epoch: Uuid::from_u128(1), revision };
        book.replace(at(5), Pages::default(), Vec::new(), 0);
        let (one, two) = (lags.enter(Some(at(5))), lags.enter(Some(at(5))));
        let shown = || {
            let families = registry.gather();
            let value = |name: &str| {
                let family = families.iter().find(|family| family.name().ends_with(name)).unwrap();
                family.get_metric()[0].get_gauge().get_value()
            };
            (value("feed_behind"), value("lag_revisions_max"), value("lag_seconds_max") > 0.0)
        };
        assert_eq!(shown(), (0.0, 0.0, false));
        book.advance(at(8), &Changed::new());
        assert_eq!(shown(), (2.0, 3.0, true));
        assert!(one.note(at(8)).is_some());
        assert_eq!(shown(), (1.0, 3.0, true));
        let stranger = lags.enter(None);
        assert_eq!(shown(), (2.0, 8.0, true));
        drop((two, stranger));
        assert_eq!(shown(), (0.0, 0.0, false));
        assert!(one.note(at(8)).is_none(), "an acknowledgement given twice");
    }
}
