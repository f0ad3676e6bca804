//! Counts batches: one transaction per merge, in which only batches that were never counted before are. Refuses to ack
//! anything: that comes after the commit.

use std::collections::{HashMap, HashSet};

use crate::domain::usage::billable::billable;
use crate::domain::usage::minutes::Minutes;
use crate::domain::usage::{Batch, BatchId};
use crate::store::usage::{
    add_minutes, claim_batches, insert_logs, list_billable_classes, move_watermarks, touch_keys,
};
use crate::store::{Store, StoreError, Transaction};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) batches: u64,
    pub(super) events: u64,
    /// Batches that were counted before, or twice in this merge.
    pub(super) duplicates: u64,
}

pub(super) async fn write_batches(store: &Store, batches: &[Batch]) -> Result<Written, StoreError> {
    let mut seen = HashSet::new();
    let distinct: Vec<Batch> = batches.iter().filter(|batch| seen.insert(batch.id)).cloned().collect();
    let counted = store
        .run_tx("write_usage", |tx| {
            let distinct = &distinct;
            Box::pin(async move { count(tx, distinct).await })
        })
        .await?;
    let of_counted = || distinct.iter().filter(|batch| counted.contains(&batch.id));
    let mut used: HashMap<i64, i64> = HashMap::new();
    for event in of_counted().flat_map(|batch| &batch.events) {
        let last = used.entry(event.key).or_insert(event.at_ms);
        *last = event.at_ms.max(*last);
    }
    if let Err(error) = touch_keys(store, &used).await {
        tracing::debug!(%error, "when keys were last used could not be noted");
    }
    Ok(Written {
        batches: number(counted.len()),
        events: number(of_counted().map(|batch| batch.events.len()).sum()),
        duplicates: number(batches.len() - counted.len()),
    })
}

async fn count(tx: &Transaction<'_>, batches: &[Batch]) -> Result<HashSet<BatchId>, StoreError> {
    let counted = claim_batches(tx, batches).await?;
    if counted.is_empty() {
        return Ok(counted);
    }
    let fresh: Vec<&Batch> = batches.iter().filter(|batch| counted.contains(&batch.id)).collect();
    let plans: HashSet<i64> = fresh.iter().flat_map(|batch| &batch.events).map(|event| event.plan).collect();
    let classes = list_billable_classes(tx, &plans.into_iter().collect::<Vec<_>>()).await?;
    let mut minutes = Minutes::default();
    for batch in fresh {
        let mut rows = Vec::with_capacity(batch.events.len());
        for event in &batch.events {
            let charged = classes.get(&event.plan).copied().unwrap_or_default();
            minutes.add(event, charged);
            rows.push((event, billable(event, charged)));
        }
        insert_logs(tx, batch.id, &rows).await?;
    }
    add_minutes(tx, &minutes).await?;
    move_watermarks(tx, &counted).await?;
    Ok(counted)
}

fn number(count: usize) -> u64 {
    u64::try_from(count).unwrap_or(u64::MAX)
}
