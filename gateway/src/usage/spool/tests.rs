//! A spool holds what was appended, as a prefix after any torn write, without what was changed since; it lets go of what was
//! acknowledged, sums up what was never offered, and says when it is full.

use std::collections::BTreeMap;
use std::process::Command;

use prost::Message as _;
use snapshot::wire::{FailedBy, UsageBatch, UsageEvent, UsageRow, Verdict};
use tempfile::TempDir;

use super::*;
use crate::usage::event_bytes::Event;
use crate::usage::frame::start_frame;
use crate::usage::record::{MethodCode, Record};
use crate::usage::seal::{BatchName, Pending};

const ROOM: u64 = 1 << 40;

struct House {
    dir: TempDir,
    spool: Spool,
    counted: u64,
}

impl House {
    fn new(bytes_max: u64) -> House {
        let dir = tempfile::tempdir().unwrap();
        let spool = Spool::create(dir.path(), Uuid::from_u128(1), Uuid::from_u128(2), bytes_max).unwrap();
        House { dir, spool, counted: 0 }
    }

    fn pending(&mut self, events: u64) -> Pending {
        let mut pending = Pending::default();
        for _ in 0..events {
            pending.add(&mut Event::new(&record(self.counted)));
            self.counted += 1;
        }
        pending
    }

    fn append(&mut self, events: u64) -> Result<(), SpoolError> {
        let pending = self.pending(events);
        self.append_pending(&pending, false)
    }

    fn append_pending(&mut self, pending: &Pending, closes_epoch: bool) -> Result<(), SpoolError> {
        let spool = &mut self.spool;
        let name = BatchName { node: spool.node, epoch: spool.epoch, sequence: spool.next_sequence() };
        spool.append(&Sealed {
            payload: &pending.encode(&name, 5, closes_epoch),
            events: u32::try_from(pending.count()).unwrap(),
            at_ms: 6,
            low_watermark_ms: 5,
            is_compacted: !pending.has_events(),
            closes_epoch,
            positions: &[self.counted, 7],
        })
    }

    fn sync(&mut self) {
        if let Some(unsynced) = self.spool.take_unsynced() {
            self.spool.synced(&unsynced);
        }
    }

    fn offer(&mut self) -> Vec<UsageBatch> {
        self.sync();
        decode(&self.spool.offer(usize::MAX - 1, usize::MAX, Instant::now()))
    }

    fn files(&self) -> Vec<PathBuf> {
        segment::numbers(self.dir.path()).unwrap().iter().map(|n| segment::path(self.dir.path(), *n)).collect()
    }

    fn recovered(&self) -> (Spool, recover::Damage) {
        Spool::recover(self.dir.path(), self.spool.node, self.spool.epoch, ROOM).unwrap().unwrap()
    }
}

fn record(number: u64) -> Record {
    Record {
        // Some thousand in each quarter of an hour.
        at_ms: 1_700_000_000_000 + i64::try_from(number * 200).unwrap(),
        request_id: Uuid::from_u64_pair(number, number),
        key: number % 3,
        subscription: 2,
        product: 3,
        endpoint: 4,
        plan: 5,
        method: MethodCode::of(&http::Method::GET),
        status: if number.is_multiple_of(7) { 503 } else { 200 },
        verdict: Verdict::Proxied,
        failed_by: FailedBy::Nobody,
        request_bytes: number,
        response_bytes: number * 2,
        latency_us: 10,
        upstream_latency_us: 9,
        upstream_contacted: true,
        test_key: false,
    }
}

fn decode(outgoing: &[Outgoing]) -> Vec<UsageBatch> {
    let batch = |outgoing: &Outgoing| {
        let batch = UsageBatch::decode(outgoing.read().unwrap().as_slice()).unwrap();
        assert_eq!(batch.sequence, outgoing.sequence);
        batch
    };
    outgoing.iter().map(batch).collect()
}

/// All that a recovered spool holds, as its successor would send it.
fn all(spool: &mut Spool) -> Vec<UsageBatch> {
    let overdue = spool.overdue(0, usize::MAX, Instant::now());
    let outgoing: Vec<Outgoing> =
        overdue.iter().filter_map(|(sequence, _)| spool.look_again(*sequence, true, Instant::now())).collect();
    decode(&outgoing)
}

