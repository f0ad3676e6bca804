//! Puts the parts together: a new epoch with its rings and its spool, the threads that empty the rings, the task that ships.
//! Opens everything before the first request, or says what is in the way.

use std::fs::File;
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{io, thread};

use thiserror::Error;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{JoinError, JoinHandle};
use tokio::time::{interval, sleep, timeout};
use tracing::{error, warn};
use uuid::Uuid;

use super::adopt::{Inherited, adopt_ended};
use super::collect::{Collector, State};
use super::epoch::EpochDir;
use super::journal::Journal;
use super::live;
use super::mapping::Mapping;
use super::record::WORDS;
use super::recorder::{Rings, UsageRecorder};
use super::redis_link::RedisLink;
use super::ring::Ring;
use super::ship::{Shipper, pass_live};
use super::spool::{Spool, SpoolError};
use super::sync;
use super::{SharedSpool, UsageSettings};
use crate::lock::lock;
use crate::metrics::Metrics;

/// Records of one thread's ring: 6 MiB; two seconds at 30,000 requests a second, of which a look takes a twentieth.
const RING_RECORDS: usize = 65_536;
/// Records of the ring that all share when their own is full: 12 MiB.
const SPARE_RECORDS: usize = 131_072;
/// Rings beyond those of the threads that serve: for a runtime that is being replaced.
const RINGS_MORE: usize = 1;
/// How long a stopping gateway tries to hand over what it still holds; the rest is on disk for its successor.
const FLUSH_MAX: Duration = Duration::from_secs(5);
/// How often ended epochs are looked for: an old process that an upgrade left behind ends later than we begin.
const ADOPT_EVERY: Duration = Duration::from_secs(5);

#[derive(Debug, Error)]
pub enum UsageError {
    #[error("usage cannot be kept in {0}: {1}")]
    Disk(String, io::Error),
    #[error("usage.redis_url cannot be read")]
    Url,
}

/// What runs beside the requests.
pub struct UsageService {
    /// None: there is no Redis to send usage to.
    parts: Option<Parts>,
}

struct Parts {
    settings: UsageSettings,
    dir: EpochDir,
    rings: Arc<Rings>,
    spool: SharedSpool,
    journal: Journal,
    link: RedisLink,
    live_link: RedisLink,
    metrics: Arc<Metrics>,
}

/// Begins an epoch. Errors: the disk does not give the room, or the URL is no URL.
pub fn open(settings: UsageSettings, metrics: Arc<Metrics>) -> Result<(UsageRecorder, UsageService), UsageError> {
    let Some(url) = settings.redis_url.clone() else {
        warn!("no usage.redis_url: usage is counted as dropped");
        return Ok((UsageRecorder::without_rings(metrics), UsageService { parts: None }));
    };
    // The error is not passed on: it may quote the URL, and with it a password.
    let link = || RedisLink::new(url.expose(), &settings.stream).map_err(|_| UsageError::Url);
    let (link, live_link) = (link()?, link()?);
    let disk = |error| UsageError::Disk(settings.dir.display().to_string(), error);
    let begun = match begin(&settings) {
        // Of predecessors that were killed one after the other nobody has freed the rings yet: what they hold is far smaller.
        Err(error) if error.kind() == io::ErrorKind::StorageFull => {
            drop(adopt_ended(&settings.dir, settings.node_id, settings.spool_bytes_max, &metrics));
            begin(&settings)
        }
        begun => begun,
    };
    let Begun { dir, spool, rings, journal } = begun.map_err(disk)?;
    let recorder = UsageRecorder::new(Some(rings.clone()), settings.on_full, metrics.clone());
    let spool = Arc::new(Mutex::new(spool));
    Ok((
        recorder,
        UsageService { parts: Some(Parts { settings, dir, rings, spool, journal, link, live_link, metrics }) },
    ))
}

/// A new epoch on the disk.
struct Begun {
    dir: EpochDir,
    spool: Spool,
    rings: Arc<Rings>,
    journal: Journal,
}

/// After an error nothing is left of it.
fn begin(settings: &UsageSettings) -> io::Result<Begun> {
    let dir = EpochDir::create(&settings.dir, Uuid::now_v7())?;
    let made = Spool::create(&dir.path, settings.node_id, dir.epoch, settings.spool_bytes_max)
        .map_err(|error| match error {
            SpoolError::Disk(error) => error,
            SpoolError::Full => io::ErrorKind::StorageFull.into(),
        })
        .and_then(|spool| Ok((spool, make_rings(&dir, settings.threads)?, Journal::create(&dir.path)?)));
    match made {
        Ok((spool, rings, journal)) => {
            let rings = Arc::new(Rings::new(rings).ok_or(io::ErrorKind::Other)?);
            Ok(Begun { dir, spool, rings, journal })
        }
        Err(error) => {
            // Else each try would take what little room there is.
            drop(dir.remove());
            Err(error)
        }
    }
}

