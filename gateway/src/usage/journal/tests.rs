//! The journal gives back what was written, torn wherever it may be, and nothing else.

use std::time::Instant;

use super::*;
use crate::usage::tests::record;
use snapshot::wire::Verdict;

fn journal() -> (tempfile::TempDir, Journal) {
    let dir = tempfile::tempdir().unwrap();
    let journal = Journal::create(dir.path()).unwrap();
    (dir, journal)
}

fn add(journal: &mut Journal, ring: usize, indexes: std::ops::Range<u64>) {
    indexes.for_each(|index| journal.add(ring, index, &record(index, Verdict::Proxied)));
}

fn write(journal: &mut Journal, are_batches_synced: bool) {
    assert!(journal.write(are_batches_synced, 0, Instant::now()).unwrap());
}

fn indexes(found: &Journaled, ring: usize) -> Vec<u64> {
    found.get(&ring).map(|records| records.keys().copied().collect()).unwrap_or_default()
}

#[test]
fn a_journal_torn_at_any_byte_is_a_prefix_and_one_with_a_flipped_bit_lacks_that_record_alone() {
    let (dir, mut journal) = journal();
    add(&mut journal, 0, 7..9);
    add(&mut journal, 3, 0..2);
    write(&mut journal, true);
    let mut whole = std::fs::read(dir.path().join(NAME)).unwrap();
    whole.truncate(6 * ENTRY_BYTES);
    let all = [(0, 7), (0, 8), (3, 0), (3, 1)];
    let flat = |found: &Journaled| -> Vec<(usize, u64)> {
        let of = |(ring, records): (&usize, &BTreeMap<u64, Record>)| {
            records.keys().map(|at| (*ring, *at)).collect::<Vec<_>>()
        };
        found.iter().flat_map(of).collect()
    };
    assert_eq!(flat(&parse(&whole)), all);
    for length in 0..4 * ENTRY_BYTES {
        // Behind a torn write lies what was there before: here nothing.
        let mut torn = whole[..length].to_vec();
        torn.resize(whole.len(), 0);
        // The last bytes of an entry may have been zero already.
        let is_there = |at: usize| torn[at * ENTRY_BYTES..][..ENTRY_BYTES] == whole[at * ENTRY_BYTES..][..ENTRY_BYTES];
        let there = (0..4).take_while(|at| is_there(*at)).count();
        assert!(there == length / ENTRY_BYTES || there == (length + 3) / ENTRY_BYTES);
        assert_eq!(flat(&parse(&torn)), all[..there], "cut at byte {length}");
    }
    for bit in 0..4 * ENTRY_BYTES * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let kept: Vec<_> =
            all.iter().enumerate().filter(|(at, _)| *at != bit / 8 / ENTRY_BYTES).map(|(_, it)| *it).collect();
        assert_eq!(flat(&parse(&flipped)), kept, "bit {bit}");
    }
}

#[test]
fn what_no_synced_batch_holds_is_never_written_over() {
    let (dir, mut journal) = journal();
    add(&mut journal, 0, 0..10);
    write(&mut journal, true);
    journal.sealed(10, Instant::now());
    // The batch is not on the disk yet: the journal goes on behind.
    add(&mut journal, 0, 10..15);
    write(&mut journal, false);
    assert_eq!(indexes(&read(dir.path()).unwrap(), 0), (0..15).collect::<Vec<_>>());
    add(&mut journal, 0, 15..16);
    // Now it is: but what this interval wrote already stays where it is.
    write(&mut journal, true);
    assert_eq!(indexes(&read(dir.path()).unwrap(), 0), (0..16).collect::<Vec<_>>());
    journal.sealed(16, Instant::now());
    add(&mut journal, 0, 16..18);
    write(&mut journal, true);
    let found = indexes(&read(dir.path()).unwrap(), 0);
    assert!(found.contains(&16) && found.contains(&17) && !found.contains(&0));
}

#[test]
fn a_disk_that_confirms_no_batch_fills_the_journal_and_it_says_so() {
    let (_dir, mut journal) = journal();
    for _ in 0..2 {
        add(&mut journal, 0, 0..u64::try_from(RECORDS_MAX).unwrap());
        assert!(journal.is_full());
        write(&mut journal, false);
        journal.sealed(0, Instant::now());
    }
    add(&mut journal, 0, 0..1);
    assert!(journal.write(false, 0, Instant::now()).is_err());
    assert!(journal.write(true, 0, Instant::now()).unwrap());
}