type Key = (i64, u64, u32);

/// Count, request bytes, response bytes, latencies by quarter of an hour, key and status.
fn sums(batches: &[UsageBatch]) -> BTreeMap<Key, [u64; 5]> {
    let of_event = |event: &UsageEvent| {
        let latencies = [event.latency_us, event.upstream_latency_us].map(u64::from);
        let sums = [1, event.request_bytes, event.response_bytes, latencies[0], latencies[1]];
        ((event.at_ms.div_euclid(900_000) * 900_000, event.kind.unwrap().key, event.kind.unwrap().status), sums)
    };
    let of_row = |row: &UsageRow| {
        let sums = [row.count, row.request_bytes, row.response_bytes, row.latency_us_sum, row.upstream_latency_us_sum];
        ((row.quarter_hour_ms, row.kind.unwrap().key, row.kind.unwrap().status), sums)
    };
    let mut all = BTreeMap::<Key, [u64; 5]>::new();
    for batch in batches {
        for (key, sums) in batch.events.iter().map(of_event).chain(batch.rows.iter().map(of_row)) {
            let all = all.entry(key).or_default();
            (0..5).for_each(|i| all[i] += sums[i]);
        }
    }
    all
}

fn dense(batches: &[UsageBatch]) -> bool {
    batches.iter().map(|batch| batch.sequence).eq(0..u64::try_from(batches.len()).unwrap())
}

#[test]
fn a_spool_torn_at_any_byte_is_recovered_as_a_prefix_of_whole_batches() {
    let mut house = House::new(ROOM);
    let mut ends = Vec::new();
    let file = house.files().remove(0);
    for events in [3, 0, 1, 2] {
        house.append(events).unwrap();
        ends.push(usize::try_from(std::fs::metadata(&file).unwrap().len()).unwrap());
    }
    let (whole, offered) = (std::fs::read(&file).unwrap(), house.offer());
    for length in 0..=whole.len() {
        std::fs::write(&file, &whole[..length]).unwrap();
        let batches = ends.iter().take_while(|end| **end <= length).count();
        let (mut spool, damage) = house.recovered();
        assert_eq!(damage.frames, 0, "a torn frame was never there");
        assert_eq!(all(&mut spool), offered[..batches], "cut at byte {length}");
        assert_eq!(spool.next_sequence(), u64::try_from(batches).unwrap());
        let counted = [0, 3, 3, 4, 6][batches];
        assert_eq!(spool.positions().first().copied().unwrap_or(0), counted);
    }
}

#[test]
fn a_batch_in_which_a_bit_was_flipped_is_left_out_and_seen_and_no_other_batch_changes() {
    let mut house = House::new(ROOM);
    let file = house.files().remove(0);
    for events in [1, 2, 1] {
        house.append(events).unwrap();
    }
    let (whole, offered) = (std::fs::read(&file).unwrap(), house.offer());
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        std::fs::write(&file, &flipped).unwrap();
        let found = all(&mut house.recovered().0);
        let is_in_start = bit / 8 < start_frame(Uuid::nil(), Uuid::nil()).len();
        assert!(found.len() < 3 || is_in_start, "bit {bit}");
        assert!(found.iter().all(|batch| offered.contains(batch)), "bit {bit}: a batch was invented");
        assert!(found.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
    }
}

#[test]
fn what_was_appended_is_offered_once_and_only_when_it_is_on_the_disk() {
    let mut house = House::new(ROOM);
    house.append(3).unwrap();
    assert!(house.spool.offer(usize::MAX, 9, Instant::now()).is_empty(), "the disk has not confirmed it");
    assert!(house.spool.has_unoffered());
    let offered = house.offer();
    assert_eq!(offered.len(), 1);
    assert!(house.offer().is_empty());
    assert!(!house.spool.has_unoffered());
}

