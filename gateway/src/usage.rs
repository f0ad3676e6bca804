//! Counts requests so that the count survives: a record in a ring before the answer's last byte, a sealed batch on disk within
//! a second, Redis, and patience until the database has it. Never makes a request wait, decides nothing about money, and
//! loses nothing silently.

mod mapping;
mod record;
mod recorder;
mod ring;

mod collect;
mod epoch;
mod event_bytes;
mod frame;
mod journal;
mod live;
mod rows;
mod seal;
mod spool;
mod sync;

mod adopt;
mod redis_link;
mod service;
mod ship;

#[cfg(test)]
pub(crate) mod tests;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use ::settings::Secret;
use uuid::Uuid;

pub use self::record::{MethodCode, Record};
pub use self::recorder::UsageRecorder;
pub use self::service::{UsageError, UsageService, open};

/// Below the gateway's data directory.
pub const DIR: &str = "usage";

/// What a gateway does when no more usage can be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// Goes on; what is lost is counted.
    Serve,
    /// Answers 503 until there is room again.
    Refuse,
}

/// Where usage is kept and where it goes, and in whose name.
#[derive(Clone, Debug)]
pub struct UsageSettings {
    /// May carry a password. None: usage is counted as dropped.
    pub redis_url: Option<Secret>,
    pub stream: String,
    /// Entries in the stream beyond which batches are held back.
    pub stream_length_max: u64,
    pub node_id: Uuid,
    /// Below it each process has a directory of its own.
    pub dir: PathBuf,
    /// Bytes of all sealed batches on disk.
    pub spool_bytes_max: u64,
    pub on_full: OnFull,
    /// Threads that serve requests.
    pub threads: usize,
}

/// Between the collector, the disk's thread and the shipper; never held across an await. Held for a copy or a `write`, and for the
/// fraction of a second that a compaction takes: it reads and syncs files whose batches must not be offered meanwhile.
type SharedSpool = Arc<Mutex<spool::Spool>>;
