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

/// Dropped before its end, it is void: the thread ends, and what it made goes with it.
pub(super) struct Building {
    chunks: mpsc::Sender<Vec<Record>>,
    compiling: JoinHandle<(Snapshot, Vec<Refusal>)>,
    records: usize,
}

impl Building {
    pub(super) fn begin(live: &Live, token: Token) -> Building {
        let (chunks, mut arriving) = mpsc::channel::<Vec<Record>>(CHUNKS_WAITING_MAX);
        let mut tables = live::Building::beside(live.load());
        let compiling = spawn_blocking(move || {
            while let Some(records) = arriving.blocking_recv() {
                records.iter().for_each(|record| tables.put(record));
            }
            tables.finish(token)
        });
        Building { chunks, compiling, records: 0 }
    }

    pub(super) async fn take(&mut self, records: Vec<Record>) -> Result<(), FeedFault> {
        self.records += records.len();
        self.chunks.send(records).await.map_err(|_| FeedFault::Crashed)
    }

    /// All of it has arrived: the snapshot, what it holds back, and of how many records it was made.
    pub(super) async fn finish(self) -> Result<(Snapshot, Vec<Refusal>, usize), FeedFault> {
        drop(self.chunks);
        let (snapshot, refusals) = self.compiling.await.map_err(|_| FeedFault::Crashed)?;
        Ok((snapshot, refusals, self.records))
    }
}