#[test]
fn a_batch_is_looked_after_until_it_is_acknowledged_and_later_each_time() {
    let mut house = House::new(ROOM);
    (0..3).for_each(|_| house.append(1).unwrap());
    house.offer();
    house.spool.sent(0, "1-0");
    let now = Instant::now();
    assert!(house.spool.overdue(0, 9, now).is_empty());
    let later = now + RESEND_AFTER;
    let due: Vec<_> = house.spool.overdue(0, 9, later);
    assert_eq!(due, [(0, Some("1-0".into())), (1, None), (2, None)]);
    assert_eq!(house.spool.overdue(1, 9, later), due[1..]);
    assert_eq!(house.spool.overdue(1, 1, later), due[1..2]);
    assert!(house.spool.look_again(0, false, later).is_none(), "it is still in the stream");
    assert!(house.spool.look_again(1, true, later).is_some());
    assert_eq!(house.spool.overdue(0, 9, later + RESEND_AFTER).len(), 1);
    assert_eq!(house.spool.acknowledge(1, later), 2);
    assert_eq!(house.spool.unacknowledged(), (1, Some(6)));
    let much_later = later + Duration::from_secs(60);
    assert_eq!(house.spool.overdue(0, 9, much_later).len(), 1);
    assert_eq!(house.spool.acknowledge(2, much_later), 1);
    assert!(house.spool.overdue(0, 9, much_later).is_empty());
}

#[test]
fn a_database_that_lost_what_it_had_acknowledged_gets_it_again() {
    let mut house = House::new(ROOM);
    (0..5).for_each(|_| house.append(1).unwrap());
    house.offer();
    let now = Instant::now();
    house.spool.acknowledge(4, now);
    assert!(house.spool.overdue(0, 9, now).is_empty());
    assert_eq!(house.spool.acknowledge(1, now), 0);
    let due: Vec<u64> = house.spool.overdue(0, 9, now).into_iter().map(|(sequence, _)| sequence).collect();
    assert_eq!(due, [2, 3, 4]);
}

#[test]
fn an_acknowledgement_that_redis_forgot_is_asked_for_with_one_batch_and_a_database_that_lost_all_gets_all() {
    let mut house = House::new(ROOM);
    (0..5).for_each(|_| house.append(1).unwrap());
    house.offer();
    let now = Instant::now();
    let overdue = |house: &House, now| -> Vec<u64> {
        house.spool.overdue(0, 9, now).into_iter().map(|(sequence, _)| sequence).collect()
    };
    house.spool.acknowledge(4, now);
    house.spool.note_silence(now);
    assert!(overdue(&house, now + Duration::from_secs(60)).is_empty());
    let mut later = now + Duration::from_secs(11);
    house.spool.note_silence(later);
    assert_eq!(overdue(&house, later), [4], "one batch asks");
    assert!(house.spool.look_again(4, true, later).is_some());
    house.spool.acknowledge(4, later);
    assert!(overdue(&house, later + Duration::from_secs(60)).is_empty(), "the answer came");

    house.spool.note_silence(later);
    later += Duration::from_secs(11);
    house.spool.note_silence(later);
    for _ in 0..4 {
        assert_eq!(overdue(&house, later), [4]);
        assert!(house.spool.look_again(4, true, later).is_some());
        later += RESEND_AFTER_MAX;
        house.spool.note_silence(later);
    }
    assert_eq!(overdue(&house, later), [0, 1, 2, 3, 4]);
}

#[test]
fn what_the_database_has_is_let_go_of_when_it_is_in_the_way_and_nothing_else() {
    let mut house = House::new(64 << 20);
    while house.spool.bytes() < 40 << 20 {
        house.append(4_000).unwrap();
    }
    house.offer();
    let (bytes, last) = (house.spool.bytes(), house.spool.next_sequence() - 1);
    house.spool.free();
    assert_eq!(house.spool.bytes(), bytes, "nothing was acknowledged");
    house.spool.acknowledge(last / 2, Instant::now());
    house.spool.free();
    assert!(house.spool.bytes() < bytes && house.spool.bytes() > bytes / 3);
    assert_eq!(house.spool.unacknowledged().0, usize::try_from(last - last / 2).unwrap());
    house.spool.acknowledge(last, Instant::now());
    house.spool.free();
    assert!(house.spool.bytes() > 8 << 20, "a day is kept as long as there is room");
    assert!(house.spool.bytes() <= 32 << 20);
}

