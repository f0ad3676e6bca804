//! A ring keeps what it took, gives it back in order, and never invents anything: not after a torn write, not after a flipped
//! bit, not while its writer and its reader run at once. Without files, so that Miri can run all of it.

use proptest::prelude::*;
use snapshot::wire::{FailedBy, Verdict};
use uuid::Uuid;

use super::*;
use crate::usage::record::MethodCode;

type Heap = Box<[AtomicU64]>;

fn ring(records: usize) -> Arc<Ring<Heap>> {
    Arc::new(Ring::new((0..records * WORDS).map(|_| AtomicU64::new(0)).collect()))
}

/// Told apart by its number in several fields.
fn record(number: u64) -> Record {
    Record {
        at_ms: 1_700_000_000_000 + i64::try_from(number).unwrap(),
        request_id: Uuid::from_u64_pair(number, !number),
        key: number,
        subscription: 2,
        product: 3,
        endpoint: 4,
        plan: 5,
        method: MethodCode::of(&http::Method::PUT),
        status: 207,
        verdict: Verdict::UpstreamError,
        failed_by: FailedBy::Upstream,
        request_bytes: number * 3,
        response_bytes: number * 5,
        latency_us: 77,
        upstream_latency_us: 66,
        upstream_contacted: true,
        test_key: number % 2 == 1,
    }
}

/// As the file would hold it.
fn bytes(ring: &Ring<Heap>) -> Vec<u8> {
    ring.words.iter().flat_map(|word| word.load(Ordering::Relaxed).to_ne_bytes()).collect()
}

fn keys(found: &Leftovers) -> Vec<u64> {
    found.records.iter().map(|(_, record)| record.key).collect()
}

fn filled(capacity: usize, records: u64) -> Arc<Ring<Heap>> {
    let ring = ring(capacity);
    let mut writer = ring.writer().unwrap();
    for number in 0..records {
        let released = number.saturating_sub(u64::try_from(capacity).unwrap() - 1);
        ring.release(released);
        assert!(writer.push(&record(number), u64::MAX));
    }
    ring
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 4 } else { 256 }))]

    #[test]
    fn a_record_comes_back_as_it_went_in(
        at_ms in 0i64..1 << 48, id in any::<u128>(), meters in any::<[u64; 5]>(), status in any::<u16>(), verdict in 0i32..8,
        failed_by in 0i32..4, bytes in any::<[u64; 2]>(), latencies in any::<[u32; 2]>(), flags in any::<[bool; 2]>(),
    ) {
        let [key, subscription, product, endpoint, plan] = meters;
        let record = Record {
            at_ms, request_id: Uuid::from_u128(id), key, subscription, product, endpoint, plan,
            method: MethodCode::of(&http::Method::DELETE), status,
            verdict: Verdict::try_from(verdict).unwrap(), failed_by: FailedBy::try_from(failed_by).unwrap(),
            request_bytes: bytes[0] >> 16, response_bytes: bytes[1] >> 16, latency_us: latencies[0],
            upstream_latency_us: latencies[1], upstream_contacted: flags[0], test_key: flags[1],
        };
        prop_assert_eq!(Record::from_words(&record.to_words()), record);
    }

    /// Any order of writing, reading and releasing: the ring is a bounded queue, and its file holds what was not released.
    #[test]
    fn a_ring_is_a_bounded_queue_whose_file_holds_what_was_not_released(steps in prop::collection::vec(0u8..3, 1..200)) {
        let ring = ring(8);
        let mut writer = ring.writer().unwrap();
        let (mut written, mut read, mut released) = (0u64, 0u64, 0u64);
        for step in steps {
            match step {
                0 => {
                    let fits = written - released < 8;
                    prop_assert_eq!(writer.push(&record(written), u64::MAX), fits);
                    written += u64::from(fits);
                }
                1 if read < ring.head() => {
                    prop_assert_eq!(ring.read(read), Some(record(read)));
                    read += 1;
                }
                2 => {
                    released = read;
                    ring.release(released);
                }
                _ => {}
            }
            prop_assert_eq!(ring.head(), written);
            prop_assert_eq!(ring.held(), written - released);
            prop_assert_eq!(ring.read(written), None);
            let found = leftovers(&bytes(&ring), released);
            prop_assert_eq!(keys(&found), (released..written).collect::<Vec<_>>());
            prop_assert_eq!(found.broken, 0);
        }
    }
}

