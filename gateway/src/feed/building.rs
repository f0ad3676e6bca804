//! A full snapshot that is compiled while it arrives, beside the running one and on a thread of its own: of what is sent, only a
//! few chunks ever wait. Hands out nothing before all of it has arrived.

use snapshot::token::Token;
use snapshot::wire::{Record, Refusal};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use super::conversation::FeedFault;
use crate::live::{self, Live, Snapshot};

/// Chunks that wait for the compiler; beyond, the control plane waits.
const CHUNKS_WAITING_MAX: usize = 4;

/// Dropped before its end, it is void: the thread ends, and what it made goes with it unfinished.
pub(super) struct Building {
    arrivals: mpsc::Sender<Arrival>,
    compiling: JoinHandle<Option<(Snapshot, Vec<Refusal>)>>,
    records: usize,
}

enum Arrival {
    Chunk(Vec<Record>),
    /// That was all of it.
    End,
}

impl Building {
    pub(super) fn begin(live: &Live, token: Token) -> Building {
        let (arrivals, mut arriving) = mpsc::channel(CHUNKS_WAITING_MAX);
        let mut tables = live::Building::beside(live.load());
        let compiling = spawn_blocking(move || {
            while let Arrival::Chunk(records) = arriving.blocking_recv()? {
                records.iter().for_each(|record| tables.put(record));
            }
            Some(tables.finish(token))
        });
        Building { arrivals, compiling, records: 0 }
    }

    pub(super) async fn take(&mut self, records: Vec<Record>) -> Result<(), FeedFault> {
        self.records += records.len();
        self.arrivals.send(Arrival::Chunk(records)).await.map_err(|_| FeedFault::Crashed)
    }

    /// All of it has arrived: the snapshot, what it holds back, and of how many records it was made.
    pub(super) async fn finish(self) -> Result<(Snapshot, Vec<Refusal>, usize), FeedFault> {
        self.arrivals.send(Arrival::End).await.map_err(|_| FeedFault::Crashed)?;
        let made = self.compiling.await.map_err(|_| FeedFault::Crashed)?;
        let (snapshot, refusals) = made.ok_or(FeedFault::Crashed)?;
        Ok((snapshot, refusals, self.records))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::fixtures::{IntoRecord, plan, token};

    #[tokio::test]
    async fn what_ends_half_way_is_not_finished() {
        let live = Live::new(Snapshot::empty());
        let mut half = Building::begin(&live, token(1));
        half.take(vec![plan(1, 60).record()]).await.unwrap();
        let Building { arrivals, compiling, .. } = half;
        drop(arrivals);
        assert!(compiling.await.unwrap().is_none(), "the tables of millions of keys are not sorted for nothing");

        let mut whole = Building::begin(&live, token(1));
        whole.take(vec![plan(1, 60).record()]).await.unwrap();
        let (snapshot, refusals, records) = whole.finish().await.unwrap();
        assert_eq!((snapshot.token, refusals.len(), records), (Some(token(1)), 0, 1));
    }
}