#[test]
fn what_the_database_has_for_a_day_is_let_go_of_and_nothing_else() {
    let mut house = House::new(ROOM);
    house.append(2).unwrap();
    house.append_pending(&Pending::default(), true).unwrap();
    let file = std::fs::File::options().write(true).open(house.files().remove(0)).unwrap();
    file.set_modified(SystemTime::now() - KEEP - Duration::from_secs(60)).unwrap();
    // Looked at twice: that does not make it younger.
    drop(house.recovered());
    let (mut spool, _) = house.recovered();
    assert!(spool.free(), "the database has nothing of it");
    spool.acknowledge(0, Instant::now());
    assert!(spool.free(), "the database has a part of it");
    spool.acknowledge(1, Instant::now());
    assert!(!spool.free());
    assert_eq!(house.files(), Vec::<PathBuf>::new());
}

#[test]
fn a_closed_epoch_of_which_everything_is_acknowledged_leaves_nothing() {
    let mut house = House::new(64 << 20);
    house.append(1).unwrap();
    house.append_pending(&Pending::default(), true).unwrap();
    let (mut spool, _) = house.recovered();
    assert!(spool.is_closed());
    assert!(spool.free());
    spool.set_bytes_elsewhere(ROOM);
    assert!(spool.free(), "not acknowledged");
    spool.acknowledge(1, Instant::now());
    assert!(!spool.free());
}

#[test]
fn compaction_keeps_every_sum_and_every_number_and_touches_nothing_that_was_offered() {
    let mut house = House::new(64 << 20);
    house.append(4_000).unwrap();
    let mut before = house.offer();
    while !house.spool.wants_compaction() {
        house.append(4_000).unwrap();
    }
    let counted = house.counted;
    let bytes = house.spool.bytes();
    let mut steps = 0;
    while let Some(done) = house.spool.compact().unwrap() {
        assert!(done.events > 0 && done.rows < 1_000);
        steps += 1;
    }
    assert!(steps >= 1 && house.spool.bytes() < bytes / 2, "{} of {bytes}", house.spool.bytes());
    assert!(!house.spool.wants_compaction());
    let last = house.spool.next_sequence();
    before.extend(house.offer());
    assert!(dense(&before));
    assert_eq!(u64::try_from(before.len()).unwrap(), last);
    assert_eq!(before[0].events.len(), 4_000, "what was offered is what it was");
    let expected = UsageBatch { events: (0..counted).map(|n| record(n).to_event()).collect(), ..UsageBatch::default() };
    assert_eq!(sums(&before), sums(&[expected]));
    assert!(house.spool.compact().unwrap().is_none(), "all was offered now");
}

#[test]
fn a_crash_in_the_middle_of_a_compaction_neither_loses_nor_doubles_anything() {
    let mut house = House::new(ROOM);
    while house.files().len() < 7 {
        house.append(4_000).unwrap();
    }
    let kept = tempfile::tempdir().unwrap();
    for file in house.files() {
        std::fs::copy(&file, kept.path().join(file.file_name().unwrap())).unwrap();
    }
    let expected = sums(&all(&mut house.recovered().0));
    house.spool.compact().unwrap().unwrap();
    let after = sums(&all(&mut house.recovered().0));
    assert_eq!(after, expected);

    // Before the rename: an unfinished file lies beside the old ones.
    let compacted = std::fs::read(house.files().remove(0)).unwrap();
    for file in house.files() {
        std::fs::remove_file(file).unwrap();
    }
    for entry in std::fs::read_dir(kept.path()).unwrap() {
        let from = entry.unwrap().path();
        std::fs::copy(&from, house.dir.path().join(from.file_name().unwrap())).unwrap();
    }
    std::fs::write(segment::unfinished_path(house.dir.path()), &compacted[..compacted.len() / 2]).unwrap();
    assert_eq!(sums(&all(&mut house.recovered().0)), expected);

    // Behind it: the first file is the new one, the others are still there.
    std::fs::write(house.files().remove(0), &compacted).unwrap();
    let (mut spool, damage) = house.recovered();
    assert_eq!(damage.frames, 0);
    let found = all(&mut spool);
    assert!(dense(&found));
    assert_eq!(sums(&found), expected);
}

