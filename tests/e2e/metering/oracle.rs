//! What the clients saw, what the database counts, and whether that is the same. By key and by kind of answer; the difference
//! allowed is what was in flight when something was killed, and only upwards.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::harness::World;

/// How long everything may take to be counted once the faults are over: resends, the claim of what a stopped consumer held.
const SETTLED_AFTER: Duration = Duration::from_secs(120);
/// Longer than anything that is sent again needs to be counted twice.
const STAYS_FOR: Duration = Duration::from_secs(6);
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What an answer counts for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// Answered by the upstream with what the plan charges for.
    Billed,
    /// Answered by the upstream, and free: a test key, or the upstream's own error.
    Free,
    /// 429.
    Limited,
    /// Admitted, and failed by the gateway.
    Failed,
}

/// Of each key (its meter id) and kind.
pub type Totals = BTreeMap<(i64, Kind), u64>;

#[derive(Default)]
pub struct Oracle {
    /// Answers that came complete.
    pub complete: Totals,
    /// By key: requests of which nobody knows how they ended.
    pub unsure: BTreeMap<i64, u64>,
    /// Complete answers of each gateway.
    pub by_gateway: BTreeMap<usize, u64>,
}

impl Oracle {
    pub fn answers(&self) -> u64 {
        self.complete.values().sum()
    }

    /// Answers that the plan charges for.
    pub fn billed(&self) -> u64 {
        let billed = self.complete.iter().filter(|((_, kind), _)| *kind == Kind::Billed);
        billed.map(|(_, answers)| answers).sum()
    }

    pub fn cut_off(&self) -> u64 {
        self.unsure.values().sum()
    }
}

/// Why the totals are not those of the oracle.
pub fn compare(oracle: &Oracle, counted: &Totals) -> Result<(), String> {
    let mut spare = oracle.unsure.clone();
    for (cell, complete) in &oracle.complete {
        let counted = counted.get(cell).copied().unwrap_or(0);
        if counted < *complete {
            return Err(format!("lost: of {cell:?}, {complete} were answered and {counted} are counted"));
        }
    }
    for (cell, counted) in counted {
        let complete = oracle.complete.get(cell).copied().unwrap_or(0);
        let spare = spare.entry(cell.0).or_default();
        if *counted > complete + *spare {
            return Err(format!(
                "double: of {cell:?}, {complete} were answered, {spare} may be, {counted} are counted"
            ));
        }
        *spare -= counted - complete;
    }
    Ok(())
}

/// From the billing record. None: the database is away. Clients that left are class 4 and not limited, and stand in no cell.
async fn counted(world: &World) -> Option<Totals> {
    let sql = "SELECT key_meter_id,
            coalesce(sum(billable_count) FILTER (WHERE status_class = 2), 0),
            coalesce(sum(admitted_count - failed_count - billable_count) FILTER (WHERE status_class IN (2, 5)), 0),
            sum(limited_count), sum(failed_count)
        FROM usage_quarter_hours GROUP BY 1";
    let mut totals = Totals::new();
    for row in world.try_query(sql).await? {
        let number = |column: usize| row[column].as_deref().unwrap().parse::<i64>().unwrap();
        for (column, kind) in [(1, Kind::Billed), (2, Kind::Free), (3, Kind::Limited), (4, Kind::Failed)] {
            let count = u64::try_from(number(column)).unwrap();
            if count > 0 {
                totals.insert((number(0), kind), count);
            }
        }
    }
    Some(totals)
}

/// Waits until the totals agree and stay so, and answers with them; else says what differs.
pub async fn settle(world: &World, oracle: &Oracle) -> Result<Totals, String> {
    let deadline = Instant::now() + SETTLED_AFTER;
    let mut agreed_since = None;
    loop {
        let found = counted(world).await;
        let compared = found.as_ref().map_or(Err("the database is away".to_owned()), |found| compare(oracle, found));
        match compared {
            Ok(()) => {
                if agreed_since.get_or_insert_with(Instant::now).elapsed() > STAYS_FOR {
                    return Ok(found.unwrap());
                }
            }
            Err(difference) => {
                agreed_since = None;
                if Instant::now() > deadline {
                    return Err(difference);
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// The difference that is left when the totals have not moved for longer than any batch is on its way, or more was counted
/// than there was: nothing takes that back.
pub async fn lasting_difference(world: &World, oracle: &Oracle) -> Option<String> {
    let (mut last, mut since) = (counted(world).await?, Instant::now());
    loop {
        let difference = compare(oracle, &last).err();
        if since.elapsed() > STAYS_FOR || difference.as_ref().is_some_and(|told| told.starts_with("double")) {
            return difference;
        }
        tokio::time::sleep(LOOK_EVERY).await;
        let now = counted(world).await?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
    }
}