fn make_rings(dir: &EpochDir, threads: usize) -> io::Result<Vec<Ring<Mapping>>> {
    let records = std::iter::repeat_n(RING_RECORDS, threads + RINGS_MORE).chain([SPARE_RECORDS]);
    let make = |(number, records): (usize, usize)| {
        let file = File::options().read(true).write(true).create_new(true).open(dir.ring(number))?;
        Mapping::create(&file, records * WORDS).map(Ring::new)
    };
    records.enumerate().map(make).collect()
}

impl UsageService {
    /// Ships until `stop` says so, then seals what is left, closes the epoch, and hands over within `FLUSH_MAX`. Say stop when
    /// no request is in flight any more: what is recorded later is counted as dropped.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let Some(parts) = self.parts else { return told(&mut stop).await };
        if let Err(error) = parts.run(stop).await {
            error!(%error, "usage is not collected: a thread cannot be started");
        }
    }
}

async fn told(stop: &mut watch::Receiver<bool>) {
    drop(stop.wait_for(|stop| *stop).await);
}

impl Parts {
    async fn run(self, mut stop: watch::Receiver<bool>) -> io::Result<()> {
        let Parts { settings, dir, rings, spool, journal, link, live_link, metrics } = self;
        let arrived = Arc::new(Notify::new());
        let (sync, syncing) = sync::start(spool.clone(), journal.shared(), arrived.clone(), metrics.clone())?;
        let (live, live_batches) = live::channel(settings.node_id, dir.epoch, metrics.clone());
        let dir = Arc::new(dir);
        let collector = Collector {
            node: settings.node_id,
            dir: dir.clone(),
            state: State::new(rings.all.len()),
            rings,
            spool: spool.clone(),
            live,
            journal,
            sync,
            metrics: metrics.clone(),
        };
        let (go_on, stopped) = sync_channel(0);
        let collecting =
            thread::Builder::new().name("usage-collect".to_owned()).spawn(move || collector.run(&stopped))?;
        let passing = tokio::spawn(pass_live(live_batches, live_link));
        let (adopted, inherited) = mpsc::channel(1);
        let adopting = tokio::spawn(keep_adopting(settings.clone(), metrics.clone(), adopted));
        let mut told_too = stop.clone();
        // Both threads end by themselves then, whatever the shipper is waiting for.
        let ended = tokio::spawn(async move {
            told(&mut told_too).await;
            drop(go_on);
            tokio::task::spawn_blocking(move || drop((collecting.join(), syncing.join()))).await
        });
        let shipper = Shipper::new(link, spool.clone(), arrived, settings.stream_length_max, metrics);
        let shipping = ship(shipper, inherited, stop.clone(), ended);
        tokio::select! {
            () = shipping => {}
            () = flush_deadline(&mut stop) => {
                warn!("stopped before Redis took the last usage batches; they are on disk for the next start");
            }
        }
        passing.abort();
        adopting.abort();
        // What was learnt last; without it the successor sends more than it must.
        drop(lock(&spool).save_acknowledged());
        Ok(())
    }
}

/// Nobody is left to say it: that is a stop too.
fn is_told(stop: &watch::Receiver<bool>) -> bool {
    *stop.borrow() || stop.has_changed().is_err()
}

async fn flush_deadline(stop: &mut watch::Receiver<bool>) {
    told(stop).await;
    sleep(FLUSH_MAX).await;
}

/// Ships until told to stop, and then until every batch was offered.
async fn ship(
    mut shipper: Shipper,
    mut adopted: mpsc::Receiver<Vec<Inherited>>,
    mut stop: watch::Receiver<bool>,
    ended: JoinHandle<Result<(), JoinError>>,
) {
    while !is_told(&stop) {
        while let Ok(inherited) = adopted.try_recv() {
            shipper.take_over(inherited);
        }
        // A round is never cut off: what was sent must be known.
        let pause = shipper.round().await;
        let _woken = timeout(pause, select_first(shipper.arrived(), told(&mut stop))).await;
    }
    // A panic of either thread has been printed; what it left is for the successor.
    drop(ended.await);
    while !shipper.is_all_offered() {
        let pause = shipper.round().await;
        sleep(pause).await;
    }
}

async fn select_first(one: impl Future<Output = ()>, other: impl Future<Output = ()>) {
    tokio::select! {
        () = one => {}
        () = other => {}
    }
}

/// Looks for ended epochs, beside the runtime: reading a whole spool takes its time.
async fn keep_adopting(settings: UsageSettings, metrics: Arc<Metrics>, adopted: mpsc::Sender<Vec<Inherited>>) {
    let mut looks = interval(ADOPT_EVERY);
    loop {
        looks.tick().await;
        let (settings, metrics) = (settings.clone(), metrics.clone());
        let adopt = move || adopt_ended(&settings.dir, settings.node_id, settings.spool_bytes_max, &metrics);
        let found = tokio::task::spawn_blocking(adopt).await;
        let found = found.unwrap_or_default();
        if !found.is_empty() && adopted.send(found).await.is_err() {
            return;
        }
    }
}