/// Set in the process that may open few files.
const FEW_FILES: &str = "APIHUB_FEW_FILES";

#[test]
fn a_compaction_for_which_a_file_cannot_be_opened_changes_nothing_and_another_one_succeeds() {
    const NAME: &str =
        "usage::spool::tests::a_compaction_for_which_a_file_cannot_be_opened_changes_nothing_and_another_one_succeeds";
    if std::env::var_os(FEW_FILES).is_none() {
        let test = std::env::current_exe().unwrap();
        let mut few = Command::new("sh");
        few.args(["-c", "ulimit -n 64 && exec \"$0\" --exact \"$1\""]).arg(test).arg(NAME).env(FEW_FILES, "");
        let output = few.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let mut house = House::new(ROOM);
    while house.files().len() < 4 {
        house.append(4_000).unwrap();
    }
    let expected = sums(&all(&mut house.recovered().0));
    let content = |house: &House| house.files().into_iter().map(std::fs::read).collect::<Result<Vec<_>, _>>().unwrap();
    let mut compact_with = |free: usize| {
        let before = content(&house);
        let mut hoard: Vec<File> = std::iter::from_fn(|| File::open("/dev/null").ok()).collect();
        hoard.truncate(hoard.len() - free);
        let compacted = house.spool.compact();
        drop(hoard);
        assert!(compacted.is_ok() || content(&house) == before, "something changed where {free} files could be opened");
        compacted
    };
    let needed = (0..10).find(|free| compact_with(*free).is_ok());
    assert!(needed > Some(1), "{needed:?}");
    let offered = house.offer();
    assert!(dense(&offered));
    assert_eq!(sums(&offered), expected);
}

#[test]
fn a_full_spool_takes_sums_when_it_takes_no_events_and_then_says_no_and_changes_nothing() {
    let mut house = House::new(64 << 20);
    let full = loop {
        let pending = house.pending(4_000);
        if let Err(error) = house.append_pending(&pending, false) {
            assert!(matches!(error, SpoolError::Full));
            break pending;
        }
    };
    let mut full = full;
    full.compact();
    let (bytes, sequence) = (house.spool.bytes(), house.spool.next_sequence());
    house.append_pending(&full, false).unwrap();
    assert!(house.spool.bytes() - bytes < 10_000, "4,000 events are a few rows");
    assert_eq!(house.spool.next_sequence(), sequence + 1);
    house.spool.set_bytes_elsewhere(64 << 20);
    let (bytes, sequence) = (house.spool.bytes(), house.spool.next_sequence());
    assert!(matches!(house.append_pending(&full, false), Err(SpoolError::Full)));
    assert_eq!((house.spool.bytes(), house.spool.next_sequence()), (bytes, sequence));
    house.spool.set_bytes_elsewhere(0);
    house.append_pending(&full, false).unwrap();
}

#[test]
fn a_file_that_nothing_is_appended_to_any_more_takes_no_more_room_than_it_holds() {
    let mut house = House::new(ROOM);
    house.append(3).unwrap();
    let file = house.files().remove(0);
    let room = || std::os::unix::fs::MetadataExt::blocks(&std::fs::metadata(&file).unwrap()) * 512;
    assert!(room() >= segment::SEGMENT_BYTES, "what is appended to has its room");
    let found = all(&mut house.recovered().0);
    assert!(room() < segment::SEGMENT_BYTES / 8, "{} bytes are taken", room());
    assert_eq!(found.len(), 1);
}

#[test]
fn how_far_the_database_is_survives_a_restart_and_is_never_believed_beyond_what_is_there() {
    let mut house = House::new(ROOM);
    (0..4).for_each(|_| house.append(1).unwrap());
    house.spool.acknowledge(2, Instant::now());
    house.spool.save_acknowledged().unwrap();
    assert_eq!(house.recovered().0.unacknowledged().0, 1);
    std::fs::write(house.dir.path().join(ACKNOWLEDGED), "77").unwrap();
    assert_eq!(house.recovered().0.unacknowledged().0, 4);
}
