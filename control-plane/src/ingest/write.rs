//! Counts batches: one transaction per merge, in which only batches that were never counted before are. Refuses to ack
//! anything: that comes after the commit.

use std::collections::{BTreeMap, HashMap, HashSet};

use uuid::Uuid;

use crate::domain::usage::billable::{BillableClasses, billable};
use crate::domain::usage::rollup::Rollup;
use crate::domain::usage::{Batch, BatchId, Producer, is_skewed};
use crate::store::usage::{
    Heard, Logged, Reached, add_days, add_rollup, claim_batches, insert_logs, list_billable_classes, move_watermarks,
};
use crate::store::{Store, StoreError, Transaction};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) batches: u64,
    pub(super) events: u64,
    /// Batches that were counted before, or twice in this merge.
    pub(super) duplicates: u64,
    /// Counted events with an unlikely time.
    pub(super) skewed: u64,
    /// What every producer of the merge may let go.
    pub(super) reached: Vec<Reached>,
}

struct Counted {
    batches: HashSet<BatchId>,
    heard: BTreeMap<Producer, Heard>,
    reached: Vec<Reached>,
}

/// `log_one_in` says which requests get a row in the log; all are counted.
pub(super) async fn write_batches(store: &Store, batches: &[Batch], log_one_in: u64) -> Result<Written, StoreError> {
    let mut seen = HashSet::new();
    let distinct: Vec<&Batch> = batches.iter().filter(|batch| seen.insert(batch.id)).collect();
    let now_ms = jiff::Timestamp::now().as_millisecond();
    let counted = store
        .run_slow_tx("write_usage", |tx| {
            let distinct = &distinct;
            Box::pin(async move { count(tx, distinct, log_one_in, now_ms).await })
        })
        .await?;
    let sum = |pick: fn(&Heard) -> i64| u64::try_from(counted.heard.values().map(pick).sum::<i64>()).unwrap_or(0);
    Ok(Written {
        batches: number(counted.batches.len()),
        events: sum(|heard| heard.events),
        duplicates: number(batches.len() - counted.batches.len()),
        skewed: sum(|heard| heard.skewed),
        reached: counted.reached,
    })
}

async fn count(tx: &Transaction<'_>, batches: &[&Batch], log_one_in: u64, now_ms: i64) -> Result<Counted, StoreError> {
    let claimed = claim_batches(tx, batches).await?;
    let fresh: Vec<&Batch> = batches.iter().copied().filter(|batch| claimed.contains(&batch.id)).collect();
    if !fresh.is_empty() {
        let classes = billable_classes(tx, &fresh).await?;
        let classes_of = |plan: i64| classes.get(&plan).copied().unwrap_or_default();
        let mut rollup = Rollup::default();
        for batch in &fresh {
            batch.events.iter().for_each(|event| rollup.add(event, classes_of(event.kind.plan)));
            batch.compacted.iter().for_each(|row| rollup.add_compacted(row, classes_of(row.kind.plan)));
        }
        insert_logs(tx, &logged(&fresh, &classes, log_one_in)).await?;
        add_rollup(tx, &rollup.into_tables()).await?;
        add_days(tx, &fresh).await?;
    }
    // Also of producers that only repeated themselves: they wait for their acknowledgement.
    let heard = hear(batches, &claimed, now_ms);
    let list: Vec<(Producer, Heard)> = heard.iter().map(|(producer, heard)| (*producer, *heard)).collect();
    let reached = move_watermarks(tx, &list).await?;
    Ok(Counted { batches: claimed, heard, reached })
}

fn logged<'a>(batches: &[&'a Batch], classes: &HashMap<i64, BillableClasses>, log_one_in: u64) -> Vec<Logged<'a>> {
    let mut all = Vec::new();
    for batch in batches {
        for (ordinal, event) in batch.events.iter().enumerate() {
            if is_logged(event.request_id, log_one_in) {
                let charged = classes.get(&event.kind.plan).copied().unwrap_or_default();
                all.push(Logged { batch: batch.id, ordinal, event, billable: billable(&event.kind, charged) });
            }
        }
    }
    all
}

/// By the id's last, random bits: whoever else looks at the same request comes to the same answer.
fn is_logged(request_id: Uuid, log_one_in: u64) -> bool {
    let (_, random) = request_id.as_u64_pair();
    random.checked_rem(log_one_in) == Some(0)
}

async fn billable_classes(
    tx: &Transaction<'_>,
    batches: &[&Batch],
) -> Result<HashMap<i64, BillableClasses>, StoreError> {
    let events = batches.iter().flat_map(|batch| &batch.events).map(|event| event.kind.plan);
    let compacted = batches.iter().flat_map(|batch| &batch.compacted).map(|row| row.kind.plan);
    let plans: HashSet<i64> = events.chain(compacted).collect();
    list_billable_classes(tx, &plans.into_iter().collect::<Vec<_>>()).await
}

fn hear(batches: &[&Batch], claimed: &HashSet<BatchId>, now_ms: i64) -> BTreeMap<Producer, Heard> {
    let mut all = BTreeMap::new();
    for batch in batches {
        let sequence = batch.id.sequence;
        let heard = all.entry(batch.id.producer).or_insert(Heard {
            highest_seq: sequence,
            closing_seq: None,
            events: 0,
            skewed: 0,
        });
        heard.highest_seq = heard.highest_seq.max(sequence);
        if batch.closes_epoch {
            heard.closing_seq = heard.closing_seq.max(Some(sequence));
        }
        if claimed.contains(&batch.id) {
            heard.events += batch.count();
            heard.skewed += batch.times().filter(|(at, _)| is_skewed(*at, now_ms)).map(|(_, count)| count).sum::<i64>();
        }
    }
    all
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