#[test]
fn a_record_that_was_torn_at_any_byte_is_not_there_and_all_before_it_are() {
    // In its second lap, so that an older record lies beneath.
    for records in [3, 8] {
        let before = bytes(&filled(5, records));
        let after = bytes(&filled(5, records + 1));
        let from = records.saturating_sub(4);
        let start = usize::try_from(records % 5).unwrap() * WORDS * 8;
        for cut in 0..WORDS * 8 {
            let mut torn = before.clone();
            torn[start..start + cut].copy_from_slice(&after[start..start + cut]);
            let found = leftovers(&torn, from);
            // Every byte that was missing may have been the same.
            let is_whole = torn == after;
            let expected = from..records + u64::from(is_whole);
            assert_eq!(keys(&found), expected.collect::<Vec<_>>(), "cut at byte {cut}");
            assert_eq!(found.broken, 0);
        }
    }
}

#[test]
fn a_flipped_bit_costs_the_record_that_it_is_in_and_no_other_and_is_seen() {
    let whole = bytes(&filled(4, 6));
    for bit in 0..whole.len() * 8 {
        if cfg!(miri) && bit % 97 != 0 {
            continue;
        }
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let found = leftovers(&flipped, 3);
        let index = u64::try_from(bit / 8 / (WORDS * 8)).unwrap();
        let hit = if index < 2 { index + 4 } else { index };
        let kept: Vec<u64> = (3..6).filter(|number| *number != hit).collect();
        assert_eq!(keys(&found), kept, "bit {bit}");
        // The last one cannot be told from one that was never finished.
        assert_eq!(found.broken, u64::from((3..5).contains(&hit)));
    }
}

#[test]
fn nothing_is_written_over_what_was_not_released() {
    let ring = ring(4);
    let mut writer = ring.writer().unwrap();
    assert!((0..4).all(|number| writer.push(&record(number), u64::MAX)));
    assert!(!writer.push(&record(4), u64::MAX));
    assert!((0..4).all(|number| ring.read(number) == Some(record(number))));
    ring.release(1);
    assert!(writer.push(&record(4), u64::MAX));
    assert!(!writer.push(&record(5), u64::MAX));
    assert_eq!((ring.read(0), ring.read(4)), (None, Some(record(4))));
}

#[test]
fn a_part_may_be_kept_free() {
    let ring = ring(4);
    let mut writer = ring.writer().unwrap();
    assert!(writer.push(&record(0), 2) && writer.push(&record(1), 2));
    assert!(!writer.push(&record(2), 2));
    assert!(writer.push(&record(2), 4));
}

#[test]
fn there_is_one_writer_at_a_time_and_the_next_goes_on_where_it_ended() {
    let ring = ring(4);
    let mut first = ring.writer().unwrap();
    assert!(ring.writer().is_none());
    assert!(first.push(&record(0), u64::MAX));
    drop(first);
    let mut second = ring.writer().unwrap();
    assert!(second.push(&record(1), u64::MAX));
    assert_eq!((ring.read(0), ring.read(1)), (Some(record(0)), Some(record(1))));
}

#[test]
fn a_reader_beside_the_writer_sees_every_record_whole_and_in_order() {
    let (ring, last) = (ring(16), if cfg!(miri) { 60 } else { 200_000 });
    let reader = ring.clone();
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let mut writer = ring.writer().unwrap();
            for number in 0..last {
                while !writer.push(&record(number), u64::MAX) {
                    std::thread::yield_now();
                }
            }
        });
        let mut next = 0;
        while next < last {
            let head = reader.head();
            for index in next..head {
                assert_eq!(reader.read(index), Some(record(index)));
            }
            next = head;
            reader.release(next);
            std::thread::yield_now();
        }
    });
}
