//! Held against prost, which makes the same of the schema itself.

use proptest::prelude::*;
use prost::Message as _;
use snapshot::wire::{LiveBatch, UsageBatch};

use super::super::record::{BODY_WORDS, Record};
use super::*;

/// Every value of every field, those of enums that there are none of among them: what a ring may hold.
fn records() -> impl Strategy<Value = Record> {
    let word = prop_oneof![any::<u64>(), any::<u64>().prop_map(|word| word >> 40), Just(0), Just(u64::MAX)];
    proptest::array::uniform11(word).prop_map(|words: [u64; BODY_WORDS]| Record::from_words(&words))
}

proptest! {
    #[test]
    fn an_event_is_written_as_prost_writes_it(records in proptest::collection::vec(records(), 0..5)) {
        let mut bytes = EventBytes::default();
        records.iter().for_each(|record| bytes.add(4, &mut Event::new(record)));
        let events: Vec<_> = records.iter().map(|record| record.to_event()).collect();
        let batch = UsageBatch { events: events.clone(), ..UsageBatch::default() }.encode_to_vec();
        prop_assert_eq!((bytes.count(), bytes.as_slice()), (records.len(), batch.as_slice()));
        bytes.clear();
        for record in &records {
            let mut event = Event::new(record);
            // Whoever came first.
            EventBytes::default().add(4, &mut event);
            bytes.add(5, &mut event);
        }
        let live = LiveBatch { events, ..LiveBatch::default() };
        let alone = live.encode_to_vec();
        prop_assert_eq!(bytes.as_slice(), alone.as_slice());
        let rest = LiveBatch { sequence: 7, ..LiveBatch::default() };
        prop_assert_eq!(LiveBatch::decode(bytes.with(&rest).as_slice()).unwrap(), LiveBatch { sequence: 7, ..live });
    }
}
